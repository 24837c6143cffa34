"""Which labels are suspected."""

import numpy as np
import pytest

from framework.data.doctor import label_errors
from framework.data.doctor.label_errors import LabelChecker, suspects, too_small
from framework.data.pipeline import Pipeline
from framework.data.source import array_source


def blobs(classes: int, count: int, swaps: int, seed: int = 0):
    """Features of clusters that hardly overlap, and labels, some swapped."""
    rng = np.random.default_rng(seed)
    true = np.arange(count) % classes
    centres = rng.normal(0, 1.2, (classes, 40))
    features = centres[true] + rng.normal(0, 1, (count, 40))
    wrong = rng.choice(count, swaps, replace=False)
    labels = true.copy()
    labels[wrong] = (true[wrong] + rng.integers(1, classes, swaps)) % classes
    return features.astype(np.float32), labels, true, set(wrong.tolist())


@pytest.mark.parametrize("classes", [2, 6])
def test_swapped_labels_are_the_first_suspects(classes):
    features, labels, true, wrong = blobs(classes, 600, 20)
    ranked = suspects(features, labels, classes)
    first = ranked[: len(wrong)]
    assert len({s.index for s in first} & wrong) >= 18
    for suspect in first:
        if suspect.index in wrong:
            assert suspect.suggested == true[suspect.index]
            assert suspect.probability > suspect.score
    scores = [s.score for s in ranked]
    assert scores == sorted(scores)
    assert ranked == suspects(features, labels, classes), "the same again"


def test_copies_do_not_give_a_wrong_label_away():
    features, labels, _, _ = blobs(2, 300, 0)
    # Each of these stands there five times, wrongly labelled every time.
    copied = np.repeat(np.arange(10), 4)
    features = np.concatenate([features, features[copied]])
    labels = np.concatenate([labels, labels[copied]])
    groups = np.concatenate([np.arange(300), copied])
    wrong = np.isin(groups, np.arange(10))
    labels[wrong] = 1 - labels[wrong]
    ranked = suspects(features, labels, 2, groups)
    found = {s.index for s in ranked[:60]} & set(np.flatnonzero(wrong))
    assert len(found) >= 45


def test_small_classes_are_left_out_and_named():
    labels = np.array([0] * 20 + [1] * 20 + [2] * 3)
    assert too_small(labels, 4).tolist() == [2]
    # Twenty copies of one picture are one picture.
    groups = np.concatenate([np.zeros(20, int), np.arange(1, 24)])
    assert too_small(labels, 4, groups).tolist() == [0, 2]
    features = np.random.default_rng(0).normal(size=(43, 8))
    assert all(labels[s.index] < 2 for s in suspects(features, labels, 4))
    assert suspects(features, labels, 4, groups) == []


def test_pictures_are_checked_as_the_pipeline_gives_them(arrays, monkeypatch):
    """From pictures to suspects, with an untrained backbone."""
    train = arrays.splits["train"]
    labels = train.labels.copy()
    labels[:2] = 1 - labels[:2]
    images = np.stack([train.read(row).numpy() for row in train.rows])
    splits = array_source(images, labels, arrays.class_names).splits
    checker = LabelChecker(backbone="tiny_cnn", weights=None, image_size=20)
    monkeypatch.setattr(
        label_errors, "BACKBONES", {"tiny_cnn": without_weights}
    )
    done = []
    found, remarks = checker.check(
        splits,
        arrays.class_names,
        np.arange(40),
        Pipeline(),
        lambda count, total: done.append((count, total)),
    )
    assert remarks == []
    assert {s.index for s in found[:2]} == {0, 1}
    assert done[-1] == (40, 40)


def without_weights(image_size, weights):
    from framework.model.backbones import tiny_cnn

    return tiny_cnn(image_size)


def test_of_too_many_a_part_is_drawn(arrays, monkeypatch):
    checker = LabelChecker(
        most=20, backbone="tiny_cnn", weights=None, image_size=20, folds=3
    )
    monkeypatch.setattr(
        label_errors, "BACKBONES", {"tiny_cnn": without_weights}
    )
    _, remarks = checker.check(
        arrays.splits, arrays.class_names, np.arange(40), Pipeline()
    )
    assert "20 examples out of 40" in remarks[0]
