"""Turns a task's examples into a few large files, to be read in sequence.

They form a data set of tensorflow-datasets (TFDS), which `Prepared`, TFDS and
all that builds on it can open. What is written, and in which order:

* `prepare.json`: what was asked for. It marks the directory as ours.
* The shards, and after each of them `unfinished/<shard>.json`: its checksum and
  what it holds. Only shards with such a marker count as written.
* `checksums.json`: all markers in one.
* TFDS's own description, `dataset_info.json` last of all: without it a
  directory does not open.

Nothing is renamed, since object stores can't.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from framework.console import some
from framework.data.images import decode, shrink
from framework.data.prepared import (
    CHECKSUMS,
    INFO,
    PLAN,
    checksum,
    read_json,
)
from framework.data.source import Examples, IndexedExamples
from framework.data.tfds import brief, check_array_record, shown
from framework.digests import digest
from framework.errors import UserError
from framework.registry import nearest
from framework.task import Data

FORMATS = ("tfrecord", "array_record")

_MARKERS = "unfinished"
# So many examples of a split tell how large the others are, and whether they
# are those that an earlier call has begun to write.
_SAMPLE = 256
# What a record takes beside its image, nearly.
_RECORD_BYTES = 150


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What `prepare` leaves.

    Attributes:
        directory: where the data set lies.
        examples: how many it holds, by split.
        left_out: the ids of those that do not decode.
        shards: the number of its files.
        size: of all of them in bytes.
        kept: how many of them an earlier call had written.
        was_complete: whether nothing was left to do.
    """

    directory: str
    examples: dict[str, int]
    left_out: tuple[str, ...]
    shards: int
    size: int
    kept: int
    was_complete: bool


