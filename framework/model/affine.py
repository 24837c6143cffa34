"""Turns flips, turns, zooms, shears and shifts into one resampling.

Each of these maps the pixels of a picture by a 3x3 matrix, and so do several
in a row, by the product of theirs. Resampling once instead of once a layer is
quicker, blurs once, and keeps what one layer pushes out of the picture and
the next one fetches back.
"""

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from framework.errors import UserError
from framework.registry import AUGMENTATIONS

_FLIPS = ("horizontal", "vertical", "horizontal_and_vertical")
_FILL_MODES = ("constant", "nearest", "reflect", "wrap")
_INTERPOLATIONS = ("bilinear", "nearest")
# Not RandomPerspective: its matrices are drawn otherwise.
_RESAMPLING = (
    keras.layers.RandomRotation,
    keras.layers.RandomShear,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
)


@AUGMENTATIONS.register()
@keras.saving.register_keras_serializable(package="framework")
class RandomAffine(keras.layers.Layer):
    """Flips, turns, zooms, shears and shifts pictures, resampling them once.

    Does in one pass what `keras.layers.RandomFlip`, `RandomRotation`,
    `RandomZoom`, `RandomShear` and `RandomTranslation` do one after the other,
    in this order. The names are theirs with the layer's before it, and so are
    conventions and ranges; what is not asked for is not done. Every picture
    has draws of its own. Only with `training=True`; otherwise the identity.

    It compiles with XLA, as Keras's layers don't. On a GPU it is one
    `ImageProjectiveTransformV3`; elsewhere XLA compiles it, by itself or with
    all that is around it.

    A saved model of it is loaded after `import framework.model.affine`.
    (`classifier.fuse` needs none of this: what it fuses is saved as Keras's
    own layers.)

    Input shape:
        `[B, H, W, C]` or `[H, W, C]`, pixels of any range and dtype.

    Output shape:
        The same; of the layer's own dtype, float32 unless told otherwise, as
        with Keras's layers. Integers are rounded.

    Args:
        flip_mode: "horizontal", "vertical", "horizontal_and_vertical", or
            None. As with Keras 3, the last flips in both directions or in
            none.
        rotation_factor: in full turns, counter-clockwise; 0.1 means
            (-0.1, 0.1).
        zoom_height_factor: above 0 zooms out: 0.2 shows 1.2 times as much.
        zoom_width_factor: the same; None keeps the picture's proportions.
        shear_x_factor: in pixels a row, about the upper left corner; lower and
            upper limit or one number, at least 0. The sign is drawn.
        shear_y_factor: the same, in pixels a column.
        translation_height_factor: as a share of the height; above 0 moves
            down.
        translation_width_factor: as a share of the width; above 0 moves right.
        fill_mode: what lies outside the picture: "constant", "nearest",
            "reflect" or "wrap".
        fill_value: of "constant".
        interpolation: "bilinear" or "nearest".
        seed: a whole number or None.

    Raises:
        UserError: an argument is none of these.
    """

    def __init__(
        self,
        flip_mode: str | None = None,
        rotation_factor: float | Sequence[float] = 0.0,
        zoom_height_factor: float | Sequence[float] = 0.0,
        zoom_width_factor: float | Sequence[float] | None = None,
        shear_x_factor: float | Sequence[float] = 0.0,
        shear_y_factor: float | Sequence[float] = 0.0,
        translation_height_factor: float | Sequence[float] = 0.0,
        translation_width_factor: float | Sequence[float] = 0.0,
        fill_mode: str = "reflect",
        fill_value: float = 0.0,
        interpolation: str = "bilinear",
        seed: int | None = None,
        **kwargs,
    ):
        # Pixels come as they are: 0..255 is too much for 16 bits.
        super().__init__(autocast=False, **kwargs)
        if zoom_width_factor is None:
            zooms = (zoom_height_factor,)
        else:
            zooms = (zoom_height_factor, zoom_width_factor)
        check_choice("RandomAffine.flip_mode", flip_mode, (None, *_FLIPS))
        check_filling("RandomAffine", fill_mode, interpolation)
        for name, factors, lowest in (
            ("rotation_factor", (rotation_factor,), -1),
            ("zoom_height_factor", zooms[:1], -0.999),
            ("zoom_width_factor", zooms[1:], -0.999),
            ("shear_x_factor", (shear_x_factor,), 0),
            ("shear_y_factor", (shear_y_factor,), 0),
            ("translation_height_factor", (translation_height_factor,), -1),
            ("translation_width_factor", (translation_width_factor,), -1),
        ):
            for factor in factors:
                check_factor(f"RandomAffine.{name}", factor, lowest)
        self._config = {
            "flip_mode": flip_mode,
            "rotation_factor": rotation_factor,
            "zoom_height_factor": zoom_height_factor,
            "zoom_width_factor": zoom_width_factor,
            "shear_x_factor": shear_x_factor,
            "shear_y_factor": shear_y_factor,
            "translation_height_factor": translation_height_factor,
            "translation_width_factor": translation_width_factor,
            "fill_mode": fill_mode,
            "fill_value": fill_value,
            "interpolation": interpolation,
            "seed": seed,
        }
        self.seed = seed
        shears = (shear_x_factor, shear_y_factor)
        shifts = (translation_height_factor, translation_width_factor)
        wanted = (
            (keras.layers.RandomFlip, (flip_mode,)),
            (keras.layers.RandomRotation, (rotation_factor,)),
            (keras.layers.RandomZoom, zooms),
            (keras.layers.RandomShear, shears),
            (keras.layers.RandomTranslation, shifts),
        )
        # They only draw. Seeds differ, or all would draw the same numbers.
        self.steps = [
            kind(*values, seed=None if seed is None else seed + number)
            for number, (kind, values) in enumerate(wanted)
            if any(value not in (None, 0, (0, 0), [0, 0]) for value in values)
        ]
        for step in self.steps:
            step.supports_jit = True  # What does not compile is not called.

    def build(self, input_shape):
        for step in self.steps:
            step.build(input_shape)

    def call(self, images, training=False):
        if training and self.steps:
            images = _moved(
                images,
                self.steps,
                self._config["fill_mode"],
                self._config["fill_value"],
                self._config["interpolation"],
            )
        return to_dtype(images, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), **self._config}


