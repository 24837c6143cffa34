"""Turns the bytes of an image file into square uint8 RGB pixels, in the graph.

One `decode` and one `resize` serve training, doctor and export alike: plain
TensorFlow operations that run eagerly, in `tf.data` and in a saved model.

What becomes of the formats, measured with TensorFlow 2.21:

* JPEG, also grey, CMYK and progressive: RGB. TensorFlow ignores the EXIF
  orientation; it is applied here.
* PNG, also grey or with a palette: RGB; of 16 bits the upper 8.
* Alpha (PNG, BMP, WebP): dropped, not blended; the color under it shows.
* GIF and animated WebP: the first frame. Of a GIF TensorFlow unpacks all the
  others too, only to drop them; so it is given the first one alone.
* BMP with a palette: TensorFlow returns the *indices* into the palette as
  grey; they are looked up here.
* WebP: asked for 3 channels TensorFlow refuses files with alpha; left to
  choose, it writes 4 channels of an animation into room for 3, which ends the
  process. So the header decides here what to ask for.
* TIFF, HEIC, JPEG XL, BMP of less than 8 bits or compressed: an error.

A few bytes can promise any number of pixels. What a header promises is compared
with `MAX_PIXELS` before anything of that size is allocated.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from framework.data.limits import MAX_PIXELS
from framework.errors import UserError
from framework.registry import nearest

# How an image that is not square becomes one.
RESIZES = ("squash", "crop", "pad")

# Where EXIF, or the first frame of a GIF, begins behind more than this much
# else, it is not looked for.
_REACH = 1 << 18
# How much of a GIF is read: more than noise of `MAX_PIXELS` takes.
_GIF_REACH = 1 << 28
# How many of its sub-blocks are passed in one step, and in how many steps.
_GIF_STRIDE = 1 << 8
_GIF_STEPS = 1 << 16


@tf.autograph.experimental.do_not_convert
def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes an image file.

    Args:
        encoded: a scalar string, the bytes of a JPEG, PNG, GIF, BMP or WebP
            file.

    Returns:
        uint8 `[H, W, 3]`, RGB, pixels 0..255, upright.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are no such image, or one of
            more than `MAX_PIXELS`.
    """
    return _decode_to(encoded, (_ANY, _ANY))


@tf.autograph.experimental.do_not_convert
def decode_and_resize(
    encoded: tf.Tensor, size: int, how: str = "squash"
) -> tf.Tensor:
    """Decodes an image file into a square: `decode`, then `resize`.

    A JPEG at least twice too large is decoded at 1/2, 1/4 or 1/8 of its sides,
    the least of which no side has to grow again: libjpeg then computes means of
    2, 4 or 8 pixels each way instead of the pixels, and what is left is
    interpolated bilinearly where it is less than twice too large. That takes
    less than a half of the time at 1,600 pixels to 224, less than a third at
    3,000, and is a little softer: of photographs the pixels are off by 2.3 to
    3.5 of 255 on average (PSNR 36 to 32 dB) from exact means by area, full of
    detail by up to 11 (23 dB, one of 2,002 at 150 pixels, where bilinear
    interpolation of the whole picture is off by 7.6). What is cropped or padded
    may lie half a pixel elsewhere.

    Args:
        encoded: as for `decode`.
        size: as for `resize`.
        how: as for `resize`.

    Returns:
        uint8 `[size, size, 3]`, RGB, pixels 0..255, upright: of all but those
        JPEGs exactly `resize(decode(encoded), size, how)`.

    Raises:
        UserError: `how` or `size` is none that `resize` takes.
        tf.errors.InvalidArgumentError: what `decode` raises it for, and
            nothing else.
    """
    check_resize(size, how)
    # Of "squash" both sides have to keep as many pixels as there will be, of
    # "crop" the short one and so both, of "pad" the long one.
    keep = (_ANY, size) if how == "pad" else (size, _ANY)
    return resize(_decode_to(encoded, keep), size, how)


