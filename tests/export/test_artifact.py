import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from augmentations import OURS, SIZE, keras_layers, make
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from pictures import encoded, photo
from PIL import Image
from tensorflow.core.framework import tensor_pb2

from framework.data.images import RESIZES
from framework.data.pipeline import Pipeline
from framework.data.source import IndexedExamples
from framework.errors import UserError
from framework.export import artifact
from framework.model.augmentation import why_not_in_model
from framework.model.classifier import classifier
from framework.model.heads import sigmoid_head, softmax_head
from framework.registry import BACKBONES

NAMES = ("<b>'\" & co", "Übung", "c")


def built(head=softmax_head, classes=3, augmentation=()):
    made = classifier(
        classes,
        backbone=BACKBONES["tiny_cnn"],
        head=head,
        image_size=SIZE,
        augmentation=augmentation,
    ).model
    # Normalisations that would be missed.
    rng = np.random.default_rng(0)
    for layer in made._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(
                [rng.uniform(0.5, 2, w.shape) for w in layer.weights]
            )
    return made


def loaded(place):
    return tf.saved_model.load(str(place)).signatures


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_nothing_random_is_left(tmp_path, images, policy):
    keras.config.set_dtype_policy(policy)
    try:
        layers = [make(name) for name in [*OURS, *keras_layers()]]
        layers = [layer for layer in layers if not why_not_in_model(layer)]
        assert len(layers) > 15
        model = built(augmentation=layers)
        expected = model.predict(images, verbose=0)
        metadata = artifact.write(model, tmp_path / "1", NAMES, "squash", {})
    finally:
        keras.config.set_dtype_policy("float32")
    # In 16 bits nothing is folded, and all those layers are still there.
    folded = metadata["batch_normalisations_folded"]
    assert folded == (2 if policy == "float32" else 0)
    serve = loaded(tmp_path / "1")["serve_images"]
    answers = [
        serve(image=tf.constant(images))["probabilities"].numpy()
        for _ in range(20)
    ]
    assert len({answer.tobytes() for answer in answers}) == 1
    np.testing.assert_allclose(answers[0], expected, atol=1e-5)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo(), "JPEG", exif=exif)


def all_kinds():
    """Files of all kinds, by what is special of them."""
    return {
        "JPEG": encoded(photo(), "JPEG"),
        "progressive": encoded(photo(seed=1), "JPEG", progressive=True),
        "PNG": encoded(photo(seed=2), "PNG"),
        "grey": encoded(photo(seed=3).convert("L"), "JPEG"),
        "CMYK": encoded(photo(seed=4).convert("CMYK"), "JPEG"),
        "turned": turned(),
        "alpha": encoded(photo(seed=5).convert("RGBA"), "PNG"),
        "palette": encoded(photo(seed=6).convert("P"), "GIF"),
        "WebP": encoded(photo(seed=7), "WEBP"),
        "small": encoded(photo(41, 41, seed=8), "JPEG"),
        "tiny": encoded(photo(1, 3, seed=8), "PNG"),
        "wide": encoded(photo(6000, 400, seed=9), "JPEG"),
    }


@pytest.mark.parametrize("resize", RESIZES)
def test_files_are_read_as_in_evaluation(tmp_path, resize):
    files = list(all_kinds().values())
    model = built()
    artifact.write(model, tmp_path / "1", NAMES, resize, {})
    signatures = loaded(tmp_path / "1")
    found = signatures["serve_bytes"](image_bytes=tf.constant(files))

    examples = IndexedExamples(
        ids=np.array([str(i) for i in range(len(files))], object),
        labels=np.zeros(len(files), np.int64),
        rows=np.arange(len(files)),
        read=lambda row: tf.gather(tf.constant(files), row),
    )
    (batch,) = Pipeline(resize=resize).evaluation(examples, SIZE, len(files))
    assert batch["weight"].numpy().all()
    expected = model.predict(batch["image"], verbose=0)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(found["label"], expected.argmax(-1))
    names = [NAMES[i].encode() for i in expected.argmax(-1)]
    assert list(found["class"].numpy()) == names
    default = signatures["serving_default"](image_bytes=tf.constant(files))
    np.testing.assert_array_equal(
        default["probabilities"], found["probabilities"]
    )
    # These make the probabilities, by the last layer alone.
    features = signatures["features"](image_bytes=tf.constant(files))[
        "features"
    ]
    logits = model.get_layer("logits")(features)
    np.testing.assert_allclose(keras.ops.softmax(logits), expected, atol=1e-5)


