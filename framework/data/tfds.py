"""Turns a data set of tensorflow-datasets (TFDS) into a source.

Images stay encoded, as they were written. A split that fits into memory is
held there and can be indexed; a larger one is streamed from its shards.
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
import shutil
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing
from tensorflow_datasets.core.download import resource

from framework.data import network
from framework.data.source import (
    IndexedExamples,
    Source,
    StreamedExamples,
)
from framework.errors import SourceUnavailable, UserError
from framework.registry import SOURCES, nearest

_GIB = 1 << 30
# Of an ArrayRecord file: few enough to hold, many enough to open it for.
_RECORDS_AT_ONCE = 64

Builder = tfds.core.DatasetBuilder


@SOURCES.register()
def Tfds(
    name: str | None = None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    in_memory_bytes: int = _GIB,
    window: int = 10_000,
    builder: Callable[..., Builder] | None = None,
) -> Source:
    """An image classification data set of TFDS, downloaded where needed.

    Its own class names, order and splits are kept. What is prepared already
    is only opened. What is not is prepared at once where its archives lie in
    place or nothing is to be downloaded; otherwise the network is tried first,
    for 5 seconds, since TFDS itself takes minutes to give up.

    Args:
        name: as `tfds.builder` takes it: "rock_paper_scissors",
            "mnist:3.*.*", "cifar10_corrupted/fog_5".
        data_dir: where prepared data sets lie and are written to; by default
            the environment variable TFDS_DATA_DIR, else
            `~/tensorflow_datasets`.
        manual_dir: where archives lie that were downloaded by hand;
            `data_dir/downloads/manual` by default.
        in_memory_bytes: splits up to this size are held in memory, encoded,
            and can be indexed.
        window: how many examples a larger split's shuffle looks ahead.
        builder: a builder class of your own in place of `name`; called with
            `data_dir`.

    Raises:
        SourceUnavailable: not prepared, and no network to download it.
        UserError: there is no such data set, it is not one of labelled
            images, or it could not be prepared.
    """
    data_dir = os.path.expanduser(
        data_dir
        or os.environ.get("TFDS_DATA_DIR")
        or os.path.join("~", "tensorflow_datasets")
    )
    made = _make_builder(name, builder, data_dir)
    _keys(made)
    if not made.info.splits and not _serves_unprepared(made):
        _prepare(made, manual_dir and os.path.expanduser(manual_dir))
        # It reads from disk what was written, whoever has written it.
        made = _make_builder(name, builder, data_dir)
        _check_prepared(made)
    return builder_source(made, in_memory_bytes, window)


@SOURCES.register()
def rendered_hands(data_dir: str | None = None) -> Source:
    """Rock, paper and scissors as computer graphics, rendered when first used.

    Nothing is downloaded: it can stand in for rock_paper_scissors.

    Args:
        data_dir: as for `Tfds`.
    """
    # Rendering needs more than reading does; only who renders imports it.
    from framework.data.rendered_hands.builder import RenderedHands

    return Tfds(builder=RenderedHands, data_dir=data_dir)


def builder_source(
    builder: Builder, in_memory_bytes: int, window: int, own_ids: bool = False
) -> Source:
    """What a builder serves, as a source.

    Args:
        builder: prepared, or one that serves without being prepared.
        in_memory_bytes: splits up to this size are held in memory.
        window: how many examples a larger split's shuffle looks ahead.
        own_ids: whether features that are texts called "id" and "group", where
            there are such, are the examples' ids and groups. (Groups of what
            is held in memory: a stream has none.)

    Raises:
        UserError: it is not a data set of labelled images.
    """
    image, label = _keys(builder)
    if builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD:
        check_array_record(builder.data_dir)
    texts = []
    if own_ids:
        features = dict(builder.info.features.items())
        texts = [
            name
            for name in ("id", "group")
            if isinstance(features.get(name), tfds.features.Text)
        ]
    splits, notes = {}, []
    for split in _split_names(builder):
        reader = _Reader(builder, split, image, label, texts)
        if not reader.has_files():
            splits[split] = reader.unprepared()
        elif builder.info.splits[split].num_bytes <= in_memory_bytes:
            splits[split] = reader.in_memory()
        else:
            splits[split] = reader.streamed(window)
            if "group" in texts:
                notes.append(
                    f"The {split} split is streamed: its groups are not known "
                    "before they are read, and what is cut off from it may "
                    "part them."
                )
    return Source(
        name=f"{builder.info.full_name.replace('/', ' ')} (TFDS)",
        class_names=tuple(builder.info.features[label].names),
        splits={split: e for split, e in splits.items() if len(e)},
        notes=tuple(notes),
    )


def check_array_record(directory: Any) -> None:
    """Raises a UserError where ArrayRecord files can't be read or written."""
    if "://" in os.fspath(directory):
        raise UserError(
            f"Received ArrayRecord files in {shown(directory)!r}; expected "
            "them on a local disk, since their library reads no other. Copy "
            "them, or take TFRecord files."
        )
    if importlib.util.find_spec("array_record") is None:
        raise UserError(
            "ArrayRecord files need the package array_record, which is not "
            "installed here (there is one for Linux only). Take TFRecord files."
        )


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of an example from outside of its data set.

    Attributes:
        class_name: its class.
        group: what it shares a side of every split with; "" for nothing.
    """

    class_name: str
    group: str = ""


def with_groups(
    source: Source, known: Mapping[str, Mapping[str, Known]]
) -> Source:
    """Gives examples of TFDS the groups that their keys tell.

    TFDS keeps no keys (file names, mostly), but writes a split in the order
    of their hashes, which has been the same in all versions: who knows the
    keys knows which record is which. That the classes of all records agree is
    checked; where they don't, it is another data set (one of
    `tfds.testing.mock_data`, say), which stays without groups and gets a note.

    Args:
        source: what `Tfds` returns.
        known: by split, by the key that the builder yields.

    Returns:
        the source with the groups, and with the keys as ids.
    """
    splits, notes = dict(source.splits), []
    for split, by_key in known.items():
        if split not in splits:
            continue
        examples = splits[split]
        hasher = hashing.Hasher(split)
        keys = sorted(by_key, key=hasher.hash_key)
        expected = [by_key[key].class_name for key in keys]
        if not isinstance(examples, IndexedExamples) or expected != [
            source.class_names[label] for label in examples.labels
        ]:
            notes.append(
                f"The {split} split is not in the order that TFDS gives the "
                f"{len(keys)} examples which are known, or is streamed: its "
                "groups are not known, and what is cut off from it may part "
                "them."
            )
            continue
        splits[split] = dataclasses.replace(
            examples,
            ids=np.array(keys, object),
            groups=np.array([by_key[key].group for key in keys], object),
        )
    return dataclasses.replace(
        source, splits=splits, notes=(*source.notes, *notes)
    )


# Finding the builder.


def _make_builder(
    name: str | None,
    builder: Callable[..., Builder] | None,
    data_dir: str,
) -> Builder:
    """Makes it; writes nothing."""
    if (name is None) == (builder is None):
        raise UserError(
            f"Received Tfds.name = {name!r} and Tfds.builder = {builder!r}; "
            'expected one of the two. Give a name: "rock_paper_scissors".'
        )
    if builder is not None:
        return builder(data_dir=data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        hint = nearest(name.split("/")[0].split(":")[0], known)
        raise UserError(
            f"Received the TFDS name {name!r}; expected one of the "
            f"{len(known)} data sets that this version of TFDS knows, or one "
            f"prepared in {data_dir!r}. {hint + ' ' if hint else ''}See "
            "https://www.tensorflow.org/datasets/catalog/overview."
        ) from error
    except (AssertionError, ValueError, TypeError, ImportError) as error:
        # A version or a configuration that there is not; TFDS says which
        # there are.
        raise UserError(
            f"Received the TFDS name {name!r}, which TFDS refuses: "
            f"{brief(error)} Expected a name as in "
            '"mnist", "mnist:3.*.*" or "cifar10_corrupted/fog_5". Correct '
            "Tfds.name."
        ) from error


def _keys(builder: Builder) -> tuple[str, str]:
    """The names of the features that are the image and its class."""
    features = {}
    if isinstance(builder.info.features, tfds.features.FeaturesDict):
        features = dict(builder.info.features.items())
    image, label = "image", "label"
    keys = builder.info.supervised_keys
    if keys and len(keys) == 2 and all(isinstance(k, str) for k in keys):
        image, label = keys
    image_feature = features.get(image)
    label_feature = features.get(label)
    if (
        not isinstance(image_feature, tfds.features.Image)
        or image_feature.np_dtype not in (np.uint8, np.uint16)
        or not isinstance(label_feature, tfds.features.ClassLabel)
    ):
        has = ", ".join(f"{k}: {type(v).__name__}" for k, v in features.items())
        raise UserError(
            f"Received the TFDS data set {builder.info.full_name!r}, which has "
            f"{has or type(builder.info.features).__name__}; expected an "
            "Image of 8 or 16 bits and a ClassLabel, called image and label or "
            "named by its supervised_keys. Choose a data set for image "
            "classification: "
            "https://www.tensorflow.org/datasets/catalog/overview."
        )
    return image, label


def _serves_unprepared(builder: Builder) -> bool:
    """Whether it gives examples as it is, as under `testing.mock_data`."""
    try:
        builder.as_dataset(split="train")
    except Exception:  # Every builder has its own way to say no.
        return False
    return True


def _split_names(builder: Builder) -> list[str]:
    """The splits, also of a builder that serves without being prepared."""
    if builder.info.splits:
        return [str(name) for name in builder.info.splits]
    # Such a builder serves any split whatever; which there are its code says.
    # It is given a download manager whose files are all empty.
    nowhere = Path(os.devnull)

    def like(urls: Any, *_: Any, **__: Any) -> Any:
        return tf.nest.map_structure(lambda _: nowhere, urls)

    manager = types.SimpleNamespace(
        download=like,
        extract=like,
        download_and_extract=like,
        iter_archive=lambda *_: iter(()),
        manual_dir=nowhere,
        download_dir=nowhere,
    )
    try:
        splits = builder._split_generators(manager)
    except Exception:  # It looks into its files at once.
        return ["train"]
    if isinstance(splits, dict):
        return [str(name) for name in splits]
    return [str(split.name) for split in splits]


# Preparing.


def _prepare(builder: Builder, manual_dir: str | None) -> None:
    """Downloads, if need be, and writes the data set; all or nothing."""
    by_hand = _manual_dir(builder, manual_dir)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        # What its checksums are of is not what would be downloaded.
        missing = {}
        if not _exists(by_hand) or not tf.io.gfile.listdir(str(by_hand)):
            raise _by_hand(builder, by_hand)
    else:
        missing = _missing_archives(builder, manual_dir)
    if missing:
        reason = network.unreachable(missing)
        if reason:
            raise _unavailable(builder, f"no network: {reason}", missing)
    config = tfds.download.DownloadConfig(
        try_download_gcs=False, manual_dir=manual_dir
    )
    try:
        with _removed_on_failure(builder):
            builder.download_and_prepare(download_config=config)
    except Exception as error:
        if _exists(builder.data_path):
            return  # Another process was faster.
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            raise _by_hand(builder, by_hand, error) from error
        # What is broken after the download is not cured by a network.
        missing = missing and _missing_archives(builder, manual_dir)
        if missing:
            raise _unavailable(
                builder, f"the download failed: {brief(error)}", missing
            ) from error
        raise UserError(
            f"TFDS could not prepare {builder.info.full_name!r}: "
            f"{type(error).__name__}: {brief(error)} Expected whole archives "
            f"in {shown(_downloads(builder))!r}, room on the disk and "
            "permission to write there. Delete a damaged archive, or set "
            "TFDS_DATA_DIR to another directory."
        ) from error


def _check_prepared(builder: Builder) -> None:
    if not builder.info.splits:
        raise UserError(
            f"Received {shown(builder.data_path)!r}, which holds no complete "
            "data set; expected one that TFDS has prepared. Delete this "
            "directory, so that it is prepared again."
        )


def _by_hand(
    builder: Builder, place: Any, error: Exception | None = None
) -> UserError:
    found = (
        f"could not use what is there ({brief(error)})"
        if error
        else ("found nothing there")
    )
    instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
    return UserError(
        f"Received the TFDS data set {builder.info.full_name!r}, which has to "
        f"be downloaded by hand; expected its files in {shown(place)!r}, or "
        f"where Tfds.manual_dir says, and {found}. What to put there: "
        f"{instructions}"
    )


def _missing_archives(
    builder: Builder, manual_dir: str | None
) -> dict[str, Any]:
    """What is still to be downloaded: by address, where it may be put.

    Of a builder without recorded checksums nothing is known; it counts as
    one that needs nothing, and fails where that is wrong.
    """
    missing = {}
    downloads = _downloads(builder)
    for url, info in (builder.url_infos or {}).items():
        cached = resource.get_dl_fname(url, info.checksum)
        # Its present and its former place. Without the .INFO file beside it
        # TFDS ignores an archive.
        places = [downloads / builder.name / cached, downloads / cached]
        if any(_exists(p) and _exists(f"{p}.INFO") for p in places):
            continue
        # Under its own name TFDS takes it from here, and needs no .INFO.
        by_hand = _manual_dir(builder, manual_dir) / (info.filename or cached)
        if not (info.filename and _exists(by_hand)):
            missing[url] = by_hand if info.filename else places[1]
    return missing


def _downloads(builder: Builder) -> Any:
    return builder.data_dir_root / "downloads"


def _manual_dir(builder: Builder, manual_dir: str | None) -> Any:
    if manual_dir:
        return tfds.core.Path(manual_dir)
    return _downloads(builder) / "manual"


def _exists(path: Any) -> bool:
    return tf.io.gfile.exists(os.fspath(path))


def shown(path: Any) -> str:
    """A path as messages give it: where it is, whatever it is relative to."""
    path = os.fspath(path)
    return path if "://" in path else os.path.abspath(path)


def _unavailable(
    builder: Builder, reason: str, missing: dict[str, Any]
) -> SourceUnavailable:
    full_name = builder.info.full_name
    downloads = _downloads(builder)
    archives = "".join(
        f"\n         {url}\n           -> {shown(path)}"
        for url, path in missing.items()
    )
    if any(path.parent == downloads for path in missing.values()):
        archives += (
            f"\n       Beside each directly in {shown(downloads)}, TFDS wants"
            ' a file of its name + ".INFO" that says {"original_fname": "..."}:'
            " the last part of the address."
        )
    if type(builder).__module__.startswith("tensorflow_datasets."):
        made = f"import tensorflow_datasets as tfds; tfds.builder('{full_name}'"
        made = made.rpartition("/")[0] + "'"
    else:
        # Of somebody's own, unknown to TFDS by name.
        kind = type(builder)
        made = f"from {kind.__module__} import {kind.__name__} as b; b("
    separator = "" if made.endswith("(") else ", "
    return SourceUnavailable(
        f"The TFDS data set {full_name!r} is not in "
        f"{shown(builder.data_dir_root)!r} and cannot be downloaded "
        f"({reason.rstrip('.')}). Expected it prepared, its archives, or a "
        "network. Three ways out:\n"
        "  (1) Prepare it on a machine with a network,\n"
        f'         python -c "{made}{separator}'
        "data_dir='tfds').download_and_prepare()\"\n"
        "       copy the directory tfds here and set TFDS_DATA_DIR (or "
        "Tfds.data_dir) to it.\n"
        f"  (2) Download by other means, and put in place:{archives}\n"
        "  (3) Train on a folder of images, one folder per class: "
        "gin/folder.gin."
    )


@contextlib.contextmanager
def _removed_on_failure(builder: Builder) -> Iterator[None]:
    """Removes what a failed attempt leaves: partial downloads, empty folders.

    TFDS itself removes the data set that it was writing. Archives that did
    arrive stay: the next attempt begins with them.
    """
    root = os.fspath(builder.data_dir_root)
    if "://" in root:  # Object stores have no folders to leave behind.
        yield
        return
    downloads = Path(root) / "downloads"
    partial = f"**/*.tmp.{'[0-9a-f]' * 32}"
    own = Path(builder.data_dir)
    # From the inside out.
    folders = [
        *(p for p in own.parents if Path(root) in p.parents),
        downloads / "extracted",
        downloads / builder.name,
        downloads,
        Path(root),
    ]
    folders = [folder for folder in folders if not folder.exists()]
    before = set(downloads.glob(partial))
    try:
        yield
    except BaseException:
        for path in set(downloads.glob(partial)) - before:
            shutil.rmtree(path, ignore_errors=True)
        for folder in folders:
            with contextlib.suppress(OSError):  # Not empty, or not made.
                folder.rmdir()
        raise


def brief(error: BaseException, length: int = 300) -> str:
    """What another library's error says, in one line and not too many words."""
    text = " ".join(str(error).split()) or type(error).__name__
    # Where in its graph TensorFlow was.
    text = re.sub(r"\{\{.*?\}\} ?|Error in user-def.*Iterator::\S* ", "", text)
    text = text if len(text) <= length else text[: length - 3] + "..."
    return text if text.endswith(".") else text + "."


