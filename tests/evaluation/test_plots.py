"""Plots: what they draw, and what is left of them in a page."""

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

from framework.evaluation import plots


@pytest.fixture
def epochs():
    return [
        {
            "epoch": number,
            "phase": 1 + (number > 2),
            "train": {"loss": 1 / number, "accuracy": 0.5},
            "validation": {"loss": 2 / number, "accuracy": 0.4},
            "learning_rate": 0.1 * number,
        }
        for number in (1, 2, 3)
    ]


def test_a_history_is_drawn(epochs):
    made = plots.panels(epochs, 1)
    (loss,) = made["loss"].axes
    train, validation, kept, phase = loss.lines
    assert list(train.get_ydata()) == [1, 1 / 2, 1 / 3]
    assert list(validation.get_ydata()) == [2, 1, 2 / 3]
    assert list(kept.get_xdata()) == [2, 2]
    assert list(phase.get_xdata()) == [2.5, 2.5]
    (rate,) = made["learning rate"].axes
    assert list(rate.lines[0].get_ydata()) == pytest.approx([0.1, 0.2, 0.3])


def test_a_history_without_validation_is_drawn(epochs):
    for epoch in epochs:
        del epoch["validation"]
    (accuracy,) = plots.panels(epochs, 0)["accuracy"].axes
    assert [line.get_label() for line in accuracy.lines][:2] == [
        "training",
        "weights kept",
    ]


def test_the_history_is_a_picture(epochs):
    made = Image.open(io.BytesIO(plots.history(epochs, 1, "of $5_{}\n<b>")))
    assert made.format == "PNG"
    assert made.size[0] > 900


def test_runs_are_overlaid(epochs):
    bare = [{k: v for k, v in e.items() if k != "validation"} for e in epochs]
    (axes,) = plots.overlaid([epochs, bare], ["A", "B"], "loss").axes
    first, second = axes.lines
    assert list(first.get_ydata()) == [2, 1, 2 / 3]
    assert list(second.get_ydata()) == [1, 1 / 2, 1 / 3]
    assert second.get_label() == "B (training)"


def test_calibration_has_the_bins_of_its_error():
    random = np.random.default_rng(0)
    scores = random.dirichlet([1, 1, 1], 500)
    labels = random.integers(0, 3, 500)
    (axes,) = plots.calibration(labels, scores).axes
    model = next(
        line for line in axes.lines if line.get_label() == "this model"
    )
    confidence, right = scores.max(-1), scores.argmax(-1) == labels
    bins = np.ceil(confidence * 15)
    expected = [
        (confidence[bins == b].mean(), right[bins == b].mean())
        for b in np.unique(bins)
    ]
    assert np.allclose(model.get_xydata(), expected)
    counts = [bar.get_height() for bar in axes.patches]
    assert sum(counts) == pytest.approx(1)


def test_thresholds_are_scikit_learns():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300)
    scores = np.clip(0.3 * labels + random.random(300) * 0.7, 0, 1)
    figure, best = plots.thresholds(labels, scores)
    by_hand = {
        at: sklearn.metrics.f1_score(labels, scores >= at) for at in scores
    }
    at_best = sklearn.metrics.f1_score(labels, scores >= best)
    assert at_best == max(by_hand.values())
    # In the middle of what does as well.
    assert best not in by_hand
    precision, recall, f1, *_ = figure.axes[0].lines
    for at, p, r, f in zip(
        precision.get_xdata(),
        precision.get_ydata(),
        recall.get_ydata(),
        f1.get_ydata(),
        strict=True,
    ):
        said = scores >= at
        assert p == pytest.approx(sklearn.metrics.precision_score(labels, said))
        assert r == pytest.approx(sklearn.metrics.recall_score(labels, said))
        assert f == pytest.approx(by_hand[at])


def test_svg_takes_the_pages_colours_and_keeps_its_ids_apart(epochs):
    figure = plots.panels(epochs, 1)["loss"]
    one, two = (
        plots.svg(figure, 'a "loss" <of> 1', name) for name in ("one", "two")
    )
    tree = ET.fromstring(one)
    assert tree.get("role") == "img"
    assert tree.get("aria-label") == 'a "loss" <of> 1'
    assert "width" not in tree.attrib
    # No colour but the page's.
    assert not re.search(r"#[0-9a-f]{6}\b", one)
    assert "var(--series-1)" in one and "var(--sans)" in one
    assert "<style" not in one
    ids = [re.findall(r' id="([^"]+)"', text) for text in (one, two)]
    assert ids[0] and not set(ids[0]) & set(ids[1])
    assert len(set(ids[0])) == len(ids[0])
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', one)
    assert set(used) == set(ids[0])
    assert plots.svg(plots.panels(epochs, 1)["loss"], "x", "one") == plots.svg(
        figure, "x", "one"
    )
