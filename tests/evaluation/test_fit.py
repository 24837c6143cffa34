"""The verdict on made-up histories, and on real ones made to be so."""

import numpy as np
import pytest

import framework
from framework.evaluation import fit


def history(losses, accuracies, train_losses, train_accuracies, phases=None):
    return [
        {
            "epoch": i + 1,
            "phase": phases[i] if phases else 1,
            "train": {"loss": tl, "accuracy": ta},
            "validation": {"loss": vl, "accuracy": va},
        }
        for i, (vl, va, tl, ta) in enumerate(
            zip(losses, accuracies, train_losses, train_accuracies, strict=True)
        )
    ]


def judged(epochs, examples=1000, classes=2, **arguments):
    losses = [e["validation"]["loss"] for e in epochs]
    return fit.judge(
        epochs, int(np.argmin(losses)), examples, classes, **arguments
    )


FALLING = [0.6, 0.4, 0.3, 0.25, 0.22, 0.2, 0.195, 0.193, 0.192, 0.192]
LEARNED = [0.7, 0.82, 0.88, 0.9, 0.92, 0.93, 0.93, 0.93, 0.93, 0.93]


def test_overfitting_is_dated():
    rising = [0.6, 0.45, 0.4, 0.42, 0.5, 0.6, 0.7, 0.8]
    train = [0.6, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01]
    found = judged(history(rising, [0.8] * 8, train, [0.85] * 8))
    assert found.kind == "overfitting"
    assert found.epoch == 4
    assert "0.400" in found.evidence[0]
    assert "It did no harm: the weights kept are those of epoch 3" in (
        found.verdict
    )


def test_knowing_by_heart_is_overfitting_without_a_rise():
    flat = [0.6, 0.5, 0.5, 0.5, 0.5, 0.5]
    found = judged(
        history(
            flat,
            [0.7, 0.75, 0.75, 0.75, 0.75, 0.75],
            FALLING[:6],
            [0.7, 0.8, 0.9, 0.95, 0.98, 0.99],
        )
    )
    assert (found.kind, found.epoch) == ("overfitting", 3)


def test_healthy():
    found = judged(history(FALLING, LEARNED, FALLING, LEARNED))
    assert found.kind == "healthy"


def test_a_last_rise_of_next_to_nothing_is_healthy():
    losses = [0.1, 0.01, 0.002, 0.002, 0.003, 0.004]
    found = judged(history(losses, [0.99] * 6, losses[::-1], [0.99] * 6))
    assert found.kind == "healthy"


def test_one_bad_epoch_is_none():
    losses = [*FALLING[:4], 0.9, *FALLING[5:]]
    found = judged(history(losses, LEARNED, FALLING, LEARNED))
    assert found.kind == "healthy"


def test_validation_better_than_training_is_healthy():
    worse = [loss + 0.3 for loss in FALLING]
    found = judged(
        history(FALLING, LEARNED, worse, [a - 0.15 for a in LEARNED])
    )
    assert found.kind == "healthy"


def test_a_model_that_learns_nothing_underfits():
    found = judged(history([0.69] * 6, [0.52] * 6, [0.69] * 6, [0.51] * 6))
    assert found.kind == "underfitting"
    assert "lr_find" in found.advice[0]
    assert "by chance" in found.verdict


def test_a_model_that_is_not_done_underfits_for_want_of_time():
    losses = [1.5, 1.2, 1.0, 0.8, 0.65, 0.5]
    accuracies = [0.4, 0.5, 0.6, 0.7, 0.75, 0.8]
    found = judged(history(losses, accuracies, losses, accuracies), classes=10)
    assert found.kind == "underfitting"
    assert "train.epochs" in found.advice[0]


def test_phases_that_begin_anew_are_healthy():
    losses = [0.5, 0.4, 0.35, 0.36, 0.25, 0.2, 0.19, 0.19]
    accuracies = [0.8, 0.85, 0.87, 0.87, 0.92, 0.94, 0.94, 0.94]
    phases = [1, 1, 1, 2, 2, 2, 2, 2]
    found = judged(history(losses, accuracies, losses, accuracies, phases))
    assert found.kind == "healthy"


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 0.85, 0.72, 0.61],
        [1.1, 0.98, 0.87, 0.77, 0.68],
        [0.762, 0.648, 0.572],
        [0.846, 0.668, 0.604, 0.567],
    ],
)
def test_short_runs_that_plainly_fall_are_not_done(losses):
    accuracies = list(np.linspace(0.6, 0.8, len(losses)))
    found = judged(history(losses, accuracies, losses, accuracies))
    assert found.kind == "underfitting"
    assert "still falls" in found.verdict