def prepare(
    data: Data,
    directory: str,
    file_format: str = "tfrecord",
    shard_bytes: int = 128 << 20,
    max_side: int | None = None,
    quality: int = 95,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Preparation:
    """Writes all splits of a task as a data set of TFDS.

    Its features are image (encoded), label, id and, where the data has groups,
    group. Examples come in the order of a hash of their ids, so that a shuffle
    that looks ahead a little mixes well; those of a stream as it shuffles them.
    What a file holds is a function of the data and the settings.

    After an interruption of any kind the same call goes on, and leaves the
    same files, byte for byte, as if there had been none. That the data is still
    the same is seen by all ids, labels and groups, and by some of the images.

    Args:
        data: a task, loaded.
        directory: where to write, made if need be; `~` is expanded;
            "gs://..." is written through TensorFlow's file system.
        file_format: "tfrecord", or "array_record" (on a local disk).
        shard_bytes: the size of a file, nearly.
        max_side: an image with a longer side is shrunk, by area, to this many
            pixels on that side, and stored upright as a JPEG. Others are
            copied byte for byte; with None all are, and none is decoded.
        quality: of these JPEGs, 1 to 100. Their colors have the full
            resolution.
        progress: called with how many examples are done, and of how many.

    Pixels (uint8 `[H, W, C]`, as of `array_source`) become PNGs, also where
    they are shrunk. With `max_side`, images that do not decode are left out.

    Raises:
        UserError: a setting makes no sense; the directory holds something
            else, be it the same data with other settings; an example can't be
            read, or a file can't be written.
    """
    directory = os.path.expanduser(os.fspath(directory))
    settings = {
        "file_format": file_format,
        "shard_bytes": shard_bytes,
        "max_side": max_side,
        "quality": quality if max_side else None,
    }
    _check(data, directory, settings)
    with _access(directory):
        store = _Store(directory, _plan(data, directory, settings), data)
        facts = store.written()
    kept, done = len(facts), 0
    total = sum(map(len, data.splits.values()))

    def step(count: int = 1) -> None:
        nonlocal done
        done += count
        progress(done, total)

    for split, examples in data.splits.items():
        missing = [s for s in store.shards[split] if s.name not in facts]
        step(len(examples) - sum(shard.size for shard in missing))
        if missing:
            elements = _elements(examples, missing)
            elements = _read(_encoded(elements, max_side, quality), split)
            for shard in missing:
                part = itertools.islice(elements, shard.size)
                facts[shard.name] = store.write(shard, part, step)
    # In their order, whenever they were written.
    names = [s.name for shards in store.shards.values() for s in shards]
    facts = {name: facts[name] for name in names}
    was_complete = store.is_complete and kept == len(facts)
    if not was_complete:
        store.complete(facts)
    with _access(directory):
        store.tidy()
    return Preparation(
        directory=directory,
        examples=store.examples(facts),
        left_out=tuple(i for f in facts.values() for i in f["left_out"]),
        shards=len(facts),
        size=sum(f["bytes"] for f in facts.values()),
        kept=kept,
        was_complete=was_complete,
    )


# What is written.


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file, and which places in the order of its split it holds."""

    name: str
    begin: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


class _Store:
    """The directory that is written.

    Attributes:
        shards: all, by split.
        is_complete: whether it could be opened as a data set at the beginning.
    """

    def __init__(self, directory: str, plan: dict[str, Any], data: Data):
        self._directory = directory
        self._data = data
        self._format = tfds.core.FileFormat(plan["settings"]["file_format"])
        self._features = _features(data)
        self.shards = {}
        for split, count in plan["shards"].items():
            template = tfds.core.ShardedFileTemplate(
                directory,
                dataset_name=plan["name"],
                split=split,
                filetype_suffix=self._format.file_suffix,
            )
            size = len(data.splits[split])
            self.shards[split] = [
                _Shard(name, size * i // count, size * (i + 1) // count)
                for i, name in enumerate(template.sharded_filenames(count))
            ]
        self.is_complete = read_json(self._path(INFO)) is not None

    def _path(self, *names: str) -> str:
        return os.path.join(self._directory, *names)

    def _marker(self, shard: _Shard) -> str:
        return self._path(_MARKERS, f"{shard.name}.json")

    def written(self) -> dict[str, dict[str, Any]]:
        """By name, what is known of the shards that are there, and whole."""
        checksums = read_json(self._path(CHECKSUMS)) or {}
        found = {}
        for shard in itertools.chain(*self.shards.values()):
            facts = checksums.get(shard.name) or read_json(self._marker(shard))
            if facts and self._is_whole(shard, facts):
                found[shard.name] = facts
        return found

    def _is_whole(self, shard: _Shard, facts: dict[str, Any]) -> bool:
        path = self._path(shard.name)
        if not tf.io.gfile.exists(path):
            return False
        # What is complete was read back already; it is not read once more.
        if self.is_complete:
            return tf.io.gfile.stat(path).length == facts["bytes"]
        return checksum(path).items() <= facts.items()

    def write(
        self,
        shard: _Shard,
        elements: Iterable[dict[str, Any]],
        step: Callable[[], None],
    ) -> dict[str, Any]:
        """Writes a shard and its marker; returns what the marker says."""
        left_out = []

        def records() -> Iterator[tuple[bytes, bytes]]:
            for element in elements:
                step()
                if element.get("decodes", True):
                    yield element["id"], _record(element, self._features)
                else:
                    left_out.append(str(element["id"], "utf-8"))

        adapter = tfds.core.file_adapters.ADAPTER_FOR_FORMAT[self._format]
        path = self._path(shard.name)
        with _access(self._directory):
            adapter.write_examples(path, records())
            facts = {
                **checksum(path),
                "examples": shard.size - len(left_out),
                "left_out": left_out,
            }
            _write_json(self._marker(shard), facts)
        return facts

    def examples(self, facts: dict[str, dict[str, Any]]) -> dict[str, int]:
        """How many examples there are, by split."""
        return {
            split: sum(facts[shard.name]["examples"] for shard in shards)
            for split, shards in self.shards.items()
        }

    def complete(self, facts: dict[str, dict[str, Any]]) -> None:
        """Writes what makes a data set of the shards."""
        for split, count in self.examples(facts).items():
            if not count:
                raise UserError(
                    f"Of the {len(self._data.splits[split])} images of the "
                    f"{split} split none decodes; expected at least one that "
                    "does. Look at them, or give max_side = None, which copies "
                    "them as they are."
                )
        infos = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[facts[s.name]["examples"] for s in shards],
                num_bytes=sum(facts[s.name]["bytes"] for s in shards),
            )
            for split, shards in self.shards.items()
        ]
        with _access(self._directory):
            _write_json(self._path(CHECKSUMS), facts)
            tfds.folder_dataset.write_metadata(
                data_dir=self._directory,
                features=self._features,
                split_infos=infos,
                version="1.0.0",
                check_data=False,
                description=f"Prepared from {self._data.title}.",
                supervised_keys=("image", "label"),
            )

    def tidy(self) -> None:
        """Takes the markers away, all of which `checksums.json` holds."""
        if tf.io.gfile.exists(self._path(_MARKERS)):
            tf.io.gfile.rmtree(self._path(_MARKERS))


def _features(data: Data) -> tfds.features.FeaturesDict:
    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=data.class_names),
        "id": tfds.features.Text(),
    }
    if any(
        isinstance(examples, IndexedExamples) and examples.groups is not None
        for examples in data.splits.values()
    ):
        features["group"] = tfds.features.Text()
    return tfds.features.FeaturesDict(features)


def _record(element: dict[str, Any], names: Iterable[str]) -> bytes:
    """What `FeaturesDict.serialize_example` returns, but always the same.

    That one has the features in an order that differs from process to process.
    """
    features = {
        name: tf.train.Feature(
            int64_list=tf.train.Int64List(value=[element[name]])
        )
        if name == "label"
        else tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[element[name]])
        )
        for name in names
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def _write_json(path: str, value: Any) -> None:
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(value, indent=1))


@contextlib.contextmanager
def _access(directory: str) -> Iterator[None]:
    """Makes a user's mistake of what the disk refuses."""
    try:
        yield
    # RuntimeError: the library of ArrayRecord.
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            f"Could not write the data set in {shown(directory)!r}: "
            f"{brief(error)} Expected room on the disk and permission to read "
            "and write there. Make room, or see to the permission; the same "
            "command then goes on where it was."
        ) from error


