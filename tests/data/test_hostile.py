"""What must neither end a run nor take memory beyond a bound."""

import contextlib
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo

from framework.data.folder import ImageFolder
from framework.data.images import (
    RESIZES,
    decode,
    decode_and_resize,
    resize,
)
from framework.data.limits import MAX_PIXELS
from framework.data.pipeline import Pipeline


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG of one bit a pixel whose header promises this size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", checksum)
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def jpeg(width: int, height: int, mode="RGB", **options) -> bytes:
    content = encoded(photo().convert(mode), "JPEG", **options)
    frame = b"\xff\xc2" if options.get("progressive") else b"\xff\xc0"
    at = content.index(frame) + 5
    sides = struct.pack(">HH", height, width)
    return content[:at] + sides + content[at + 4 :]


def gif(width: int, height: int) -> bytes:
    content = encoded(photo(), "GIF")
    at = content.index(b",\0\0\0\0") + 5
    sides = struct.pack("<HH", width, height)
    return content[:6] + sides + content[10:at] + sides + content[at + 4 :]


def frame_of_zeros(width: int, height: int) -> bytes:
    """A frame of a GIF, as dense as they get: 2,700 pixels a byte."""
    codes, done, last, bits = [(4, 3), (0, 3)], 1, 5, 3
    length = 1
    while done < width * height:
        if last < 4095:  # A word longer by one than the one before.
            last, length = last + 1, length + 1
        codes.append((last, bits))
        done += length
        bits = min((last + 1).bit_length(), 12)
    value, at = 0, 0
    data = bytearray()
    for code, size in [*codes, (5, bits)]:
        value |= code << at
        at += size
        while at >= 8:
            data.append(value & 255)
            value, at = value >> 8, at - 8
    data.append(value)
    blocks = (data[i : i + 255] for i in range(0, len(data), 255))
    return (
        b","
        + struct.pack("<HHHHBB", 0, 0, width, height, 0, 2)
        + b"".join(bytes([len(block)]) + block for block in blocks)
        + b"\0"
    )


def many_frames(count: int) -> bytes:
    header = b"GIF89a" + struct.pack("<HHBBB", 4000, 4000, 0x91, 0, 0)
    return header + bytes(12) + frame_of_zeros(4000, 4000) * count + b";"


def bmp(width: int, height: int, bits=24) -> bytes:
    content = encoded(photo().convert("RGB" if bits == 24 else "P"), "BMP")
    return content[:18] + struct.pack("<ii", width, height) + content[26:]


def webp(width: int, height: int, kind: str) -> bytes:
    """A WebP file whose header, of one of three kinds, promises this size."""
    if kind == "VP8 ":
        content = encoded(photo(), "WEBP")
        sides = struct.pack("<HH", width, height)
        return content[:26] + sides + content[30:]
    if kind == "VP8L":
        content = encoded(photo(), "WEBP", lossless=True)
        sides = struct.pack("<I", width - 1 | height - 1 << 14)
        return content[:21] + sides + content[25:]
    other = photo(seed=1)
    content = encoded(photo(), "WEBP", save_all=True, append_images=[other])
    sides = b"".join((s - 1).to_bytes(3, "little") for s in (width, height))
    return content[:24] + sides + content[30:]


