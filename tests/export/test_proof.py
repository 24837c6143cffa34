import json

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo

from framework.data.images import decode_and_resize
from framework.data.source import IndexedExamples, StreamedExamples
from framework.errors import UserError
from framework.evaluation.predictions import Predictions
from framework.export import artifact, proof
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.registry import BACKBONES

SIZE = 24
NAMES = ("dark", "Übung")


def model(head=softmax_head):
    return classifier(
        2, backbone=BACKBONES["tiny_cnn"], head=head, image_size=SIZE
    ).model


@pytest.fixture(scope="module")
def trained():
    return model()


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "1"
    artifact.write(trained, place, NAMES, "squash", {})
    return str(place)


def indexed(files, first=0):
    files = tf.constant(files)
    numbers = np.arange(first, first + len(files))
    return IndexedExamples(
        ids=np.array([f"Übung/{n}" for n in numbers], object),
        labels=numbers % 2,
        rows=np.arange(len(files)),
        read=lambda row: tf.gather(files, row),
    )


def streamed(examples):
    def stream(seed):
        return tf.data.Dataset.from_tensor_slices(
            {
                "image": tf.stack([examples.read(r) for r in examples.rows]),
                "label": examples.labels,
                "id": examples.ids.tolist(),
            }
        )

    return StreamedExamples(len(examples), stream, None, 10)


def measured(trained, pixels, ids):
    """What evaluation would have said."""
    return Predictions(
        ids=ids,
        labels=np.arange(len(ids)) % 2,
        probabilities=trained.predict(pixels, verbose=0),
        losses=np.zeros(len(ids), np.float32),
        unreadable=(),
    )


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(pixels):
    return [tf.io.encode_png(image).numpy() for image in pixels]


def test_a_proof(trained, place, pixels, files):
    # What was judged is spread over splits here, as it is with folds.
    splits = [indexed(files[:25]), indexed(files[25:], 25)]
    ids = np.concatenate([split.ids for split in splits])[::-1]
    said = measured(trained, pixels[::-1], ids)
    found = proof.prove(place, splits, said, NAMES, SIZE, "squash")
    assert found["examples"] == found["measured"] == 40
    assert found["signature"] == "serve_bytes"
    assert found["difference"] < 1e-5
    assert found["accuracy"] == found["measured_accuracy"]
    right = said.predicted == said.labels
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["repeatable"] is True
    assert set(found["milliseconds"]) == {"1", "32"}
    assert found["bytes"] > 10_000
    assert json.loads(json.dumps(found)) == found


def test_requests(pixels, files, tmp_path):
    path = str(tmp_path / "requests")

    def written(splits, ids, as_pixels=False):
        ids = np.array(ids, object)
        signature, order = proof._write_requests(
            path, splits, ids, 16, "crop", as_pixels
        )
        records = [r.numpy() for r in tf.data.TFRecordDataset(path)]
        return signature, order.tolist(), records

    wanted = ["Übung/7", "Übung/3", "Übung/9"]
    for make in (lambda e: e, streamed):
        found = written([make(indexed(files))], wanted)
        assert found == (
            "serve_bytes",
            [1, 0, 2],
            [files[3], files[7], files[9]],
        )
    signature, order, records = written([indexed(pixels)], wanted)
    assert (signature, order) == ("serve_images", [1, 0, 2])
    assert tf.io.parse_tensor(records[0], tf.uint8).shape == (16, 16, 3)
    # LiteRT and ONNX take no files.
    signature, order, records = written([indexed(files)], wanted, True)
    assert (signature, order) == ("serve_images", [1, 0, 2])
    assert (
        tf.io.parse_tensor(records[0], tf.uint8).numpy()
        == decode_and_resize(tf.constant(files[3]), 16, "crop").numpy()
    ).all()
    with pytest.raises(UserError, match=r"1 of the 2 examples.*Übung/99"):
        written([indexed(files)], ["Übung/3", "Übung/99"])


def test_of_many_some_are_asked(monkeypatch, trained, place, pixels, files):
    asked = []

    def answers(place, signature, requests, folder, count, seconds):
        asked.append(len(list(tf.data.TFRecordDataset(requests))))
        raise UserError("enough")

    monkeypatch.setattr(proof, "_answers", answers)
    examples = indexed(files)
    said = measured(trained, pixels, examples.ids)
    for most, expected in ((1000, 40), (7, 7)):
        with pytest.raises(UserError, match="enough"):
            proof.prove(place, [examples], said, NAMES, SIZE, "squash", most)
        assert asked.pop() == expected


def answered(probabilities, label=None, name=None, repeatable=True):
    probabilities = np.array(probabilities, np.float32)
    label = probabilities.argmax(-1) if label is None else np.array(label)
    names = [NAMES[i].encode() for i in label] if name is None else name
    return {
        "probabilities": probabilities,
        "label": label,
        "class": np.array(names),
        "figures": np.array(json.dumps({"repeatable": repeatable})),
    }


def compared(answers, expected, exact=True):
    ids = np.array(["first", "second"], object)
    expected = np.array(expected, np.float32)
    return proof._compared(answers, expected, ids, NAMES, exact)


EXPECTED = [[0.2, 0.8], [0.7, 0.3]]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            answered([[0.2, 0.8], [0.699, 0.301]]),
            r"of 2 examples.*says of 1.*0\.001 of a probability \(second\)",
        ),
        (answered([[np.nan, 0.8], [0.7, 0.3]]), r"says of 1.*\(first\)"),
        (answered(EXPECTED, repeatable=False), "two calls.*differ"),
        (answered(EXPECTED, label=[0, 0]), "its labels are not those"),
        (answered(EXPECTED, name=[b"dark", b"dark"]), "its labels are not"),
    ],
)
def test_what_refutes(answers, message):
    with pytest.raises(UserError, match=message):
        compared(answers, EXPECTED)


def test_eight_bits_need_not_be_the_same():
    found = compared(answered([[0.6, 0.4], [0.8, 0.2]]), EXPECTED, exact=False)
    assert found["difference"] == pytest.approx(0.4)
    assert found["other_classes"] == 1
    with pytest.raises(UserError, match="something else"):
        compared(answered([[np.nan] * 2, [0.7, 0.3]]), EXPECTED, exact=False)


def test_ties_are_no_failure():
    found = compared(
        answered([[0.50004, 0.49996], [0.7, 0.3]]),
        [[0.49998, 0.50002], [0.7, 0.3]],
    )
    assert found["other_classes"] == 1
    assert found["difference"] == pytest.approx(6e-5, abs=1e-7)


def test_a_process_that_fails(place, trained, pixels, files, tmp_path):
    examples = indexed(files)
    said = measured(trained, pixels, examples.ids)
    with pytest.raises(UserError, match=r"failed at it with status 1: .*"):
        proof.prove(
            str(tmp_path / "none"), [examples], said, NAMES, SIZE, "squash"
        )
    with pytest.raises(UserError, match=r"did not answer 40 requests within"):
        proof.prove(place, [examples], said, NAMES, SIZE, "squash", seconds=0.1)


@pytest.mark.slow
def test_a_picture_that_is_broken_now(place, trained, pixels, files):
    examples = indexed([*files[:-1], encoded(photo(), "JPEG")[:300]])
    said = measured(trained, pixels, examples.ids)
    with pytest.raises(UserError, match="failed at it"):
        proof.prove(place, [examples], said, NAMES, SIZE, "squash")
