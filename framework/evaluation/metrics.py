"""Turns labels and class probabilities into figures and their uncertainty.

Which figures there are follows from the probabilities `[N, num_classes]`,
which all heads give. Two classes: those of the second, "positive" one, whose
probability `sigmoid_head` learns. More: means over the classes ("macro"), one
class against the rest at a time.

An interval says how far a figure may be off because the split is but a sample:
of 100 such, 95 should hold what infinitely many examples of the kind would
give. It knows nothing of what another seed, or another training split, would
change.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import scipy.stats
import sklearn.metrics

CONFIDENCE = 0.95
# Bins of the calibration error, as in Guo et al. 2017.
BINS = 15
# Below 10 classes chance alone would be right in more than half of the cases.
_TOP, _TOP_FROM = 5, 10
# Draws of examples in all, where the split is large: seconds.
_DRAWS = 50_000_000
_RESAMPLES = (200, 2000)
# Counts that lie in a processor's cache together.
_AT_ONCE = 2**18
# AUC is resampled a class at a time.
_AUC_CLASSES = 20
# Keras's: a loss that one example can't make infinite.
_LEAST = 1e-7


def measure(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """All figures of a split.

    The predicted class is the most probable one; of two, the one above 0.5.

    Args:
        labels: int64 `[N]`, N at least 1.
        probabilities: float `[N, num_classes]`.
        class_names: in the order of the labels.
        groups: `[N]` strings; examples of one group (a patient, a burst of
            frames) are alike, and what they say together is less than as
            many others would. "" is a group of its own.

    Returns:
        JSON-able. A figure is None where it is not defined, as is a class's
        AUC without examples of it or of others; means are over the classes
        that have one.

        `"accuracy"`; `"top_5_accuracy"` from 10 classes on;
        `"macro_precision"`, `"macro_recall"`, `"macro_f1"`; `"auc"` (area
        under the ROC curve) and `"average_precision"`, of the positive class
        or as means of one against the rest; for two classes
        `"positive_class"` (the name), `"sensitivity"` and `"specificity"`
        (recall of the positive and of the other class);
        `"log_loss"`, the mean of -log p(true class), whatever was trained on;
        `"brier_score"` (Brier 1950), the mean of (p(positive class) - truth)^2
        for two classes, 0..1, and else summed over classes, 0..2;
        `"expected_calibration_error"`, the distance of confidence and
        accuracy in 15 bins of equal width over the confidence, the highest
        probability (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

        `"accuracy_interval"`, `"macro_f1_interval"`, `"auc_interval"`,
        `"expected_calibration_error_interval"`: `[low, high]`, see
        `intervals`; `"intervals"` says how they were made.

        `"examples"`; `"classes"`, by name precision, recall, F1, AUC, average
        precision and examples; `"confusion"`, a row a true class and a column
        a predicted one.
    """
    count = len(class_names)
    predicted = probabilities.argmax(axis=-1)
    classes = _by_class(labels, predicted, probabilities)
    figures = {
        "accuracy": single("accuracy", labels, probabilities),
        **{name: _of_classes(name, classes) for name in (*_MEANS, *_RANKED)},
    }
    if count >= _TOP_FROM and np.isfinite(probabilities).all():
        figures[_TOP_FIGURE] = single(_TOP_FIGURE, labels, probabilities)
    if count == 2:
        figures["positive_class"] = class_names[1]
        figures |= {name: _of_classes(name, classes) for name in _OF_TWO}
    return {
        **figures,
        **_of_probabilities(labels, probabilities),
        **intervals(labels, probabilities, groups),
        "examples": len(labels),
        "classes": dict(zip(class_names, classes, strict=True)),
        "confusion": sklearn.metrics.confusion_matrix(
            labels, predicted, labels=range(count)
        ).tolist(),
    }


def single(
    name: str, labels: np.ndarray, probabilities: np.ndarray
) -> float | None:
    """One figure of a split, as `measure` has it, and no other.

    Args:
        name: one of `names_for`.
        labels: int64 `[N]`, N at least 1.
        probabilities: float `[N, num_classes]`.

    Returns:
        None where it is not defined.
    """
    if name in _OF_PROBABILITIES:
        return _of_probabilities(labels, probabilities)[name]
    if name == _TOP_FIGURE:
        if not np.isfinite(probabilities).all():
            return None
        known = range(probabilities.shape[1])
        return float(
            sklearn.metrics.top_k_accuracy_score(
                labels, probabilities, k=_TOP, labels=known
            )
        )
    predicted = probabilities.argmax(axis=-1)
    if name == "accuracy":
        return float((predicted == labels).mean())
    ranked = [key for key in _RANKED if key == name]
    return _of_classes(
        name, _by_class(labels, predicted, probabilities, ranked)
    )


def names_for(num_classes: int) -> tuple[str, ...]:
    """The figures that `single` knows of so many classes."""
    return tuple(
        name
        for name in MORE_IS_BETTER
        if (name != _TOP_FIGURE or num_classes >= _TOP_FROM)
        and (name not in ("sensitivity", "specificity") or num_classes == 2)
    )


_COUNTED = ("precision", "recall", "f1")
_MEANS = tuple(f"macro_{name}" for name in _COUNTED)
_RANKED = {
    "auc": sklearn.metrics.roc_auc_score,
    "average_precision": sklearn.metrics.average_precision_score,
}
_TOP_FIGURE = f"top_{_TOP}_accuracy"
# Of two classes: which of them has it, and as what.
_OF_TWO = {
    "auc": (1, "auc"),
    "average_precision": (1, "average_precision"),
    "sensitivity": (1, "recall"),
    "specificity": (0, "recall"),
}
_OF_PROBABILITIES = ("log_loss", "brier_score", "expected_calibration_error")
# Figures of a whole split that are one number, and which way is better.
MORE_IS_BETTER = {
    "accuracy": True,
    _TOP_FIGURE: True,
    **dict.fromkeys(_MEANS, True),
    **dict.fromkeys(_OF_TWO, True),
    **dict.fromkeys(_OF_PROBABILITIES, False),
}


def _of_classes(name: str, classes: Sequence[dict[str, Any]]) -> float | None:
    """A figure of the whole split from those of its classes."""
    if len(classes) == 2 and name in _OF_TWO:
        which, key = _OF_TWO[name]
        return classes[which][key]
    values = [row[name.removeprefix("macro_")] for row in classes]
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def _by_class(
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    ranked: Iterable[str] = tuple(_RANKED),
) -> list[dict[str, Any]]:
    """Each class's figures, in the order of the labels."""
    count = probabilities.shape[1]
    *counted, support = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(count), zero_division=0
    )
    classes = []
    for i in range(count):
        row: dict[str, Any] = {
            key: float(values[i]) if support[i] else None
            for key, values in zip(_COUNTED, counted, strict=True)
        }
        is_it, scores = labels == i, probabilities[:, i]
        defined = 0 < support[i] < len(labels) and np.isfinite(scores).all()
        for key in ranked:
            row[key] = float(_RANKED[key](is_it, scores)) if defined else None
        row["examples"] = int(support[i])
        classes.append(row)
    return classes


