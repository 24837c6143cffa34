import json

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from framework.evaluation import metrics
from framework.evaluation.metrics import measure

ECE = "expected_calibration_error"


def split(count, classes, seed=0, sharpness=0.5):
    """Labels and probabilities that are calibrated and often wrong."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([sharpness] * classes, count).astype(np.float32)
    below = rng.random(count)[:, None] > np.cumsum(p, 1)
    return np.minimum(below.sum(1), classes - 1), p


def names(classes):
    return [f"class {c}" for c in range(classes)]


def test_of_many_classes_means_over_one_against_the_rest():
    labels, p = split(300, 12)
    figures = measure(labels, p, names(12))
    predicted = p.argmax(1)
    for name, score in (
        ("precision", sklearn.metrics.precision_score),
        ("recall", sklearn.metrics.recall_score),
        ("f1", sklearn.metrics.f1_score),
    ):
        assert figures[f"macro_{name}"] == pytest.approx(
            score(labels, predicted, average="macro", zero_division=0)
        )
    exact = p.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    one_hot = np.eye(12)[labels]
    for name, expected in (
        ("accuracy", sklearn.metrics.accuracy_score(labels, predicted)),
        (
            "top_5_accuracy",
            sklearn.metrics.top_k_accuracy_score(labels, exact, k=5),
        ),
        (
            "auc",
            sklearn.metrics.roc_auc_score(labels, exact, multi_class="ovr"),
        ),
        (
            "average_precision",
            sklearn.metrics.average_precision_score(one_hot, exact),
        ),
        ("brier_score", ((exact - one_hot) ** 2).sum(1).mean()),
    ):
        assert figures[name] == pytest.approx(expected, rel=1e-5), name
    likely = np.clip(exact[range(300), labels], 1e-7, 1)
    assert figures["log_loss"] == pytest.approx(-np.log(likely).mean(), 1e-5)
    aucs = [row["auc"] for row in figures["classes"].values()]
    assert figures["auc"] == pytest.approx(np.mean(aucs))
    assert "sensitivity" not in figures
    assert "top_5_accuracy" not in measure(*split(20, 9), names(9))
    json.dumps(figures, allow_nan=False)


def test_of_two_classes_those_of_the_second():
    labels, p = split(200, 2)
    labels[:60] = 0  # The two are told apart.
    figures = measure(labels, p, ("cat", "dog"))
    predicted = p[:, 1] > 0.5
    for name, expected in (
        ("auc", sklearn.metrics.roc_auc_score(labels, p[:, 1])),
        (
            "average_precision",
            sklearn.metrics.average_precision_score(labels, p[:, 1]),
        ),
        ("sensitivity", sklearn.metrics.recall_score(labels, predicted)),
        ("specificity", (~predicted[labels == 0]).mean()),
        ("brier_score", sklearn.metrics.brier_score_loss(labels, p[:, 1])),
        ("log_loss", sklearn.metrics.log_loss(labels, p[:, 1])),
    ):
        assert figures[name] == pytest.approx(expected, rel=1e-5), name
    assert figures["sensitivity"] != pytest.approx(figures["specificity"])
    assert figures["positive_class"] == "dog"


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_a_single_figure_is_that_of_all(classes):
    labels, p = split(80, classes)
    labels[0] = 0
    figures = measure(labels, p, names(classes))
    for name in metrics.names_for(classes):
        assert metrics.single(name, labels, p) == figures[name]
    numbers = {k for k, v in figures.items() if isinstance(v, float)}
    assert numbers == set(metrics.names_for(classes))


def test_calibration_is_measured_in_15_bins_of_the_confidence():
    # 0.8 is the upper edge of a bin and in it, 0.81 in the next one.
    confidence = np.array([0.79, 0.79, 0.8, 0.81])
    p = np.stack([confidence, 1 - confidence], 1)
    labels = np.array([0, 1, 0, 1])
    expected = (abs(3 * (2.38 / 3 - 2 / 3)) + abs(0.81 - 0)) / 4
    assert measure(labels, p, "ab")[ECE] == pytest.approx(expected)


def test_a_class_that_is_missing_has_no_figures_and_counts_nowhere():
    labels, p = split(60, 4)
    labels[labels == 3] = 0
    figures = measure(labels, p, names(4))
    missing = figures["classes"].pop("class 3")
    assert missing == {
        **dict.fromkeys(
            ("precision", "recall", "f1", "auc", "average_precision")
        ),
        "examples": 0,
    }
    for name, mean in (("auc", "auc"), ("f1", "macro_f1")):
        values = [row[name] for row in figures["classes"].values()]
        assert figures[mean] == pytest.approx(np.mean(values))
    low, high = figures["auc_interval"]
    assert low < figures["auc"] < high


@pytest.mark.parametrize(
    ("labels", "p"),
    [
        ([1], [[0.3, 0.7]]),
        ([0, 0, 0], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]),
        ([0, 1, 1], [[np.nan, np.nan]] * 3),
        ([0, 1, 1], [[np.nan] * 12] * 3),
    ],
    ids=["one example", "one class", "not a number", "nor of 12 classes"],
)
def test_what_is_not_defined_is_none(labels, p):
    p = np.array(p, np.float32)
    figures = measure(np.array(labels), p, "abcdefghijkl"[: p.shape[1]])
    assert figures["auc"] is figures["auc_interval"] is None
    assert figures["classes"]["b"]["average_precision"] is None
    low, high = figures["accuracy_interval"]
    assert 0 <= low <= figures["accuracy"] <= high <= 1
    assert high - low > 0.3
    json.dumps(figures, allow_nan=False)


def test_when_all_are_right_resamples_say_nothing_and_wilson_does():
    labels, p = np.arange(40) % 2, np.eye(2)[np.arange(40) % 2]
    figures = measure(labels, p, "ab")
    assert figures["accuracy"] == figures["macro_f1"] == figures["auc"] == 1
    assert figures["macro_f1_interval"] is figures["auc_interval"] is None
    assert figures[f"{ECE}_interval"] is None
    expected = scipy.stats.binomtest(40, 40).proportion_ci(method="wilson")
    assert figures["accuracy_interval"] == pytest.approx(list(expected))
    groups = np.repeat([f"burst {i}" for i in range(8)], 5)
    figures = measure(labels, p, "ab", groups)
    expected = scipy.stats.binomtest(8, 8).proportion_ci(method="wilson")
    assert figures["accuracy_interval"] == pytest.approx(list(expected))


def test_resamples_weigh_as_repeated_examples_do():
    labels, p = split(80, 2)
    p = p.round(1)  # Many are alike.
    weights = np.random.default_rng(0).integers(0, 4, (80, 5))
    aucs = metrics._Ranking(labels == 1, p[:, 1]).auc(weights.astype("f4"))
    for auc, weight in zip(aucs, weights.T, strict=True):
        expected = sklearn.metrics.roc_auc_score(
            labels, p[:, 1], sample_weight=weight
        )
        assert auc == pytest.approx(expected, rel=1e-5)


def test_intervals_are_those_of_a_bootstrap_with_scikit_learn():
    labels, p = split(150, 3)
    made = metrics.intervals(labels, p)
    p = p.astype(np.float64) / p.sum(1, keepdims=True, dtype=np.float64)
    rng, values = np.random.default_rng(1), []
    for _ in range(200):
        rows = rng.integers(150, size=150)
        values.append(
            (
                sklearn.metrics.f1_score(
                    labels[rows], p[rows].argmax(1), average="macro"
                ),
                sklearn.metrics.roc_auc_score(
                    labels[rows], p[rows], multi_class="ovr"
                ),
            )
        )
    for name, column in zip(
        ("macro_f1", "auc"), np.array(values).T, strict=True
    ):
        np.testing.assert_allclose(
            made[f"{name}_interval"],
            np.quantile(column, [0.025, 0.975]),
            atol=0.25 * np.ptp(np.quantile(column, [0.025, 0.975])),
        )
    assert made["intervals"] == {
        "confidence": 0.95,
        "resamples": 2000,
        "resampled": "examples",
        "units": 150,
    }
    assert metrics.intervals(labels, p) == metrics.intervals(labels, p)


def drawn(count, rng, repeats=1):
    """What an overconfident model says of two classes; groups are alike."""
    certain = rng.beta(2, 1, count) / 2 + 0.5
    said = np.minimum(certain + 0.1, 0.99)
    predicted = rng.integers(0, 2, count)
    labels = np.where(rng.random(count) < certain, predicted, 1 - predicted)
    p = np.where(np.arange(2) == predicted[:, None], said[:, None], 0)
    p = np.where(p > 0, p, 1 - said[:, None])
    return np.repeat(labels, repeats), np.repeat(p, repeats, axis=0)


def covered(monkeypatch, count, repeats, grouped, splits=200):
    """The share of splits whose intervals hold the truth, by figure."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(metrics, "_RESAMPLES", (1, 1))
    truth = measure(*drawn(200_000, rng), "ab")
    monkeypatch.setattr(metrics, "_RESAMPLES", (200, 200))
    hits = {"accuracy": [], "auc": [], "macro_f1": [], ECE: []}
    for _ in range(splits):
        labels, p = drawn(count, rng, repeats)
        groups = np.repeat(np.arange(count).astype(str), repeats)
        made = metrics.intervals(labels, p, groups if grouped else None)
        for name, held in hits.items():
            low, high = made[f"{name}_interval"]
            held.append(low <= truth[name] <= high)
    return {name: np.mean(held) for name, held in hits.items()}


