"""Every format, every orientation, every way to a square."""

import io
import itertools
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from framework.data.images import (
    RESIZES,
    decode,
    decode_and_resize,
    resize,
    to_rgb,
)
from framework.errors import UserError

PETS = Path(__file__).parents[3] / "shared/data/petimages_40"


def picture() -> Image.Image:
    """32 x 24 pixels, no two corners or sides alike."""
    x, y = np.meshgrid(np.linspace(0, 255, 32), np.linspace(0, 255, 24))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def with_alpha() -> Image.Image:
    image = picture()
    image.putalpha(128)
    return image


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animated(image: Image.Image, kind: str, **options) -> bytes:
    other = image.rotate(180)
    return saved(image, kind, save_all=True, append_images=[other], **options)


def with_exif(orientation: int, endian: str = "<", **options) -> bytes:
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    exif[0x0131] = "a program"
    return saved(picture(), "JPEG", quality=95, exif=exif, **options)


FORMATS = {
    "jpeg": (lambda: saved(picture(), "JPEG", quality=95), 3),
    "jpeg grey": (lambda: saved(picture().convert("L"), "JPEG"), 2),
    "jpeg cmyk": (lambda: saved(picture().convert("CMYK"), "JPEG"), 3),
    "jpeg progressive": (
        lambda: saved(picture(), "JPEG", progressive=True, quality=95),
        3,
    ),
    "png": (lambda: saved(picture(), "PNG"), 0),
    "png grey": (lambda: saved(picture().convert("L"), "PNG"), 0),
    "png alpha": (lambda: saved(with_alpha(), "PNG"), 0),
    "png grey alpha": (lambda: saved(with_alpha().convert("LA"), "PNG"), 0),
    "png palette": (lambda: saved(picture().quantize(16), "PNG"), 0),
    "png 1 bit": (lambda: saved(picture().convert("1"), "PNG"), 0),
    "gif": (lambda: saved(picture().quantize(64), "GIF"), 0),
    "gif animated": (lambda: animated(picture().quantize(64), "GIF"), 0),
    "bmp": (lambda: saved(picture(), "BMP"), 0),
    "bmp alpha": (lambda: saved(with_alpha(), "BMP"), 0),
    "bmp grey": (lambda: saved(picture().convert("L"), "BMP"), 0),
    "bmp palette": (lambda: saved(picture().quantize(16), "BMP"), 0),
    "webp": (lambda: saved(picture(), "WEBP"), 0),
    "webp lossless": (lambda: saved(picture(), "WEBP", lossless=True), 0),
    "webp alpha": (lambda: saved(with_alpha(), "WEBP"), 0),
    "webp alpha lossless": (
        lambda: saved(with_alpha(), "WEBP", lossless=True),
        0,
    ),
    "webp animated": (lambda: animated(picture(), "WEBP", lossless=True), 0),
    "webp animated alpha": (
        lambda: animated(with_alpha(), "WEBP", lossless=True),
        0,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_becomes_the_rgb_that_pillow_sees(name):
    make, tolerance = FORMATS[name]
    encoded = make()
    expected = Image.open(io.BytesIO(encoded)).convert("RGB")
    decoded = decode(encoded).numpy()
    assert decoded.dtype == np.uint8 and decoded.shape == (24, 32, 3)
    error = np.abs(decoded.astype(int) - np.asarray(expected)).mean()
    assert error <= tolerance


def test_pipelines_decode_like_eager_calls():
    encoded = [make() for make, _ in FORMATS.values()]
    encoded += [with_exif(orientation) for orientation in range(1, 9)]
    dataset = tf.data.Dataset.from_tensor_slices(encoded).map(decode)
    assert dataset.element_spec.shape.as_list() == [None, None, 3]
    for one, decoded in zip(encoded, dataset, strict=True):
        np.testing.assert_array_equal(decoded, decode(one))


def test_sixteen_bits_keep_their_upper_eight():
    deep = (np.arange(24 * 32).reshape(24, 32) * 85).astype(np.uint16)
    decoded = decode(saved(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(decoded[..., 0], deep >> 8)


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone(orientation, endian):
    encoded = with_exif(orientation, endian)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    decoded = decode(encoded).numpy()
    assert decoded.shape == (*expected.size[::-1], 3)
    assert np.abs(decoded.astype(int) - np.asarray(expected)).mean() < 3


def without_jfif(encoded: bytes) -> bytes:
    length = int.from_bytes(encoded[4:6], "big")
    assert encoded[2:4] == b"\xff\xe0"
    return encoded[:2] + encoded[4 + length :]


def segment(marker: int, content: bytes) -> bytes:
    size = (len(content) + 2).to_bytes(2, "big")
    return bytes([0xFF, marker]) + size + content


def test_exif_is_found_where_cameras_put_it():
    encoded = with_exif(6)
    assert decode(without_jfif(encoded)).shape == (32, 24, 3)
    # Behind an ICC profile, XMP (which is an APP1 too) and a comment.
    before = segment(0xE2, b"ICC_PROFILE\0" + bytes(60000))
    before += segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    before += segment(0xFE, b"a comment")
    assert decode(encoded[:2] + before + encoded[2:]).shape == (32, 24, 3)


def exif(content: bytes) -> bytes:
    plain = saved(picture(), "JPEG")
    return plain[:2] + segment(0xE1, b"Exif\0\0" + content) + plain[2:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"II",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\0\0\0\0",
        b"nonsense, not a directory of tags",
    ],
)
def test_broken_exif_counts_as_none(content):
    assert decode(exif(content)).shape == (24, 32, 3)


def test_the_segment_ends_where_the_file_does():
    encoded = with_exif(6)
    for end in (2, 3, 4, 6, 12, 21, 24, 40, 60):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(encoded[:end])


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"x",
        b"RIFF",
        b"BM",
        b"\xff\xd8\xff",
        b"a text of some length that somebody called cat.jpg",
        b"RIFF\x10\0\0\0WEBPVP8X" + bytes(10),
        saved(picture(), "WEBP")[:60],
        saved(picture(), "PNG")[:60],
        saved(picture(), "TIFF"),
        saved(picture().convert("1"), "BMP"),
        saved(picture().quantize(16), "BMP")[:70],
        saved(picture().convert("L"), "GIF")[:500],
        b"GIF89a" + bytes(7) + b";",
        b"RIFF\xb8\xa6\xdc\xdbWE",
        b"RIFF\x10\0\0\0WEBPwhat" + bytes(30),
    ],
)
def test_what_is_no_image_raises(broken):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(broken)


def cut_anew(gif: bytes, lengths: Sequence[int]) -> bytes:
    """The first frame of a GIF, its data in sub-blocks of these lengths."""
    frame = gif.index(b",\0\0\0\0")
    flags = gif[frame + 9]
    at = frame + 11 + (6 << (flags & 7) if flags & 0x80 else 0)
    begin, data = at, b""
    while gif[at]:
        data += gif[at + 1 : at + 1 + gif[at]]
        at += gif[at] + 1
    blocks = b""
    for length in itertools.cycle(lengths):
        blocks += bytes([len(data[:length])]) + data[:length]
        if not data:
            return gif[:begin] + blocks
        data = data[length:]


@pytest.mark.parametrize(
    "lengths", [(1,), (254,), (255,), (1, 2, 3), (200, 200, 200, 7)]
)
def test_gifs_are_read_however_their_data_is_cut(lengths):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (150, 150), dtype=np.uint8)
    gif = saved(Image.fromarray(noise), "GIF")
    anew = cut_anew(gif, lengths)
    for rest in (b";", b"", b"!\xfe\x05hello\0;", anew[anew.index(b",\0") :]):
        np.testing.assert_array_equal(decode(anew + rest)[..., 1], noise)