# Reading.


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A run of records in one file.

    Attributes:
        path: of the file.
        skip: how many records to leave out at its beginning.
        take: how many records to read then.
    """

    path: str
    skip: int
    take: int


class _Reader:
    """Reads one split; an example's id is its file's name and its place.

    Unless the feature "id" is among the `texts` that it reads besides.
    """

    def __init__(
        self,
        builder: Builder,
        split: str,
        image: str,
        label: str,
        texts: Sequence[str] = (),
    ):
        self._builder = builder
        self._split = split
        self._image, self._label = image, label
        self._texts = texts
        # Other features are not even parsed.
        wanted = tfds.decode.PartialDecoding(
            dict.fromkeys((image, label, *texts), True)
        )
        self._features = wanted.extract_features(builder.info.features)

    def _shards(self) -> list[_Shard]:
        if self._split not in self._builder.info.splits:
            return []
        return [
            _Shard(os.fspath(i.filename), i.skip, i.take)
            for i in self._builder.info.splits[self._split].file_instructions
        ]

    def has_files(self) -> bool:
        shards = self._shards()
        return bool(shards) and _exists(shards[0].path)

    def in_memory(self) -> IndexedExamples:
        shards = self._shards()
        dataset = self._read(
            shards, tf.constant(-1, tf.int64), 1, with_groups=True
        )
        try:
            return self._hold(dataset, sum(s.take for s in shards))
        except tf.errors.OpError as error:
            raise UserError(
                f"The {self._split} split in "
                f"{shown(self._builder.data_dir)!r} could not be read: "
                f"{brief(error)} Expected whole files. Fetch or prepare them "
                "again."
            ) from error

    def unprepared(self) -> IndexedExamples:
        """What the builder serves without files (fakes), held in memory."""
        dataset = self._builder.as_dataset(
            split=self._split,
            decoders={self._image: tfds.decode.SkipDecoding()},
        )

        name = self._builder.name

        def example(index, features):
            image = features[self._image]
            if image.dtype != tf.string:
                image = tf.io.encode_png(image)
            number = tf.strings.as_string(index)
            return {
                "image": image,
                "label": tf.cast(features[self._label], tf.int64),
                "id": tf.strings.join([f"{name}-{self._split}__", number]),
            }

        dataset = dataset.enumerate().map(example)
        return self._hold(dataset, sum(1 for _ in dataset))

    def _hold(self, dataset: tf.data.Dataset, size: int) -> IndexedExamples:
        # One batch of all: TensorFlow keeps the bytes, Python sees none.
        none = {"image": tf.constant([], tf.string), "label": [], "id": []}
        batch = next(iter(dataset.batch(max(size, 1))), none)
        images = batch["image"]

        def texts(name):
            found = [str(t, "utf-8") for t in np.asarray(batch[name])]
            return np.array(found, object)

        return IndexedExamples(
            ids=texts("id"),
            labels=np.asarray(batch["label"], np.int64),
            rows=np.arange(len(images), dtype=np.int64),
            read=lambda row: tf.gather(images, row),
            groups=texts("group") if "group" in batch else None,
        )

    def streamed(
        self, window: int, shards: list[_Shard] | None = None
    ) -> StreamedExamples:
        shards = self._shards() if shards is None else shards
        size = sum(shard.take for shard in shards)
        return StreamedExamples(
            size=size,
            stream=lambda seed: self._read(shards, seed, window),
            slice=lambda begin, end: self.streamed(
                window, _cut(shards, round(begin * size), round(end * size))
            ),
            window=window,
        )

    def _read(
        self,
        shards: list[_Shard],
        seed: tf.Tensor,
        window: int,
        with_groups: bool = False,
    ) -> tf.data.Dataset:
        """All examples of `shards`, in an order that `seed` alone decides."""
        paths = [shard.path for shard in shards]
        names = [os.path.basename(path) for path in paths]
        skips = np.array([shard.skip for shard in shards], np.int64)
        takes = np.array([shard.take for shard in shards], np.int64)
        file_format = self._builder.info.file_format
        if file_format is tfds.core.FileFormat.ARRAY_RECORD:
            read = _array_records
        else:
            adapter = tfds.core.file_adapters.ADAPTER_FOR_FORMAT[file_format]

            def read(path, skip, take):
                return adapter.make_tf_data(path).skip(skip).take(take)

        decoders = {self._image: tfds.decode.SkipDecoding()}

        def records(shard):
            skip, take = tf.gather(skips, shard), tf.gather(takes, shard)
            found = read(tf.gather(paths, shard), skip, take)
            found = found.enumerate(start=skip)
            return found.map(lambda index, record: (shard, index, record))

        def example(shard, index, record):
            features = self._features.deserialize_example(
                record, decoders=decoders
            )
            number = tf.strings.as_string(index)
            name = tf.gather(names, shard)
            found = {
                "image": features[self._image],
                "label": tf.cast(features[self._label], tf.int64),
                "id": tf.strings.join([name, number], separator="__"),
            }
            return found | {
                text: features[text]
                for text in self._texts
                if text == "id" or with_groups
            }

        def in_order_of(seed):
            # `shuffle` mixes TensorFlow's global seed into its own; here, in
            # a graph of its own, this sets the one that it sees (to no 0, which
            # TensorFlow would compare further).
            tf.random.set_seed(1)
            shuffled = seed >= 0
            order = tf.range(len(shards))
            order = tf.where(
                shuffled,
                tf.random.experimental.stateless_shuffle(
                    order, tf.stack([seed, 0])
                ),
                order,
            )
            dataset = tf.data.Dataset.from_tensor_slices(order)
            # One shard after the other: disks like it, and the window mixes.
            dataset = dataset.flat_map(records)
            # Shuffled before they are parsed, while they are one string each.
            return dataset.shuffle(
                tf.where(shuffled, tf.constant(window, tf.int64), 1),
                seed=seed,
                reshuffle_each_iteration=False,
            )

        seed = tf.cast(seed, tf.int64)
        dataset = tf.data.Dataset.from_tensors(seed).flat_map(in_order_of)
        dataset = dataset.map(
            example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        size = int(takes.sum())
        return dataset.apply(tf.data.experimental.assert_cardinality(size))


def _array_records(
    path: tf.Tensor, skip: tf.Tensor, take: tf.Tensor
) -> tf.data.Dataset:
    """The records `skip` to `skip + take` of an ArrayRecord file.

    TensorFlow has no operation that reads them, and TFDS no `tf.data` for them:
    a Python function does.
    """

    def read(path, begin, end):
        # Not there everywhere.
        from array_record.python import array_record_module

        reader = array_record_module.ArrayRecordReader(path.decode())
        # Says what is wrong with the file only when it is closed.
        with contextlib.closing(reader):
            return np.array(reader.read(int(begin), int(end)), object)

    def chunk(begin):
        end = tf.minimum(begin + _RECORDS_AT_ONCE, skip + take)
        records = tf.numpy_function(
            read, [path, begin, end], tf.string, stateful=False
        )
        return tf.ensure_shape(records, [None])

    begins = tf.data.Dataset.range(skip, skip + take, _RECORDS_AT_ONCE)
    return begins.map(chunk).unbatch()


def _cut(shards: list[_Shard], begin: int, end: int) -> list[_Shard]:
    """The records `begin` to `end` of all those in `shards`."""
    cut, position = [], 0
    for shard in shards:
        first = max(begin - position, 0)
        last = min(end - position, shard.take)
        if first < last:
            cut.append(_Shard(shard.path, shard.skip + first, last - first))
        position += shard.take
    return cut