# What is to be written.


def _plan(
    data: Data, directory: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """What the directory was begun for; begins it if it is new.

    Raises:
        UserError: it is not for this data and these settings.
    """
    path = shown(directory)
    if tf.io.gfile.exists(directory) and not tf.io.gfile.isdir(directory):
        raise UserError(
            f"Received the directory {path!r}, which is a file; expected a "
            "directory that is empty, or not there yet. Give another one."
        )
    asked = {
        "format": "prepare 1",
        "source": data.title,
        "content": _content(data),
        "settings": settings,
    }
    found = read_json(os.path.join(directory, PLAN))
    if isinstance(found, dict) and found.get("format") == asked["format"]:
        then = found["settings"]
        differing = [
            f"{name} = {then[name]!r} then, {value!r} now"
            for name, value in settings.items()
            if then.get(name) != value
        ]
        if found["source"] != data.title:
            differing.append(f"{found['source']} then, {data.title} now")
        elif found["content"] != asked["content"]:
            differing.append("other examples, labels, groups or images")
        if differing:
            raise UserError(
                f"Received the directory {path!r}, which was begun for "
                f"something else: {'; '.join(differing)}; expected the same "
                "data and settings. Give another directory, or delete this one."
            )
        return found
    if tf.io.gfile.exists(directory):
        others = sorted(tf.io.gfile.listdir(directory))
        # Broken off while it was written, it is as good as none.
        if others and (others != [PLAN] or found is not None):
            raise UserError(
                f"Received the directory {path!r}, which holds something else "
                f"({some(others)}); expected one that is empty, or not there "
                "yet. Give another one."
            )
    # For file names; TFDS wants letters, digits and underscores.
    bare = re.sub(r"\(.*?\)", "", data.source).lower()
    bare = re.sub(r"[^a-z0-9]+", "_", bare).strip("_")[:80]
    begun = {
        **asked,
        "name": bare if bare[:1].isalpha() else f"images_{bare}".strip("_"),
        "shards": {
            split: _shard_count(split, examples, settings)
            for split, examples in data.splits.items()
        },
    }
    _write_json(os.path.join(directory, PLAN), begun)
    return begun


def _content(data: Data) -> str:
    """Tells the data from other data: all but the images, and a few of these.

    Of a stream, which would have to be read to the end, a few examples.
    """
    facts = []
    for split, examples in data.splits.items():
        facts += [split, len(examples)]
        if isinstance(examples, IndexedExamples):
            facts += [examples.ids, examples.labels, examples.groups]
        sample = hashlib.sha256()
        for element in _read(_elements(examples).take(_SAMPLE), split):
            for name in ("image", "id", "label"):
                sample.update(np.asarray(element[name]).tobytes())
        facts.append(sample.hexdigest())
    return digest(list(data.class_names), *facts)


def _shard_count(
    split: str, examples: Examples, settings: dict[str, Any]
) -> int:
    sample = _encoded(
        _elements(examples).take(_SAMPLE),
        settings["max_side"],
        settings["quality"],
    )
    sizes = [len(element["image"]) for element in _read(sample, split)]
    size = len(examples) * (np.mean(sizes) + _RECORD_BYTES)
    count = int(np.ceil(size / settings["shard_bytes"]))
    return min(count, len(examples))


def _check(data: Data, directory: str, settings: dict[str, Any]) -> None:
    file_format = settings["file_format"]
    if file_format not in FORMATS:
        raise UserError(
            f"prepare.file_format is {file_format!r}; expected one of "
            f"{', '.join(FORMATS)}. {nearest(str(file_format), FORMATS)}"
        )
    try:
        tfds.core.Path(directory)
    except KeyError as error:
        raise UserError(
            f"Received the directory {directory!r}, in no file system that "
            'TFDS knows; expected a path, or "gs://...". Give another one.'
        ) from error
    if file_format == "array_record":
        check_array_record(directory)
    for name, most in (
        ("shard_bytes", None),
        ("max_side", 65_500),  # A JPEG can't be larger.
        ("quality", 100),
    ):
        value = settings[name]
        if value is not None and not 1 <= value <= (most or value):
            raise UserError(
                f"prepare.{name} is {value}; expected a whole number, at least "
                f"1{f' and at most {most:,}' if most else ''}."
            )
    for name in data.class_names:
        if not name or name != name.strip() or len(name.splitlines()) > 1:
            raise UserError(
                f"{data.title} has a class called {name!r}; expected names "
                "without spaces at their ends and of one line, since TFDS "
                "keeps them in the lines of a file. Rename it."
            )


# From examples to what is stored of them.


def _elements(
    examples: Examples, shards: Sequence[_Shard] | None = None
) -> tf.data.Dataset:
    """What these shards are to hold, or all, in the order of the shards.

    Returns:
        `{"image": encoded bytes or uint8 pixels, "label", "id", "group"}`.
    """
    if isinstance(examples, IndexedExamples):
        digests = [
            hashlib.blake2b(i.encode(), digest_size=8).digest()
            for i in examples.ids
        ]
        order = np.array(sorted(range(len(digests)), key=digests.__getitem__))
        if shards is not None:
            order = np.concatenate([order[s.begin : s.end] for s in shards])
        groups = [""] * len(order)
        if examples.groups is not None:
            groups = list(examples.groups[order])
        dataset = tf.data.Dataset.from_tensor_slices(
            {
                "row": examples.rows[order],
                "label": examples.labels[order],
                "id": list(examples.ids[order]),
                "group": groups,
            }
        )

        def read(element):
            row = element.pop("row")
            return {"image": examples.read(row), **element}

        return dataset.map(
            read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
    dataset = examples.stream(tf.constant(0, tf.int64))
    if shards is not None:
        wanted = np.zeros(len(examples), bool)
        for shard in shards:
            wanted[shard.begin : shard.end] = True
        dataset = dataset.enumerate()
        dataset = dataset.filter(lambda place, _: tf.gather(wanted, place))
        dataset = dataset.map(lambda _, element: element)
    return dataset.map(lambda element: {**element, "group": ""})


def _encoded(
    elements: tf.data.Dataset, max_side: int | None, quality: int | None
) -> tf.data.Dataset:
    """The same with images as they are stored, and whether they decode."""
    is_encoded = elements.element_spec["image"].dtype == tf.string
    if is_encoded and max_side is None:
        return elements.prefetch(tf.data.AUTOTUNE)

    def from_pixels(pixels):
        if max_side is not None:
            pixels = shrink(pixels, max_side)
        return tf.io.encode_png(pixels)

    def from_bytes(image):
        pixels = decode(image)
        return tf.cond(
            tf.reduce_max(tf.shape(pixels)[:2]) > max_side,
            lambda: tf.io.encode_jpeg(
                shrink(pixels, max_side),
                quality=quality,
                chroma_downsampling=False,
            ),
            lambda: image,
        )

    def stored(element):
        make = from_bytes if is_encoded else from_pixels
        return {**element, "image": make(element["image"]), "decodes": True}

    def tried(element):
        failed = {**element, "decodes": False}
        if not is_encoded:
            failed["image"] = ""
        failed = tf.data.Dataset.from_tensors(failed)
        good = tf.data.Dataset.from_tensors(element).map(stored)
        return good.ignore_errors().concatenate(failed).take(1)

    # One data set for each example: nothing else tells which have failed.
    dataset = elements.interleave(
        tried, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def _read(dataset: tf.data.Dataset, split: str) -> Iterator[dict[str, Any]]:
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        raise UserError(
            f"An example of the {split} split could not be read: "
            f"{brief(error)} Expected files that are there and may be read. "
            "Mend or remove it."
        ) from error
