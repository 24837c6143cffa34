"""Turns requests on disk into an artifact's answers, without this framework.

    python fresh.py ARTIFACT SIGNATURE REQUESTS ANSWERS

Run as a file, in a process of its own: what answers here answers where this
framework is not installed. A SavedModel takes TensorFlow alone; a .tflite file
is run by LiteRT, a .onnx file by ONNX Runtime.
"""

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

BATCH = 32
_CALLS = 15


def main(artifact: str, signature: str, requests: str, answers: str) -> None:
    """Answers each request twice and writes what came out.

    Args:
        artifact: the folder of a SavedModel's version, or a file.
        signature: of a SavedModel: takes one batch and gives probabilities.
        requests: a TFRecord of image files, or of serialized uint8 tensors
            `[S, S, 3]` where pixels are taken.
        answers: where to write, as a `.npz`: "probabilities"
            `[N, num_classes]`, "label" `[N]`, of a SavedModel "class" `[N]` as
            bytes, and "figures", a text of JSON.
    """
    runner = RUNNERS.get(os.path.splitext(artifact)[1])
    if runner is None:
        run, takes_bytes = _saved_model(artifact, signature)
    else:
        run, takes_bytes = runner(artifact), False
    records = tf.data.TFRecordDataset(requests)
    if not takes_bytes:
        records = records.map(
            lambda record: tf.io.parse_tensor(record, tf.uint8)
        )

    def call(batch):
        found = run(batch)
        return {"label": found["probabilities"].argmax(-1), **found}

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
        for name in parts[0]
    }
    if "class" in found:  # Objects would be pickled.
        found["class"] = found["class"].astype(bytes)
    np.savez(answers, figures=json.dumps(figures), **found)


def _saved_model(artifact: str, signature: str) -> tuple[Callable, bool]:
    """What answers a batch, and whether it takes files."""
    loaded = tf.saved_model.load(artifact)
    function = loaded.signatures[signature]
    (spec,) = function.structured_input_signature[1].values()

    def run(batch):
        # A signature does not keep alive what it is part of.
        assert loaded is not None
        found = function(**{spec.name: tf.ensure_shape(batch, spec.shape)})
        return {name: value.numpy() for name, value in found.items()}

    return run, spec.dtype == tf.string


def _litert(artifact: str) -> Callable:
    """What answers a batch of pixels, uint8 `[B, S, S, 3]`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own is deprecated.
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            Interpreter = tf.lite.Interpreter
        interpreter = Interpreter(artifact)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    (made,) = interpreter.get_output_details()

    def run(batch):
        batch = np.asarray(batch)
        if tuple(interpreter.get_input_details()[0]["shape"]) != batch.shape:
            interpreter.resize_tensor_input(given["index"], batch.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        return {"probabilities": interpreter.get_tensor(made["index"])}

    return run


def _onnx(artifact: str) -> Callable:
    """Likewise."""
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact)
    (given,) = session.get_inputs()
    return lambda batch: {
        "probabilities": session.run(None, {given.name: np.asarray(batch)})[0]
    }


# By a file's ending.
RUNNERS = {".tflite": _litert, ".onnx": _onnx}


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