def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch):
    shares = covered(monkeypatch, count=200, repeats=1, grouped=False)
    for name, share in shares.items():
        # 200 splits tell 0.95 from 0.90.
        assert 0.9 <= share <= 0.995, (name, share)


def test_alike_examples_count_as_the_group_they_are(monkeypatch):
    blind, aware = (
        covered(monkeypatch, 60, repeats=6, grouped=grouped, splits=100)
        for grouped in (False, True)
    )
    for name in ("accuracy", "auc", "macro_f1"):
        assert blind[name] < 0.7
        assert 0.88 <= aware[name] <= 0.995, (name, aware[name])


def test_a_calibrated_model_may_have_no_calibration_error(monkeypatch):
    monkeypatch.setattr(metrics, "_RESAMPLES", (200, 200))
    lows, errors = [], []
    for seed in range(40):
        figures = measure(*split(300, 3, seed), names(3))
        lows.append(figures[f"{ECE}_interval"][0])
        errors.append(figures[ECE])
    # That of a finite split is never 0.
    assert min(errors) > 0.01
    assert np.mean(np.array(lows) == 0) >= 0.9


def test_groups_of_one_are_no_groups():
    labels, p = split(50, 2)
    expected = metrics.intervals(labels, p)
    unnamed = np.full(50, "", object)
    assert metrics.intervals(labels, p, unnamed) == expected
    assert metrics.intervals(labels, p, np.arange(50).astype(str)) == expected
    unnamed[:2] = "both"
    made = metrics.intervals(labels, p, unnamed)["intervals"]
    assert (made["resampled"], made["units"]) == ("groups", 49)
