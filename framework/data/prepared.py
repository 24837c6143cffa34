"""Turns a directory in the format of tensorflow-datasets (TFDS) into a source.

What `framework.data.preparing` writes, or TFDS itself, or anybody else.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from framework.console import some
from framework.data.source import Source
from framework.data.tfds import brief, builder_source, shown
from framework.errors import UserError
from framework.registry import SOURCES

# What TFDS itself writes last and reads first.
INFO = "dataset_info.json"
# What `prepare` writes besides: what it was asked for, and what every file
# holds.
PLAN = "prepare.json"
CHECKSUMS = "checksums.json"

_GIB = 1 << 30


@SOURCES.register()
def Prepared(
    directory: str,
    in_memory_bytes: int = _GIB,
    window: int = 10_000,
    verify: bool = False,
) -> Source:
    """A prepared data set: TFRecord or ArrayRecord files and their description.

    Features that are texts called "id" and "group", as `prepare` writes them,
    are the examples' ids and groups; without, ids are those of TFDS. Groups
    are known of splits that are held in memory.

    Args:
        directory: the one that holds `dataset_info.json`; `~` is expanded;
            "gs://..." is read through TensorFlow's file system (TFRecord).
        in_memory_bytes: splits up to this size are held in memory, encoded,
            and can be indexed.
        window: how many examples a larger split's shuffle looks ahead.
        verify: whether every file is first compared with its checksum in
            `checksums.json`, which `prepare` writes.

    Raises:
        UserError: there is no such directory, it holds no complete data set of
            labelled images, or a file is damaged.
    """
    directory = os.path.expanduser(os.fspath(directory))
    builder = _open(directory)
    _check_complete(builder, directory)
    if verify:
        _verify(directory)
    source = builder_source(builder, in_memory_bytes, window, own_ids=True)
    notes = list(source.notes)
    # Beside what others have written there is nothing of the kind.
    plan = read_json(os.path.join(directory, PLAN)) or {}
    if "source" in plan:
        notes.append(f"Prepared from {plan['source']}.")
    files = read_json(os.path.join(directory, CHECKSUMS)) or {}
    left_out = [i for facts in files.values() for i in facts["left_out"]]
    if left_out:
        notes.append(
            f"Left out when it was prepared, since they do not decode: "
            f"{len(left_out)} ({some(left_out)})."
        )
    return dataclasses.replace(source, notes=tuple(notes))


def checksum(path: str) -> dict[str, Any]:
    """The SHA-256 of a file, in hexadecimal, and its size in bytes."""
    whole, size = hashlib.sha256(), 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(1 << 20):
            whole.update(block)
            size += len(block)
    return {"sha256": whole.hexdigest(), "bytes": size}


def read_json(path: str) -> Any:
    """What a JSON file holds; None where it is missing or broken off."""
    try:
        with tf.io.gfile.GFile(path, "r") as file:
            return json.loads(file.read())
    except (tf.errors.NotFoundError, ValueError):
        return None


def _open(directory: str) -> tfds.core.DatasetBuilder:
    path = shown(directory)
    if not tf.io.gfile.exists(directory):
        raise UserError(
            f"Received the directory {path!r}, which does not exist; expected "
            "one that holds a prepared data set. Correct Prepared.directory."
        )
    if not tf.io.gfile.exists(os.path.join(directory, INFO)):
        if tf.io.gfile.exists(os.path.join(directory, PLAN)):
            raise UserError(
                f"Received the directory {path!r}, which prepare has not "
                "finished; expected a complete data set. Prepare it with the "
                "same settings as before: it goes on where it was."
            )
        below = [
            found
            for depth in ("*", "*/*")
            for found in tf.io.gfile.glob(os.path.join(directory, depth, INFO))
        ]
        hint = "Correct Prepared.directory."
        if below:
            hint = f"Did you mean {os.path.dirname(sorted(below)[-1])!r}?"
        raise UserError(
            f"Received the directory {path!r}, which holds no {INFO}; expected "
            f"a data set that prepare, or TFDS, has written. {hint}"
        )
    try:
        return tfds.builder_from_directory(directory)
    except Exception as error:  # Every part of it has its own way to fail.
        raise UserError(
            f"Received the directory {path!r}, which TFDS can't open: "
            f"{brief(error)} Expected {INFO} and features.json as TFDS writes "
            "them. Prepare the data set again."
        ) from error


def _check_complete(builder: tfds.core.DatasetBuilder, directory: str) -> None:
    if not builder.info.splits:
        raise UserError(
            f"Received the directory {shown(directory)!r}, which holds no "
            "splits; expected a complete data set. Prepare it again."
        )
    paths = {
        os.fspath(path)
        for split in builder.info.splits.values()
        for path in split.filepaths
    }
    # Asked for by the folder: object stores take a while to answer.
    present = {
        os.path.join(folder, name)
        for folder in {os.path.dirname(path) for path in paths}
        if tf.io.gfile.isdir(folder)
        for name in tf.io.gfile.listdir(folder)
    }
    missing = sorted(map(os.path.basename, paths - present))
    if missing:
        raise UserError(
            f"Received the directory {shown(directory)!r}, which lacks "
            f"{len(missing)} of its {len(paths)} files: {some(missing)}; "
            "expected a complete data set. Copy them too, or prepare it again."
        )


def _verify(directory: str) -> None:
    """Compares all files with what they were when they were written."""
    expected = read_json(os.path.join(directory, CHECKSUMS))
    if expected is None:
        raise UserError(
            f"Prepared.verify is True, and {shown(directory)!r} holds no "
            f"{CHECKSUMS} that can be read; expected the one that prepare "
            "writes. Set Prepared.verify = False, or prepare the data set "
            "again."
        )
    paths = [os.path.join(directory, name) for name in expected]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        found = list(threads.map(checksum, paths))
    damaged = [
        f"{name} ({is_['bytes']:,} bytes, once {was['bytes']:,})"
        for (name, was), is_ in zip(expected.items(), found, strict=True)
        if is_["sha256"] != was["sha256"]
    ]
    if damaged:
        raise UserError(
            f"{len(damaged)} of the {len(expected)} files in "
            f"{shown(directory)!r} are damaged: {some(damaged)}; expected what "
            f"{CHECKSUMS} says. Copy them again, or delete them and prepare "
            "the data set again."
        )
