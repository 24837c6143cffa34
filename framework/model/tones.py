"""Turns some pictures of a batch into ones with other tones or edges.

What looks at a whole picture before it changes a pixel, or at a pixel's
neighbours, is no map of colours. It is done to one picture after the other,
and only to those that it is for: a policy asks it of few.
"""

from collections.abc import Callable

import tensorflow as tf

# Pillow's ImageFilter.SMOOTH: ones, but for the centre.
_CENTRE = 5
_SMOOTH = 8 + _CENTRE


def to_some(
    images: tf.Tensor,
    chosen: tf.Tensor,
    operate: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Does something to the pictures that are chosen.

    The others cost nothing: a loop of as many steps as are chosen. XLA, which
    wants shapes to be known, compiles that, and writes in place.

    Args:
        images: float32 `[B, H, W, C]`.
        chosen: bool `[B]`.
        operate: from a picture, `[H, W, C]`, and its row to what replaces it.

    Returns:
        float32 `[B, H, W, C]`.
    """
    rows = tf.argsort(tf.cast(chosen, tf.int32), direction="DESCENDING")
    count = tf.reduce_sum(tf.cast(chosen, tf.int32))

    # By gathering, since slices are compiled anew for each place.
    def step(number, images):
        row = tf.gather(rows, number)
        picture = operate(tf.gather(images, row), row)
        changed = tf.tensor_scatter_nd_update(
            images, row[tf.newaxis, tf.newaxis], picture[tf.newaxis]
        )
        return number + 1, tf.ensure_shape(changed, images.shape)

    return tf.while_loop(
        lambda number, _: number < count, step, (tf.constant(0), images)
    )[1]


def auto_contrast(picture: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0..255, as Pillow's `ImageOps.autocontrast`.

    A channel of one tone stays as it is. Nothing is cut off to whole numbers.

    Args:
        picture: float32 `[H, W, C]`, pixels 0..255.

    Returns:
        the same.
    """
    low = tf.reduce_min(picture, axis=(0, 1))
    high = tf.reduce_max(picture, axis=(0, 1))
    has_range = high > low
    scale = tf.where(has_range, 255 / tf.where(has_range, high - low, 1.0), 1.0)
    return (picture - low) * scale + tf.where(has_range, 0.0, low)


def equalize(picture: tf.Tensor) -> tf.Tensor:
    """Has each channel use all tones alike, as Pillow's `ImageOps.equalize`.

    Args:
        picture: float32 `[H, W, C]`, pixels 0..255; they are rounded.

    Returns:
        the same, whole numbers.
    """
    channels = picture.shape[-1]
    # A channel's tones after the other's.
    tones = tf.cast(tf.round(picture), tf.int32) + 256 * tf.range(channels)
    counts = tf.math.unsorted_segment_sum(
        tf.ones_like(tones), tones, 256 * channels
    )
    counts = tf.reshape(counts, [channels, 256])
    there = tf.where(counts > 0, tf.range(256), 0)
    brightest = tf.one_hot(tf.reduce_max(there, 1), 256, dtype=tf.int32)
    # What is brightest needs no room above.
    pixels = tf.reduce_sum(counts * (1 - brightest), axis=1, keepdims=True)
    step = pixels // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    spread = (step // 2 + below) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(spread, 255), tf.range(256))
    table = tf.reshape(tf.cast(table, tf.float32), [-1])
    return tf.gather(table, tones)


def sharpen(picture: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with a smoothed picture, as Pillow's `ImageEnhance.Sharpness`.

    The outermost pixels are left alone, as there.

    Args:
        picture: float32 `[H, W, C]`, pixels 0..255.
        factor: 0 smoothes, 1 changes nothing, more sharpens; a scalar.

    Returns:
        float32 `[H, W, C]`, pixels 0..255.
    """
    if min(picture.shape[:2]) < 3:
        return picture  # There are no others.
    rows = picture[:-2] + picture[1:-1] + picture[2:]
    around = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    inner = picture[1:-1, 1:-1]
    smooth = (around + (_CENTRE - 1) * inner) / _SMOOTH
    sharper = (factor - 1) * (inner - smooth)
    sharper = tf.pad(sharper, [[1, 1], [1, 1], [0, 0]])
    return tf.clip_by_value(picture + sharper, 0.0, 255.0)
