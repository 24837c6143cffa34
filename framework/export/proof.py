"""Turns an artifact and what its run measured into figures, or a refusal.

A process that knows TensorFlow alone loads the SavedModel and answers the
requests that the run was judged on: its examples' own bytes, where the source
has files, and else the resized pixels. Its answers must be those of
`predictions.csv`.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from framework.console import some
from framework.data.images import to_square
from framework.data.source import Examples, IndexedExamples
from framework.errors import UserError
from framework.evaluation.predictions import Predictions, readable_ids
from framework.export import fresh

# Of a probability. Float32 rounds otherwise in another order.
TOLERANCE = 1e-4
# Of more examples, so many are asked about, evenly spread.
MOST = 2000


def prove(
    saved_model: str,
    examples: Iterable[Examples],
    measured: Predictions,
    class_names: Sequence[str],
    image_size: int,
    how: str,
    most: int = MOST,
    seconds: float = 900.0,
    exact: bool = True,
) -> dict[str, Any]:
    """Has a fresh process answer, and compares with what was measured.

    Args:
        saved_model: of a version; or a .tflite or .onnx file, which gets
            pixels; on this machine.
        examples: where the examples are that `measured` speaks of; there may
            be others.
        measured: of the run.
        class_names: in the order of the labels.
        image_size: side S of the images in pixels.
        how: pictures become squares, as `images.resize` has it.
        most: how many examples to ask about.
        seconds: how long the process may take.
        exact: whether probabilities have to be those of the run. Those of a
            model in 8 bits are not: there the figures tell what it costs.

    Returns:
        JSON-able figures: how many "examples" of how many "measured", the
        largest "difference" between probabilities and its "tolerance" (None
        where they need not be the same), "other_classes": of how many another
        class is the most probable one, the
        "accuracy" of the answers and as it was "measured_accuracy" on the same
        examples, "milliseconds" of a call by batch size (the median), "bytes"
        on disk, and whether calls are "repeatable", which is True.

    Raises:
        UserError: the examples are gone, or the answers are not the same, to
            the bit in two calls and within the tolerance of the run.
    """
    places = np.arange(len(measured.ids))
    if len(places) > most:
        places = np.linspace(0, len(places) - 1, most).round().astype(int)
    asked = dataclasses.replace(
        measured,
        **{
            name: getattr(measured, name)[places]
            for name in ("ids", "labels", "probabilities", "losses")
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        requests = os.path.join(folder, "requests")
        signature, order = _write_requests(
            requests,
            examples,
            asked.ids,
            image_size,
            how,
            as_pixels=not os.path.isdir(saved_model),
        )
        answers = _answers(
            saved_model, signature, requests, folder, len(order), seconds
        )
    expected = asked.probabilities[order]
    labels = asked.labels[order]
    figures = {
        "examples": len(order),
        "measured": len(measured.ids),
        "signature": signature,
        **_compared(answers, expected, asked.ids[order], class_names, exact),
        "tolerance": TOLERANCE if exact else None,
        "accuracy": float((answers["label"] == labels).mean()),
        "measured_accuracy": float((expected.argmax(-1) == labels).mean()),
        "bytes": _bytes(saved_model),
    }
    return figures | json.loads(str(answers["figures"]))


def _write_requests(
    path: str,
    examples: Iterable[Examples],
    ids: np.ndarray,
    image_size: int,
    how: str,
    as_pixels: bool,
) -> tuple[str, np.ndarray]:
    """Writes the pictures; the signature for them, and which of `ids` they are.

    Raises:
        UserError: some are not there.
    """
    place = {name: number for number, name in enumerate(ids)}
    order, signature = [], "serve_bytes"
    with tf.io.TFRecordWriter(path) as writer:
        for split in examples:
            for name, image in _pictures(split, place):
                if image.dtype == tf.string and not as_pixels:
                    writer.write(image.numpy())
                else:
                    signature = "serve_images"
                    pixels = to_square(image, image_size, how)
                    writer.write(tf.io.serialize_tensor(pixels).numpy())
                order.append(place.pop(name))
    if place:
        raise UserError(
            f"{len(place)} of the {len(ids)} examples to prove the export by "
            f"are not where the run had them: {some(place)}. Expected "
            "the data that it was judged on. Give it back, or export without "
            "a proof (--noproof)."
        )
    return signature, np.array(order)


def _pictures(
    examples: Examples, wanted: dict[str, int]
) -> Iterator[tuple[str, tf.Tensor]]:
    """Those of a split that are still wanted, by id."""
    if isinstance(examples, IndexedExamples):
        found = np.array([i for i, n in enumerate(examples.ids) if n in wanted])
        if not len(found):
            return
        part = examples.select(found)
        rows = tf.data.Dataset.from_tensor_slices(part.rows)
        images = rows.map(part.read, tf.data.AUTOTUNE, deterministic=True)
        yield from zip(part.ids, images, strict=True)
        return
    for example in examples.stream(tf.constant(-1, tf.int64)):
        if not wanted:
            return
        (name,) = readable_ids([example["id"].numpy()])
        if name in wanted:
            yield name, example["image"]


def _answers(
    saved_model: str,
    signature: str,
    requests: str,
    folder: str,
    count: int,
    seconds: float,
) -> dict[str, np.ndarray]:
    """What a fresh process says."""
    path = os.path.join(folder, "answers.npz")
    # -P: what lies beside the file is not imported for a library.
    command = [sys.executable, "-P", fresh.__file__]
    try:
        done = subprocess.run(
            [*command, saved_model, signature, requests, path],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"The artifact is not exported: a fresh process did not answer "
            f"{count} requests within {seconds:.0f} s. Expected a machine that "
            "is less busy; export again, or without a proof (--noproof)."
        ) from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise UserError(
            "The artifact is not exported: a fresh process failed at it with "
            f"status {done.returncode}: {last[0]}"
        )
    with np.load(path) as answers:
        return dict(answers)


def _compared(
    answers: dict[str, np.ndarray],
    expected: np.ndarray,
    ids: np.ndarray,
    class_names: Sequence[str],
    exact: bool,
) -> dict[str, Any]:
    """The largest difference, and how many of the classes are others.

    These are ties: probabilities within the tolerance of each other.
    """
    found = answers["probabilities"]
    if not json.loads(str(answers["figures"]))["repeatable"]:
        raise UserError(
            "The artifact is not exported: two calls on the same pictures "
            "differ, so that something random is left in it. Expected layers "
            "that heed training=False."
        )
    difference = np.abs(found - expected).max(axis=-1)
    # Not a number is no agreement either.
    differing = ~(difference <= (TOLERANCE if exact else 1.0))
    if differing.any():
        worst = int(np.nan_to_num(difference, nan=np.inf).argmax())
        raise UserError(
            f"The artifact is not exported: of {len(ids)} examples it says of "
            f"{int(differing.sum())} something else than the run did, by up to "
            f"{difference[worst]:.2g} of a probability ({ids[worst]}). "
            f"Expected at most {TOLERANCE:g}. Either these pictures or "
            "model.keras have changed since, or another device computes "
            "otherwise: export where the run was judged."
        )
    labels = found.argmax(axis=-1)
    names = [class_names[label].encode() for label in labels]
    if (labels != answers["label"]).any() or names != list(
        answers.get("class", names)
    ):
        raise UserError(
            "The artifact is not exported: its labels are not those of its "
            "highest probabilities."
        )
    return {
        "difference": float(difference.max()),
        "other_classes": int((labels != expected.argmax(-1)).sum()),
    }


def _bytes(path: str) -> int:
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(place, name))
        for place, _, names in os.walk(path)
        for name in names
    )