def _of_probabilities(
    labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, float | None]:
    """The figures that the probabilities themselves decide."""
    p = np.asarray(probabilities, np.float64)
    if not np.isfinite(p).all():
        return dict.fromkeys(_OF_PROBABILITIES)
    rows = np.arange(len(p))
    distance = p.copy()
    distance[rows, labels] -= 1
    binary = p.shape[1] == 2
    return {
        "log_loss": float(
            -np.log(np.clip(p[rows, labels], _LEAST, 1.0)).mean()
        ),
        "brier_score": float(
            np.square(distance[:, 1:] if binary else distance).sum(-1).mean()
        ),
        "expected_calibration_error": float(
            np.abs(
                np.bincount(_bins(p), _overconfidence(labels, p), BINS)
            ).sum()
            / len(p)
        ),
    }


def _bins(p: np.ndarray) -> np.ndarray:
    """Bin b of the confidence is from b / 15, exclusive, to (b + 1) / 15."""
    return np.clip(np.ceil(p.max(-1) * BINS).astype(int) - 1, 0, BINS - 1)


def _overconfidence(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    return p.max(-1) - (p.argmax(-1) == labels)


def intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """95 % intervals of the main figures.

    Accuracy: Wilson's (1927), which holds near 0 and 1 and for few examples,
    where others don't (Brown, Cai and DasGupta 2001,
    https://doi.org/10.1214/ss/1009213286).

    Macro F1 and AUC: the percentile bootstrap (Efron and Tibshirani 1993, ch.
    13): as many examples as there are, are drawn from them with replacement,
    2,000 times (fewer in splits of more than 25,000). Not by class: how many
    there are of each is chance, too.

    The calibration error is too large in small splits, and the more so in
    resamples: hence the basic bootstrap, which takes that off (Davison and
    Hinkley 1997, section 5.2), so that the figure itself may lie above its
    interval. It begins at 0 where the error is not above what a calibrated
    model with these confidences would show in 97.5 % of splits (consistency
    resampling: Broecker and Smith 2007, https://doi.org/10.1175/WAF993.1).

    Where examples have groups, whole groups are drawn, for the accuracy too
    (Field and Welsh 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x).
    With fewer than some 20 groups these intervals are too short.

    Where all resamples are alike, as when every example is classified
    rightly, they say nothing: the interval is None, and that of the accuracy
    Wilson's, with groups counted instead of examples.

    Args:
        labels: int64 `[N]`.
        probabilities: float `[N, num_classes]`.
        groups: `[N]` strings, "" is a group of its own.
        seed: of the draws.

    Returns:
        `"..._interval"`: `[low, high]` or None, of AUC for up to 20 classes;
        and `"intervals"`, on how they were made.
    """
    p = np.asarray(probabilities, np.float64)
    unit = unit_numbers(groups)
    n = len(labels) if unit is None else int(unit.max()) + 1
    low, high = _RESAMPLES
    resamples = int(np.clip(_DRAWS // len(labels), low, high))
    made = {}
    if np.isfinite(p).all():
        made = _resampled(labels, p, unit, n, resamples, seed)
    calibrated = made.pop(_CALIBRATED, None)
    made = {
        f"{name}_interval": _interval(
            *made.get(name, (None, ())), calibrated if name == _ECE else None
        )
        for name in ("accuracy", "macro_f1", "auc", _ECE)
    }
    if unit is None or made["accuracy_interval"] is None:
        accuracy = float((p.argmax(-1) == labels).mean())
        made["accuracy_interval"] = wilson(accuracy, n)
    return {
        **made,
        "intervals": {
            "confidence": CONFIDENCE,
            "resamples": resamples,
            "resampled": "examples" if unit is None else "groups",
            "units": n,
        },
    }


_ECE = "expected_calibration_error"
_CALIBRATED = "of a calibrated model"


def wilson(share: float, count: int) -> list[float]:
    """Wilson's interval for a share of `count` examples."""
    z = scipy.stats.norm.ppf(0.5 + CONFIDENCE / 2)
    middle = share + z * z / (2 * count)
    half = z * np.sqrt(
        share * (1 - share) / count + z * z / (4 * count * count)
    )
    scale = 1 + z * z / count
    return [
        float(np.clip(value / scale, 0.0, 1.0))
        for value in (middle - half, middle + half)
    ]


def unit_numbers(groups: np.ndarray | None) -> np.ndarray | None:
    """The number of each example's group; None where there are no groups.

    "" is a group of its own; where all are, there are none.
    """
    if groups is None:
        return None
    # No name ends so.
    names = [g or f"{i}\0" for i, g in enumerate(groups)]
    found, unit = np.unique(np.array(names, object), return_inverse=True)
    return unit if len(found) < len(names) else None


def _interval(
    figure: float | None,
    values: Sequence[float],
    calibrated: np.ndarray | None = None,
) -> list[float] | None:
    """From resampled values: percentiles; for a calibration error, see above.

    `calibrated` are such errors of a calibrated model.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if figure is None or not len(values) or np.ptp(values) < 1e-9:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    if calibrated is not None:
        low, high = np.clip([2 * figure - high, 2 * figure - low], 0.0, 1.0)
        if figure <= np.quantile(calibrated, 1 - tail):
            low = 0.0
    return [float(low), float(high)]


def _resampled(
    labels: np.ndarray,
    p: np.ndarray,
    unit: np.ndarray | None,
    units: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """By name a figure and `[resamples]` values of it, NaN where undefined.

    And `[resamples]` calibration errors that a calibrated model would have.
    """
    count, rows = p.shape[1], np.arange(len(labels))
    predicted = p.argmax(-1)
    correct = predicted == labels

    def by(index, value=1.0, size=count):
        """Sums by an index, as a matrix of `[size, N]`."""
        values = np.broadcast_to(np.float32(value), rows.shape)
        return scipy.sparse.csr_array(
            (values, (index, rows)), (size, len(rows)), dtype=np.float32
        )

    sums = scipy.sparse.vstack(
        [
            by(_bins(p), _overconfidence(labels, p), BINS),
            by(labels, correct),
            by(labels),
            by(predicted),
        ],
        format="csr",
    )
    ends = np.cumsum([BINS, count, count])
    # Of two classes the second's is the first's.
    ranked = range(count == 2, count) if count <= _AUC_CLASSES else ()
    rankings = [_Ranking(labels == c, p[:, c]) for c in ranked]

    in_bins = by(_bins(p), size=BINS)
    confidence = p.max(-1)[:, None].astype(np.float32)

    def calibrated(chance: np.ndarray) -> np.ndarray:
        """`[r]` calibration errors from uniform draws `[N, r]`."""
        bins = in_bins @ (confidence - (chance < confidence))
        return np.abs(bins).sum(0) / len(labels)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        """`[r]` values of each figure from weights `[N, r]`."""
        bins, right, true, said = np.split(sums @ weights, ends)
        total = true.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = np.where(true > 0, 2 * right / (true + said), np.nan)
            aucs = [ranking.auc(weights) for ranking in rankings]
        return {
            "accuracy": right.sum(0) / total,
            "macro_f1": _mean(f1),
            _ECE: np.abs(bins).sum(0) / total,
            **({"auc": _mean(np.stack(aucs))} if aucs else {}),
        }

    plain = figures(np.ones((len(labels), 1), np.float32))
    parts = []
    for weights, chance in _draws(len(labels), unit, units, resamples, seed):
        parts.append({**figures(weights), _CALIBRATED: calibrated(chance)})
    values = {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0]
    }
    for name, value in plain.items():
        values[name] = float(value[0]), values[name]
    return values


def _mean(by_class: np.ndarray) -> np.ndarray:
    """The mean over the classes `[C, r]` that have a value."""
    there = np.isfinite(by_class)
    with np.errstate(invalid="ignore"):
        return np.where(there, by_class, 0).sum(0) / there.sum(0)


def _draws(
    size: int, unit: np.ndarray | None, units: int, resamples: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How often each example is in some resamples; and a uniform draw of each.

    Groups have both in common. Both are float32 `[N, r]`.
    """
    random = np.random.default_rng(seed)
    most = max(1, _AT_ONCE // size)
    for first in range(0, resamples, most):
        r = min(most, resamples - first)
        drawn = random.integers(units, size=(units, r), dtype=np.int32)
        # A count for each unit and resample.
        places = drawn.astype(np.int64) * r + np.arange(r)
        counts = np.bincount(places.ravel(), minlength=units * r)
        counts = counts.reshape(units, r).astype(np.float32)
        chance = random.random((units, r), np.float32)
        if unit is not None:
            counts, chance = counts[unit], chance[unit]
        yield counts, chance


class _Ranking:
    """Two kinds of examples by their scores, for AUCs of many resamples.

    AUC is the share of pairs of a positive and a negative in which the
    positive has the higher score; equal scores count half.

    Args:
        positive: bool `[N]`.
        scores: `[N]`.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray):
        (self._positive,) = np.nonzero(positive)
        (negative,) = np.nonzero(~positive)
        self._negative = negative[np.argsort(scores[negative], kind="stable")]
        self._lower, self._up_to = (
            np.searchsorted(
                scores[self._negative], scores[self._positive], side
            )
            for side in ("left", "right")
        )

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """`[r]` AUCs from weights `[N, r]`; NaN where a kind is missing."""
        positive = weights[self._positive]
        # How many of the negatives with the lowest scores weigh how much.
        below = np.zeros((len(self._negative) + 1, weights.shape[1]), "f4")
        np.cumsum(weights[self._negative], axis=0, out=below[1:])
        pairs = positive * (below[self._lower] + below[self._up_to])
        return pairs.sum(0, dtype=np.float64) / (
            2 * positive.sum(0, dtype=np.float64) * below[-1]
        )
