"""What is written, and that no interruption shows in it."""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils.epath import gpath, register
from PIL import Image

from framework.data import preparing
from framework.data.folder import ImageFolder
from framework.data.images import decode
from framework.data.prepared import Prepared
from framework.data.preparing import prepare
from framework.data.source import array_source
from framework.errors import UserError
from framework.task import Data, Task

FORMATS = preparing.FORMATS
SMALL = {"shard_bytes": 8_000}
ROOT = pathlib.Path(__file__).resolve().parents[2]


def photo(path, width, height, seed, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.BILINEAR)
    image.save(path, **options)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """64 pictures of two classes, of 40x30 pixels."""
    root = tmp_path_factory.mktemp("data") / "My photos"
    for i in range(64):
        name = ("cat", "dog")[i % 2]
        photo(root / name / f"{i}.jpg", 40, 30, i, quality=90)
    return root


@pytest.fixture(scope="module")
def data(photos):
    return load(photos)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """What an undisturbed call writes, in many small files."""
    out = tmp_path_factory.mktemp("whole")
    prepare(data, str(out), **SMALL)
    return out


def load(root, **options) -> Data:
    options = {"validation": 0.25, **options}
    return Task(lambda: ImageFolder(str(root)), **options).load()


def replace(data, split="train", **changes) -> Data:
    examples = dataclasses.replace(data.splits[split], **changes)
    return dataclasses.replace(data, splits={**data.splits, split: examples})