@AUGMENTATIONS.register()
@keras.saving.register_keras_serializable(package="framework")
class RandomResizedCrop(keras.layers.Layer):
    """Shows a part of the picture, of random size, place and proportions.

    Szegedy et al. 2015, https://arxiv.org/abs/1409.4842, section 6. The part
    is scaled up to the size of the picture. Every picture has draws of its
    own. Only with `training=True`; otherwise the identity. It compiles with
    XLA.

    Of several neighbours that fill alike `classifier.fuse` makes one
    resampling, as of Keras's layers. A saved model of it is loaded after
    `import framework.model.affine`.

    Input shape:
        `[B, H, W, C]` or `[H, W, C]`, pixels of any range and dtype.

    Output shape:
        The same; of the layer's own dtype, float32 unless told otherwise, as
        with Keras's layers. Integers are rounded.

    Args:
        scale: the part's area as a share of the picture's, from and to;
            uniformly.
        ratio: the part's width over its height, where the picture's own is 1,
            from and to; uniformly by its logarithm, as far as a part of this
            area fits in. (torchvision draws again what does not fit, which
            makes large parts rarer than `scale` says.)
        fill_mode: what lies outside of the picture: "constant", "nearest",
            "reflect" or "wrap". By itself the layer looks half a pixel far.
        fill_value: of "constant".
        interpolation: "bilinear" or "nearest".
        seed: a whole number or None.

    Raises:
        UserError: an argument is none of these.
    """

    data_format = "channels_last"

    def __init__(
        self,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        fill_mode: str = "reflect",
        fill_value: float = 0.0,
        interpolation: str = "bilinear",
        seed: int | None = None,
        **kwargs,
    ):
        # Pixels come as they are: 0..255 is too much for 16 bits.
        super().__init__(autocast=False, **kwargs)
        check_range("RandomResizedCrop.scale", scale, 1.0)
        check_range("RandomResizedCrop.ratio", ratio)
        check_filling("RandomResizedCrop", fill_mode, interpolation)
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self.fill_mode = fill_mode
        self.fill_value = fill_value
        self.interpolation = interpolation
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if training:
            images = _moved(
                images,
                [self],
                self.fill_mode,
                self.fill_value,
                self.interpolation,
            )
        return to_dtype(images, self.compute_dtype)

    def matrices(self, images: tf.Tensor) -> tf.Tensor:
        """Draws for each picture; float32 `[B, 3, 3]`, as `draw` has them."""
        batch = tf.shape(images)[0]
        sides = tf.cast(tf.shape(images)[1:3], tf.float32)
        drawn = keras.random.uniform(
            (batch, 4), dtype="float32", seed=self.generator
        )
        # As shares of the sides.
        width, height = random_box(drawn, self.scale, self.ratio)
        left = drawn[:, 2] * (1 - width)
        top = drawn[:, 3] * (1 - height)

        # Pixel x covers x to x + 1 of a side, its middle lies between.
        def first(start, length, side):
            return start * side + 0.5 * length - 0.5

        return matrix(
            batch,
            (width, 0, first(left, width, sides[1])),
            (0, height, first(top, height, sides[0])),
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "scale": self.scale,
            "ratio": self.ratio,
            "fill_mode": self.fill_mode,
            "fill_value": self.fill_value,
            "interpolation": self.interpolation,
            "seed": self.seed,
        }


