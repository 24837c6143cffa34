"""Turns few settings into small networks, trained from scratch."""

from collections.abc import Sequence

import keras

from framework.errors import UserError
from framework.model.backbones.backbone import (
    Backbone,
    load_optional,
    minus_one_to_one,
    zero_to_one,
)
from framework.registry import BACKBONES


@BACKBONES.register(given=["image_size"])
def course_cnn(
    image_size: int | None = None,
    weights: str | None = None,
    filters: Sequence[int] = (32, 64, 128, 128),
) -> Backbone:
    """The CNN that courses start with: convolution and pooling, four times.

    Chollet, Deep Learning with Python, section 5.2 (2017). Its head there:
    `pooling = "flatten"`, `dropout = 0.5`, `hidden = [512]`.

    Args:
        image_size: side of the images in pixels, 150 by default.
        weights: None for random ones, or a path (see `load_weights`).
        filters: channels of the convolutions, one a block.

    Raises:
        UserError: the images are too small for so many blocks.
    """
    size = image_size or 150
    smallest = 2 ** len(filters) * 3 - 2
    if size < smallest:
        raise UserError(
            f"course_cnn with {len(filters)} blocks needs images of at least "
            f"{smallest} px; classifier.image_size is {size}."
        )
    inputs = x = keras.Input((size, size, 3))
    for number, channels in enumerate(filters, 1):
        x = keras.layers.Conv2D(
            channels, 3, activation="relu", name=f"conv{number}"
        )(x)
        x = keras.layers.MaxPooling2D(name=f"pool{number}")(x)
    model = keras.Model(inputs, x, name="course_cnn")
    load_optional(model, weights, "course_cnn")
    return Backbone(model, zero_to_one(), "0..1", weights is not None)


@BACKBONES.register(given=["image_size"])
def tiny_cnn(
    image_size: int | None = None, weights: str | None = None
) -> Backbone:
    """Two strided convolutions with batch normalisation, for smoke runs.

    Args:
        image_size: side of the images in pixels, 32 by default.
        weights: None for random ones, or a path (see `load_weights`).
    """
    size = image_size or 32
    inputs = x = keras.Input((size, size, 3))
    for number, channels in enumerate((16, 32), 1):
        x = keras.layers.Conv2D(
            channels,
            3,
            strides=2,
            padding="same",
            use_bias=False,
            name=f"conv{number}",
        )(x)
        # Runs of a few steps: the usual momentum of 0.99 would leave the
        # moving averages, and so evaluation, far behind.
        x = keras.layers.BatchNormalization(momentum=0.8, name=f"bn{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    model = keras.Model(inputs, x, name="tiny_cnn")
    load_optional(model, weights, "tiny_cnn")
    return Backbone(model, minus_one_to_one(), "-1..1", weights is not None)
