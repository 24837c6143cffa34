"""Turns a trained model into files that run without TensorFlow.

litert/model.tflite        float32
litert_int8/model.tflite   weights and activations in 8 bits
onnx/model.onnx            float32; needs the extra `onnx`

Each lies beside a metadata.json. All take uint8 `[B, S, S, 3]`, RGB, pixels
0..255, resized already (as `resize` in metadata.json says), B being any number
from 1, and give probabilities, float32 `[B, num_classes]`.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.export.artifact import METADATA
from framework.export.frozen import Frozen
from framework.noise import standard_error_without

LITERT, LITERT_INT8, ONNX = "litert", "litert_int8", "onnx"
FILES = {
    LITERT: "model.tflite",
    LITERT_INT8: "model.tflite",
    ONNX: "model.onnx",
}
# Of ONNX's operators: what runtimes of three years ago know.
_OPSET = 17


def write(
    kind: str,
    frozen: Frozen,
    place: str,
    metadata: Mapping[str, Any],
    representative: Iterable[np.ndarray] = (),
) -> str:
    """Writes one of these files, and what it says of itself.

    Args:
        kind: "litert", "litert_int8" or "onnx".
        frozen: the model.
        place: a folder on this machine, made where it is missing.
        metadata: what to say.
        representative: of "litert_int8": pictures, uint8 `[S, S, 3]`, as the
            model will get them, which tell the ranges of its activations. Some
            hundred will do.

    Returns:
        the file's path.

    """
    os.makedirs(place, exist_ok=True)
    path = os.path.join(place, FILES[kind])
    made = (
        _onnx(frozen)
        if kind == ONNX
        else _litert(frozen, representative if kind == LITERT_INT8 else None)
    )
    with open(path, "wb") as file:
        file.write(made)
    with open(os.path.join(place, METADATA), "w") as file:
        file.write(json.dumps(dict(metadata), indent=2) + "\n")
    return path


def _serve(frozen: Frozen):
    size = frozen.image_size
    spec = tf.TensorSpec([None, size, size, 3], tf.uint8, name="image")
    return tf.function(
        lambda image: {"probabilities": frozen.probabilities(image)},
        input_signature=[spec],
        autograph=False,
    )


def _litert(
    frozen: Frozen, representative: Iterable[np.ndarray] | None
) -> bytes:
    # From a SavedModel: only there do variables become constants.
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(
            frozen.module, folder, {"serving_default": _serve(frozen)}
        )
        with (
            warnings.catch_warnings(),
            standard_error_without([b"fully_quantize"]),
        ):
            warnings.simplefilter("ignore")
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            if representative is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = lambda: (
                    [picture[None]] for picture in representative
                )
            return converter.convert()


def check_onnx() -> None:
    """Looks for what makes ONNX files, and runs them.

    Raises:
        UserError: it is not installed.
    """
    try:
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX files are made by tf2onnx, which can't be imported: "
            f"{error}. Expected it: pip install tf2onnx onnxruntime, or this "
            "package's extra 'onnx'."
        ) from error


def _onnx(frozen: Frozen) -> bytes:
    import tf2onnx

    serve = _serve(frozen)
    made, _ = tf2onnx.convert.from_function(
        serve, input_signature=serve.input_signature, opset=_OPSET
    )
    return made.SerializeToString()
