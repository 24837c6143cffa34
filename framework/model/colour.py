"""Turns changes of brightness, contrast and saturation into one colour map.

Each of these is an affine map of a pixel's red, green and blue, and so are
several in a row: a 3x3 matrix and an offset for every picture, applied in one
pass (P. Haeberli, "Matrix Operations for Image Processing", 1993).
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from framework.errors import UserError
from framework.model.affine import check_factor, compiled, compose, to_dtype
from framework.registry import AUGMENTATIONS

# Those of tf.image.rgb_to_grayscale, which Keras uses (ITU-R BT.601).
LUMA = (0.2989, 0.587, 0.114)


@AUGMENTATIONS.register()
@keras.saving.register_keras_serializable(package="framework")
class RandomColor(keras.layers.Layer):
    """Changes brightness, contrast and saturation in one pass.

    Does what Keras's `RandomBrightness`, `RandomContrast`, `RandomSaturation`
    and `RandomColorDegeneration` are for, in this order, with factors as these
    document them. What is not given is not done. Every picture has draws of
    its own. Only with `training=True`; otherwise the identity.

    Where it differs from Keras's layers in a row:

    - Pixels are clipped to 0..255 once, at the end.
    - Contrast stretches about each channel's mean over the picture, as
      `RandomContrast` does; but of a picture that was not clipped in between.
    - Saturation moves pixels from or towards their luma, as
      `RandomColorDegeneration`, Pillow and torchvision do. `RandomSaturation`
      scales the S of HSV, which is no affine map; its factors are kept.
    - A single number means what Keras documents. Keras 3.15 itself draws
      contrast from (1, 1 + factor) and the others also below 0.

    A saved model of it is loaded after `import framework.model.colour`.

    Input shape:
        `[B, H, W, 3]` or `[H, W, 3]`, pixels 0..255 of any dtype.

    Output shape:
        The same; of the layer's own dtype, float32 unless told otherwise, as
        with Keras's layers. Integers are rounded.

    Args:
        brightness_factor: share of 255 that is added; 0.2 means (-0.2, 0.2).
        contrast_factor: 0.2 means from 0.8 to 1.2 times, (0.1, 0.3) from 0.9
            to 1.3 times.
        saturation_factor: from 0, grey, by way of 0.5, which changes nothing,
            to 1; 0.5 means (0, 0.5).
        degeneration_factor: from 0, which changes nothing, to 1, grey; 0.5
            means (0, 0.5).
        seed: a whole number or None.

    Raises:
        UserError: a factor is out of range, or pictures are not RGB.
    """

    def __init__(
        self,
        brightness_factor: float | Sequence[float] | None = None,
        contrast_factor: float | Sequence[float] | None = None,
        saturation_factor: float | Sequence[float] | None = None,
        degeneration_factor: float | Sequence[float] | None = None,
        seed: int | None = None,
        **kwargs,
    ):
        # Pixels come as they are: 0..255 is too much for 16 bits.
        super().__init__(autocast=False, **kwargs)
        self._config = {
            "brightness_factor": brightness_factor,
            "contrast_factor": contrast_factor,
            "saturation_factor": saturation_factor,
            "degeneration_factor": degeneration_factor,
            "seed": seed,
        }
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)
        self._adjust = compiled(self._recolour)
        # What is drawn, uniformly: (name, from, to).
        self._drawn: list[tuple[str, float, float]] = []
        for name, factor in list(self._config.items())[:-1]:
            if factor is None:
                continue
            kind = name.removesuffix("_factor")
            check_factor(
                f"RandomColor.{name}", factor, -1 if kind == "brightness" else 0
            )
            if isinstance(factor, (list, tuple)):
                low, high = factor
            else:
                both = kind in ("brightness", "contrast")
                low, high = -abs(factor) if both else 0, abs(factor)
                low = abs(low) if kind == "contrast" else low
            if kind == "contrast":
                low, high = 1 - low, 1 + high
            self._drawn.append((kind, low, high))

    def build(self, input_shape):
        check_rgb(self, input_shape)

    def call(self, images, training=False):
        if training and self._drawn:
            images = each(
                images, self._adjust, (len(self._drawn),), self.generator
            )
        return to_dtype(images, self.compute_dtype)

    def _recolour(self, images: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        """float32 `[B, H, W, 3]` and `[B, factors]`, 0..1, to pictures."""
        batch = tf.shape(images)[0]
        maps = colour_map(batch)
        for number, (kind, low, high) in enumerate(self._drawn):
            value = low + (high - low) * drawn[:, number]
            if kind == "brightness":
                step = colour_map(batch, offset=255 * value[:, tf.newaxis])
            elif kind == "contrast":
                step = contrast(value, images, maps)
            elif kind == "saturation":
                ratio = value / (1 - value + keras.config.epsilon())
                step = colour_map(batch, saturation=ratio)
            else:
                step = colour_map(batch, saturation=1 - value)
            maps = compose(step, maps)
        return recolour(images, maps)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), **self._config}


def check_rgb(layer: keras.layers.Layer, shape: Sequence) -> None:
    """Refuses pictures that don't have three channels.

    Raises:
        UserError: they have others.
    """
    if shape[-1] != 3:
        raise UserError(
            f"{type(layer).__name__} received pictures of shape {shape}; "
            "expected three channels, red, green and blue, the last axis."
        )


def colour_map(
    batch: tf.Tensor, scale: Any = 1.0, saturation: Any = 1.0, offset: Any = 0.0
) -> tf.Tensor:
    """The map to scale * (luma + saturation * (pixel - luma)) + offset.

    Args:
        batch: B.
        scale: `[B]` or a number.
        saturation: the same.
        offset: `[B, 3]`, `[B, 1]` or a number.

    Returns:
        float32 `[B, 4, 4]`, from (red, green, blue, 1) to the same.
    """
    scale, saturation = (
        tf.broadcast_to(tf.cast(v, tf.float32), [batch])[:, None, None]
        for v in (scale, saturation)
    )
    grey = tf.constant([LUMA] * 3)
    linear = scale * (saturation * tf.eye(3) + (1 - saturation) * grey)
    offset = tf.broadcast_to(tf.cast(offset, tf.float32), [batch, 3])
    upper = tf.concat([linear, offset[:, :, tf.newaxis]], axis=2)
    last = tf.broadcast_to([[[0.0, 0.0, 0.0, 1.0]]], [batch, 1, 4])
    return tf.concat([upper, last], axis=1)


def contrast(
    factor: tf.Tensor, images: tf.Tensor, before: tf.Tensor
) -> tf.Tensor:
    """The map that stretches each channel about its mean.

    Args:
        factor: float32 `[B]`.
        images: float32 `[B, H, W, 3]`.
        before: `[B, 4, 4]`, what is done to the images first.
    """
    # The mean of what `before` makes of them is what it makes of their mean.
    means = tf.reduce_mean(images, axis=(1, 2))
    means = tf.pad(means, [[0, 0], [0, 1]], constant_values=1.0)
    means = tf.reduce_sum(before * means[:, tf.newaxis], axis=2)[:, :3]
    offset = (1 - factor[:, tf.newaxis]) * means
    return colour_map(tf.shape(images)[0], scale=factor, offset=offset)


def recolour(images: tf.Tensor, maps: tf.Tensor) -> tf.Tensor:
    """Applies a colour map to each picture, and clips to 0..255.

    Args:
        images: float32 `[B, H, W, 3]`.
        maps: `[B, 4, 4]`.

    Returns:
        float32 `[B, H, W, 3]`, 0..255.
    """
    columns = tf.unstack(maps[:, tf.newaxis, tf.newaxis, :3], axis=-1)
    mixed = columns[3]  # The offset.
    for channel in range(3):
        mixed += images[..., channel, tf.newaxis] * columns[channel]
    return tf.clip_by_value(mixed, 0.0, 255.0)


def each(
    images: tf.Tensor,
    augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    draws: tuple[int, ...],
    generator: keras.random.SeedGenerator,
) -> tf.Tensor:
    """Augments pictures by numbers that are drawn for each.

    Args:
        images: `[B, H, W, 3]` or `[H, W, 3]`, of any dtype.
        augment: from float32 `[B, H, W, 3]` and `[B, *draws]`, 0..1, to the
            former's like.
        draws: how many numbers a picture.
        generator: where they are from.

    Returns:
        float32 pictures of the images' shape.
    """
    pixels = tf.cast(images, tf.float32)
    single = pixels.shape.rank == 3
    if single:
        pixels = pixels[tf.newaxis]
    drawn = keras.random.uniform((tf.shape(pixels)[0], *draws), seed=generator)
    augmented = tf.ensure_shape(augment(pixels, drawn), pixels.shape)
    return augmented[0] if single else augmented