def test_of_a_gif_only_the_first_frame_counts():
    first = picture().quantize(64)
    whole = decode(saved(first, "GIF"))
    for others in (
        [Image.new("L", (320, 240))],  # Larger than the first.
        [first.rotate(180)] * 50,
    ):
        gif = saved(first, "GIF", save_all=True, append_images=others)
        np.testing.assert_array_equal(decode(gif), whole)
        # What is broken later does not matter.
        np.testing.assert_array_equal(decode(gif[:-5]), whole)
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(gif[:600])
    # On a canvas that it does not fill.
    moved = bytearray(saved(first, "GIF"))
    at = moved.index(b",\0\0\0\0") + 1
    moved[at : at + 4] = b"\7\0\5\0"
    np.testing.assert_array_equal(decode(bytes(moved)), whole)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_are_read_however_their_tables_lie(mode, options):
    image = picture().convert(mode)
    encoded = saved(image, "JPEG", quality=95, **options)
    expected = decode(encoded)
    tables = [m.start() for m in re.finditer(b"\xff\xdb\0\x43", encoded)]
    assert len(tables) == (2 if mode == "RGB" else 1)
    if mode == "RGB":  # Both in one segment.
        first, second = (encoded[at + 4 : at + 69] for at in tables)
        both = segment(0xDB, first + second)
        together = encoded[: tables[0]] + both + encoded[tables[1] + 69 :]
        np.testing.assert_array_equal(decode(together), expected)
    # Something else between the tables and the size.
    frame = encoded.index(b"\xff\xc2" if options else b"\xff\xc0")
    for between in (segment(0xFE, b"text"), segment(0xDD, b"\0\0")):
        other = encoded[:frame] + between + encoded[frame:]
        np.testing.assert_array_equal(decode(other), expected)