def contents(directory):
    """Every file with its content's hash."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(pathlib.Path(directory).rglob("*"))
        if path.is_file()
    }


def images(examples):
    """By id, label and bytes as they are stored."""
    if not hasattr(examples, "ids"):
        dataset = examples.stream(tf.constant(-1, tf.int64))
        return {
            e["id"].decode(): (int(e["label"]), e["image"])
            for e in dataset.as_numpy_iterator()
        }
    read = tf.data.Dataset.from_tensor_slices(examples.rows)
    read = read.map(examples.read).as_numpy_iterator()
    return {
        i: (int(label), image)
        for i, label, image in zip(
            examples.ids, examples.labels, read, strict=True
        )
    }


@pytest.mark.parametrize("file_format", FORMATS)
def test_what_is_read_is_what_was_written(data, tmp_path, file_format):
    groups = np.array([f"g{i // 3}" for i in range(48)], object)
    data = replace(data, groups=groups)
    out = str(tmp_path / "out")
    calls = []
    report = prepare(
        data,
        out,
        file_format,
        **SMALL,
        progress=lambda *call: calls.append(call),
    )
    assert report.examples == {"train": 48, "validation": 16}
    assert report.left_out == () and report.kept == 0
    assert report.shards > 4
    assert calls[0] == (0, 64) and calls[-1] == (64, 64)
    assert calls == sorted(calls)
    for in_memory_bytes in (1 << 30, 0):
        source = Prepared(out, in_memory_bytes=in_memory_bytes, verify=True)
        assert source.class_names == ("cat", "dog")
        assert source.name == "my_photos 1.0.0 (TFDS)"
        assert "Prepared from My photos (folder)." in source.notes
        for split, examples in data.splits.items():
            assert images(source.splits[split]) == images(examples)
    # Of what is held in memory groups are known, "" where there were none.
    source = Prepared(out)
    for split, examples in data.splits.items():
        found = source.splits[split]
        expected = dict(zip(examples.ids, groups, strict=False))
        for i, group in zip(found.ids, found.groups, strict=True):
            assert group == (expected[i] if split == "train" else "")


def test_tfds_itself_reads_it(whole):
    builder = tfds.builder_from_directory(whole)
    assert "group" not in builder.info.features
    assert builder.info.splits["train"].num_shards > 2
    dataset = builder.as_dataset(split="validation", as_supervised=True)
    assert sum(image.shape == (30, 40, 3) for image, _ in dataset) == 16


def test_files_are_of_the_size_asked_for_and_well_mixed(whole):
    files = json.loads((whole / "checksums.json").read_text())
    sizes = [f["bytes"] for n, f in files.items() if "train" in n]
    assert all(4_000 < size < 12_000 for size in sizes)
    ids = list(Prepared(str(whole)).splits["train"].ids)
    assert ids != sorted(ids)
    runs = sum(a[:3] != b[:3] for a, b in itertools.pairwise(ids))
    assert runs > 10  # Of 47: cats and dogs are mixed.


def test_larger_images_are_shrunk(tmp_path):
    root = tmp_path / "photos"
    photo(root / "a/wide.jpg", 100, 60, 1, quality=95)
    photo(root / "a/high.png", 30, 90, 2)
    photo(root / "b/small.jpg", 50, 20, 3, quality=30)
    photo(root / "b/thin.png", 500, 1, 4)
    # Lying, to be turned clockwise.
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(root / "b/turned.jpg", 100, 60, 5, exif=exif, quality=95)
    data = load(root, validation=0.0)
    prepare(data, str(tmp_path / "out"), max_side=50, quality=95)
    before = images(data.splits["train"])
    after = images(Prepared(str(tmp_path / "out")).splits["train"])
    assert after["b/small.jpg"] == before["b/small.jpg"]
    shapes = {i: decode(image).shape[:2] for i, (_, image) in after.items()}
    assert shapes["a/wide.jpg"] == (30, 50)
    assert shapes["a/high.png"] == (50, 17)
    assert shapes["b/thin.png"] == (1, 50)
    assert shapes["b/turned.jpg"] == (50, 30)
    for i, (_, image) in after.items():
        exact = tf.image.resize(decode(before[i][1]), shapes[i], "area")
        error = tf.cast(decode(image), tf.float32) - exact
        assert tf.sqrt(tf.reduce_mean(error**2)) < 4
    # Full resolution of the colors: no component is sampled more coarsely.
    wide = after["a/wide.jpg"][1]
    frame = wide.index(b"\xff\xc0")
    assert [wide[frame + 11 + 3 * c] for c in range(3)] == [0x11] * 3


def test_what_does_not_decode_is_left_out_only_where_all_are_decoded(
    photos, tmp_path
):
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for path in sorted((photos / name).iterdir())[:5]:
            (root / name / path.name).write_bytes(path.read_bytes())
    (root / "cat/bad.jpg").write_bytes(b"no image")
    (root / "dog/empty.png").write_bytes(b"")
    # A name that is no UTF-8 is an id with escapes.
    with open(os.fsencode(root / "dog") + b"/caf\xe9.jpg", "wb") as file:
        file.write(b"\xff\xd8\xffbroken off")
    data = load(root, validation=0.0)
    report = prepare(data, str(tmp_path / "all"))
    assert report.left_out == () and report.examples == {"train": 13}
    everything = images(Prepared(str(tmp_path / "all")).splits["train"])
    assert everything == images(data.splits["train"])
    out = str(tmp_path / "out")
    for _ in range(2):
        report = prepare(data, out, max_side=20, shard_bytes=2_000)
        assert report.examples == {"train": 10}
        assert sorted(report.left_out) == [
            "cat/bad.jpg",
            "dog/caf\\xe9.jpg",
            "dog/empty.png",
        ]
    source = Prepared(out)
    assert len(source.splits["train"]) == 10
    assert "do not decode: 3 (" in source.notes[-1]


def test_a_split_of_which_nothing_decodes_is_refused(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).write_bytes(b"no image")
    data = load(tmp_path / "in", validation=0.0)
    with pytest.raises(UserError, match="Of the 2 images of the train split"):
        prepare(data, str(tmp_path / "out"), max_side=20)
    with pytest.raises(UserError, match="not finished"):
        Prepared(str(tmp_path / "out"))


def test_there_may_be_as_many_files_as_examples():
    pixels = np.zeros((300, 1, 1, 3), np.uint8)
    source = array_source(pixels, np.arange(300) % 2, ("a", "b"))
    settings = {"shard_bytes": 1, "max_side": None, "quality": None}
    train = source.splits["train"]
    assert preparing._shard_count("train", train, settings) == 300
    settings["shard_bytes"] = 1 << 30
    assert preparing._shard_count("train", train, settings) == 1


@pytest.mark.parametrize(("channels", "max_side"), [(1, 6), (3, None)])
def test_pixels_become_pngs(tmp_path, channels, max_side):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10, 8, 12, channels), np.uint8)
    source = array_source(pixels, np.arange(10) % 2, ("a", "b"))
    data = Task(lambda: source, validation=0.0).load()
    prepare(data, str(tmp_path / "out"), max_side=max_side)
    found = images(Prepared(str(tmp_path / "out")).splits["train"])
    assert set(found) == set(data.splits["train"].ids)
    for i, (label, image) in found.items():
        number = int(i.split("/")[1])
        assert label == number % 2
        assert image[1:4] == b"PNG"
        exact = pixels[number]
        if max_side:
            exact = np.round(tf.image.resize(exact, (4, 6), "area"))
        np.testing.assert_array_equal(tf.io.decode_png(image), exact)


def test_a_stream_is_written_as_it_comes(whole, tmp_path):
    # Cut, and prepared once more.
    streamed = Task(
        lambda: Prepared(str(whole), in_memory_bytes=0, window=16), test=0.2
    ).load()
    options = {"shard_bytes": 4_000}
    report = prepare(streamed, str(tmp_path / "out"), **options)
    assert report.examples == {"train": 38, "validation": 16, "test": 10}
    again = Prepared(str(tmp_path / "out"))
    assert again.name == "my_photos_1_0_0 1.0.0 (TFDS)"
    for split, examples in streamed.splits.items():
        assert images(again.splits[split]) == images(examples)
    # Some shards in the middle go missing.
    before = contents(tmp_path / "out")
    names = [name for name in before if "-train." in name]
    for name in names[1:3]:
        (tmp_path / "out" / name).unlink()
    report = prepare(streamed, str(tmp_path / "out"), **options)
    assert report.kept == report.shards - 2 and not report.was_complete
    assert contents(tmp_path / "out") == before


PREPARE = """
import os, sys
from framework.data.folder import ImageFolder
from framework.data.preparing import prepare
from framework.task import Task

