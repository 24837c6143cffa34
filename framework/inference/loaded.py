"""Turns a finished run, or what was exported of it, into one to ask.

import framework
model = framework.load("runs/latest")
for answer in model.predict("photos/"):
    print(answer.file, answer.class_name, answer.probability)
"""

import dataclasses
import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from framework.data.images import decode_and_resize
from framework.errors import UserError
from framework.export import fresh, portable
from framework.export.artifact import METADATA
from framework.inference import inputs
from framework.inference.inputs import Asked

BATCH = 32
_SAVED_MODEL = "saved_model.pb"
_BROKEN = "no JPEG, PNG, GIF, BMP or WebP image that decodes"


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What a model takes one file for.

    Attributes:
        file: its path.
        class_name: of the most probable class; None where the file is broken.
        probability: of that class, 0..1; None likewise.
        probabilities: of all classes, float32 `[num_classes]`; None likewise.
        error: why there is no answer; "" where there is one.
    """

    file: str
    class_name: str | None = None
    probability: float | None = None
    probabilities: np.ndarray | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A model to ask about pictures.

    Attributes:
        path: what was loaded: a version of a SavedModel, or a run.
        class_names: in the order of the probabilities.
        image_size: side S of the images in pixels.
        resize: how pictures become squares, as in training.
        facts: what the artifact says of itself: source, how it was judged.
        fingerprint: tells apart models that answer differently.
        probabilities: from uint8 `[B, S, S, 3]`, pixels 0..255, to float32
            `[B, num_classes]`; in inference mode.
    """

    path: str
    class_names: tuple[str, ...]
    image_size: int
    resize: str
    facts: Mapping[str, Any]
    fingerprint: str
    probabilities: Callable[[np.ndarray | tf.Tensor], np.ndarray]

    def predict(
        self, pictures: Asked, batch_size: int = BATCH
    ) -> Iterator[Answer]:
        """Answers for pictures, each once, in the order they are asked for.

        Args:
            pictures: files, folders, patterns, tables, "-": see
                `inputs.find`; one or several.
            batch_size: pictures at a time. What is broken takes no place.

        Raises:
            UserError: a name means nothing.
        """
        return self.answers(inputs.find(inputs.as_list(pictures)), batch_size)

    def answers(
        self, files: Iterable[str], batch_size: int = BATCH
    ) -> Iterator[Answer]:
        """Answers for files, in their order; they are read as they are needed.

        Args:
            files: paths.
            batch_size: as for `predict`.
        """
        if batch_size < 1:
            raise UserError(
                f"The batch size is {batch_size}; expected at least 1."
            )
        # Of files under way, by their numbers.
        names: dict[int, str] = {}
        errors: dict[int, str] = {}
        # What goes wrong with `files` itself; tf.data would swallow it.
        failure: list[BaseException] = []

        def plausible():
            try:
                for number, file in enumerate(files):
                    names[number] = file
                    if error := inputs.why_not(file):
                        errors[number] = error
                    else:
                        yield number, os.fsencode(file)
            except Exception as error:
                failure.append(error)

        def read(number, path):
            data = tf.io.read_file(path)
            return number, decode_and_resize(data, self.image_size, self.resize)

        batches = (
            tf.data.Dataset.from_generator(
                plausible,
                output_signature=(
                    tf.TensorSpec([], tf.int64),
                    tf.TensorSpec([], tf.string),
                ),
            )
            .map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .ignore_errors()
            .batch(batch_size)
            .prefetch(2)
        )
        following = 0

        def broken(until: int) -> Iterator[Answer]:
            nonlocal following
            while following < until:
                error = errors.pop(following, _BROKEN)
                yield Answer(names.pop(following), error=error)
                following += 1

        for numbers, pixels in _in_a_thread(batches):
            scores = self.probabilities(pixels)
            for number, row in zip(numbers.numpy(), scores, strict=True):
                yield from broken(number)
                best = int(row.argmax())
                yield Answer(
                    names.pop(number),
                    self.class_names[best],
                    float(row[best]),
                    row,
                )
                following += 1
        yield from broken(following + len(names))
        if failure:
            raise failure[0]


def _in_a_thread(batches: tf.data.Dataset) -> Iterator[tuple]:
    """The same batches; who waits for them hears signals meanwhile."""
    found: queue.Queue = queue.Queue(2)
    end = object()

    def read() -> None:
        try:
            for batch in batches:
                found.put(batch)
            found.put(end)
        except Exception as error:
            found.put(error)

    # It may wait for standard input for ever.
    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            batch = found.get(timeout=0.2)
        except queue.Empty:
            continue
        if batch is end:
            return
        if isinstance(batch, Exception):
            raise batch
        yield batch