def to_square(image: tf.Tensor, size: int, how: str = "squash") -> tf.Tensor:
    """uint8 `[size, size, 3]` of what a source gives: a file, or pixels.

    Args:
        image: a scalar string, as for `decode_and_resize`; or uint8
            `[H, W, C]`, as for `to_rgb`.
        size: as for `resize`.
        how: as for `resize`.

    Raises:
        tf.errors.InvalidArgumentError: a file does not decode.
    """
    if image.dtype == tf.string:
        return decode_and_resize(image, size, how)
    return resize(to_rgb(image), size, how)


def _decode_to(encoded: tf.Tensor, keep: tuple[int, int]) -> tf.Tensor:
    """Decodes a file at the size that it has, or less of a large JPEG.

    Args:
        encoded: a scalar string.
        keep: how many pixels the short side and the long one must keep if it is
            decoded at less; the sides that are `_ANY` do not matter, and where
            both are, it is not.

    Returns:
        uint8 `[H, W, 3]`.
    """
    encoded = tf.convert_to_tensor(encoded, tf.string)
    least = tf.constant(keep, tf.int64)

    def less_or_any():
        if keep == (_ANY, _ANY):
            return _decode_any(encoded, least)
        # To find out the kind first takes longer than to decode less saves.
        return tf.cond(
            _is_plain_jpeg(encoded, (_ANY, _ANY)),
            lambda: _decode_plain_jpeg(encoded, least),
            lambda: _decode_any(encoded, least),
        )

    # Nearly every picture is a JPEG whose first bytes show that it is neither
    # twice too large nor larger than it may be and says nothing of its
    # orientation: it pays to ask this first and cheaply.
    image = tf.cond(
        _is_plain_jpeg(encoded, keep),
        lambda: tf.io.decode_jpeg(encoded, channels=3),
        less_or_any,
    )
    return tf.ensure_shape(image, [None, None, 3])


@tf.autograph.experimental.do_not_convert
def to_rgb(pixels: tf.Tensor) -> tf.Tensor:
    """Makes pixels RGB: grey is repeated, alpha is dropped.

    Args:
        pixels: uint8 `[H, W, C]`, C = 1, 3 or 4, statically known or not;
            `[H, W]` is grey too.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        ValueError: the dtype, or a shape known when tracing, is another one.
        tf.errors.InvalidArgumentError: a shape found when running is another
            one, or there are no pixels.
    """
    pixels = tf.convert_to_tensor(pixels)
    if pixels.dtype != tf.uint8:
        raise ValueError(
            f"Received {pixels.dtype.name} pixels; expected uint8, 0..255. "
            "Scale and cast them."
        )
    if pixels.shape.rank == 2:
        pixels = pixels[..., tf.newaxis]
    if pixels.shape.rank not in (None, 3):
        raise ValueError(
            f"Received pixels of shape {pixels.shape}; expected [H, W, C]: "
            "one image."
        )
    channels = pixels.shape[-1] if pixels.shape.rank else None
    if channels not in (None, 1, 3, 4):
        raise ValueError(
            f"Received pixels with {channels} channels; expected 1 (grey), "
            "3 (RGB) or 4 (RGB and alpha)."
        )
    with tf.control_dependencies(_pixels_there(pixels)):
        if channels == 1:
            return tf.repeat(pixels, 3, axis=-1)
        if channels is not None:
            return pixels[..., :3]
        depth = tf.shape(pixels)[-1]
        expected = tf.debugging.Assert(
            tf.reduce_any(depth == [1, 3, 4]),
            ["Expected 1, 3 or 4 channels, received", depth],
        )
        with tf.control_dependencies([expected] if expected else []):
            # [H, W, 1] has one channel to repeat; the others give their first
            # three.
            indices = tf.minimum([0, 1, 2], depth - 1)
            rgb = tf.gather(pixels, indices, axis=-1)
        return tf.ensure_shape(rgb, [None, None, 3])