def random_box(
    drawn: tf.Tensor, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sides of a box that fits into the picture.

    Args:
        drawn: float32 `[B, 2]` or more, 0..1: for area and proportions.
        scale: the area, from and to, as a share of the picture's.
        ratio: width over height, from and to.

    Returns:
        (width, height), float32 `[B]`, as shares of the picture's.
    """
    area = scale[0] + (scale[1] - scale[0]) * drawn[:, 0]
    low, high = (math.log(limit) for limit in ratio)
    # No side is longer than the picture's.
    most = -tf.math.log(area)
    log_ratio = tf.clip_by_value(low + (high - low) * drawn[:, 1], -most, most)
    width = tf.sqrt(area * tf.exp(log_ratio))
    return tf.minimum(width, 1.0), tf.minimum(area / width, 1.0)


def fuse(layers: Sequence[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """Makes one layer of neighbours that can share a resampling.

    These are Keras's RandomFlip, RandomRotation, RandomZoom, RandomShear and
    RandomTranslation, and RandomResizedCrop, where what they fill with and how
    they interpolate is the same. They draw what they would draw alone, and the
    matrices are multiplied in their order: the picture is theirs up to
    interpolation and to what has been outside of it in between.

    Returns:
        The layers; instead of each run of two or more of those named, a
        `keras.layers.Pipeline` of them that resamples once. It is saved as
        what it is, these layers, and loaded acts as they do.
    """
    fused: list[keras.layers.Layer] = []
    run: list[keras.layers.Layer] = []
    agreed = None  # None while there are but flips, which go with anything.
    for layer in layers:
        plain = getattr(layer, "data_format", None) == "channels_last"
        flips = plain and type(layer) is keras.layers.RandomFlip
        wanted = None
        if plain and type(layer) in (*_RESAMPLING, RandomResizedCrop):
            wanted = (layer.fill_mode, layer.fill_value, layer.interpolation)
        if not (flips or wanted) or (agreed and wanted not in (None, agreed)):
            fused += _fused(run, agreed)
            run, agreed = [], None
        if flips or wanted:
            run.append(layer)
            agreed = agreed or wanted
        else:
            fused.append(layer)
    return fused + _fused(run, agreed)


def parts(layer: keras.layers.Layer) -> tuple[keras.layers.Layer, ...]:
    """The layers that `fuse` made this one of; none where it did not."""
    return tuple(layer.layers) if hasattr(layer, "_is_fused") else ()


def _fused(
    layers: list[keras.layers.Layer], settings: tuple | None
) -> list[keras.layers.Layer]:
    """One layer in place of several, where they have to resample."""
    if len(layers) < 2 or settings is None:
        return layers
    pipeline = keras.layers.Pipeline(layers)
    for layer in layers:
        layer.built = True  # None has weights, and none will be called.

    def call(inputs, training=True, mask=None):
        if training:
            inputs = _moved(inputs, layers, *settings)
        return to_dtype(inputs, layers[-1].compute_dtype)

    # On the instance: the class, and so what is saved, stays Keras's.
    pipeline.call = call
    # Else Keras 3.15 warns when it is loaded: a Pipeline has no `build`.
    pipeline.get_build_config = lambda: None
    pipeline._is_fused = True
    return [pipeline]


def _moved(
    images: tf.Tensor,
    layers: Sequence[keras.layers.Layer],
    fill_mode: str,
    fill_value: float,
    interpolation: str,
) -> tf.Tensor:
    """float32 pictures as all the layers would move them together."""
    images = tf.cast(images, tf.float32)
    single = images.shape.rank == 3
    if single:
        images = images[tf.newaxis]
    matrices = draw(layers[0], images)
    for layer in layers[1:]:
        # A layer's matrix leads from its output's pixels to its input's.
        matrices = compose(matrices, draw(layer, images))
    images = _resample(images, matrices, fill_mode, fill_value, interpolation)
    return images[0] if single else images


def draw(layer: keras.layers.Layer, images: tf.Tensor) -> tf.Tensor:
    """Has a layer draw as in training.

    Args:
        layer: a RandomFlip, RandomRotation, RandomZoom, RandomShear or
            RandomTranslation; or a RandomResizedCrop.
        images: `[B, H, W, C]`.

    Returns:
        float32 `[B, 3, 3]`, as `resample` takes them.
    """
    if isinstance(layer, RandomResizedCrop):
        return layer.matrices(images)
    drawn = layer.get_random_transformation(images, training=True)
    batch = tf.shape(images)[0]
    sides = tf.cast(tf.shape(images)[1:3], tf.float32)
    height, width = tf.unstack(sides)

    def column(values, number=0):  # [B]
        values = tf.reshape(values, [batch, -1])
        return tf.cast(values[:, number], tf.float32)

    if isinstance(layer, keras.layers.RandomRotation):
        return tf.reshape(
            tf.concat([drawn["rotation_matrix"], tf.ones([batch, 1])], 1),
            [batch, 3, 3],
        )
    if isinstance(layer, keras.layers.RandomFlip):
        flips = column(drawn["flips"])
        x = flips if "horizontal" in layer.mode else 0.0
        y = flips if "vertical" in layer.mode else 0.0
        return matrix(
            batch,
            (1 - 2 * x, 0, x * (width - 1)),
            (0, 1 - 2 * y, y * (height - 1)),
        )
    if isinstance(layer, keras.layers.RandomZoom):
        x, y = column(drawn["width_zoom"]), column(drawn["height_zoom"])
        return matrix(
            batch,
            (x, 0, (1 - x) * (width - 1) / 2),
            (0, y, (1 - y) * (height - 1) / 2),
        )
    if isinstance(layer, keras.layers.RandomShear):
        factors = drawn["shear_factor"]
        return matrix(
            batch, (1, column(factors), 0), (column(factors, 1), 1, 0)
        )
    shifts = drawn["translations"]
    return matrix(batch, (1, 0, -column(shifts)), (0, 1, -column(shifts, 1)))


def matrix(batch: tf.Tensor, *rows: Sequence) -> tf.Tensor:
    """float32 `[B, 3, 3]` of two rows, each of three `[B]` or numbers."""
    entries = [
        tf.broadcast_to(tf.cast(entry, tf.float32), [batch])
        for row in (*rows, (0, 0, 1))
        for entry in row
    ]
    return tf.reshape(tf.stack(entries, axis=1), [batch, 3, 3])


def compose(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """The matrix products, `[B, N, N]`.

    Not by `matmul`, which accelerators round to fewer bits, and pixels shift.
    """
    return tf.reduce_sum(
        first[:, :, :, tf.newaxis] * second[:, tf.newaxis], axis=2
    )


def resample(
    images: tf.Tensor,
    matrices: tf.Tensor,
    fill_mode: str = "reflect",
    fill_value: float = 0.0,
    interpolation: str = "bilinear",
    plain: bool | None = None,
) -> tf.Tensor:
    """Fetches every pixel from where its matrix says.

    Args:
        images: float32 `[B, H, W, C]`.
        matrices: float32 `[B, 3, 3]`, from (x, y, 1) of an output's pixel to
            that of the input; affine, the last row is not looked at.
        fill_mode: "constant", "nearest", "reflect" or "wrap", all as
            `ImageProjectiveTransformV3` has them.
        fill_value: of "constant".
        interpolation: "bilinear" or "nearest".
        plain: whether to use operations only that XLA can compile; None does
            so where XLA compiles what is traced.

    Returns:
        float32 `[B, H, W, C]`.
    """
    if _being_compiled() if plain is None else plain:
        return _gathered(images, matrices, fill_mode, fill_value, interpolation)
    flat = tf.reshape(matrices, [-1, 9])[:, :6]
    resampled = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.pad(flat, [[0, 0], [0, 2]]),
        output_shape=tf.shape(images)[1:3],
        fill_value=fill_value,
        interpolation=interpolation.upper(),
        fill_mode=fill_mode.upper(),
    )
    return tf.ensure_shape(resampled, images.shape)


def _being_compiled() -> bool:
    """Whether XLA compiles what is being traced."""
    graph = tf.compat.v1.get_default_graph()
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def compiled(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Has XLA compile a function of pixels where there is no GPU.

    On a CPU a compiled resampling takes a third of the kernel's time, since
    XLA makes one loop of it; a GPU's kernel is left alone. What is drawn at
    random stays outside: XLA would draw other numbers.
    """
    alone = tf.function(function, jit_compile=True, autograph=False)

    def call(*args):
        if _being_compiled() or tf.config.list_physical_devices("GPU"):
            return function(*args)
        return alone(*args)

    return call


_resample = compiled(resample)


def _gathered(
    images: tf.Tensor,
    matrices: tf.Tensor,
    fill_mode: str,
    fill_value: float,
    interpolation: str,
) -> tf.Tensor:
    """The same as the kernel, by plain operations."""
    batch, height, width = (tf.shape(images)[axis] for axis in range(3))
    flat = tf.reshape(images, [-1, images.shape[-1]])
    first = tf.range(batch)[:, tf.newaxis, tf.newaxis] * height * width
    rows = tf.range(tf.cast(height, tf.float32))[:, tf.newaxis]
    columns = tf.range(tf.cast(width, tf.float32))

    def source(row, length):  # [B, H, W]
        x, y, one = (
            matrices[:, row, column, tf.newaxis, tf.newaxis]
            for column in range(3)
        )
        return _inside(x * columns + y * rows + one, length, fill_mode)

    def fetch(y, x):  # [B, H, W, C]
        near_y = tf.clip_by_value(y, 0, tf.cast(height - 1, tf.float32))
        near_x = tf.clip_by_value(x, 0, tf.cast(width - 1, tf.float32))
        rows, columns = tf.cast(near_y, tf.int32), tf.cast(near_x, tf.int32)
        pixels = tf.gather(flat, first + rows * width + columns)
        if fill_mode != "constant":
            return pixels
        inside = (near_y == y) & (near_x == x)
        return tf.where(inside[..., tf.newaxis], pixels, fill_value)

    x, y = source(0, width), source(1, height)
    if interpolation == "nearest":
        # Halves away from 0, as C has it and tf.round has not.
        y, x = (tf.sign(v) * tf.floor(tf.abs(v) + 0.5) for v in (y, x))
        return fetch(y, x)
    left, top = tf.floor(x), tf.floor(y)
    right_share = (x - left)[..., tf.newaxis]
    lower_share = (y - top)[..., tf.newaxis]
    upper, lower = (
        fetch(row, left) * (1 - right_share)
        + fetch(row, left + 1) * right_share
        for row in (top, top + 1)
    )
    return upper * (1 - lower_share) + lower * lower_share


def _inside(at: tf.Tensor, length: tf.Tensor, fill_mode: str) -> tf.Tensor:
    """Where in the picture lies what is outside, along one axis."""
    if fill_mode == "constant":
        return at
    length = tf.cast(length, tf.float32)
    last = length - 1
    if fill_mode == "reflect":  # dcba|abcd|dcba
        at = tf.math.floormod(at, 2 * length)
        at = tf.minimum(at, 2 * length - 1 - at)
    elif fill_mode == "wrap":
        # abcd|abcd|abcd; far outside the kernel counts in steps of one pixel
        # less than the length, and so do we.
        steps = tf.floor(tf.abs(at) / tf.maximum(last, 1.0))
        at += length * tf.where(
            at < 0, steps + 1, tf.where(at > last, -steps, 0.0)
        )
    return tf.clip_by_value(at, 0.0, last)


def check_choice(name: str, value: object, known: Sequence) -> None:
    """Refuses what is not known.

    Raises:
        UserError: `value`, which the user calls `name`, is none of the known.
    """
    if value not in known:
        raise UserError(
            f"{name} is {value!r}; expected one of "
            f"{', '.join(map(repr, known))}."
        )


def check_filling(layer: str, fill_mode: str, interpolation: str) -> None:
    """Refuses what `resample` does not know, for the layer called so.

    Raises:
        UserError: it is neither of the known modes.
    """
    check_choice(f"{layer}.fill_mode", fill_mode, _FILL_MODES)
    check_choice(f"{layer}.interpolation", interpolation, _INTERPOLATIONS)


def check_factor(
    name: str,
    factor: float | Sequence[float],
    lowest: float,
    highest: float = 1,
) -> None:
    """Refuses what is neither a number nor a lower and an upper limit.

    Args:
        name: what the user calls it.
        factor: what was given.
        lowest: that a limit may have.
        highest: likewise.

    Raises:
        UserError: it is something else, or out of range.
    """
    limits = factor if isinstance(factor, (list, tuple)) else (factor,)
    fits = len(limits) == 2 or not isinstance(factor, (list, tuple))
    for limit in limits if fits else ():
        number = isinstance(limit, (int, float)) and math.isfinite(limit)
        fits = fits and number and lowest <= limit <= highest
    if not fits:
        raise UserError(
            f"{name} is {factor!r}; expected a number from {lowest} to "
            f"{highest}, or a lower and an upper limit: (0.1, 0.2)."
        )


def check_range(
    name: str, limits: Sequence[float], highest: float = math.inf
) -> None:
    """Refuses what is no range of numbers above 0.

    Args:
        name: what the user calls it.
        limits: what was given.
        highest: that a limit may have.

    Raises:
        UserError: it is something else.
    """
    fits = isinstance(limits, (list, tuple)) and len(limits) == 2
    fits = fits and all(isinstance(x, (int, float)) for x in limits)
    if not fits or not 0 < limits[0] <= limits[1] <= highest:
        up_to = "" if highest == math.inf else f" and not above {highest:g}"
        raise UserError(
            f"{name} is {limits!r}; expected a lower and an upper limit, both "
            f"above 0{up_to}: (0.5, 1.0)."
        )


def to_dtype(images: tf.Tensor, dtype: str) -> tf.Tensor:
    """Casts pictures to what a layer returns; to integers by rounding."""
    kind = tf.as_dtype(dtype)
    if kind.is_integer and not images.dtype.is_integer:
        images = tf.round(images)
    return tf.saturate_cast(images, kind)
