"""Turns requests on disk into a SavedModel's answers, with TensorFlow alone.

    python fresh.py SAVED_MODEL SIGNATURE REQUESTS ANSWERS

Run as a file, in a process of its own: what answers here answers where this
framework is not installed.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

BATCH = 32
_CALLS = 15


def main(saved_model: str, signature: str, requests: str, answers: str) -> None:
    """Answers each request twice and writes what came out.

    Args:
        saved_model: of a version.
        signature: that takes one batch and gives probabilities.
        requests: a TFRecord of image files, or of serialized uint8 tensors
            `[S, S, 3]` where the signature takes pixels.
        answers: where to write, as a `.npz`: "probabilities"
            `[N, num_classes]`, "label" `[N]`, "class" `[N]` as bytes, and
            "figures", a text of JSON.
    """
    function = tf.saved_model.load(saved_model).signatures[signature]
    (spec,) = function.structured_input_signature[1].values()
    records = tf.data.TFRecordDataset(requests)
    if spec.dtype != tf.string:
        records = records.map(
            lambda record: tf.ensure_shape(
                tf.io.parse_tensor(record, tf.uint8), spec.shape[1:]
            )
        )

    def call(batch):
        found = function(**{spec.name: batch})
        return {name: value.numpy() for name, value in found.items()}

    parts, is_repeatable = [], True
    for batch in records.batch(BATCH):
        parts.append(call(batch))
        again = call(batch)
        is_repeatable &= all(
            value.tobytes() == again[name].tobytes()
            if value.dtype != object
            else list(value) == list(again[name])
            for name, value in parts[-1].items()
        )
    one = next(iter(records.batch(1)))
    many = next(iter(records.repeat().batch(BATCH)))
    figures = {
        "repeatable": bool(is_repeatable),
        "milliseconds": {
            "1": _milliseconds(lambda: call(one)),
            str(BATCH): _milliseconds(lambda: call(many)),
        },
    }
    found = {
        name: np.concatenate([part[name] for part in parts])
        for name in ("probabilities", "label", "class")
    }
    found["class"] = found["class"].astype(bytes)  # Objects would be pickled.
    np.savez(answers, figures=json.dumps(figures), **found)


def _milliseconds(call: Callable[[], dict]) -> float:
    """The median of some calls."""
    call()
    times = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return round(1000 * statistics.median(times), 3)


if __name__ == "__main__":
    main(*sys.argv[1:])
