"""Two models on the same examples."""

import numpy as np
import pytest
import scipy.stats

from framework.evaluation import paired
from framework.evaluation.predictions import Predictions


def predictions(right, ids=None):
    """Of two classes; `right` says which examples are classified rightly."""
    right = np.asarray(right)
    labels = np.arange(len(right)) % 2
    positive = np.where(right, labels, 1 - labels) * 0.8 + 0.1
    scores = np.stack([1 - positive, positive], 1).astype(np.float32)
    losses = -np.log(scores[np.arange(len(right)), labels])
    names = np.array(ids or [f"{i}.png" for i in range(len(right))], object)
    return Predictions(names, labels, scores, losses, ())


def test_counts_and_the_exact_test():
    first = predictions([True] * 70 + [True] * 12 + [False] * 4 + [False] * 14)
    second = predictions([True] * 70 + [False] * 12 + [True] * 4 + [False] * 14)
    found = paired.compare(first, second)
    assert (found.both, found.first, found.second, found.neither) == (
        *(70, 12, 4),
        14,
    )
    assert found.difference == pytest.approx(-0.08)
    # Of 16 fair coins, as uneven as 4 or worse, on either side.
    by_hand = 2 * sum(scipy.stats.binom.pmf(k, 16, 0.5) for k in range(5))
    assert found.p == pytest.approx(by_hand)
    assert set(found.disagreements) == {f"{i}.png" for i in range(70, 86)}


def test_the_interval_is_the_bootstraps():
    random = np.random.default_rng(0)
    one, other = random.random((2, 400)) < [[0.8], [0.9]]
    found = paired.compare(predictions(one), predictions(other))
    gain = other.astype(float) - one
    means = random.choice(gain, (4000, 400)).mean(1)
    assert found.interval == pytest.approx(
        np.quantile(means, [0.025, 0.975]), abs=8e-3
    )


def test_examples_are_matched_by_their_ids():
    first = predictions([True, False, True, True])
    order = [3, 1, 0]
    second = predictions([True, True, True, True])
    shuffled = Predictions(
        second.ids[order],
        second.labels[order],
        second.probabilities[order],
        second.losses[order],
        (),
    )
    found = paired.compare(first, shuffled)
    assert (found.examples, found.first, found.second) == (3, 0, 1)
    assert found.disagreements == ("1.png",)


def test_nothing_in_common_is_no_comparison():
    other = predictions([True], ids=["x"])
    assert paired.compare(predictions([True]), other) is None


def test_other_labels_are_refused():
    first, second = predictions([True, True]), predictions([True, True])
    second.labels[:] = 1 - second.labels
    with pytest.raises(ValueError, match="other labels"):
        paired.compare(first, second)


def test_equal_models_differ_by_nothing():
    same = predictions([True, False, True])
    found = paired.compare(same, same)
    assert (found.p, found.interval, found.difference) == (1.0, None, 0.0)


def test_frames_of_one_burst_count_once():
    one = [True] * 200
    other = ([False] * 20 + [True] * 20) * 5
    groups = np.repeat([f"burst {i}" for i in range(10)], 20).astype(object)
    alone = paired.compare(predictions(one), predictions(other))
    together = paired.compare(predictions(one), predictions(other), groups)
    width = np.diff(alone.interval)
    # Ten bursts instead of two hundred pictures: wider by the root of 20.
    assert np.diff(together.interval) == pytest.approx(
        width * 20**0.5, rel=0.25
    )


def test_whole_bursts_are_tested():
    """Three bursts that the first has right, none of them by chance."""
    one = [True] * 120
    other = [True] * 60 + [False] * 60
    groups = np.repeat([f"burst {i}" for i in range(6)], 20).astype(object)
    found = paired.compare(predictions(one), predictions(other), groups)
    # All six signs of three sums of 20 that are as far out: 2 of 8.
    assert found.p == pytest.approx(2 / 8)
    assert found.groups == 6
    assert paired.compare(predictions(one), predictions(other)).p < 1e-10


def test_many_tests_need_smaller_chances():
    # By hand, after Holm: 3 * 0.01, 2 * 0.02, and never less than before.
    assert paired.adjusted([0.04, 0.01, 0.02]) == pytest.approx(
        [0.04, 0.03, 0.04]
    )
    assert paired.adjusted([0.6, 0.9]) == [1.0, 1.0]
    assert paired.adjusted([]) == []