def load(path: str | os.PathLike) -> Loaded:
    """Loads a run, or what `--mode=export` made of one.

    Of a run that was exported the artifact is taken, if it has the run's
    weights; else its `model.keras`.

    Args:
        path: a run's directory ("runs/latest"), its `export/`, or a SavedModel
            from there, wherever it has been copied to; on anything that
            `tf.io.gfile` knows. Or a .tflite or .onnx file from there, on this
            machine, with metadata.json beside it.

    Raises:
        UserError: none of these lies there, or it can't be loaded.
    """
    path = os.fspath(path).rstrip("/") or "/"
    if os.path.splitext(path)[1] in fresh.RUNNERS:
        return _file(path)
    for name in portable.FILES.values():
        if os.path.isfile(f"{path}/{name}"):
            return _file(f"{path}/{name}")
    try:
        version = _version(path)
    except tf.errors.OpError as error:
        raise UserError(
            f"{path} can't be read: {error.message}. Expected a run or an "
            "artifact."
        ) from error
    if version is not None:
        return _artifact(version)
    # Keras is loaded for these alone.
    from framework.evaluation.seen import reader
    from framework.finished import load as finished
    from framework.finished import resolved

    run = finished(resolved(path))
    read = reader(run.model)
    call = tf.function(
        lambda images: run.model(images, training=False),
        autograph=False,
        reduce_retracing=True,
    )
    return Loaded(
        run.path,
        run.class_names,
        run.image_size,
        run.resize,
        {"weights_sha256": run.summary["weights_sha256"]},
        run.summary["weights_sha256"],
        lambda images: np.asarray(
            read(call(tf.convert_to_tensor(images)).numpy()), np.float32
        ),
    )


def _version(path: str) -> str | None:
    """The newest version of a SavedModel that is meant; None for a run's."""
    exists = tf.io.gfile.exists
    if exists(f"{path}/{_SAVED_MODEL}"):
        return path
    for base in (path, f"{path}/saved_model", f"{path}/export/saved_model"):
        if not tf.io.gfile.isdir(base):
            continue
        names = [name.rstrip("/") for name in tf.io.gfile.listdir(base)]
        numbers = [int(n) for n in names if n.isdigit()]
        versions = [n for n in numbers if exists(f"{base}/{n}/{_SAVED_MODEL}")]
        if not versions:
            continue
        version = f"{base}/{max(versions)}"
        if exists(f"{path}/model.keras") and not _is_of(version, path):
            return None
        return version
    return None


def _is_of(version: str, run: str) -> bool:
    """Whether an artifact has a run's weights; that may have been made anew."""
    with tf.io.gfile.GFile(f"{run}/summary.json") as file:
        weights = json.load(file)["weights_sha256"]
    return _metadata(version).get("weights_sha256") == weights


def _metadata(artifact: str, folder: str = "") -> dict[str, Any]:
    place = f"{folder or artifact + '/assets'}/{METADATA}"
    if not tf.io.gfile.exists(place):
        raise UserError(
            f"{artifact} has no {METADATA} at {place}. Expected what "
            "--mode=export made, as a whole."
        )
    with tf.io.gfile.GFile(place) as file:
        return json.load(file)


def _file(path: str) -> Loaded:
    if not os.path.exists(path):
        raise UserError(
            f"There is no file {path}. Expected one that --mode=export made."
        )
    facts = _metadata(path, os.path.dirname(path) or ".")
    try:
        run = fresh.RUNNERS[os.path.splitext(path)[1]](path)
    except ImportError as error:
        raise UserError(
            f"{path} can't be run: {error}. Expected it: pip install "
            "onnxruntime, or this package's extra 'onnx'."
        ) from error
    except Exception as error:
        raise UserError(f"{path} can't be loaded: {error}") from error
    return Loaded(
        path,
        tuple(facts["classes"]),
        facts["image_size"],
        facts["resize"],
        facts,
        _sha256(path),
        lambda images: run(np.asarray(images))["probabilities"],
    )


def _artifact(version: str) -> Loaded:
    facts = _metadata(version)
    try:
        module = tf.saved_model.load(version)
    except Exception as error:
        raise UserError(f"{version} can't be loaded: {error}") from error
    serve = module.signatures["serve_images"]

    def probabilities(images):
        return serve(image=tf.convert_to_tensor(images))[
            "probabilities"
        ].numpy()

    # A signature holds what it is part of by a weak reference only.
    probabilities.module = module
    return Loaded(
        version,
        tuple(facts["classes"]),
        facts["image_size"],
        facts["resize"],
        facts,
        facts.get("weights_sha256", version),
        probabilities,
    )


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