def test_nothing_that_is_best_at_the_end_has_come_to_rest():
    losses = [0.45, 0.19, 0.01]
    accuracies = [0.95, 0.96, 0.997]
    found = judged(history(losses, accuracies, losses, accuracies))
    assert found.kind == "healthy"
    assert "still improved at the end" in found.verdict
    assert "come to rest" not in found.verdict


def test_a_gap_that_closed_again_dates_nothing():
    train = [0.9, 0.7, 0.75, 0.85, 0.95, 0.99]
    gaps = [0.3, 0.0, 0.0, 0.05, 0.13, 0.16]
    validation = [t - g for t, g in zip(train, gaps, strict=True)]
    found = judged(history([0.5] * 6, validation, [0.5] * 6, train))
    assert (found.kind, found.epoch) == ("overfitting", 5)


@pytest.mark.parametrize("seed", range(5))
def test_few_examples_are_too_noisy(seed):
    random = np.random.default_rng(seed)
    right = random.binomial(30, 0.8, 10) / 30
    losses = 0.5 + random.normal(0, 0.12, 10)
    train = np.linspace(0.6, 0.4, 10)
    found = judged(history(losses, right, train, right), examples=30)
    assert found.kind == "noisy"


@pytest.mark.parametrize("seed", range(5))
def test_what_is_plain_is_told_of_few_examples_too(seed):
    random = np.random.default_rng(seed)
    rising = np.array([0.7, 0.5, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1])
    rising = rising + random.normal(0, 0.05, 8)
    train = [0.7, 0.5, 0.3, 0.1, 0.05, 0.02, 0.01, 0.005]
    found = judged(history(rising, [0.7] * 8, train, [0.9] * 8), examples=30)
    assert found.kind == "overfitting"


def test_losses_of_another_kind_are_not_compared():
    """Training with mixed pictures: its loss stays high, and may rise."""
    rising = [0.6, 0.4, 0.42, 0.5, 0.6, 0.7]
    mixed = [0.9, 0.95, 1.0, 1.0, 1.0, 1.0]
    better = [0.7, 0.8, 0.85, 0.9, 0.95, 0.97]
    epochs = history(rising, [0.92] * 6, mixed, better)
    assert judged(epochs).kind != "overfitting"
    assert judged(epochs, comparable=False).kind == "overfitting"


def test_a_history_that_is_too_short():
    found = judged(history([0.5], [0.8], [0.6], [0.7]))
    assert found.kind == "noisy"
    assert "1 epoch." in found.verdict


def test_without_validation_nothing_is_known():
    epochs = history([0.5], [0.8], [0.6], [0.7])
    del epochs[0]["validation"]
    found = fit.judge(epochs, 0, 0, 2)
    assert found.kind == "unknown"


@pytest.mark.parametrize(
    "validation, test, expected",
    [
        ((0.99, [0.98, 1.0]), (0.91, [0.88, 0.94]), True),
        ((0.99, [0.95, 1.0]), (0.95, [0.93, 0.97]), False),
        ((0.90, [0.88, 0.92]), (0.99, [0.98, 1.0]), False),
    ],
)
def test_a_harder_test_split_is_told(validation, test, expected):
    one, other = (
        {"accuracy": accuracy, "accuracy_interval": interval}
        for accuracy, interval in (validation, test)
    )
    said = fit.harder(one, other)
    assert bool(said) == expected
    if said:
        assert "0.910 against 0.990" in said


def of_run(bindings):
    result = framework.run(
        "gin/smoke.gin",
        ["train.early_stopping = None", "pipeline.cache = 'none'", *bindings],
    )
    examples = result.summary["validation"]["examples"]
    return fit.judge(
        result.history.epochs,
        result.history.best_epoch,
        examples,
        len(result.class_names),
    )


def test_a_run_that_learns_by_heart_overfits(in_tmp):
    """Few pictures, no augmentation, far too many epochs."""
    found = of_run(
        [
            "shapes.examples = 150",
            "classifier.augmentation = []",
            "train.epochs = 30",
        ]
    )
    assert found.kind == "overfitting"
    assert 1 < found.epoch < 25


def test_a_run_that_hardly_learns_underfits(in_tmp):
    """A rate at which nothing happens."""
    found = of_run(["keras.Adam.learning_rate = 1e-6", "train.epochs = 5"])
    assert found.kind == "underfitting"
    assert any("lr_find" in line for line in found.advice)
