"""Turns a box of each picture into noise or one colour."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from framework.errors import UserError
from framework.model.affine import check_range, random_box, to_dtype
from framework.registry import AUGMENTATIONS


@AUGMENTATIONS.register()
@keras.saving.register_keras_serializable(package="framework")
class RandomErase(keras.layers.Layer):
    """Erases a box of random size, place and proportions.

    Random erasing (Zhong et al. 2020, https://arxiv.org/abs/1708.04896). Every
    picture has draws of its own. Only with `training=True`; otherwise the
    identity. It compiles with XLA.

    Keras 3.15's `RandomErasing` is another thing: a probability of 0.5 there
    is one drawn from 0 to 0.5, `scale` is of both sides, each for itself,
    which says nothing of proportions, and half of its noise is black.

    A saved model of it is loaded after `import framework.model.erasing`.

    Input shape:
        `[B, H, W, C]` or `[H, W, C]`, pixels 0..255 of any dtype.

    Output shape:
        The same; of the layer's own dtype, float32 unless told otherwise, as
        with Keras's layers. Integers are rounded.

    Args:
        probability: the share of pictures of which something is erased.
        scale: the box's area as a share of the picture's, from and to.
        ratio: the box's width over its height, where the picture's own is 1,
            from and to; uniformly by its logarithm, as far as a box of this
            area fits in.
        fill_value: what the box is filled with: a number, or None for pixels
            drawn evenly from 0 to 255, which did best in the paper.
        seed: a whole number or None.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self,
        probability: float = 0.5,
        scale: Sequence[float] = (0.02, 0.4),
        ratio: Sequence[float] = (0.3, 1 / 0.3),
        fill_value: float | None = None,
        seed: int | None = None,
        **kwargs,
    ):
        # Pixels come as they are: 0..255 is too much for 16 bits.
        super().__init__(autocast=False, **kwargs)
        if not 0 <= probability <= 1:
            raise UserError(
                f"RandomErase.probability is {probability}; expected a share "
                "of pictures, from 0 to 1."
            )
        check_range("RandomErase.scale", scale, 1.0)
        check_range("RandomErase.ratio", ratio)
        self.probability = probability
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self.fill_value = fill_value
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if training and self.probability:
            images = self._erased(tf.cast(images, tf.float32))
        return to_dtype(images, self.compute_dtype)

    def _erased(self, images: tf.Tensor) -> tf.Tensor:
        single = images.shape.rank == 3
        if single:
            images = images[tf.newaxis]
        shape = tf.shape(images)
        drawn = keras.random.uniform(
            (shape[0], 5), dtype="float32", seed=self.generator
        )
        width, height = random_box(drawn, self.scale, self.ratio)
        happens = drawn[:, 4] < self.probability

        def inside(length, at, pixels):  # [B, pixels]
            side = tf.cast(pixels, tf.float32)
            first = tf.round(at * (1 - length) * side)[:, tf.newaxis]
            # At least one: what happens, happens.
            count = tf.maximum(tf.round(length * side), 1.0)[:, tf.newaxis]
            pixels = tf.range(side)
            return (pixels >= first) & (pixels < first + count)

        rows = inside(height, drawn[:, 3], shape[1])
        columns = inside(width, drawn[:, 2], shape[2]) & happens[:, tf.newaxis]
        box = (rows[:, :, tf.newaxis] & columns[:, tf.newaxis])[..., tf.newaxis]
        filling = self.fill_value
        if filling is None:
            filling = 255 * keras.random.uniform(
                shape, dtype="float32", seed=self.generator
            )
        # tf.where over pixels is slow where it isn't compiled.
        box = tf.cast(box, tf.float32)
        erased = images * (1 - box) + filling * box
        return erased[0] if single else erased

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "probability": self.probability,
            "scale": self.scale,
            "ratio": self.ratio,
            "fill_value": self.fill_value,
            "seed": self.seed,
        }
