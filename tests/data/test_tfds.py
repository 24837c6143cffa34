"""TFDS data sets, prepared, faked, unavailable; without a network."""

import json
import socket
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums, resource

from framework.data import network
from framework.data.images import decode
from framework.data.source import IndexedExamples, StreamedExamples
from framework.data.tfds import Known, Tfds, rendered_hands, with_groups
from framework.errors import SourceUnavailable, UserError
from framework.registry import SOURCES

SIZES = {"train": 30, "validation": 6, "test": 7}


def pixels(number: int) -> np.ndarray:
    return np.full([4, 6, 3], number, np.uint8)


with tfds.core.registered.skip_registration():

    class Dots(tfds.core.GeneratorBasedBuilder):
        """Numbered grey images; classes not in the order of the alphabet."""

        VERSION = tfds.core.Version("1.2.3")
        shards = 4

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(None, None, 3)),
                        "label": tfds.features.ClassLabel(names=["z", "a"]),
                        "number": tfds.features.Scalar(tf.int64),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {s: self._generate_examples(n) for s, n in SIZES.items()}

        def _generate_examples(self, size):
            for i in range(size):
                yield (
                    i,
                    {"image": pixels(i), "label": i % 2, "number": i},
                )

        def download_and_prepare(self, download_config, **options):
            super().download_and_prepare(
                download_config=download_config.replace(num_shards=self.shards),
                **options,
            )

    class Downloaded(Dots):
        """Wants one file from the network."""

        url = "http://127.0.0.1:9/numbers.txt"
        content = b"some numbers"
        url_infos = {  # noqa: RUF012
            url: checksums.UrlInfo(
                size=len(content),
                checksum=checksums.sha256(content.decode()),
                filename="numbers.txt",
            )
        }

        def _split_generators(self, dl_manager):
            Path(dl_manager.download(self.url)).read_bytes()
            return super()._split_generators(dl_manager)

    class Broken(Dots):
        """Fails while it is written."""

        def _generate_examples(self, size):
            yield from list(super()._generate_examples(size))[:2]
            raise RuntimeError("no more numbers")

    class ByHand(Dots):
        """Wants files that somebody has to fetch."""

        MANUAL_DOWNLOAD_INSTRUCTIONS = "Ask the owner for dots.tar."

        def _split_generators(self, dl_manager):
            if not (dl_manager.manual_dir / "dots.tar").exists():
                raise AssertionError("dots.tar is missing")
            return super()._split_generators(dl_manager)

    class Boxes(Dots):
        """Not for classification."""

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {"image": tfds.features.Image(), "size": tf.int64}
                ),
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("prepared"))
    Tfds(builder=Dots, data_dir=place)
    return place


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)


def read(dataset):
    return [
        (e["id"].decode(), int(e["label"]), int(decode(e["image"])[0, 0, 0]))
        for e in dataset.as_numpy_iterator()
    ]


def seed(number):
    return tf.constant(number, tf.int64)


def test_a_small_data_set_is_held_in_memory_encoded(prepared):
    source = Tfds(builder=Dots, data_dir=prepared)
    assert source.name == "dots 1.2.3 (TFDS)"
    assert source.class_names == ("z", "a")
    assert {k: len(v) for k, v in source.splits.items()} == SIZES
    train = source.splits["train"]
    assert isinstance(train, IndexedExamples)
    assert len(set(train.ids)) == 30
    assert train.ids[0] == "dots-train.tfrecord-00000-of-00004__0"
    dataset = tf.data.Dataset.from_tensor_slices(train.rows).map(train.read)
    assert dataset.element_spec.dtype == tf.string
    numbers = [decode(image)[0, 0, 0].numpy() for image in dataset]
    assert sorted(numbers) == list(range(30))
    np.testing.assert_array_equal(np.array(numbers) % 2, train.labels)


def test_ids_are_those_of_tfds(prepared):
    train = Tfds(builder=Dots, data_dir=prepared).splits["train"]
    config = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
    dataset = Dots(data_dir=prepared).as_dataset(
        split="train", read_config=config
    )
    ids = [e["tfds_id"].decode() for e in dataset.as_numpy_iterator()]
    assert ids == list(train.ids)


def streamed(prepared, window=8):
    source = Tfds(
        builder=Dots, data_dir=prepared, in_memory_bytes=0, window=window
    )
    return source.splits["train"]


def test_a_large_data_set_is_streamed(prepared):
    train = streamed(prepared)
    assert isinstance(train, StreamedExamples)
    assert (len(train), train.window) == (30, 8)
    in_order = read(train.stream(seed(-1)))
    held = Tfds(builder=Dots, data_dir=prepared).splits["train"]
    assert [e[0] for e in in_order] == list(held.ids)
    assert [e[1] for e in in_order] == list(held.labels)
    assert all(label == number % 2 for _, label, number in in_order)


