"""Turns a magnitude into a random choice of augmentations for each picture.

RandAugment (E. D. Cubuk et al., 2020, https://arxiv.org/abs/1909.13719) draws
some of a list of operations for each picture and does them at one magnitude.
Here all that move pixels become one resampling and all that mix colours one
colour map, for a whole batch at once, whatever each picture drew; only what
first looks at a picture as a whole is done to those alone that drew it.
"""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from framework.errors import UserError
from framework.model.affine import (
    check_choice,
    check_filling,
    compiled,
    compose,
    matrix,
    resample,
    to_dtype,
)
from framework.model.colour import (
    check_rgb,
    colour_map,
    contrast,
    each,
    recolour,
)
from framework.model.tones import auto_contrast, equalize, sharpen, to_some
from framework.registry import AUGMENTATIONS

OPERATIONS = (
    "identity",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "brightness",
    "contrast",
    "saturation",
    "invert",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
    "sharpness",
)
# At magnitude 10, from AutoAugment (https://arxiv.org/abs/1805.09501), table 6.
_TURN = math.pi / 6
_SHEAR = 0.3
_SHIFT = 150 / 331  # Of the side; 150 of 331 pixels there.
_BLEND = 0.9
_LOST_BITS = 4


@AUGMENTATIONS.register()
@keras.saving.register_keras_serializable(package="framework")
class RandomPolicy(keras.layers.Layer):
    """Augments each picture by operations drawn at random, at one magnitude.

    A RandAugment (https://arxiv.org/abs/1909.13719) that compiles with XLA and
    draws for every picture of a batch, which Keras's does not. Only with
    `training=True`; otherwise the identity.

    Operations are done in three passes: what moves pixels, in the order
    drawn; what mixes colours, in the order drawn; the others in the order
    "auto_contrast", "equalize", "sharpness", "posterize", "solarize". Each of
    these is done once where it was drawn twice; more and less sharpness
    cancel.

    | operation | at magnitude m, with s = m / 10 |
    |---|---|
    | `identity`, `invert`, `auto_contrast`, `equalize` | have no magnitude |
    | `rotate` | by 30 s degrees, in either direction |
    | `shear_x`, `shear_y` | by 0.3 s about the centre, likewise |
    | `translate_x`, `translate_y` | by 0.45 s of the side, likewise |
    | `brightness`, `contrast`, `saturation` | by the factor 1 + or - 0.9 s |
    | `sharpness` | likewise |
    | `posterize` | to 8 - 4 s bits |
    | `solarize` | inverts pixels of 256 (1 - s) and more |

    Contrast is about each channel's mean, as in Keras; saturation moves pixels
    from or to their luma, as in Pillow. The last five are Pillow's `ImageOps`
    and `ImageEnhance.Sharpness`; "equalize" rounds pixels, the others don't.

    A saved model of it is loaded after `import framework.model.policy`.

    Input shape:
        `[B, H, W, 3]` or `[H, W, 3]`, pixels 0..255 of any dtype.

    Output shape:
        The same; of the layer's own dtype, float32 unless told otherwise.
        Integers are rounded.

    Args:
        magnitude: from 0 to 10.
        num_ops: how many operations each picture draws, with replacement.
        operations: to draw from; all of the above if None.
        fill_mode: what lies outside the picture: "constant", "nearest",
            "reflect" or "wrap".
        fill_value: of "constant".
        interpolation: "bilinear" or "nearest".
        seed: a whole number or None.

    Raises:
        UserError: an argument is none of these, or pictures are not RGB.
    """

    def __init__(
        self,
        magnitude: float = 5.0,
        num_ops: int = 2,
        operations: Sequence[str] | None = None,
        fill_mode: str = "reflect",
        fill_value: float = 0.0,
        interpolation: str = "bilinear",
        seed: int | None = None,
        **kwargs,
    ):
        # Pixels come as they are: 0..255 is too much for 16 bits.
        super().__init__(autocast=False, **kwargs)
        self.operations = tuple(
            OPERATIONS if operations is None else operations
        )
        for name, value, fits, expected in (
            ("magnitude", magnitude, 0 <= magnitude <= 10, "0 to 10"),
            ("num_ops", num_ops, num_ops >= 1, "1 or more"),
            ("operations", operations, self.operations, "at least one"),
        ):
            if not fits:
                raise UserError(
                    f"RandomPolicy.{name} is {value!r}; expected {expected}."
                )
        for name in self.operations:
            check_choice("An item of RandomPolicy.operations", name, OPERATIONS)
        check_filling("RandomPolicy", fill_mode, interpolation)
        self.magnitude = magnitude
        self.num_ops = num_ops
        self.fill_mode = fill_mode
        self.fill_value = fill_value
        self.interpolation = interpolation
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)
        self._augment = compiled(self._operate)

    def build(self, input_shape):
        check_rgb(self, input_shape)

    def call(self, images, training=False):
        if training:
            images = each(
                images, self._augment, (self.num_ops, 2), self.generator
            )
        return to_dtype(images, self.compute_dtype)

    def _operate(self, images: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        """float32 `[B, H, W, 3]` and `[B, num_ops, 2]`, 0..1, to pictures."""
        batch = tf.shape(images)[0]
        sides = tf.cast(tf.shape(images)[1:3], tf.float32)
        height, width = tf.unstack(sides)
        strength = self.magnitude / 10
        # float32 draws below 1; times a number they may be rounded up to it.
        count = len(self.operations)
        chosen = tf.minimum(tf.floor(drawn[:, :, 0] * count), count - 1)
        signs = tf.where(drawn[:, :, 1] < 0.5, -1.0, 1.0)

        def happens(name: str) -> tf.Tensor:  # [B, num_ops], 0 or 1
            if name not in self.operations:
                return tf.zeros_like(chosen)
            number = self.operations.index(name)
            return tf.cast(tf.equal(chosen, float(number)), tf.float32)

        def signed(name: str) -> tf.Tensor:
            return happens(name) * signs * strength

        # What did not happen is 0 here, so that one matrix does for any.
        turn = _TURN * signed("rotate")
        cosine, sine = tf.cos(turn), tf.sin(turn)
        shear_x = _SHEAR * signed("shear_x") - sine
        shear_y = _SHEAR * signed("shear_y") + sine
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        shift_x = _SHIFT * signed("translate_x") * width
        shift_y = _SHIFT * signed("translate_y") * height
        shift_x += centre_x - cosine * centre_x - shear_x * centre_y
        shift_y += centre_y - cosine * centre_y - shear_y * centre_x
        moves = matrix(batch, (1, 0, 0), (0, 1, 0))
        for slot in range(self.num_ops):
            x = (cosine[:, slot], shear_x[:, slot], shift_x[:, slot])
            y = (shear_y[:, slot], cosine[:, slot], shift_y[:, slot])
            moves = compose(moves, matrix(batch, x, y))
        images = resample(
            images, moves, self.fill_mode, self.fill_value, self.interpolation
        )

        inverted = happens("invert")
        scale = (1 + _BLEND * signed("brightness")) * (1 - 2 * inverted)
        stretch = 1 + _BLEND * signed("contrast")
        saturation = 1 + _BLEND * signed("saturation")
        maps = colour_map(batch)
        for slot in range(self.num_ops):
            step = colour_map(
                batch,
                scale[:, slot],
                saturation[:, slot],
                255 * inverted[:, slot, tf.newaxis],
            )
            maps = compose(step, maps)
            maps = compose(contrast(stretch[:, slot], images, maps), maps)
        images = recolour(images, maps)

        def once(name: str) -> tf.Tensor:  # [B, 1, 1, 1]
            return tf.reduce_max(happens(name), axis=1)[:, None, None, None]

        def any_of(name: str) -> tf.Tensor:  # bool [B]
            return tf.reduce_any(happens(name) > 0, axis=1)

        if "auto_contrast" in self.operations:
            images = to_some(
                images, any_of("auto_contrast"), lambda x, _: auto_contrast(x)
            )
        if "equalize" in self.operations:
            images = to_some(
                images, any_of("equalize"), lambda x, _: equalize(x)
            )
        if "sharpness" in self.operations:
            more = tf.reduce_sum(happens("sharpness") * signs, axis=1)
            factor = 1 + _BLEND * strength * tf.clip_by_value(more, -1.0, 1.0)
            images = to_some(
                images,
                any_of("sharpness"),
                lambda picture, row: sharpen(picture, tf.gather(factor, row)),
            )
        if "posterize" in self.operations:
            # Else to a step so small that nothing is lost of 8 bits.
            lost = 2.0 ** round(_LOST_BITS * strength)
            step = tf.where(once("posterize") > 0, lost, 2.0**-12)
            images = tf.floor(images / step) * step
        if "solarize" in self.operations:
            # tf.where is slow over pixels, but not where it is compiled.
            threshold = 256 - 256 * strength * once("solarize")
            images = tf.where(images < threshold, images, 255 - images)
        return images

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "magnitude": self.magnitude,
            "num_ops": self.num_ops,
            "operations": list(self.operations),
            "fill_mode": self.fill_mode,
            "fill_value": self.fill_value,
            "interpolation": self.interpolation,
            "seed": self.seed,
        }
