"""Turns a trained model into a SavedModel that takes image files.

saved_model/1/
    saved_model.pb, variables/
    assets/metadata.json  classes, input size, resizing, what was measured
    assets.extra/tf_serving_warmup_requests

The folder is laid out as TensorFlow Serving reads it, `saved_model` being a
model's base path and 1 a version. TensorFlow alone loads it:

    loaded = tf.saved_model.load("export/saved_model/1")
    answer = loaded.signatures["serve_bytes"](image_bytes=tf.constant([data]))

Signatures, B being any number from 1:

* `serve_bytes`: image_bytes, string `[B]`: files of any size and format that
  `framework.data.images.decode` knows. Gives probabilities, float32
  `[B, num_classes]`; label, int64 `[B]`; class, string `[B]`.
* `serve_images`: image, uint8 `[B, S, S, 3]`, pixels 0..255, resized already.
  Gives the same.
* `features`: image_bytes. Gives features, float32 `[B, D]`: what enters the
  last dense layer. Left out where the model has none.
* `serving_default`: `serve_bytes`, under the name that TensorFlow Serving looks
  for where a request names no signature.

Where a file does not decode the call fails with an InvalidArgumentError that
tells which positions of the batch do not; TensorFlow Serving answers 400. An
answer of zeros or NaN would pass for one. Where a server puts several clients'
requests into one batch, all of that batch fail: such clients should send files
that they have checked, or `serve_images`.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from framework.data.images import decode_and_resize
from framework.errors import UserError
from framework.export.frozen import Frozen

METADATA = "metadata.json"
VERSION = "1"
# Pictures of a batch that are decoded at a time.
_AT_ONCE = 16
_WARM_UP_BATCHES = (1, 32)


def write(
    model: keras.Model,
    place: str,
    class_names: Sequence[str],
    resize: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the version of a SavedModel.

    Args:
        model: as `Frozen` takes it.
        place: a folder on this machine that is not there yet, or is empty.
        class_names: in the order of the labels.
        resize: how pictures become squares, as `images.resize` has it.
        facts: to be told of the model beside what is known here; JSON-able.

    Returns:
        what `assets/metadata.json` holds.

    Raises:
        UserError: there is not one name for each class.
    """
    frozen = Frozen(model)
    metadata = describe(frozen, class_names, resize, facts)
    signatures = _signatures(frozen, class_names, resize)
    metadata["signatures"] = sorted(signatures)
    module = frozen.module
    os.makedirs(place, exist_ok=True)
    # TensorFlow copies it into assets/.
    path = os.path.join(place, METADATA)
    with open(path, "w") as file:
        file.write(json.dumps(metadata, indent=2) + "\n")
    module.metadata = tf.saved_model.Asset(path)
    tf.saved_model.save(module, place, signatures)
    os.remove(path)
    _write_warm_up(os.path.join(place, "assets.extra"), model.input_shape[1])
    return metadata