def test_the_order_is_a_function_of_the_seed_alone(prepared):
    train = streamed(prepared)
    orders = []
    for number, global_seed in ((0, 1), (0, 2), (1, 1)):
        tf.random.set_seed(global_seed)
        dataset = train.stream(seed(number))
        orders.append(read(dataset))
        assert read(dataset) == orders[-1]  # Nor of how often it is read.
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    shards = [identity.partition("__")[0] for identity, _, _ in orders[0]]
    assert shards != sorted(shards)


def test_the_seed_may_come_from_the_graph(prepared):
    train = streamed(prepared)
    epochs = tf.data.Dataset.range(2).flat_map(train.stream)
    both = read(epochs)
    assert both[:30] == read(train.stream(seed(0)))
    assert both[30:] == read(train.stream(seed(1)))


def test_slices_partition_a_stream(prepared):
    train = streamed(prepared)
    whole = read(train.stream(seed(-1)))
    cuts = [(0.0, 0.25), (0.25, 0.9), (0.9, 1.0)]
    slices = [train.slice(*cut) for cut in cuts]
    together = [e for s in slices for e in read(s.stream(seed(-1)))]
    assert together == whole
    assert sum(map(len, slices)) == 30
    inner = train.slice(0.5, 1.0).slice(0.0, 0.2)
    assert read(inner.stream(seed(-1))) == whole[15:18]
    rest, part = train.cut(0.1, seed=0)
    assert (len(rest), len(part)) == (27, 3)
    assert sorted(read(rest.stream(seed(3)))) == sorted(whole[:27])


def test_it_is_prepared_once(prepared, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("prepared again")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    monkeypatch.setattr(network, "unreachable", fail)
    Tfds(builder=Dots, data_dir=prepared)


def test_the_environment_says_where_unless_the_user_does(
    prepared, monkeypatch, tmp_path
):
    monkeypatch.setenv("TFDS_DATA_DIR", prepared)
    assert len(Tfds(builder=Dots).splits["train"]) == 30
    Tfds(builder=Dots, data_dir=str(tmp_path))
    assert (tmp_path / "dots" / "1.2.3").exists()


def test_without_a_network_there_are_three_ways_out(tmp_path, offline):
    place = tmp_path / "tfds"
    with pytest.raises(SourceUnavailable) as error:
        Tfds(builder=Downloaded, data_dir=str(place))
    message = str(error.value)
    assert "Network is unreachable" in message
    assert "TFDS_DATA_DIR" in message
    assert "import Downloaded as b; b(data_dir='tfds')" in message
    assert f"{place}/downloads/manual/numbers.txt" in message
    assert "gin/folder.gin" in message
    assert not place.exists()


@pytest.mark.parametrize("name", ["mnist", "mnist:3.*.*", "cats_vs_dogs"])
def test_real_builders_are_unavailable_too_and_write_nothing(
    tmp_path, offline, name
):
    with pytest.raises(SourceUnavailable, match=f"tfds.builder\\('{name[:5]}"):
        Tfds(name, data_dir=str(tmp_path / "tfds"))
    assert not (tmp_path / "tfds").exists()


def test_an_archive_put_in_place_by_hand_is_enough(tmp_path, offline):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "numbers.txt").write_bytes(Downloaded.content)
    source = Tfds(builder=Downloaded, data_dir=str(tmp_path))
    assert len(source.splits["train"]) == 30


def test_an_archive_downloaded_before_is_enough(tmp_path, offline):
    info = Downloaded.url_infos[Downloaded.url]
    name = resource.get_dl_fname(Downloaded.url, info.checksum)
    archive = tmp_path / "downloads" / name
    archive.parent.mkdir()
    archive.write_bytes(Downloaded.content)
    with pytest.raises(SourceUnavailable):
        Tfds(builder=Downloaded, data_dir=str(tmp_path))
    Path(f"{archive}.INFO").write_text(
        json.dumps({"original_fname": "numbers.txt"})
    )
    assert Tfds(builder=Downloaded, data_dir=str(tmp_path)).splits


def test_a_download_that_fails_is_unavailable_and_leaves_nothing(
    tmp_path, monkeypatch
):
    # The probe passes; port 9 of this machine then refuses.
    monkeypatch.setattr(network, "unreachable", lambda urls: None)

    def fail(self, url):
        folder = self._download_dir / f"numbers.tmp.{'0' * 32}"
        folder.mkdir(parents=True)
        raise ConnectionError("it broke")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    place = tmp_path / "tfds"
    with pytest.raises(SourceUnavailable, match="download failed: it broke"):
        Tfds(builder=Downloaded, data_dir=str(place))
    assert not place.exists()


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    place = tmp_path / "tfds"
    with pytest.raises(UserError, match="no more numbers") as error:
        Tfds(builder=Broken, data_dir=str(place))
    assert not isinstance(error.value, SourceUnavailable)
    assert not place.exists()


