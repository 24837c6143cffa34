"""LiteRT and ONNX: the same answers, and nothing random."""

import json
import os

import numpy as np
import pytest
from augmentations import OURS, SIZE, keras_layers, make

from framework.errors import UserError
from framework.export import artifact, portable
from framework.export.frozen import Frozen
from framework.inference.loaded import load
from framework.model.classifier import classifier
from framework.model.heads import sigmoid_head, softmax_head
from framework.registry import BACKBONES

NAMES = ("one", "two", "three")


def built(head=softmax_head, classes=3, augmentation=()):
    return classifier(
        classes,
        BACKBONES["tiny_cnn"],
        head,
        SIZE,
        augmentation=augmentation,
    ).model


def images(count, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def written(kind, model, place, names=NAMES):
    frozen = Frozen(model)
    metadata = artifact.describe(frozen, names, "squash", {"of": "a test"})
    return portable.write(
        kind, frozen, str(place / kind), metadata, images(50, seed=7)
    )


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A model with every augmentation layer that can be in one, and files."""
    model = built(augmentation=[make(n) for n in (*keras_layers(), *OURS)])
    place = tmp_path_factory.mktemp("portable")
    paths = {
        kind: written(kind, model, place)
        for kind in (portable.LITERT, portable.LITERT_INT8, portable.ONNX)
    }
    paths["saved_model"] = str(place / "1")
    artifact.write(model, paths["saved_model"], NAMES, "squash", {})
    return model, paths


@pytest.mark.parametrize(
    "kind", ["saved_model", portable.LITERT, portable.ONNX]
)
def test_twenty_calls_are_one_and_the_models(everything, kind):
    model, paths = everything
    loaded = load(paths[kind])
    given = images(5)
    expected = model.predict(given, verbose=0)
    calls = [loaded.probabilities(given).tobytes() for _ in range(20)]
    assert len(set(calls)) == 1
    assert abs(loaded.probabilities(given) - expected).max() < 1e-5
    # Of any number of pictures, one after another.
    for count in (1, 7, 2):
        given = images(count, seed=count)
        expected = model.predict(given, verbose=0)
        assert abs(loaded.probabilities(given) - expected).max() < 1e-5


def test_eight_bits_are_near(everything):
    model, paths = everything
    given = images(40, seed=3)
    expected = model.predict(given, verbose=0)
    found = load(paths[portable.LITERT_INT8]).probabilities(given)
    difference = abs(found - expected)
    assert 1e-6 < difference.max() < 0.1
    # A byte a weight instead of four, and the graph.
    small, large = (
        os.path.getsize(paths[kind])
        for kind in (portable.LITERT_INT8, portable.LITERT)
    )
    assert large - small > 2.5 * model.count_params()


def test_one_output_becomes_two_probabilities(tmp_path):
    model = built(sigmoid_head, 2)
    given = images(3)
    expected = model.predict(given, verbose=0)[:, 0]
    for kind in (portable.LITERT, portable.ONNX):
        path = written(kind, model, tmp_path, ("no", "yes"))
        loaded = load(path)
        assert loaded.class_names == ("no", "yes")
        assert abs(loaded.probabilities(given)[:, 1] - expected).max() < 1e-5
        about = json.loads((tmp_path / kind / "metadata.json").read_text())
        assert about["of"] == "a test" and about["image_size"] == SIZE


def test_names_must_be_as_many_as_classes(tmp_path):
    with pytest.raises(UserError, match="3 classes apart, and 2 names"):
        written(portable.LITERT, built(), tmp_path, ("a", "b"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".tflite", ".onnx"])
def test_what_is_no_such_file_is_refused(tmp_path, ending):
    path = tmp_path / f"model{ending}"
    with pytest.raises(UserError, match="There is no file"):
        load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"no metadata\.json"):
        load(path)
    (tmp_path / "metadata.json").write_text(
        json.dumps({"classes": [], "image_size": 1, "resize": "pad"})
    )
    with pytest.raises(UserError, match="can't be loaded"):
        load(path)