def describe(
    frozen: Frozen,
    class_names: Sequence[str],
    resize: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """What every artifact tells of itself; JSON-able.

    Raises:
        UserError: there is not one name for each class.
    """
    if frozen.num_classes != len(class_names):
        raise UserError(
            f"The model tells {frozen.num_classes} classes apart, and "
            f"{len(class_names)} names are given; expected one each."
        )
    return {
        "classes": list(class_names),
        "image_size": frozen.image_size,
        "resize": resize,
        # Of two classes: the second from this probability on.
        "threshold": 0.5 if frozen.num_classes == 2 else None,
        "batch_normalisations_folded": frozen.folded,
        **facts,
    }


def _signatures(
    frozen: Frozen,
    class_names: Sequence[str],
    resize: str,
) -> dict[str, tf.types.experimental.GenericFunction]:
    model, size = frozen.model, frozen.image_size
    dense = [x for x in model.layers if isinstance(x, keras.layers.Dense)]
    images_given = tf.TensorSpec([None, size, size, 3], tf.uint8, name="image")
    bytes_given = tf.TensorSpec([None], tf.string, name="image_bytes")

    def signature(given: tf.TensorSpec) -> Callable:
        return tf.function(input_signature=[given], autograph=False)

    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = frozen.probabilities(images)
        labels = tf.argmax(outputs, axis=-1)
        return {
            "probabilities": outputs,
            "label": labels,
            "class": tf.gather(tf.constant(list(class_names)), labels),
        }

    @signature(bytes_given)
    def serve_bytes(image_bytes):
        return answer(_decoded(image_bytes, size, resize))

    @signature(images_given)
    def serve_images(image):
        return answer(image)

    signatures = {
        "serving_default": serve_bytes,
        "serve_bytes": serve_bytes,
        "serve_images": serve_images,
    }
    if dense:
        below = keras.Model(model.inputs[0], dense[-1].input)

        @signature(bytes_given)
        def features(image_bytes):
            images = _decoded(image_bytes, size, resize)
            found = frozen.apply(below, images)
            return {"features": tf.cast(found, tf.float32)}

        signatures["features"] = features
    return signatures


def _decoded(encoded: tf.Tensor, size: int, resize: str) -> tf.Tensor:
    """String `[B]` -> uint8 `[B, size, size, 3]`, or which ones don't decode.

    Only `tf.data` goes on after an error, and so can tell all of them.
    """
    count = tf.size(encoded, tf.int64)
    images = (
        tf.data.Dataset.from_tensor_slices(encoded)
        .enumerate()
        .map(
            lambda place, data: (place, decode_and_resize(data, size, resize)),
            num_parallel_calls=_AT_ONCE,
            deterministic=True,
        )
        .ignore_errors()
    )
    # One more, so that there is a batch where nothing decodes.
    black = tf.zeros([size, size, 3], tf.uint8)
    last = tf.data.Dataset.from_tensors((count, black))
    batch = images.concatenate(last).batch(count + 1).get_single_element()
    places, pixels = batch[0][:-1], batch[1][:-1]
    decodes = tf.scatter_nd(places[:, None], tf.ones_like(places), [count])
    broken = tf.where(decodes == 0)[:, 0]
    check = tf.debugging.Assert(
        tf.size(broken) == 0,
        ["No JPEG, PNG, GIF, BMP or WebP image at these positions:", broken],
        summarize=32,
    )
    with tf.control_dependencies([check]):
        return tf.ensure_shape(pixels, [None, size, size, 3])


# Requests that a server answers before it takes others.


def _write_warm_up(folder: str, size: int) -> None:
    os.makedirs(folder, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    picture = tf.io.encode_jpeg(noise).numpy()
    path = os.path.join(folder, "tf_serving_warmup_requests")
    with tf.io.TFRecordWriter(path) as writer:
        for count in _WARM_UP_BATCHES:
            writer.write(_prediction_log("image_bytes", [picture] * count))


def _prediction_log(name: str, values: Sequence[bytes]) -> bytes:
    """A PredictionLog of TensorFlow Serving, for the default signature.

    Written out, since tensorflow-serving-api would be one more dependency for
    three nested messages:
    https://github.com/tensorflow/serving/blob/master/tensorflow_serving/apis/prediction_log.proto
    """
    tensor = tf.make_tensor_proto(list(values)).SerializeToString()
    entry = _field(1, name.encode()) + _field(2, tensor)
    request = _field(2, entry)  # PredictRequest.inputs, a map.
    log = _field(1, request)  # PredictLog.request
    return _field(6, log)  # PredictionLog.predict_log


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that has a length.

    https://protobuf.dev/programming-guides/encoding/
    """
    return bytes([number << 3 | 2, *_varint(len(content))]) + content


def _varint(value: int) -> Iterator[int]:
    while value > 127:
        yield value & 127 | 128
        value >>= 7
    yield value