# What each of them promises has more than `MAX_PIXELS`, and would be decoded,
# or take memory, were it not refused.
BOMBS = {
    "PNG that promises": png(60_000, 60_000),
    "PNG that keeps": png(20_000, 20_000, bytes(20_000 * 2501)),
    "JPEG": jpeg(65_500, 65_500),
    "JPEG that TensorFlow would decode": jpeg(12_000, 12_000),
    "grey JPEG": jpeg(23_000, 23_000, "L"),
    "progressive JPEG": jpeg(12_000, 12_000, progressive=True),
    "JPEG with EXIF": jpeg(12_000, 12_000, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "CMYK JPEG": jpeg(11_600, 11_600, "CMYK"),
    "GIF": gif(65_500, 65_500),
    "BMP": bmp(60_000, 60_000),
    "BMP upside down": bmp(60_000, -60_000),
    "BMP of the lowest height": bmp(1, -(2**31)),
    "BMP with a palette": bmp(12_000, 12_000, 8),
    "WebP": webp(16_383, 16_383, "VP8 "),
    "lossless WebP": webp(16_384, 16_384, "VP8L"),
    "animated WebP": webp(16_384, 16_384, "VP8X"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name):
    # Not by TensorFlow's decoder, which would have allocated it by then.
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most"):
        decode(tf.constant(BOMBS[name]))
    for how in RESIZES:
        with pytest.raises(tf.errors.InvalidArgumentError, match="at most"):
            decode_and_resize(tf.constant(BOMBS[name]), 160, how)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs code in a process of its own, which may end as it likes."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=200,
        check=False,
    )


def test_bombs_take_no_memory(tmp_path):
    """In a process of its own, of which the most that it had can be told."""
    # What it is, and how many MB its pixels take if it is to be decoded.
    bombs = [(name, content, 0) for name, content in BOMBS.items()]
    # Each frame takes 16 MB more, were all of them unpacked.
    bombs.append(("GIF of many frames", many_frames(50), 48))
    # A float copy of this would take 1,296 MB; crop copies 243 MB.
    rows = bytes(9_000 * (1 + 12_000 // 8))
    bombs.append(("108 megapixels", png(12_000, 9_000, rows), 324))
    (tmp_path / "bombs").write_bytes(pickle.dumps(bombs))
    done = run(
        """
import pickle, resource, sys
import tensorflow as tf
from framework.data.images import decode, decode_and_resize, resize

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def pipeline(content):
    image = decode(content)
    resized = [resize(image, 160, how) for how in ("squash", "crop", "pad")]
    return tf.shape(image), resized

@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def at_once(content):
    return decode_and_resize(content, 160)

with open(sys.argv[1], "rb") as file:
    bombs = pickle.load(file)
pipeline(tf.io.encode_png(tf.zeros((9, 9, 3), tf.uint8)))
for name, content, size in bombs:
    before = most()
    for function in (pipeline, at_once):
        try:
            function(tf.constant(content))
        except tf.errors.InvalidArgumentError:
            assert not size, name
        else:
            assert size, name
    print(name, most() - before, size, sep="\t")
""",
        str(tmp_path / "bombs"),
    )
    assert done.returncode == 0, done.stderr
    results = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(results) == len(bombs)
    for name, more, size in results:
        assert int(more) < 2 * int(size) + 60, f"{name}: {more} MB"


@pytest.mark.parametrize("how", RESIZES)
def test_a_panorama_of_60000_pixels_is_read(how):
    rows = bytes(200 * (1 + 60_000 // 8))
    wide = decode(tf.constant(png(60_000, 200, rows)))
    assert wide.shape == (200, 60_000, 3)
    assert MAX_PIXELS > 60_000 * 200
    for image in (wide, tf.transpose(wide, [1, 0, 2])):
        assert resize(image, 32, how).shape == (32, 32, 3)
    line = tf.zeros((1, 60_000, 3), tf.uint8)
    assert resize(line, 32, how).shape == (32, 32, 3)


def folder(root, count=6):
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(count):
            (root / label / f"{number}.png").write_bytes(
                encoded(photo(30, 20, number), "PNG")
            )
    return root


def weights(batches, count) -> dict[str, float]:
    seen = {}
    for batch in batches.take(count):
        ids = [i.decode() for i in batch["id"].numpy()]
        seen.update(zip(ids, batch["weight"].numpy(), strict=True))
    return seen


@contextlib.contextmanager
def as_nobody():
    """Without the rights of root, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_files_that_vanish_or_change_cost_their_own_row_only():
    # Not below pytest's folder, which is its owner's alone.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        root = folder(Path(place) / "photos")
        examples = ImageFolder(str(root)).splits["train"]
        (root / "cat/0.png").unlink()
        (root / "cat/1.png").unlink()
        (root / "cat/1.png").mkdir()
        (root / "cat/2.png").chmod(0)
        (root / "cat/3.png").unlink()
        (root / "cat/3.png").symlink_to("3.png")
        (root / "dog/2.png").write_bytes(b"")
        (root / "dog/3.png").write_bytes((root / "dog/4.png").read_bytes()[:99])
        lost = {*(f"cat/{n}.png" for n in range(4)), "dog/2.png", "dog/3.png"}
        with as_nobody():
            for batches in (
                Pipeline().training(examples, 16, 4, seed=0),
                Pipeline().evaluation(examples, 16, 4),
            ):
                seen = weights(batches, 3)
                assert len(seen) == 12
                assert {i for i, w in seen.items() if not w} == lost


def test_files_that_vanish_while_they_are_read(tmp_path):
    root = folder(tmp_path / "photos", count=200)
    examples = ImageFolder(str(root)).splits["train"]
    batches = iter(Pipeline().training(examples, 16, 8, seed=0))
    next(batches)
    for path in root.glob("dog/*"):
        path.unlink()
    # An epoch later nothing is left of what was read before.
    for _ in range(50):
        next(batches)
    for _ in range(50):
        batch = next(batches)
        is_cat = [i.startswith(b"cat") for i in batch["id"].numpy()]
        np.testing.assert_array_equal(batch["weight"], is_cat)


@pytest.mark.parametrize("follow", [False, True])
def test_nothing_but_files_is_opened_and_circles_end(tmp_path, follow):
    root = folder(tmp_path / "photos")
    os.mkfifo(root / "cat/pipe.jpg")
    (root / "cat/to_pipe.jpg").symlink_to(root / "cat/pipe.jpg")
    (root / "cat/nowhere.jpg").symlink_to(tmp_path / "nowhere")
    (root / "cat/self.jpg").symlink_to(root / "cat/self.jpg")
    (root / "cat/up").symlink_to(root)
    (root / "dog/there").symlink_to(root / "dog/back")
    (root / "dog/back").symlink_to(root / "dog/there")
    source = ImageFolder(str(root), follow_links=follow)
    ids = set(source.splits["train"].ids)
    wanted = {f"{c}/{n}.png" for c in ("cat", "dog") for n in range(6)}
    assert wanted <= ids
    assert not [i for i in ids if i.endswith(".jpg")]
    left_out = {path for path, _ in source.left_out}
    for name in ("pipe", "to_pipe", "nowhere", "self"):
        assert str(root / f"cat/{name}.jpg") in left_out
    # All that is listed is read, without waiting for anybody.
    batches = Pipeline().evaluation(source.splits["train"], 16, 4)
    assert all(weights(batches, len(ids) // 4 + 1).values()) or follow


def test_names_of_every_kind_are_read_and_named(tmp_path):
    root = os.fsencode(folder(tmp_path / "photos"))
    names = [
        b"line\nend.png",
        b"'quotes' \"and\" \\.png",
        b"\xff\xfe not utf-8.png",
        b"n" * 251 + b".png",
        "\u202egnp.jpg.png".encode(),
    ]
    for name in names:
        with open(os.path.join(root, b"dog", name), "wb") as file:
            file.write(encoded(photo(), "PNG"))
    source = ImageFolder(os.fsdecode(root))
    examples = source.splits["train"]
    assert len(examples) == 12 + len(names)
    seen = weights(Pipeline().evaluation(examples, 16, 1), len(examples))
    assert set(seen) == set(examples.ids) and all(seen.values())
    for row in examples.rows:
        assert os.path.isfile(examples.path(int(row)))


def test_a_path_longer_than_systems_allow_is_a_mistake_not_a_crash(tmp_path):
    root = folder(tmp_path / "photos")
    here = os.open(root / "dog", os.O_RDONLY)
    try:
        for _ in range(60):
            os.mkdir("d" * 200, dir_fd=here)
            deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
    finally:
        os.close(here)
    source = ImageFolder(str(root))
    assert len(source.splits["train"]) == 12
    assert any("too long" in note for note in source.notes)


SEEDS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    (
        "JPEG",
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\6"},
    ),
    ("PNG", {}),
    ("GIF", {}),
    ("GIF", {"save_all": True, "append_images": [photo(40, 30, 1)]}),
    ("BMP", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"save_all": True, "append_images": [photo(40, 30, 1)]}),
]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """`content` with bytes changed, cut off, cut out or said twice."""
    content = bytearray(content)
    # Half of it in the headers, where it does most.
    reach = min(len(content), 60) if rng.random() < 0.5 else len(content)
    begin, end = sorted(map(int, rng.integers(0, reach, 2)))
    match rng.integers(6):
        case 0:
            content[begin:end] = b""
        case 1:
            content[begin:begin] = content[begin:end]
        case 2:
            del content[end:]
        case 3:
            content[begin : begin + 2] = rng.choice([b"\0\0", b"\xff\xff"])
        case _:
            for at in rng.integers(0, reach, rng.integers(1, 6)):
                content[at] = rng.integers(0, 256)
    return bytes(content)


def test_damage_gives_pixels_or_an_error(tmp_path):
    """Seeded damage; what ends the process that decodes fails the test."""
    rng = np.random.default_rng(0)
    wholes = [encoded(photo(40, 30), form, **kw) for form, kw in SEEDS]
    wholes.append(encoded(photo(40, 30).quantize(16), "BMP"))
    variants = [damaged(whole, rng) for whole in wholes for _ in range(50)]
    (tmp_path / "variants").write_bytes(pickle.dumps(variants))
    done = run(
        """
import pickle, sys
import tensorflow as tf
from framework.data.images import decode

decode = tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)])
decoded = 0
with open(sys.argv[1], "rb") as file:
    variants = pickle.load(file)
for number, content in enumerate(variants):
    print(number, flush=True)
    try:
        image = decode(content)
    except tf.errors.InvalidArgumentError:
        continue
    decoded += 1
    assert image.dtype == tf.uint8, image.dtype
    height, width, channels = image.shape
    assert height > 0 and width > 0 and channels == 3, image.shape
print("decoded", decoded)
""",
        str(tmp_path / "variants"),
    )
    last = done.stdout.split("\n")[-2:]
    assert done.returncode == 0, f"at {last}: {done.stderr[-2000:]}"
    # Neither all of it nor nothing was harmless.
    assert 0.02 < int(done.stdout.split()[-1]) / len(variants) < 0.9


@pytest.mark.parametrize("times", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_damage_is_judged_alike_at_every_size(tmp_path, times):
    """The doctor asks the decoder for the whole, training for less of it."""
    rng = np.random.default_rng(0)
    variants = []
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        whole = encoded(photo(200, 150), "JPEG", quality=80, **options)
        ends = rng.integers(600, len(whole), 8 * times).tolist()
        ends += [len(whole) - rest for rest in (0, 1, 2, 3, 4, 6, 10, 20)]
        variants += [whole[:end] for end in ends]
        variants += [whole[:end] + b"\xff\xd9" for end in ends]
        for _ in range(15 * times):
            flipped = bytearray(whole)
            for at in rng.integers(0, len(whole), rng.integers(1, 4)):
                flipped[at] ^= 1 << int(rng.integers(8))
            variants.append(bytes(flipped))
        variants += [damaged(whole, rng) for _ in range(15 * times)]
    (tmp_path / "variants").write_bytes(pickle.dumps(variants))
    done = run(
        """
import pickle, sys
import tensorflow as tf
from framework.data.images import decode, decode_and_resize

SIZES = (100, 70, 30, 15)  # Decoded at 1, 1/2, 1/4 and 1/8 of 200 x 150.
content = tf.TensorSpec([], tf.string)
whole = tf.function(lambda c: tf.size(decode(c)), input_signature=[content])
less = [
    tf.function(
        lambda c, size=size: decode_and_resize(c, size),
        input_signature=[content],
    )
    for size in SIZES
]

def decodes(function, content):
    try:
        function(content)
    except tf.errors.InvalidArgumentError:
        return False
    return True

with open(sys.argv[1], "rb") as file:
    variants = pickle.load(file)
good = 0
for number, content in enumerate(variants):
    expected = decodes(whole, content)
    good += expected
    for size, function in zip(SIZES, less):
        if decodes(function, content) != expected:
            print(number, "is judged otherwise at", size)
print("decoded", good)
""",
        str(tmp_path / "variants"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *others, last = done.stdout.splitlines()
    assert not others, others
    assert 0.2 < int(last.split()[-1]) / len(variants) < 0.9
