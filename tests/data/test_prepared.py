"""Directories in the format of TFDS, whoever has written them."""

import shutil

import gin
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from framework.data.images import decode
from framework.data.prepared import Prepared
from framework.data.source import IndexedExamples, StreamedExamples
from framework.data.tfds import Tfds
from framework.errors import UserError
from framework.registry import SOURCES, TASKS

FORMATS = ("tfrecord", "array_record")
SIZE = 300  # More than ArrayRecord files are read at once, in every shard.

with tfds.core.registered.skip_registration():

    class Dots(tfds.core.GeneratorBasedBuilder):
        """Numbered pictures."""

        VERSION = tfds.core.Version("1.2.3")
        more = {}  # noqa: RUF012

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=["z", "a"]),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features | self.more),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(SIZE):
                pixels = np.full([1, 2, 3], i % 256, np.uint8)
                texts = {name: f"{name} {i // 2}" for name in self.more}
                yield i, {"image": pixels, "label": i % 2, **texts}

    class NamedDots(Dots):
        """With names and groups of their own."""

        more = {  # noqa: RUF012
            "id": tfds.features.Text(),
            "group": tfds.features.Text(),
        }

    class Boxes(Dots):
        """Not for classification."""

        def _info(self):
            features = {"image": tfds.features.Image(), "size": tf.int64}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _generate_examples(self):
            yield 0, {"image": np.zeros([1, 1, 3], np.uint8), "size": 1}


def write(builder, place, file_format="tfrecord", shards=3) -> str:
    made = builder(data_dir=place, file_format=file_format)
    config = tfds.download.DownloadConfig(num_shards=shards)
    made.download_and_prepare(download_config=config)
    return str(made.data_path)


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    """The same examples in both formats."""
    place = tmp_path_factory.mktemp("dots")
    return {f: write(Dots, str(place / f), f) for f in FORMATS}


@pytest.fixture
def copy(dots, tmp_path):
    """A directory to do harm to."""
    return shutil.copytree(dots["tfrecord"], tmp_path / "copy")


def seed(number):
    return tf.constant(number, tf.int64)


def read(dataset):
    return [
        (e["id"].decode(), int(e["label"]), e["image"])
        for e in dataset.as_numpy_iterator()
    ]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_small_data_set_is_held_in_memory(dots, file_format):
    source = Prepared(dots[file_format])
    assert source.name == "dots 1.2.3 (TFDS)"
    assert source.class_names == ("z", "a")
    assert source.notes == ()
    train = source.splits["train"]
    assert isinstance(train, IndexedExamples)
    assert train.ids[-1] == f"dots-train.{file_format}-00002-of-00003__99"
    assert train.groups is None
    dataset = tf.data.Dataset.from_tensor_slices(train.rows)
    dataset = dataset.map(lambda row: decode(train.read(row))[0, 0, 0])
    numbers = list(dataset.as_numpy_iterator())
    assert sorted(numbers) == sorted(i % 256 for i in range(SIZE))
    np.testing.assert_array_equal(np.mod(numbers, 2), train.labels)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_large_one_is_streamed(dots, file_format):
    held = Prepared(dots[file_format]).splits["train"]
    source = Prepared(dots[file_format], in_memory_bytes=0, window=8)
    train = source.splits["train"]
    assert isinstance(train, StreamedExamples)
    assert (len(train), train.window) == (SIZE, 8)
    whole = read(train.stream(seed(-1)))
    assert [e[0] for e in whole] == list(held.ids)
    assert [e[1] for e in whole] == list(held.labels)
    # Slices, also such as begin and end within what is read at once.
    cuts = [(0.0, 0.1), (0.1, 0.45), (0.45, 1.0)]
    slices = [train.slice(*cut) for cut in cuts]
    assert [e for s in slices for e in read(s.stream(seed(-1)))] == whole
    # The order is a function of the seed, also of one out of a graph.
    epochs = tf.data.Dataset.range(2).flat_map(train.stream)
    both = read(epochs)
    assert both[:SIZE] == read(train.stream(seed(0)))
    assert both[:SIZE] != both[SIZE:] != whole
    assert sorted(both[:SIZE]) == sorted(both[SIZE:]) == sorted(whole)


