"""Turns a backbone, a head and augmentation layers into one Keras model.

    uint8 [B, S, S, 3] -> augmentation -> rescaling -> backbone -> head

The model takes pixels 0..255, whatever the backbone wants inside, so that
nobody who uses it later can rescale wrongly.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.model.affine import fuse as fuse_layers
from framework.model.affine import parts
from framework.model.augmentation import (
    exactly_resumable,
    place,
    why_not_in_model,
)
from framework.model.backbones import Backbone, split_at
from framework.model.folding import fold, foldable
from framework.model.heads import Head
from framework.registry import PARTS

# Layers of a head that have nothing to train and nothing to draw.
_FIXED = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Flatten,
)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model, and what training it needs to know beside.

    Attributes:
        model: uint8 `[B, S, S, 3]`, pixels 0..255, to outputs `[B, units]`.
            Random only when called with `training=True`.
        head: how its outputs are judged and read.
        augmentation_in_model: layers that augment inside of it.
        augmentation_in_pipeline: layers that can't run in the model's graph
            and are applied to training batches before they reach it.
        description: sentences on what was built, for the start-up text.
        features: what the lower part of `model` computes, from pixels to the
            first layer that is trained, or None where nothing is frozen. Its
            output depends on the picture and its augmentation alone. Batch
            normalisation is folded into convolutions, so that it takes less
            time and differs by rounding.
        trained: the layers that follow, in order; all of the model where
            nothing is frozen.
        frozen: the lower part of the backbone as it is in `model`, or None.
    """

    model: keras.Model
    head: Head
    augmentation_in_model: tuple[keras.layers.Layer, ...]
    augmentation_in_pipeline: tuple[keras.layers.Layer, ...]
    description: tuple[str, ...]
    features: keras.Model | None
    trained: tuple[keras.layers.Layer, ...]
    frozen: keras.Model | None

    @property
    def image_size(self) -> int:
        """Side S of the images in pixels."""
        return self.model.input_shape[1]

    def frozen_weights(self) -> list[np.ndarray]:
        """Those of the frozen part, which never change."""
        return [] if self.frozen is None else self.frozen.get_weights()

    def from_features(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """What `model` makes of pixels that `features` turned into `x`.

        Where there is no such part, `x` are the pixels.
        """
        for layer in self.trained:
            x = layer(x, training=training)
        return x


@PARTS.register(given=["num_classes", "compiled"])
def classifier(
    num_classes: int,
    backbone: Callable[..., Backbone],
    head: Callable[..., Head],
    image_size: int | None = None,
    freeze: str = "none",
    batch_norm: str = "auto",
    augmentation: Sequence[keras.layers.Layer] = (),
    fuse: bool = True,
    compiled: bool = False,
) -> Classifier:
    """Builds the model. Call it inside the strategy's scope.

    Args:
        num_classes: how many classes the data has.
        backbone: called with `image_size`; in a gin file `@efficientnet_lite0`.
        head: called with `num_classes`; in a gin file `@softmax_head`.
        image_size: side of the images in pixels; the backbone's own default
            if None.
        freeze: how much of the backbone keeps its weights: "all", "none", or
            the name of a layer up to and including which it is frozen
            ("block4c_add"). The frozen part runs in inference mode.
        batch_norm: "frozen" keeps the batch normalisations of the backbone's
            trained part in inference mode, weights and all; "trained" trains
            them; "auto" freezes them where the backbone is pretrained, since
            statistics of small batches ruin what was learned
            (https://keras.io/guides/transfer_learning/).
        augmentation: layers in order; each runs in the model where it can
            and in the pipeline where it, or one after it, can't.
        fuse: whether neighbours among Keras's RandomFlip, RandomRotation,
            RandomZoom, RandomShear and RandomTranslation that fill and
            interpolate alike resample once, together. What they draw and how
            they are saved is the same as without it.
        compiled: whether XLA compiles the training step, as on a TPU.

    Raises:
        UserError: the arguments don't fit together.
    """
    if image_size is not None and image_size < 1:
        raise UserError(
            f"classifier.image_size is {image_size}; expected a number of "
            "pixels, at least 1, or None."
        )
    if batch_norm not in ("auto", "frozen", "trained"):
        raise UserError(
            f"classifier.batch_norm is {batch_norm!r}; expected 'auto', "
            "'frozen' or 'trained'."
        )
    built = backbone(image_size=image_size)
    made_head = head(num_classes)
    for name, part, kind in (
        ("backbone", built, Backbone),
        ("head", made_head, Head),
    ):
        if not isinstance(part, kind):
            raise UserError(
                f"classifier.{name} makes a {type(part).__name__}; expected "
                f"one that makes a {kind.__name__}."
            )
    if fuse:
        augmentation = fuse_layers(augmentation)
    in_model, in_pipeline = place(augmentation, compiled)
    size = built.model.input_shape[1]

    inputs = keras.Input((size, size, 3), dtype="uint8", name="image")
    x = keras.ops.cast(inputs, "float32")  # [B, S, S, 3], 0..255
    for layer in in_model:
        x = layer(x)
        if x.shape != inputs.shape:
            raise UserError(
                f"{type(layer).__name__} in classifier.augmentation makes "
                f"{inputs.shape[1:]} pixels {x.shape[1:]}; expected a layer "
                "that keeps the image's size."
            )
    x = built.prepare(x)

    lower, upper = _frozen_and_trained(built.model, freeze)
    pixels = x  # As the backbone wants them.
    if lower is not None:
        _freeze(lower)
        x = lower(x)
    if upper is not None and (
        batch_norm == "frozen" or (batch_norm == "auto" and built.pretrained)
    ):
        for layer in upper.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    above = [*([upper] if upper is not None else ()), *made_head.layers]
    below = x
    fixed = []
    while lower is not None and above and isinstance(above[0], _FIXED):
        fixed.append(above.pop(0))
    for layer in (*fixed, *above):
        x = layer(x)
    model = keras.Model(inputs, x, name="classifier")
    features = None
    if lower is not None:
        features = _features(inputs, pixels, below, lower, fixed)

    return Classifier(
        model,
        made_head,
        in_model,
        in_pipeline,
        (
            f"{built.model.name} at {size}x{size} px, input {built.input_range}"
            f", {'pretrained' if built.pretrained else 'random'} weights, "
            f"frozen: {freeze}.",
            *_placement(in_model, in_pipeline, compiled, size),
        ),
        features,
        (model,) if features is None else tuple(above),
        lower,
    )


def _frozen_and_trained(
    backbone: keras.Model, freeze: str
) -> tuple[keras.Model | None, keras.Model | None]:
    if freeze == "all":
        return backbone, None
    if freeze == "none":
        return None, backbone
    if not isinstance(freeze, str):
        raise UserError(
            f"classifier.freeze is {freeze!r}; expected 'all', 'none' or the "
            "name of a layer."
        )
    return split_at(backbone, freeze)


def _freeze(part: keras.Model) -> None:
    """Fixes weights and makes the part the same function in training.

    Batch normalisation that is not trainable runs in inference mode. Dropout
    inside (EfficientNet drops whole blocks) must be switched off at its rate:
    `part(x, training=False)` does not help, since Keras 3.15 overrides it with
    the argument that the outer model is called with.
    """
    part.trainable = False
    for layer in part.layers:
        for rate in ("rate", "drop_path_rate"):
            if hasattr(layer, rate):
                setattr(layer, rate, 0.0)


def _features(
    inputs: keras.KerasTensor,
    prepared: keras.KerasTensor,
    below: keras.KerasTensor,
    lower: keras.Model,
    fixed: Sequence[keras.layers.Layer],
) -> keras.Model:
    """The frozen part, folded where that helps, and what follows at once."""
    # Models of other kinds than `fold` knows do without.
    with contextlib.suppress(UserError):
        if foldable(lower):
            lower = fold(lower)
            lower.trainable = False
            below = lower(prepared)
    for layer in fixed:
        # Another one: a layer that is used twice has no one output.
        below = type(layer).from_config(layer.get_config())(below)
    return keras.Model(inputs, below, name="features")


def _placement(
    in_model: Sequence[keras.layers.Layer],
    in_pipeline: Sequence[keras.layers.Layer],
    compiled: bool,
    image_size: int,
) -> Iterator[str]:
    """Says where each augmentation layer runs, and why."""
    if in_pipeline:
        names = ", ".join(
            f"{_name(layer)} "
            f"({why_not_in_model(layer, compiled) or 'comes before such'})"
            for layer in in_pipeline
        )
        yield f"Augmentation in the pipeline, not in the model: {names}."
    if in_model:
        names = ", ".join(map(_name, in_model))
        yield f"Augmentation in the model: {names}."
    for layer in (*in_pipeline, *in_model):
        if parts(layer):
            names = ", ".join(map(_name, parts(layer)))
            yield f"{names} fused into one resampling."
    stateful = [
        type(layer).__name__
        for layer in in_pipeline
        if not exactly_resumable(layer, image_size)
    ]
    if stateful:
        yield (
            f"Not exactly resumable: {', '.join(stateful)} draws random "
            "numbers that depend on more than the seed and the position."
        )


def _name(layer: keras.layers.Layer) -> str:
    names = [type(part).__name__ for part in parts(layer) or (layer,)]
    return "+".join(names)