root, out = sys.argv[1:]
data = Task(lambda: ImageFolder(root), validation=0.0).load()
prepare(data, f"{out}/array_record", "array_record", shard_bytes=8_000)

def progress(done, total):
    if done == 29:
        os.kill(os.getpid(), 9)

options = dict(shard_bytes=6_000, max_side=32)
prepare(data, f"{out}/tfrecord", progress=progress, **options)
"""


@pytest.mark.slow
def test_a_killed_call_goes_on_to_the_same_files(photos, tmp_path):
    # In another process: what depends on chance there shows, too.
    killed = subprocess.run(
        [sys.executable, "-c", PREPARE, str(photos), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(UserError, match="prepare has not finished"):
        Prepared(str(tmp_path / "tfrecord"))
    data = load(photos, validation=0.0)
    options = {"shard_bytes": 6_000, "max_side": 32}
    report = prepare(data, str(tmp_path / "tfrecord"), **options)
    assert 0 < report.kept < report.shards
    prepare(data, str(tmp_path / "once"), **options)
    assert contents(tmp_path / "tfrecord") == contents(tmp_path / "once")
    prepare(data, str(tmp_path / "again"), "array_record", **SMALL)
    assert contents(tmp_path / "again") == contents(tmp_path / "array_record")


class Stopped(Exception):
    pass


def stop_after(number):
    def progress(done, total):
        if done > number:
            raise Stopped

    return progress


def test_a_shard_without_a_good_marker_is_written_anew(data, whole, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        prepare(data, str(out), **SMALL, progress=stop_after(44))
    markers = sorted((out / "unfinished").iterdir())
    assert len(markers) > 3
    # One file is damaged, one marker broken off, one file gone.
    shards = [out / marker.stem for marker in markers]
    damaged = bytearray(shards[0].read_bytes())
    damaged[100] ^= 1
    shards[0].write_bytes(damaged)
    markers[1].write_bytes(markers[1].read_bytes()[:20])
    shards[2].unlink()
    report = prepare(data, str(out), **SMALL)
    assert report.kept == len(markers) - 3
    assert contents(out) == contents(whole)


def test_a_stop_among_the_last_files_goes_on(
    data, whole, tmp_path, monkeypatch
):
    out = str(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(tfds.folder_dataset, "write_metadata", stop_after(-1))
        with pytest.raises(TypeError):
            prepare(data, out, **SMALL)
    for name, length in (
        ("checksums.json", 10),
        ("dataset_info.json", 10),
        ("prepare.json", None),
    ):
        path = tmp_path / "out" / name
        if length:
            path.write_bytes(b'{"broken off'[:length])
        report = prepare(data, out, **SMALL)
        assert report.kept == report.shards
        assert contents(out) == contents(whole)
    assert report.was_complete


def test_what_is_complete_is_left_alone(data, whole, monkeypatch):
    before = contents(whole)
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_write_json", None)
        patch.setattr(preparing._Store, "write", None)
        report = prepare(data, str(whole), **SMALL)
    assert report.was_complete and report.kept == report.shards
    assert report.examples == {"train": 48, "validation": 16}
    assert contents(whole) == before


def test_only_the_same_is_gone_on_with(data, photos, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(Stopped):
        prepare(data, out, max_side=32, progress=stop_after(0))
    for options, message in (
        ({"max_side": 24}, "max_side = 32 then, 24 now"),
        ({"max_side": 32, "quality": 90}, "quality = 95 then, 90 now"),
        ({"file_format": "array_record"}, "file_format = 'tfrecord' then"),
        ({"shard_bytes": 1_000}, "shard_bytes = 134217728 then"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(data, out, **options)
    train = data.splits["train"]
    for changed in (
        replace(data, labels=1 - train.labels),
        replace(data, groups=train.ids),
        replace(data, read=lambda row: tf.constant(b"other")),
        load(photos, seed=1),
    ):
        with pytest.raises(UserError, match="other examples, labels, groups"):
            prepare(changed, out, max_side=32)
    renamed = dataclasses.replace(data, source="others")
    with pytest.raises(UserError, match=r"photos \(folder\) then, others"):
        prepare(renamed, out, max_side=32)


def test_settings_must_make_sense(data, tmp_path):
    for options, message in (
        ({"file_format": "tfrecords"}, "Did you mean 'tfrecord'"),
        ({"shard_bytes": 0}, "shard_bytes is 0"),
        ({"max_side": 0}, "max_side is 0"),
        ({"max_side": 99_999}, "at most 65,500"),
        ({"max_side": 10, "quality": 101}, "quality is 101"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(data, str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_the_directory_must_be_free(data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"something else \(notes\.txt\)"):
        prepare(data, str(tmp_path))
    with pytest.raises(UserError, match="which is a file"):
        prepare(data, str(tmp_path / "notes.txt"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/prepare.json").write_text("[1]")
    with pytest.raises(UserError, match="something else"):
        prepare(data, str(tmp_path / "other"))
    assert (tmp_path / "other/prepare.json").read_text() == "[1]"
    with pytest.raises(UserError, match="on a local disk"):
        prepare(data, "gs://bucket/out", "array_record")
    with pytest.raises(UserError, match="no file system that TFDS knows"):
        prepare(data, "ftp://bucket/out")
    names = ("a\nb", " c")
    with pytest.raises(UserError, match=r"class called 'a\\nb'"):
        prepare(
            dataclasses.replace(data, class_names=names), str(tmp_path / "out")
        )


def test_an_image_that_is_gone_stops_it(photos, tmp_path):
    data = load(photos, validation=0.0)
    path = photos / data.splits["train"].ids[7]
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(UserError, match=f"{path.name}.*be read") as error:
            prepare(data, str(tmp_path / "out"), max_side=20)
    finally:
        path.write_bytes(content)
    assert "train split could not be read" in error.value.message


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_full_disk_is_told_and_got_over(data, whole, tmp_path, file_format):
    out = str(tmp_path / "out")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # The kernel refuses what goes beyond, as a full disk does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limit[1]))
        with pytest.raises(UserError, match=r"too large.*Make room.*goes on"):
            prepare(data, out, file_format, **SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    prepare(data, out, file_format, **SMALL)
    if file_format == "tfrecord":
        assert contents(out) == contents(whole)
    assert len(Prepared(out, verify=True).splits["train"]) == 48


def test_object_stores_are_written_through_tensorflow(data, whole, monkeypatch):
    # "ram://" is a file system of TensorFlow's alone; TFDS is told of it.
    prefixes = (*gpath._URI_PREFIXES, "ram://")
    schemes = gpath._URI_SCHEMES | {"ram"}
    monkeypatch.setattr(gpath, "_URI_PREFIXES", prefixes)
    monkeypatch.setattr(gpath, "_URI_SCHEMES", schemes)
    monkeypatch.setitem(gpath._URI_MAP_ROOT, "ram://", "/ram/")
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "ram", None)
    monkeypatch.setitem(
        register._URI_PREFIXES_TO_CLS, "ram://", gpath.PosixGPath
    )
    with pytest.raises(Stopped):
        prepare(data, "ram://out", **SMALL, progress=stop_after(20))
    report = prepare(data, "ram://out", **SMALL)
    assert report.kept > 0
    expected = contents(whole)
    assert set(tf.io.gfile.listdir("ram://out")) == set(expected)
    for name, digest in expected.items():
        with tf.io.gfile.GFile(f"ram://out/{name}", "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == digest
    for in_memory_bytes in (0, 1 << 30):
        source = Prepared("ram://out", in_memory_bytes, verify=True)
        train = images(source.splits["train"])
        assert train == images(data.splits["train"])


def test_where_nothing_may_be_written_it_is_told(data):
    with pytest.raises(UserError, match="permission to read and write"):
        prepare(data, "/proc/prepared")
