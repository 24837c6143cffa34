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

import functools

import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.registry import nearest

# How an image that is not square becomes one.
RESIZES = ("squash", "crop", "pad")

# No image of more pixels is decoded. A telephone's 108 megapixels (12,000 x
# 9,000) are; and beside the file, decoding takes 1.6 GB at most in each thread:
# 12 bytes a pixel of an animated WebP, 11 of a progressive JPEG in CMYK, 8 of a
# BMP with a palette, 5 of a GIF, 3 of a PNG or a JPEG, 6 if that is turned.
MAX_PIXELS = 1 << 27

# Files are read as a whole: one of a terabyte, which is quickly made, would end
# the process. No image that is decoded has to have more bytes.
MAX_BYTES = 4 * MAX_PIXELS

# Where EXIF, or the first frame of a GIF, begins behind more than this much
# else, it is not looked for.
_REACH = 1 << 18
# How much of a GIF is read: more than noise of `MAX_PIXELS` takes.
_GIF_REACH = 1 << 28
# How many of its sub-blocks are passed in one step, and in how many steps.
_GIF_STRIDE = 1 << 10
_GIF_STEPS = 1 << 16

_ORIENTATION_TAG = 0x0112

# A JPEG that begins with a JFIF header of 16 bytes, whatever is in it, and has
# the tables (FFDB) right behind: no EXIF.
_PLAIN_JPEG = np.zeros(22, np.uint8)
_PLAIN_JPEG[:6] = list(b"\xff\xd8\xff\xe0\x00\x10")
_PLAIN_JPEG[20:] = list(b"\xff\xdb")
_PLAIN_JPEG_MASK = np.where(_PLAIN_JPEG > 0, 255, 0).astype(np.uint8)
_PLAIN_JPEG_MASK[4] = 255


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
    encoded = tf.convert_to_tensor(encoded, tf.string)
    # Nearly every picture is a JPEG of which the first few bytes show that it
    # says nothing of its orientation: it pays to ask this first and cheaply.
    image = tf.cond(
        _is_plain_jpeg(encoded),
        lambda: _decode_plain_jpeg(encoded),
        lambda: _decode_any(encoded),
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

    A side that shrinks is averaged by area (so that fine patterns turn grey
    and not into others), a side that grows is interpolated bilinearly.

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
    if image.shape[0] is not None and image.shape[1] is not None:
        return resized(image, size)  # [size, size, 3]
    result = tf.cond(
        tf.reduce_all(tf.shape(image)[:2] == size),
        lambda: image,
        lambda: resized(image, size),
    )
    return tf.ensure_shape(result, [size, size, 3])


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
    image = tf.pad(image, tf.concat([paddings, [[0, 0]]], axis=0))
    return tf.ensure_shape(image, [size, size, 3])


def _interpolate(image: tf.Tensor, sides: tf.Tensor | list[int]) -> tf.Tensor:
    """Resamples: sides that shrink by area, sides that grow bilinearly.

    Both weigh every pixel by its share in the result. That is what
    `tf.image.resize(antialias=True)` is for too, which took 3 times as long.
    """
    with tf.control_dependencies(_pixels_there(image)):
        shape = tf.shape(image)[:2]
    smaller = tf.minimum(shape, sides)
    pixels = tf.cond(
        tf.reduce_any(shape > sides),
        lambda: tf.image.resize(image, smaller, method="area"),
        lambda: tf.cast(image, tf.float32),
    )
    pixels = tf.cond(
        tf.reduce_any(shape < sides),
        lambda: tf.image.resize(pixels, sides, method="bilinear"),
        lambda: pixels,
    )
    return tf.saturate_cast(tf.round(pixels), tf.uint8)


def _pixels_there(image: tf.Tensor) -> list[tf.Operation]:
    """The check that an image has height and width, unless that is known."""
    if image.shape.rank is not None and all(image.shape[:2]):
        return []
    shape = tf.shape(image)
    check = tf.debugging.Assert(
        tf.reduce_all(shape[:2] > 0), ["The image has no pixels:", shape]
    )
    return [] if check is None else [check]


# Decoding.


def _is_plain_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Whether it is a JPEG with the usual header and then the tables."""
    # Few operations, since each costs 1 % of the decoding.
    start = _start(encoded, len(_PLAIN_JPEG))
    return tf.reduce_all(
        tf.bitwise.bitwise_and(start, _PLAIN_JPEG_MASK) == _PLAIN_JPEG
    )


# Not inlined: TensorFlow would visit each of its 200 operations, only to skip
# it, for every picture that does not come here (80 us; decoding takes 450).
@tf.function(
    input_signature=[tf.TensorSpec([], tf.string)],
    autograph=False,
    experimental_attributes={"_noinline": True},
)
def _decode_any(encoded: tf.Tensor) -> tf.Tensor:
    kinds = [
        (b"\xff\xd8\xff", _decode_jpeg),
        (b"RIFF", _decode_webp),
        (b"BM", _decode_bmp),
        (b"GIF8", _decode_gif),
    ]
    image = functools.partial(_decode_png, encoded)
    for start, decoder in kinds:
        image = functools.partial(
            tf.cond,
            tf.strings.substr(encoded, 0, len(start)) == start,
            functools.partial(decoder, encoded),
            image,
        )
    return image()


def _decode(encoded: tf.Tensor, channels: int = 3) -> tf.Tensor:
    return tf.io.decode_image(
        encoded, channels=channels, expand_animations=False
    )


def _check(condition: tf.Tensor, message: str) -> list[tf.Operation]:
    """What has to run before whatever takes the condition for granted."""
    # Of a text alone TensorFlow makes one operation, of numbers several.
    check = tf.debugging.Assert(condition, [message])
    return [] if check is None else [check]


def _check_sides(sides: tf.Tensor) -> list[tf.Operation]:
    """The check that there are not too many pixels.

    Args:
        sides: int64 `[2]`, height and width, as the header has them.
    """
    # Below 2^32, and so cut that the product does not overflow.
    pixels = tf.reduce_prod(tf.minimum(sides, 1 << 31))
    return _check(
        pixels <= MAX_PIXELS,
        f"Expected an image of at most {MAX_PIXELS} pixels.",
    )


def _decode_png(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a PNG file. The format: https://www.w3.org/TR/png-3"""
    start = _start(encoded, 24)
    # TensorFlow knows more formats, JPEG XL for one, whose headers nobody
    # would have looked into.
    is_png = _check(
        tf.reduce_all(start[:4] == list(b"\x89PNG")),
        "Expected a JPEG, PNG, GIF, BMP or WebP file, received another.",
    )
    height = _little_endian(start[23:19:-1])
    width = _little_endian(start[19:15:-1])
    with tf.control_dependencies(is_png + _check_sides([height, width])):
        return _decode(encoded)


def _decode_gif(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes the first frame of a GIF file.

    A GIF is a header, extensions (which begin with 21), frames (2C) and an end
    (3B). What an extension or a frame holds is a row of sub-blocks: a length
    of one byte and as many bytes, up to the length 0. The format:
    https://www.w3.org/Graphics/GIF/spec-gif89a.txt
    """
    data = tf.io.decode_raw(tf.strings.substr(encoded, 0, _GIF_REACH), tf.uint8)
    size = tf.size(data, out_type=tf.int64)
    # What is read beyond the end is zero.
    data = tf.concat([data, tf.zeros([16], tf.uint8)], axis=0)

    def byte(at):
        return tf.cast(data[tf.minimum(at, size)], tf.int64)

    def palette(flags):
        colors = tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8)
        return tf.where(flags >= 0x80, 3 * colors, 0)

    def step(at):
        # Nearly always many of one length come in a row.
        whole = byte(at) + 1
        row = data[at : at + _GIF_STRIDE * whole : whole]
        others = tf.concat([row != data[at], [True]], axis=0)
        count = tf.argmax(tf.cast(others, tf.uint8))
        return [tf.minimum(at + count * whole, size)]

    def behind(at):
        """Where a row of sub-blocks that begins at `at` is over."""
        last = tf.while_loop(
            lambda at: byte(at) > 0, step, [at], maximum_iterations=_GIF_STEPS
        )
        return last[0] + 1

    header = 13 + palette(byte(tf.constant(10, tf.int64)))
    frame = tf.while_loop(
        lambda at: tf.logical_and(byte(at) == 0x21, at < _REACH),
        lambda at: [behind(at + 2)],
        [header],
    )[0]
    is_there = _check(byte(frame) == 0x2C, "Expected a GIF file with an image.")
    sides = tf.reshape(data[frame + 5 : frame + 9], [4])
    sides = tf.stack([_little_endian(sides[2:]), _little_endian(sides[:2])])
    end = behind(frame + 11 + palette(byte(frame + 9)))

    alone = tf.strings.join(
        [
            _between(encoded, 0, header),
            # In place of the 4 bytes that say where the frame lies on the
            # canvas: being the only one, it makes the canvas.
            b",\0\0\0\0",
            _between(encoded, frame + 5, end),
            b";",
        ]
    )
    with tf.control_dependencies(is_there + _check_sides(sides)):
        return _decode(alone)


def _decode_webp(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a WebP file, the first frame of an animated one.

    The format: https://developers.google.com/speed/webp/docs/riff_container
    """
    start = _start(encoded, 30)
    kinds = [list(b"WEBPVP8" + letter) for letter in (b" ", b"L", b"X")]
    is_lossy, is_lossless, is_extended = tf.unstack(
        tf.reduce_all(start[8:16] == kinds, axis=1)
    )
    # Without one of these chunks TensorFlow would go on to guess.
    known = _check(
        tf.reduce_any([is_lossy, is_lossless, is_extended]),
        "Expected a WebP file whose first chunk is VP8, VP8L or VP8X.",
    )
    flags = tf.cast(start, tf.int32)
    is_animated = tf.logical_and(is_extended, flags[20] & 0x02 > 0)
    has_alpha = tf.logical_or(
        tf.logical_and(is_extended, flags[20] & 0x10 > 0),
        tf.logical_and(is_lossless, flags[24] & 0x10 > 0),
    )
    # The lossless kind has 14 bits of width less 1, then 14 bits of height.
    packed = _little_endian(start[21:25])
    sides = tf.where(
        is_extended,
        [_little_endian(start[27:30]) + 1, _little_endian(start[24:27]) + 1],
        tf.where(
            is_lossless,
            [packed // 2**14 % 2**14 + 1, packed % 2**14 + 1],
            # The upper 2 of 16 bits are something else.
            [
                _little_endian(start[28:30]) % 2**14,
                _little_endian(start[26:28]) % 2**14,
            ],
        ),
    )

    def animated():
        # Its decoder always writes 4 channels and is content only where the
        # header speaks of alpha, so the header is made to. (Other bits of
        # this byte tell of metadata, which nobody reads here.)
        parts = [
            _between(encoded, 0, 20),
            b"\x12",
            _between(encoded, 21, 1 << 31),
        ]
        return _decode(tf.strings.join(parts), 4)[..., :3]

    with tf.control_dependencies(known + _check_sides(sides)):
        return tf.cond(
            is_animated,
            animated,
            lambda: tf.cond(
                has_alpha,
                lambda: _decode(encoded, 4)[..., :3],
                lambda: _decode(encoded),
            ),
        )


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP file, one of 8 bits through its palette."""
    header = _start(encoded, 54)
    # Offsets: https://en.wikipedia.org/wiki/BMP_file_format
    header_size = _little_endian(header[14:18])
    sides = [_little_endian(header[22:26]), _little_endian(header[18:22])]
    # A height below 0 says that the upper rows come first.
    sides = tf.minimum(sides, 2**32 - tf.stack(sides))
    bits = _little_endian(header[28:30])
    compression = _little_endian(header[30:34])
    # 0: none; 3: channel masks, which everybody sets to BGRA.
    readable = _check(
        tf.reduce_any(compression == [0, 3]), "Cannot read a compressed BMP."
    )

    def through_palette():
        indices = _decode(encoded)[..., 0]  # [H, W]
        colors = _little_endian(header[46:50])
        colors += tf.where(colors == 0, tf.constant(256, tf.int64), 0)
        begin = 14 + header_size
        palette = tf.io.decode_raw(
            _between(encoded, begin, begin + 4 * colors), tf.uint8
        )
        palette = tf.reshape(palette, [-1, 4])[:, 2::-1]  # BGR0 -> RGB
        return tf.gather(palette, tf.cast(indices, tf.int32))

    with tf.control_dependencies(readable + _check_sides(sides)):
        return tf.cond(bits == 8, through_palette, lambda: _decode(encoded))


def _decode_plain_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG as it lies."""
    sides = tf.io.extract_jpeg_shape(encoded, tf.int64)[:2]
    with tf.control_dependencies(_check_sides(sides)):
        return tf.io.decode_jpeg(encoded, channels=3)


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG and turns it upright."""
    return _upright(_decode_plain_jpeg(encoded), _orientation(encoded))


def _may_precede_exif(marker: tf.Tensor) -> tf.Tensor:
    """Whether it is an APPn or a comment; pictures start with others."""
    return tf.logical_or(
        tf.logical_and(marker >= 0xE0, marker <= 0xEF), marker == 0xFE
    )


def _orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of a JPEG: int64, 1..8, 1 if there is none.

    A JPEG is a row of segments: FF, a marker, the length (2 bytes, which it
    counts too), content. EXIF is an APP1 (E1) among the first of them.
    Whatever is broken in the EXIF counts as none: the pixels are there. What
    the values mean: https://exiftool.org/TagNames/EXIF.html (0x0112)
    """
    data = tf.io.decode_raw(tf.strings.substr(encoded, 0, _REACH), tf.uint8)
    size = tf.size(data, out_type=tf.int64)
    # What is read beyond the end is zero.
    data = tf.concat([data, tf.zeros([16], tf.uint8)], axis=0)

    def number(at, length, little):
        at = tf.clip_by_value(at, 0, size)
        digits = tf.cast(data[at : at + length], tf.int64)
        digits = tf.where(little, digits[::-1], digits)
        return tf.reduce_sum(digits * [256**i for i in range(length)][::-1])

    def search(at, found):
        marker = tf.cast(data[at + 1], tf.int32)
        is_exif = tf.logical_and(
            marker == 0xE1,
            tf.reduce_all(data[at + 4 : at + 10] == list(b"Exif\0\0")),
        )
        found = tf.where(is_exif, at + 10, found)
        going_on = tf.logical_and(data[at] == 0xFF, _may_precede_exif(marker))
        behind = at + 2 + tf.maximum(number(at + 2, 2, False), 2)
        return tf.where(going_on, behind, size), found

    _, tiff = tf.while_loop(
        lambda at, found: tf.logical_and(at < size, found < 0),
        search,
        [tf.constant(2, tf.int64), tf.constant(-1, tf.int64)],
    )

    def read():
        # The TIFF header: II (little-endian) or MM, 42, where the directory
        # is. The directory: how many entries, then 12 bytes each: tag (2),
        # type (2), count (4), value (4, of which an orientation takes 2).
        little = data[tiff] == ord("I")
        directory = tiff + number(tiff + 4, 4, little)
        directory = tf.minimum(directory, size)
        count = tf.minimum(
            number(directory, 2, little),
            tf.maximum(size - directory - 2, 0) // 12,
        )
        first = directory + 2
        entries = data[first : first + 12 * count]
        entries = tf.cast(tf.reshape(entries, [-1, 12]), tf.int64)
        place = tf.where(little, [1, 256], [256, 1])
        place = tf.cast(place, tf.int64)
        tags = tf.reduce_sum(entries[:, 0:2] * place, axis=1)
        values = tf.reduce_sum(entries[:, 8:10] * place, axis=1)
        # At most one is there; 0 where there is none.
        value = tf.reduce_sum(
            tf.boolean_mask(values, tags == _ORIENTATION_TAG)[:1]
        )
        known = tf.logical_and(value >= 1, value <= 8)
        return tf.where(known, value, 1)

    return tf.cond(tiff >= 0, read, lambda: tf.constant(1, tf.int64))


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
        flips = [
            tf.reduce_any(orientation == [3, 4, 7, 8]),  # top to bottom
            tf.reduce_any(orientation == [2, 3, 6, 7]),  # left to right
        ]
        return tf.reverse(image_, tf.boolean_mask([0, 1], flips))

    return tf.cond(orientation == 1, lambda: image, turned)


def _start(encoded: tf.Tensor, length: int) -> tf.Tensor:
    """The first bytes as uint8 `[length]`; zeros where there are no more."""
    return tf.io.decode_raw(encoded, tf.uint8, fixed_length=length)


def _between(encoded: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """The bytes from `begin` to `end`, int64, as far as there are any."""
    # TensorFlow's own error would quote them, and Python can't read it then.
    begin = tf.cast(begin, tf.int64)
    size = tf.cast(tf.strings.length(encoded), tf.int64)
    return tf.strings.substr(encoded, tf.minimum(begin, size), end - begin)


def _little_endian(digits: tf.Tensor) -> tf.Tensor:
    """uint8 `[N]` of bytes, lowest first, as one number, int64."""
    powers = [256**i for i in range(digits.shape[0])]
    return tf.reduce_sum(tf.cast(digits, tf.int64) * powers)
