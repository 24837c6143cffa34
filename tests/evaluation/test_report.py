import dataclasses
import io

import numpy as np
import pytest
import sklearn.metrics
from rich.console import Console

from framework.data.pipeline import Pipeline
from framework.data.source import IndexedExamples
from framework.errors import UserError
from framework.evaluation import report
from framework.evaluation.predictions import Predictions, Predictor
from framework.model.backbones import tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import sigmoid_head, softmax_head
from framework.training.distribution import Distribution

ALONE = Distribution("one").make()


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 50).astype(np.float32)
    labels = rng.integers(0, 3, 50)
    return Predictions(
        ids=np.array([f"{i}.jpg" for i in range(50)], object),
        labels=labels,
        probabilities=probabilities,
        losses=-np.log(probabilities[np.arange(50), labels]),
        unreadable=(),
    )


def test_quality_is_scikit_learns(predictions):
    names = ("a", "b", "c")
    figures = report.quality(predictions, names)
    labels, predicted = predictions.labels, predictions.predicted
    assert figures["accuracy"] == sklearn.metrics.accuracy_score(
        labels, predicted
    )
    assert figures["loss"] == pytest.approx(
        sklearn.metrics.log_loss(labels, predictions.probabilities), rel=1e-5
    )
    expected = sklearn.metrics.classification_report(
        labels, predicted, target_names=names, output_dict=True
    )
    for name in names:
        assert figures["classes"][name]["f1"] == expected[name]["f1-score"]
        assert figures["classes"][name]["examples"] == expected[name]["support"]
    assert np.sum(figures["confusion"]) == figures["examples"] == 50


def test_figures_come_with_their_intervals(predictions):
    console = Console(file=io.StringIO(), width=100)
    figures = report.quality(predictions, ("a", "b", "c"))
    report.print_quality(console, figures, "test")
    text = console.file.getvalue()
    low, high = figures["accuracy_interval"]
    assert (
        f"test: accuracy {figures['accuracy']:.4f} "
        f"(95 % interval {low:.3f}..{high:.3f}), loss" in text
    )
    for name in ("macro F1 0.", "AUC 0.", "Brier score", "calibration error"):
        assert name in text
    assert "groups" not in text
    groups = np.array([f"patient {i // 5}" for i in range(50)])
    grouped = report.quality(predictions, ("a", "b", "c"), groups)
    report.say_quality(console, grouped, "test")
    assert "50 examples in 10 groups" in console.file.getvalue()


def test_groups_are_found_by_the_ids(predictions):
    ids = np.concatenate([predictions.ids[::-1], ["unreadable.jpg"]])
    examples = IndexedExamples(
        ids, np.zeros(51), np.arange(51), lambda row: row
    )
    assert predictions.groups_in(examples) is None
    examples = dataclasses.replace(
        examples, groups=np.array([f"group of {i}" for i in ids], object)
    )
    assert list(predictions.groups_in(examples)) == [
        f"group of {i}" for i in predictions.ids
    ]


def test_names_are_text_not_markup(predictions):
    console = Console(file=io.StringIO(), width=100)
    names = ("[red]a", "b[/]", ":smile:")
    report.print_quality(console, report.quality(predictions, names), "[x] y")
    text = console.file.getvalue()
    for name in (*names, "[x] y"):
        assert name in text
    console.print(report.stand_in_notice("other data", "because [of] it"))
    text = console.file.getvalue()
    assert "STAND-IN DATA" in text
    assert "because [of] it" in text


@pytest.mark.parametrize("head", [softmax_head, sigmoid_head])
def test_every_example_is_predicted_once(arrays, head):
    examples = arrays.splits["train"]
    built = classifier(2, tiny_cnn, head)
    predictions = Predictor(built, ALONE).predict(
        Pipeline().evaluation(examples, 32, 16)  # 40 = 2.5 batches.
    )
    assert list(predictions.ids) == list(examples.ids)
    assert (predictions.labels == examples.labels).all()
    assert predictions.probabilities.shape == (40, 2)
    expected = -np.log(predictions.probabilities[range(40), examples.labels])
    np.testing.assert_allclose(predictions.losses, expected, rtol=1e-3)


def test_nothing_readable_is_an_error(arrays):
    examples = arrays.splits["train"]
    batches = (
        Pipeline()
        .evaluation(examples, 32, 16)
        .map(lambda batch: {**batch, "weight": batch["weight"] * 0})
    )
    with pytest.raises(UserError, match="40 of 40 examples to judge by do not"):
        Predictor(classifier(2, tiny_cnn, softmax_head), ALONE).predict(batches)


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train", "validation", "test"), ("test", "test")),
        (
            ("train", "validation"),
            ("validation", "validation, used for selection"),
        ),
        (("train",), None),
    ],
)
def test_the_judged_split_is_labelled(splits, expected):
    assert report.judged_split(dict.fromkeys(splits)) == expected