def test_data_sets_by_hand_say_what_to_fetch(tmp_path):
    with pytest.raises(UserError, match=r"found nothing there.*Ask the owner"):
        Tfds(builder=ByHand, data_dir=str(tmp_path / "tfds"))
    assert not (tmp_path / "tfds").exists()
    manual = tmp_path / "manual"
    manual.mkdir()
    (manual / "other.tar").write_bytes(b"")
    options = {"data_dir": str(tmp_path / "tfds"), "manual_dir": str(manual)}
    with pytest.raises(UserError, match="tar is missing"):
        Tfds(builder=ByHand, **options)
    (manual / "dots.tar").write_bytes(b"")
    assert Tfds(builder=ByHand, **options).class_names == ("z", "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "rock_paper_scisors"}, "mean 'rock_paper_scissors'"),
        ({"name": "mnisst:3.*.*"}, "Did you mean 'mnist'"),
        ({"name": "mnist:9.9.9"}, "only: 3.0.1"),
        ({"name": "mnist/none"}, "none not found"),
        ({"name": "imdb_reviews"}, "text: Text.*image classification"),
        ({"builder": Boxes}, "expected an Image"),
        ({}, "one of the two"),
    ],
)
def test_mistakes_are_user_errors(tmp_path, options, message):
    with pytest.raises(UserError, match=message) as error:
        Tfds(data_dir=str(tmp_path / "tfds"), **options)
    assert not isinstance(error.value, SourceUnavailable)
    assert not (tmp_path / "tfds").exists()


def test_a_directory_without_a_data_set_is_a_user_error(tmp_path):
    (tmp_path / "dots" / "1.2.3").mkdir(parents=True)
    with pytest.raises(UserError, match="Delete this directory"):
        Tfds(builder=Dots, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "class_names", "splits"),
    [
        ("rock_paper_scissors", ("rock", "paper", "scissors"), "train test"),
        ("cats_vs_dogs", ("cat", "dog"), "train"),
    ],
)
def test_fakes_of_tfds_are_sources_too(offline, name, class_names, splits):
    with tfds.testing.mock_data(num_examples=24):
        source = Tfds(name)
    assert source.class_names == class_names
    assert list(source.splits) == splits.split()
    for examples in source.splits.values():
        assert len(examples) == len(set(examples.ids)) == 24
        image = decode(examples.read(tf.constant(0, tf.int64)))
        assert image.dtype == tf.uint8
        examples.cut(0.2, seed=0)


def test_rendered_hands_is_a_registered_source(offline, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with tfds.testing.mock_data(num_examples=3):
        source = rendered_hands()
    assert source.class_names == ("rock", "paper", "scissors")
    assert list(source.splits) == ["train", "test"]
    assert "rendered_hands" in SOURCES


def test_it_is_a_registered_source(prepared):
    gin.clear_config()
    try:
        gin.bind_parameter("Tfds.name", "dots")
        gin.bind_parameter("Tfds.data_dir", prepared)
        # TFDS knows a prepared data set by name even without its code.
        assert SOURCES["Tfds"]().class_names == ("z", "a")
    finally:
        gin.clear_config()


def test_keys_that_are_known_tell_records_and_groups(prepared):
    source = Tfds("dots", data_dir=prepared)
    known = {
        "train": {str(i): Known("za"[i % 2], f"g{i // 10}") for i in range(30)}
    }
    grouped = with_groups(source, known)
    examples = grouped.splits["train"]
    assert not grouped.notes
    assert sorted(examples.ids, key=int) == [str(i) for i in range(30)]
    for i, key in enumerate(examples.ids):
        image = decode(examples.read(tf.constant(examples.rows[i])))
        assert int(image[0, 0, 0]) == int(key)
        assert examples.groups[i] == f"g{int(key) // 10}"
    assert grouped.splits["test"].groups is None


def test_other_records_than_those_known_stay_without_groups(prepared):
    source = Tfds("dots", data_dir=prepared)
    for labels, names in (("za", range(29)), ("az", range(30))):
        known = {"train": {str(i): Known(labels[i % 2], "g") for i in names}}
        other = with_groups(source, known)
        assert "groups are not known" in other.notes[0]
        assert other.splits["train"].groups is None
        assert other.splits["train"].ids.tolist() == (
            source.splits["train"].ids.tolist()
        )