@tf.autograph.experimental.do_not_convert
def resize(image: tf.Tensor, size: int, how: str = "squash") -> tf.Tensor:
    """Makes an image `size` pixels wide and high.

    An image at least twice too large on a side is averaged by area, so that
    fine patterns turn grey and not into others. Others are interpolated
    bilinearly, in a third of the time: no pixel is skipped, but where an image
    is nearly twice too large some count for almost nothing, and patterns as
    fine as pixels may turn into others.

    Args:
        image: uint8 `[H, W, 3]`, pixels 0..255.
        size: the side of the result in pixels.
        how: "squash" brings both sides to `size`, whatever they were; "crop"
            brings the short side to `size` and keeps the middle of the long
            one; "pad" brings the long side to `size` and puts black beside
            the image.

    Returns:
        uint8 `[size, size, 3]`; the image itself where it has that size.

    Raises:
        UserError: `how` is none of these, or `size` is not positive.
        tf.errors.InvalidArgumentError: there are no pixels.
    """
    check_resize(size, how)
    image = tf.convert_to_tensor(image, tf.uint8)
    resized = {"squash": _squash, "crop": _crop, "pad": _pad}[how]
    if image.shape[0] == image.shape[1] == size:
        return image
    return tf.ensure_shape(resized(image, size), [size, size, 3])


def check_resize(size: int, how: str) -> None:
    """Raises a UserError where `resize` would for these arguments."""
    if how not in RESIZES:
        raise UserError(
            f"Received resize {how!r}; expected one of {', '.join(RESIZES)}. "
            f"{nearest(str(how), RESIZES)}".rstrip()
        )
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UserError(
            f"Received the image size {size!r}; expected a whole number of "
            "pixels, at least 1, such as 160."
        )


def shrink(pixels: tf.Tensor, max_side: int) -> tf.Tensor:
    """uint8 `[H, W, C]`, by area, to no side longer than `max_side`."""
    sides = tf.shape(pixels)[:2]
    longest = tf.maximum(tf.reduce_max(sides), max_side)
    sides = tf.cast(sides, tf.float64) * (max_side / longest)
    # A line one pixel high stays visible.
    sides = tf.maximum(tf.cast(tf.round(sides), tf.int32), 1)
    shrunk = tf.image.resize(pixels, sides, method="area")
    return tf.saturate_cast(tf.round(shrunk), tf.uint8)


# Resizing.


def _squash(image: tf.Tensor, size: int) -> tf.Tensor:
    return _interpolate(image, [size, size])


def _crop(image: tf.Tensor, size: int) -> tf.Tensor:
    # First the crop, then the resampling of what is left: half the work of
    # the other order on a panorama, and the same picture.
    shape = tf.shape(image)
    short = tf.minimum(shape[0], shape[1])
    top, left = (shape[0] - short) // 2, (shape[1] - short) // 2
    square = image[top : top + short, left : left + short]
    return _interpolate(square, [size, size])


def _pad(image: tf.Tensor, size: int) -> tf.Tensor:
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    scaled = tf.cast(tf.round(sides * (size / tf.reduce_max(sides))), tf.int32)
    # A line one pixel high stays visible.
    scaled = tf.clip_by_value(scaled, 1, size)
    image = _interpolate(image, scaled)
    before = (size - scaled) // 2
    after = size - scaled - before
    paddings = tf.stack([before, after], axis=1)  # [2, 2]
    return tf.pad(image, tf.concat([paddings, [[0, 0]]], axis=0))


def _interpolate(image: tf.Tensor, sides: tf.Tensor | list[int]) -> tf.Tensor:
    """Resamples so that no pixel is skipped.

    Bilinear interpolation looks at two neighbours each way and so skips pixels
    from a factor of two on; there means by area take its place. These take
    about three times as long, and `tf.image.resize(antialias=True)` nine times.
    """
    shape = tf.shape(image)[:2]
    sides = tf.convert_to_tensor(sides)
    # Without pixels tf.image.resize raises what `resize` promises.
    pixels = tf.cond(
        tf.reduce_any(shape >= 2 * sides),
        lambda: tf.image.resize(
            tf.image.resize(image, tf.minimum(shape, sides), method="area"),
            sides,  # No change unless a side has to grow.
        ),
        lambda: tf.image.resize(image, sides),
    )
    # Weighted means stay in 0..255.
    return tf.cast(tf.round(pixels), tf.uint8)