def test_animated_webp_leaves_the_process_alive():
    # TensorFlow's own choice of channels overruns its buffer, which shows
    # after a while and ends the process; hence one of its own.
    code = (
        "import sys, tensorflow as tf\n"
        "from framework.data.images import decode\n"
        "encoded = sys.stdin.buffer.read()\n"
        "for _ in range(100): decode(encoded)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=animated(picture(), "WEBP"),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]


def test_decode_and_resize_survive_export(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def prepare(encoded):
        return decode_and_resize(encoded, 8, "pad")

    module = tf.Module()
    module.prepare = prepare
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for encoded in (
        with_exif(6),
        FORMATS["jpeg"][0](),
        FORMATS["bmp palette"][0](),
    ):
        expected = decode_and_resize(encoded, 8, "pad")
        result = loaded.prepare(tf.constant(encoded))
        np.testing.assert_array_equal(result, expected)


# Decoding at less than full size.


def at_ratio(encoded: bytes, ratio: int, size: int, how: str) -> np.ndarray:
    """What must come out where libjpeg divides the sides by `ratio`."""
    pixels = tf.io.decode_jpeg(encoded, channels=3, ratio=ratio)
    whole = tf.io.extract_jpeg_shape(encoded).numpy()[:2]
    # Rows and columns that stand for half of one and more.
    sides = [max(int(side / ratio + 0.5), 1) for side in whole]
    pixels = pixels[: sides[0], : sides[1]]
    return resize(pixels, size, how).numpy()


SIZE = 13
BORDERS = sorted(
    {times * SIZE + more for times in (2, 4, 8) for more in (-1, 0, 1)}
    | {7, SIZE, 3 * SIZE, 16 * SIZE}
)


@pytest.mark.parametrize("how", RESIZES)
@pytest.mark.parametrize("is_plain", [True, False])
def test_the_ratio_is_the_largest_that_keeps_enough(how, is_plain):
    chosen = set()
    for short, long in itertools.combinations_with_replacement(BORDERS, 2):
        sides = (short, long) if (short + long) % 2 else (long, short)
        # Noise: no two ratios give the same picture.
        encoded = saved(Image.fromarray(noise(*sides)), "JPEG", quality=95)
        if not is_plain:
            encoded = without_jfif(encoded)
        decisive = long if how == "pad" else short
        ratio = max(r for r in (1, 2, 4, 8) if r == 1 or decisive >= r * SIZE)
        chosen.add(ratio)
        result = decode_and_resize(encoded, SIZE, how).numpy()
        for other in (1, 2, 4, 8):
            expected = at_ratio(encoded, other, SIZE, how)
            assert (result == expected).all() == (other == ratio), sides
    assert chosen == {1, 2, 4, 8}


@pytest.mark.parametrize("size", [127, 128, 129, 255, 256, 300])
def test_sizes_around_whole_bytes_choose_as_well(size):
    for side in (2 * size - 1, 2 * size):
        encoded = saved(Image.fromarray(noise(side, side + 3)), "JPEG")
        halved = at_ratio(encoded, 2, size, "squash")
        result = decode_and_resize(encoded, size).numpy()
        assert (result == halved).all() == (side == 2 * size)


@pytest.mark.parametrize(
    "how",
    [
        # What crops, shrinks the most.
        how if how == "crop" else pytest.param(how, marks=pytest.mark.slow)
        for how in RESIZES
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_all_else_is_decoded_whole(name, how):
    encoded = FORMATS[name][0]()
    # 24 x 32 pixels, less than twice 17; what is no JPEG at any size.
    for size in (17, 40) if name.startswith("jpeg") else (2, 5, 17, 40):
        np.testing.assert_array_equal(
            decode_and_resize(encoded, size, how),
            resize(decode(encoded), size, how),
        )


def large_photo() -> Image.Image:
    """304 x 416 pixels of clouds in color; 8 divides both, and what crops."""
    rng = np.random.default_rng(0)
    clouds = rng.integers(0, 256, (5, 4, 3)).astype(np.uint8)
    return Image.fromarray(clouds).resize((304, 416), Image.BICUBIC)


@pytest.mark.parametrize("how", RESIZES)
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"progressive": True}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_what_is_decoded_smaller_looks_the_same(mode, options, how):
    encoded = saved(large_photo().convert(mode), "JPEG", quality=95, **options)
    whole = decode(encoded)
    for size in (152, 76, 38):
        expected = resize(whole, size, how).numpy().astype(int)
        error = decode_and_resize(encoded, size, how).numpy() - expected
        assert error.any()  # Or it was decoded whole.
        assert np.abs(error).mean() < 2


@pytest.mark.parametrize("more", range(8))
def test_what_is_left_of_the_sides_moves_nothing(more):
    # From black to white in 20 steps, so that half a pixel is 6.
    side = 160 + more
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    ramp = np.broadcast_to(ramp, (side, side))
    for pixels in (ramp, ramp.T):
        encoded = saved(Image.fromarray(pixels), "JPEG", quality=100)
        expected = resize(decode(encoded), 20).numpy().astype(int)
        error = decode_and_resize(encoded, 20).numpy() - expected
        assert np.abs(error).max() <= 7


@pytest.mark.parametrize("how", RESIZES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_decoded_smaller_is_upright(orientation, how):
    encoded = with_exif(orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    # Of 3 x 4 pixels the middle 3 x 3 lie half a pixel off.
    for size in (12, 6) if how == "crop" else (12, 6, 3):
        expected = resize(np.asarray(upright), size, how).numpy().astype(int)
        error = decode_and_resize(encoded, size, how).numpy() - expected
        assert error.any()
        assert np.abs(error).mean() < 5


def test_a_line_of_less_than_half_a_row_stays():
    line = Image.new("RGB", (400, 1), "white")
    padded = decode_and_resize(saved(line, "JPEG"), 20, "pad").numpy()
    assert (padded.max((1, 2)) > 250).sum() == 1


def test_ways_and_sizes_are_checked_before_anything_is_decoded():
    with pytest.raises(UserError, match="Did you mean 'squash'"):
        decode_and_resize(b"no picture", 16, "sqash")
    with pytest.raises(UserError, match="whole number"):
        decode_and_resize(b"no picture", 0)


@pytest.mark.skipif(not PETS.exists(), reason="needs ../shared")
def test_photographs_decode_as_pillow_decodes_them():
    for path in sorted(PETS.glob("*/*.jpg")):
        decoded = decode(path.read_bytes()).numpy().astype(int)
        expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        assert np.abs(decoded - np.asarray(expected)).mean() < 4, path


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_become_rgb(channels, known):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels))
    pixels = pixels.astype(np.uint8)
    shape = [None, None, channels if known else None]
    convert = tf.function(
        to_rgb, input_signature=[tf.TensorSpec(shape, tf.uint8)]
    )
    expected = np.repeat(pixels, 3, -1) if channels == 1 else pixels[..., :3]
    np.testing.assert_array_equal(convert(pixels), expected)
    np.testing.assert_array_equal(to_rgb(pixels), expected)
    assert convert.get_concrete_function().output_shapes[-1] == 3


def test_pixels_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match="float32"):
        to_rgb(np.zeros([4, 4, 3], np.float32))
    with pytest.raises(ValueError, match="2 channels"):
        to_rgb(np.zeros([4, 4, 2], np.uint8))
    with pytest.raises(ValueError, match="one image"):
        to_rgb(np.zeros([1, 4, 4, 3], np.uint8))
    convert = tf.function(
        to_rgb, input_signature=[tf.TensorSpec([None] * 3, tf.uint8)]
    )
    for shape in ([4, 4, 2], [0, 4, 3]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            convert(np.zeros(shape, np.uint8))


# Resizing.


def noise(height: int, width: int) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return values.astype(np.uint8)


@pytest.mark.parametrize("how", RESIZES)
def test_every_way_gives_a_square_in_and_out_of_graphs(how):
    spec = tf.TensorSpec([None, None, 3], tf.uint8)
    graph = tf.function(lambda i: resize(i, 16, how), input_signature=[spec])
    assert graph.get_concrete_function().output_shapes == [16, 16, 3]
    for sides in [(40, 30), (30, 41), (16, 16), (7, 5), (1, 50), (9, 40)]:
        image = noise(*sides)
        eager = resize(image, 16, how)
        assert eager.dtype == tf.uint8 and eager.shape == [16, 16, 3]
        np.testing.assert_array_equal(graph(image), eager)


@pytest.mark.parametrize("how", RESIZES)
def test_an_image_of_the_size_is_left_alone(how):
    image = noise(16, 16)
    np.testing.assert_array_equal(resize(image, 16, how), image)


def test_squash_halves_by_averaging():
    image = noise(32, 64)
    means = image.reshape(16, 2, 16, 4, 3).mean((1, 3))
    np.testing.assert_array_equal(resize(image, 16, "squash"), np.rint(means))


@pytest.mark.parametrize("size", [60, 37])
def test_from_twice_too_large_on_fine_stripes_turn_grey(size):
    stripes = np.zeros([120, 120, 3], np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, size, "squash").numpy().astype(int)
    assert np.abs(small - 127.5).max() < 45


@pytest.mark.parametrize(
    ("how", "sides", "ways"),
    [
        # Bilinear where both sides are less than twice too large.
        ("squash", (19, 19), ["bilinear"]),
        ("squash", (11, 19), ["bilinear"]),
        # By area where one is twice too large, on both sides.
        ("squash", (20, 15), ["area"]),
        ("squash", (15, 20), ["area"]),
        # What has to grow grows bilinearly, afterwards.
        ("squash", (25, 7), ["area", "bilinear"]),
        ("crop", (19, 15), ["bilinear"]),
        ("crop", (20, 20), ["area"]),
        ("pad", (19, 19), ["bilinear"]),
        ("pad", (20, 20), ["area"]),
    ],
)
def test_the_way_of_resizing_follows_from_how_much_too_large_it_is(
    how, sides, ways
):
    image = noise(*sides)
    expected = image
    if how == "crop":
        short = min(sides)
        top, left = (sides[0] - short) // 2, (sides[1] - short) // 2
        expected = image[top : top + short, left : left + short]
    for way in ways:
        to = np.minimum(sides, 10) if way == "area" else [10, 10]
        expected = tf.image.resize(expected, to, method=way)
    np.testing.assert_array_equal(resize(image, 10, how), np.rint(expected))


def test_a_flat_image_stays_exactly_what_it_is():
    for how in ("squash", "crop"):
        for side in (5, 16, 33, 100):
            flat = np.full([side, 50, 3], 255, np.uint8)
            assert (resize(flat, 16, how).numpy() == 255).all()


def test_crop_keeps_the_middle():
    image = np.zeros([10, 30, 3], np.uint8)
    image[:, 10:20] = 200
    assert (resize(image, 10, "crop").numpy() == 200).all()
    assert (resize(image, 5, "crop").numpy() == 200).all()
    upright = image.transpose(1, 0, 2)
    assert (resize(upright, 5, "crop").numpy() == 200).all()


def test_pad_keeps_everything_and_adds_black():
    image = np.full([10, 20, 3], 200, np.uint8)
    padded = resize(image, 20, "pad").numpy()
    assert (padded[5:15] == 200).all()
    assert (padded[:5] == 0).all() and (padded[15:] == 0).all()


def test_upscaling_is_bilinear():
    image = noise(8, 8)
    expected = tf.image.resize(image, [16, 16], method="bilinear")
    np.testing.assert_array_equal(
        resize(image, 16, "squash"), np.rint(expected)
    )


def test_unknown_ways_and_sizes_are_user_errors():
    with pytest.raises(UserError, match="Did you mean 'squash'"):
        resize(noise(4, 4), 16, "sqash")
    with pytest.raises(UserError, match="whole number"):
        resize(noise(4, 4), 0, "crop")


@pytest.mark.parametrize("how", RESIZES)
@pytest.mark.parametrize("sides", [(0, 4), (4, 0), (0, 100), (100, 0), (0, 0)])
def test_an_image_without_pixels_is_an_error(how, sides):
    spec = tf.TensorSpec([None, None, 3], tf.uint8)
    graph = tf.function(lambda i: resize(i, 16, how), input_signature=[spec])
    empty = np.zeros([*sides, 3], np.uint8)
    for call in (graph, lambda i: resize(i, 16, how)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            call(empty)
