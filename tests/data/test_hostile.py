"""What must neither end a run nor take memory beyond a bound."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo

from framework.data.folder import ImageFolder
from framework.data.images import MAX_PIXELS, RESIZES, decode, resize
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


def jpeg(width: int, height: int) -> bytes:
    content = encoded(photo(), "JPEG")
    at = content.index(b"\xff\xc0") + 5
    sides = struct.pack(">HH", height, width)
    return content[:at] + sides + content[at + 4 :]


def gif(width: int, height: int) -> bytes:
    content = encoded(photo(), "GIF")
    at = content.index(b",\0\0\0\0") + 5
    sides = struct.pack("<HH", width, height)
    return content[:6] + sides + content[10:at] + sides + content[at + 4 :]


def bmp(width: int, height: int) -> bytes:
    content = encoded(photo(), "BMP")
    return content[:18] + struct.pack("<ii", width, height) + content[26:]


BOMBS = {
    "PNG that promises": png(60_000, 60_000),
    "PNG that keeps": png(20_000, 20_000, bytes(20_000 * 2501)),
    "JPEG": jpeg(65_500, 65_500),
    "GIF": gif(65_500, 65_500),
    "BMP": bmp(60_000, 60_000),
    "BMP upside down": bmp(60_000, -60_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(tf.constant(BOMBS[name]))


def test_bombs_take_no_memory(tmp_path):
    """In a process of its own, of which the most that it had can be told."""
    for number, content in enumerate(BOMBS.values()):
        (tmp_path / f"{number}").write_bytes(content)
    code = f"""
import pathlib, resource
import tensorflow as tf
from framework.data.images import decode
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
decode(tf.io.encode_jpeg(tf.zeros((9, 9, 3), tf.uint8)))
before = most()
for path in pathlib.Path({str(tmp_path)!r}).iterdir():
    try: decode(tf.constant(path.read_bytes()))
    except tf.errors.InvalidArgumentError: pass
    else: raise SystemExit(path)
print(most() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200, "megabytes"


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


def test_files_that_vanish_or_change_cost_their_own_row_only(tmp_path):
    root = folder(tmp_path / "photos")
    examples = ImageFolder(str(root)).splits["train"]
    (root / "cat/0.png").unlink()
    (root / "cat/1.png").unlink()
    (root / "cat/1.png").mkdir()
    (root / "dog/2.png").write_bytes(b"")
    lost = {"cat/0.png", "cat/1.png", "dog/2.png"}
    for batches, count in (
        (Pipeline().training(examples, 16, 4, seed=0), 3),
        (Pipeline().evaluation(examples, 16, 4), 3),
    ):
        seen = weights(batches, count)
        assert len(seen) == 12
        assert {i for i, weight in seen.items() if not weight} == lost


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


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_damage_gives_pixels_or_an_error(form, options):
    """Seeded damage of every kind; what ends the process fails the test."""
    whole = encoded(photo(40, 30), form, **options)
    rng = np.random.default_rng(len(whole))
    variants = []
    for _ in range(40):
        content = bytearray(whole)
        for at in rng.integers(0, len(content), rng.integers(1, 6)):
            content[at] = rng.integers(0, 256)
        cut = len(content) if rng.random() < 0.7 else rng.integers(1, 400)
        variants.append(bytes(content[:cut]))
    dataset = tf.data.Dataset.from_tensor_slices(variants)
    dataset = dataset.map(decode, num_parallel_calls=2).ignore_errors()
    for image in dataset:
        assert image.dtype == tf.uint8 and image.shape[-1] == 3