def _pixels_there(image: tf.Tensor) -> list[tf.Operation]:
    """The check that an image has height and width, unless that is known."""
    if image.shape.rank is not None and all(image.shape[:2]):
        return []
    shape = tf.shape(image)
    check = tf.debugging.Assert(
        tf.reduce_all(shape[:2] > 0), ["The image has no pixels:", shape]
    )
    return [] if check is None else [check]


# Decoding. An operation costs up to 1 % of a small picture where it runs, and a
# little where it does not, since `tf.data` copies the graph for every few
# pictures. Hence the tables.


# Of a side that may become as small as it likes. More than any side is.
_ANY = 1 << 32

# What libjpeg can divide both sides by, and which of these, by how many times
# too large a picture is.
_RATIOS = (1, 2, 4, 8)
_RATIO_AT = np.array([0, 0, 1, 1, 2, 2, 2, 2, 3])


def _plain_jpeg(*tables: int) -> tuple[dict[int, bytes], int]:
    """The start of a JPEG by places, and the place of its frame.

    Behind a JFIF header of 16 bytes, whatever is in it, lie tables (FFDB) of
    these lengths, hence no EXIF, and the frame: FFC0, or FFC2 if progressive,
    length and precision (3 bytes), height, width (2 bytes each).
    """
    start, at = {0: b"\xff\xd8\xff\xe0\0\x10"}, 20
    for length in tables:
        start[at] = b"\xff\xdb" + length.to_bytes(2, "big")
        at += 2 + length
    return start, at


# The tables for brightness and for color have a segment each, or share one; a
# grey picture has one table.
_PLAIN_JPEGS = (_plain_jpeg(67, 67), _plain_jpeg(132), _plain_jpeg(67))
# So many bytes tell all that has to be known of a file.
_HEADER = 167


def _is_plain_jpeg(encoded: tf.Tensor, keep: tuple[int, int]) -> tf.Tensor:
    """Whether it is a JPEG as most programs write it, with nothing to heed."""
    lowest, reach = _plain_ranges(keep)
    # Bytes have no sign: what is below the lowest comes out above any reach.
    fits = _start(encoded, _HEADER) - lowest <= reach
    return tf.reduce_any(tf.reduce_all(fits, axis=1))