def test_one_output_is_two_probabilities(tmp_path, images):
    model = built(sigmoid_head, 2)
    artifact.write(model, tmp_path / "1", NAMES[:2], "squash", {})
    found = loaded(tmp_path / "1")["serve_images"](image=tf.constant(images))
    second = model.predict(images, verbose=0)
    expected = np.concatenate([1 - second, second], axis=-1)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(found["label"], expected.argmax(-1))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "1"
    artifact.write(built(), place, NAMES, "squash", {"source": "toy"})
    return place


def test_what_does_not_decode_is_named(place):
    serve = loaded(place)["serve_bytes"]
    good = encoded(photo(), "JPEG")
    bad = {1: b"no picture", 3: good[:300], 4: b""}
    files = [bad.get(number, good) for number in range(6)]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[1 3 4\]"):
        serve(image_bytes=tf.constant(files))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0\]"):
        serve(image_bytes=tf.constant([b"no picture"]))
    # It goes on.
    assert len(serve(image_bytes=tf.constant([good]))["label"]) == 1


def test_what_it_says_of_itself(place):
    metadata = json.loads((place / "assets" / "metadata.json").read_text())
    assert metadata == {
        "classes": list(NAMES),
        "image_size": SIZE,
        "resize": "squash",
        "threshold": None,
        "signatures": [
            "features",
            "serve_bytes",
            "serve_images",
            "serving_default",
        ],
        "batch_normalisations_folded": 2,
        "source": "toy",
    }
    there = {
        str(path.relative_to(place))
        for path in place.rglob("*")
        if path.is_file()
    }
    assert there == {
        "assets/metadata.json",
        "assets.extra/tf_serving_warmup_requests",
        "fingerprint.pb",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    }
    assert not any(v.trainable for v in tf.saved_model.load(str(place)).weights)


def prediction_log():
    """TensorFlow Serving's PredictionLog, as far as predictions go."""
    file = descriptor_pb2.FileDescriptorProto(
        name="log.proto", package="log", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto
    for name, inner, number, inner_name in (
        ("PredictionLog", "PredictLog", 6, "predict_log"),
        ("PredictLog", "PredictRequest", 1, "request"),
    ):
        file.message_type.add(name=name).field.add(
            name=inner_name,
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".log.{inner}",
            label=field.LABEL_OPTIONAL,
        )
    request = file.message_type.add(name="PredictRequest")
    request.field.add(
        name="inputs",
        number=2,
        type=field.TYPE_MESSAGE,
        type_name=".log.PredictRequest.InputsEntry",
        label=field.LABEL_REPEATED,
    )
    entry = request.nested_type.add(name="InputsEntry")
    entry.options.map_entry = True
    for number, (name, kind) in enumerate(
        (("key", field.TYPE_STRING), ("value", field.TYPE_BYTES)), 1
    ):
        entry.field.add(
            name=name, number=number, type=kind, label=field.LABEL_OPTIONAL
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("log.PredictionLog")
    return message_factory.GetMessageClass(found)


def test_requests_to_warm_up_with(place):
    path = place / "assets.extra" / "tf_serving_warmup_requests"
    serve, sizes = loaded(place)["serving_default"], []
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log().FromString(record.numpy())
        ((name, tensor),) = log.predict_log.request.inputs.items()
        files = tf.make_ndarray(tensor_pb2.TensorProto.FromString(tensor))
        answer = serve(**{name: tf.constant(files)})
        sizes.append(len(answer["label"]))
    assert sizes == [1, 32]


ALONE = """
import sys
import tensorflow as tf
path, *files = sys.argv[1:]
model = tf.saved_model.load(path)
data = [tf.io.read_file(file) for file in files]
found = model.signatures["serve_bytes"](image_bytes=tf.stack(data))
assert "framework" not in sys.modules
print(found["label"].numpy().tolist())
"""


def test_tensorflow_alone_loads_it(place, in_tmp):
    files = [encoded(photo(seed=seed), "JPEG") for seed in range(3)]
    for number, data in enumerate(files):
        (in_tmp / f"{number}.jpg").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, place, "0.jpg", "1.jpg", "2.jpg"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    expected = loaded(place)["serve_bytes"](image_bytes=tf.constant(files))
    assert json.loads(done.stdout) == expected["label"].numpy().tolist()


def test_as_many_names_as_classes(tmp_path):
    with pytest.raises(UserError, match="3 classes apart, and 2 names"):
        artifact.write(built(), tmp_path / "1", NAMES[:2], "squash", {})
    assert not os.listdir(tmp_path)