def test_both_formats_hold_the_same(dots):
    orders = [
        [e[1:] for e in read(split.stream(seed(3)))]
        for split in (
            Prepared(dots[f], in_memory_bytes=0).splits["train"]
            for f in FORMATS
        )
    ]
    assert orders[0] == orders[1]


@pytest.mark.parametrize("file_format", FORMATS)
def test_texts_called_id_and_group_are_those(tmp_path, file_format):
    path = write(NamedDots, str(tmp_path), file_format, shards=1)
    train = Prepared(path).splits["train"]
    assert sorted(set(train.ids)) == sorted(f"id {i}" for i in range(150))
    for i, group in zip(train.ids, train.groups, strict=True):
        assert group == i.replace("id", "group")
    rest, part = train.cut(0.2, seed=0)
    assert not set(rest.groups) & set(part.groups)
    source = Prepared(path, in_memory_bytes=0)
    stream = source.splits["train"].stream(seed(-1))
    assert set(stream.element_spec) == {"image", "label", "id"}
    assert [e[0] for e in read(stream)] == list(train.ids)
    assert (
        "train split is streamed: its groups are not known" in source.notes[0]
    )


def test_elsewhere_ids_are_those_of_tfds(tmp_path):
    train = Tfds(builder=NamedDots, data_dir=str(tmp_path)).splits["train"]
    assert train.ids[0] == "named_dots-train.tfrecord-00000-of-00001__0"
    assert train.groups is None


def test_a_directory_that_is_none_or_another(dots, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Prepared(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"Correct Prepared\.directory"):
        Prepared(str(tmp_path))
    above = dots["tfrecord"].rpartition("/")[0]
    with pytest.raises(UserError, match=r"Did you mean '.*/dots/1\.2\.3'"):
        Prepared(above)
    with pytest.raises(UserError, match=r"Did you mean '.*/dots/1\.2\.3'"):
        Prepared(above.rpartition("/")[0])


def test_files_that_are_missing_are_named(copy):
    for number in (0, 2):
        (copy / f"dots-train.tfrecord-0000{number}-of-00003").unlink()
    with pytest.raises(UserError, match=r"lacks 2 of its 3 files.*-00000-of"):
        Prepared(str(copy))
    (copy / "features.json").unlink()
    with pytest.raises(UserError, match="which TFDS can't open"):
        Prepared(str(copy))
    (copy / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="which TFDS can't open"):
        Prepared(str(copy))


def test_a_data_set_of_something_else_is_refused(tmp_path):
    path = write(Boxes, str(tmp_path), shards=1)
    with pytest.raises(UserError, match=r"size: .*expected an Image"):
        Prepared(path)


@pytest.mark.parametrize("file_format", FORMATS)
def test_damage_is_told(dots, tmp_path, file_format):
    copy = shutil.copytree(dots[file_format], tmp_path / "copy")
    path = copy / f"dots-train.{file_format}-00001-of-00003"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"train split in .* could not be read"):
        Prepared(str(copy))
    with pytest.raises(UserError, match=r"verify is True.*no checksums\.json"):
        Prepared(str(copy), verify=True)


def test_verify_names_the_damaged_file(arrays, tmp_path):
    from framework.data.preparing import prepare
    from framework.task import Task

    data = Task(lambda: arrays, validation=0.2).load()
    out = tmp_path / "out"
    prepare(data, str(out), shard_bytes=8_000)
    assert Prepared(str(out), verify=True).splits.keys() == data.splits.keys()
    path = sorted(out.glob("toy-train*"))[2]
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    for in_memory_bytes in (0, 1 << 30):
        with pytest.raises(UserError, match=f"1 of the .* {path.name} "):
            Prepared(str(out), in_memory_bytes, verify=True)
    path.write_bytes(content[:100])
    with pytest.raises(UserError, match=r"\(100 bytes, once "):
        Prepared(str(out), verify=True)


def test_it_is_a_registered_source_and_task(dots):
    import tasks.prepared  # noqa: F401

    gin.bind_parameter("Prepared.directory", dots["tfrecord"])
    assert SOURCES["Prepared"]().class_names == ("z", "a")
    data = TASKS["prepared"](validation=0.2, test=0.1).load()
    assert {k: len(v) for k, v in data.splits.items()} == {
        "train": 210,
        "validation": 60,
        "test": 30,
    }