@functools.cache
def _plain_ranges(keep: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What the headers of JPEGs with nothing to heed look like.

    They are as `_plain_jpeg` says, less than 2^13 pixels high and 2^14 wide,
    which makes `MAX_PIXELS` at most, and less than twice as large as `keep`.

    Returns:
        uint8 `[N, _HEADER]` twice: the lowest that each byte is in one of N
        cases, and how much more it may be.
    """
    short, long = (2 * side for side in keep)
    sides = sorted(
        {
            (min(height, 1 << 13), min(width, 1 << 14))
            for height, width in (
                (min(short, long), long),
                (long, min(short, long)),
            )
        }
    )
    lowest, reach = [], []
    for (start, frame), (height, width) in itertools.product(
        _PLAIN_JPEGS, sides
    ):
        for high, wide in itertools.product(_below(height), _below(width)):
            low, more = np.zeros([2, _HEADER], np.uint8)
            more[:] = 255
            for at, part in start.items():
                low[at : at + len(part)] = list(part)
                more[at : at + len(part)] = 0
            # FFC1 between the two is read like FFC0.
            low[frame : frame + 2] = 0xFF, 0xC0
            more[frame : frame + 2] = 0, 2
            low[frame + 5 : frame + 9] = *high[0], *wide[0]
            more[frame + 5 : frame + 9] = *high[1], *wide[1]
            lowest.append(low)
            reach.append(more)
    return np.stack(lowest), np.stack(reach)


def _below(limit: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Numbers of two bytes below a limit: the lowest bytes, how much more."""
    upper, lower = divmod(limit, 256)
    ranges = []
    if upper:
        ranges.append(((0, 0), (upper - 1, 255)))
    if lower:
        ranges.append(((upper, 0), (0, lower - 1)))
    return ranges


# Not inlined: TensorFlow would visit each of its operations, only to skip it,
# for every picture that does not come here.
@tf.function(
    input_signature=[
        tf.TensorSpec([], tf.string),
        tf.TensorSpec([2], tf.int64),
    ],
    autograph=False,
    experimental_attributes={"_noinline": True},
)
def _decode_any(encoded: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
    """Finds out the kind and size of a file and lets its decoder work."""
    header = _start(encoded, _HEADER)
    fits = tf.bitwise.bitwise_and(header, _MASKS) == _STARTS
    fits = tf.reduce_all(fits, axis=1)
    kind = tf.argmax(tf.cast(fits, tf.uint8))  # The first that fits.
    is_known = _check(
        tf.reduce_any(fits),
        "Expected a JPEG, PNG, GIF, WebP or uncompressed BMP file.",
    )
    sides = tf.gather(header, tf.gather(_PLACES, kind))  # [2, 4]
    unit, limit, less = tf.unstack(tf.gather(_SCALES, kind))
    sides = _little_endian(sides) // unit % limit + less  # [2]
    # A BMP with a height below 0 begins with the upper row.
    sides = tf.minimum(sides, 2**32 - sides)
    decoders = list(dict.fromkeys(kind.decode for kind in _KINDS))
    decoder = tf.gather([decoders.index(kind.decode) for kind in _KINDS], kind)
    scaling = {kind.decode for kind in _KINDS if kind.scales}
    with tf.control_dependencies(is_known + _check_sides(sides)):
        return tf.switch_case(
            decoder,
            [
                functools.partial(d, encoded, *[keep] * (d in scaling))
                for d in decoders
            ],
        )


def _check(condition: tf.Tensor, message: str) -> list[tf.Operation]:
    """What has to run before whatever takes the condition for granted."""
    # Of a text alone TensorFlow makes one operation, of numbers many.
    check = tf.debugging.Assert(condition, [message])
    return [] if check is None else [check]


def _check_sides(sides: tf.Tensor) -> list[tf.Operation]:
    """The check that height and width, int64 `[2]`, are not too large."""
    # Below 2^32, and so cut that the product does not overflow.
    pixels = tf.reduce_prod(tf.minimum(sides, 2**31))
    return _check(
        pixels <= MAX_PIXELS, f"Expected at most {MAX_PIXELS} pixels."
    )


def _decode(encoded: tf.Tensor, channels: int = 3) -> tf.Tensor:
    return tf.io.decode_image(
        encoded, channels=channels, expand_animations=False
    )


def _decode_webp(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a WebP file that may have alpha, but no animation."""
    return _decode(encoded, channels=0)[..., :3]


def _decode_animation(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes the first frame of an animated WebP file."""
    # TensorFlow always writes 4 channels and is content only where the header
    # speaks of alpha, so the header is made to. (Other bits of this byte tell
    # of metadata, which nobody reads here.)
    parts = [
        tf.strings.substr(encoded, 0, 20),
        b"\x12",
        tf.strings.substr(encoded, 21, tf.strings.length(encoded)),
    ]
    return _decode(tf.strings.join(parts), channels=4)[..., :3]


def _decode_palette(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP file of 8 bits through its palette."""
    indices = _decode(encoded)[..., 0]  # [H, W]
    header = _start(encoded, _HEADER)
    # Behind the second header, whose size it tells; 0 colors are all 256.
    begin = 14 + _little_endian(header[14:18])
    colors = _little_endian(header[46:50])
    colors += tf.where(colors == 0, tf.constant(256, tf.int64), 0)
    palette = tf.io.decode_raw(
        _between(encoded, begin, begin + 4 * colors), tf.uint8
    )
    palette = tf.reshape(palette, [-1, 4])[:, 2::-1]  # BGR0 -> RGB
    return tf.gather(palette, tf.cast(indices, tf.int32))


def _decode_gif(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes the first frame of a GIF file.

    A GIF is a header, extensions (which begin with 21), frames (2C) and an end
    (3B). What an extension or a frame holds is a row of sub-blocks: a length
    of one byte and as many bytes, up to the length 0. The format:
    https://www.w3.org/Graphics/GIF/spec-gif89a.txt
    """
    data, size = _bytes(encoded, _GIF_REACH)

    def byte(at):
        return tf.cast(tf.gather(data, at), tf.int64)

    def palette(at):
        return tf.gather(_GIF_PALETTES, byte(at))

    def step(at):
        # Nearly always many of one length come in a row.
        whole = byte(at) + 1
        places = tf.minimum(at + whole * np.arange(_GIF_STRIDE), size)
        alike = tf.gather(data, places) == tf.gather(data, at)
        count = tf.reduce_sum(tf.math.cumprod(tf.cast(alike, tf.int64)))
        return [tf.minimum(at + count * whole, size)]

    def behind(at):
        """Where a row of sub-blocks that begins at `at` is over."""
        last = tf.while_loop(
            lambda at: byte(at) > 0, step, [at], maximum_iterations=_GIF_STEPS
        )
        return last[0] + 1

    header = 13 + palette(10)
    frame = tf.while_loop(
        lambda at: tf.logical_and(byte(at) == 0x21, at < _REACH),
        lambda at: [behind(at + 2)],
        [header],
    )[0]
    is_frame = _check(byte(frame) == 0x2C, "Expected a GIF with an image.")
    sides = tf.reshape(byte(frame + np.arange(5, 9)), [2, 2])
    sides = tf.reduce_sum(sides * [1, 256], axis=1)
    end = behind(frame + 11 + palette(frame + 9))
    parts = [
        _between(encoded, 0, header),
        # In place of the 4 bytes that say where the frame lies on the canvas:
        # being the only one, it makes the canvas.
        b",\0\0\0\0",
        _between(encoded, frame + 5, end),
        b";",
    ]
    alone = tf.strings.join(parts)
    with tf.control_dependencies(is_frame + _check_sides(sides)):
        return _decode(alone)


# By what is said of it: how many bytes a palette has.
_GIF_PALETTES = np.array(
    [6 << (flags & 7) if flags & 0x80 else 0 for flags in range(256)]
)


def _decode_jpeg(encoded: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG and turns it upright."""
    image = _decode_plain_jpeg(encoded, keep)
    return _upright(image, _orientation(encoded))


def _decode_plain_jpeg(encoded: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG at as little of its size as keeps what must be kept.

    `keep` is that of `_decode_to`, int64 `[2]`.
    """
    sides = tf.io.extract_jpeg_shape(encoded, tf.int64)[:2]
    # Which of the two is longer does not change when it is turned. What does
    # not matter is `_ANY`, of which there is none.
    short, long = tf.reduce_min(sides), tf.reduce_max(sides)
    times = tf.reduce_max(tf.stack([short, long]) // keep)
    ratio = tf.gather(_RATIO_AT, tf.minimum(times, _RATIOS[-1]))
    with tf.control_dependencies(_check_sides(sides)):
        return tf.switch_case(
            tf.cast(ratio, tf.int32),
            [
                functools.partial(_decode_scaled, encoded, sides, ratio)
                for ratio in _RATIOS
            ],
        )


def _decode_scaled(
    encoded: tf.Tensor, sides: tf.Tensor, ratio: int
) -> tf.Tensor:
    """Decodes a JPEG of these sides at one part in `ratio` of them."""
    image = tf.io.decode_jpeg(encoded, channels=3, ratio=ratio)
    if ratio == 1:
        return image
    # The last row and column stand for what was left of the sides. Where that
    # is less than half of a row, the picture is nearer to its scale without.
    sides = tf.maximum((sides + ratio // 2) // ratio, 1)
    return image[: sides[0], : sides[1]]


def _orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of a JPEG: int64, 1..8, 1 if there is none.

    A JPEG is a row of segments: FF, a marker, the length (2 bytes, which it
    counts too), content. EXIF is an APP1 (E1) among the first of them.
    Whatever is broken in the EXIF counts as none: the pixels are there. What
    the values mean: https://exiftool.org/TagNames/EXIF.html (0x0112)
    """
    data, size = _bytes(encoded, _REACH)

    def some(at, count):
        return tf.cast(tf.gather(data, at + np.arange(count)), tf.int64)

    def search(at, found):
        segment = some(at, 10)
        is_exif = tf.reduce_all(segment & _EXIF_MASK == _EXIF)
        start, marker, upper, lower, *_ = tf.unstack(segment)
        # APPn and comments may precede it; pictures start with others.
        going_on = tf.logical_and(
            start == 0xFF,
            tf.logical_or((marker & 0xF0) == 0xE0, marker == 0xFE),
        )
        behind = at + 2 + tf.maximum(256 * upper + lower, 2)
        return (
            tf.where(going_on, tf.minimum(behind, size), size),
            tf.where(is_exif, at + 10, found),
        )

    _, tiff = tf.while_loop(
        lambda at, found: tf.logical_and(at < size, found < 0),
        search,
        [tf.constant(2, tf.int64), tf.constant(-1, tf.int64)],
    )

    def read():
        # The TIFF header: II (little-endian) or MM, 42, where the directory
        # is. The directory: how many entries, then 12 bytes each: tag (2),
        # type (2), count (4), value (4, of which an orientation takes 2).
        header = some(tf.minimum(tiff, size), 8)
        is_big = tf.cast(header[0] != ord("I"), tf.int32)
        four = tf.gather(np.stack([_FOUR, _FOUR[::-1]]), is_big)
        two = tf.gather(np.stack([_FOUR[:2], _FOUR[1::-1]]), is_big)
        directory = tiff + tf.reduce_sum(header[4:] * four)
        directory = tf.minimum(directory, size)
        first = directory + 2
        count = tf.minimum(
            tf.reduce_sum(some(directory, 2) * two),
            tf.maximum(size - first, 0) // 12,
        )
        entries = tf.reshape(data[first : first + 12 * count], [-1, 12])
        entries = tf.cast(entries, tf.int64)
        tags = tf.reduce_sum(entries[:, 0:2] * two, axis=1)
        values = tf.reduce_sum(entries[:, 8:10] * two, axis=1)
        # At most one is there; below 1 where there is none.
        value = tf.reduce_max(tf.where(tags == _ORIENTATION_TAG, values, 0))
        known = tf.logical_and(value >= 1, value <= 8)
        return tf.where(known, value, 1)

    return tf.cond(tiff >= 0, read, lambda: tf.constant(1, tf.int64))


_ORIENTATION_TAG = 0x0112
# FF, E1, a length, "Exif", 0, 0.
_EXIF = np.array([0xFF, 0xE1, 0, 0, *b"Exif\0\0"])
_EXIF_MASK = np.array([255, 255, 0, 0, *[255] * 6])


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undoes one of the eight EXIF orientations.

    Each is a transposition or none, then flips: 6 ("turn it clockwise"), for
    one, is a transposition and a flip from left to right.
    """

    def turned():
        image_ = tf.cond(
            orientation >= 5,
            lambda: tf.transpose(image, [1, 0, 2]),
            lambda: image,
        )
        return tf.raw_ops.Reverse(
            tensor=image_, dims=tf.gather(_FLIPS, orientation)
        )

    return tf.cond(orientation == 1, lambda: image, turned)


# By orientation: whether top and bottom, left and right change places.
_FLIPS = np.array(
    [[o in (3, 4, 7, 8), o in (2, 3, 6, 7), False] for o in range(9)]
)


def _start(encoded: tf.Tensor, length: int) -> tf.Tensor:
    """The first bytes as uint8 `[length]`; zeros where there are no more."""
    return tf.io.decode_raw(encoded, tf.uint8, fixed_length=length)


def _bytes(encoded: tf.Tensor, reach: int) -> tuple[tf.Tensor, tf.Tensor]:
    """At most `reach` bytes, uint8, and their number; 16 zeros follow them."""
    data = tf.io.decode_raw(tf.strings.substr(encoded, 0, reach), tf.uint8)
    size = tf.size(data, out_type=tf.int64)
    return tf.concat([data, tf.zeros([16], tf.uint8)], axis=0), size


def _between(encoded: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """The bytes from `begin` to `end`, int64, as far as there are any."""
    # TensorFlow's own error would quote them, which Python can't read then.
    begin = tf.cast(begin, tf.int64)
    size = tf.cast(tf.strings.length(encoded), tf.int64)
    return tf.strings.substr(encoded, tf.minimum(begin, size), end - begin)


def _little_endian(digits: tf.Tensor) -> tf.Tensor:
    """uint8 `[..., 4]`, the lowest first, as numbers, int64 `[...]`."""
    return tf.reduce_sum(tf.cast(digits, tf.int64) * _FOUR, axis=-1)


# What the digits of such a number count.
_FOUR = 256 ** np.arange(4)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A kind of files.

    Attributes:
        decode: decodes them.
        signature: the bytes they are known by, by their places.
        flags: bits that they have set, by their places.
        height: the places of its bytes, the lowest first; none where they have
            no fixed place: `decode` checks the size itself.
        width: the same.
        scales: whether `decode` is also told how much of the size to keep.
        shift: how many bits of those of the height are not its own.
        bits: how many there are of height and of width.
        less: by how much the file says less than there is.
    """

    decode: Callable[..., tf.Tensor]
    signature: dict[int, bytes]
    flags: dict[int, int] = dataclasses.field(default_factory=dict)
    height: Sequence[int] = ()
    width: Sequence[int] = ()
    scales: bool = False
    shift: int = 0
    bits: int = 32
    less: int = 0

    def tables(self) -> tuple[np.ndarray, ...]:
        start, mask = np.zeros([2, _HEADER], np.uint8)
        for at, part in self.signature.items():
            start[at : at + len(part)] = list(part)
            mask[at : at + len(part)] = 255
        for at, bits in self.flags.items():
            start[at] = mask[at] = bits
        places = [[*side, *[0] * 4][:4] for side in (self.height, self.width)]
        # What these added lies above the bits that count.
        limit = 2**self.bits if self.height else 1
        scales = [[2**self.shift, 1], [limit] * 2, [self.less] * 2]
        return start, mask, np.array(places), np.array(scales)


# WebP: https://developers.google.com/speed/webp/docs/riff_container
# BMP: https://en.wikipedia.org/wiki/BMP_file_format (28: bits, 30: compression,
# 0 for none and 3 for channel masks, which everybody sets to BGRA)
# PNG: https://www.w3.org/TR/png-3
_BMP_SIDES = {"height": range(22, 26), "width": range(18, 22)}
_WEBP_CANVAS = {
    "height": range(27, 30),
    "width": range(24, 27),
    "bits": 24,
    "less": 1,
}
_KINDS = (
    _Kind(_decode_jpeg, {0: b"\xff\xd8\xff"}, scales=True),
    _Kind(
        _decode,
        {0: b"\x89PNG"},
        height=range(23, 19, -1),
        width=range(19, 15, -1),
    ),
    _Kind(_decode_gif, {0: b"GIF8"}),
    _Kind(
        _decode_palette, {0: b"BM", 28: b"\x08\0", 30: bytes(4)}, **_BMP_SIDES
    ),
    _Kind(_decode, {0: b"BM", 30: bytes(4)}, **_BMP_SIDES),
    _Kind(_decode, {0: b"BM", 28: b" \0", 30: b"\x03\0\0\0"}, **_BMP_SIDES),
    _Kind(
        _decode,
        {0: b"RIFF", 8: b"WEBPVP8 "},
        height=(28, 29),
        width=(26, 27),
        bits=14,
    ),
    _Kind(
        _decode_webp,
        {0: b"RIFF", 8: b"WEBPVP8L"},
        height=range(21, 25),
        width=range(21, 25),
        shift=14,
        bits=14,
        less=1,
    ),
    _Kind(
        _decode_animation,
        {0: b"RIFF", 8: b"WEBPVP8X"},
        flags={20: 0x02},
        **_WEBP_CANVAS,
    ),
    _Kind(_decode_webp, {0: b"RIFF", 8: b"WEBPVP8X"}, **_WEBP_CANVAS),
)
_STARTS, _MASKS, _PLACES, _SCALES = map(
    np.stack, zip(*(kind.tables() for kind in _KINDS), strict=True)
)
