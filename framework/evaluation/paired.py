"""Turns two models' predictions for the same examples into a comparison.

Two models that are judged on the same examples are compared much more surely
than their intervals suggest: what counts are the examples on which they differ.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats

from framework.evaluation.metrics import CONFIDENCE, unit_numbers
from framework.evaluation.predictions import Predictions

_RESAMPLES = 10_000
SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Paired:
    """What the examples that both have judged say.

    Attributes:
        examples: how many both have judged.
        both: how many both have right.
        first: how many only the first has right.
        second: how many only the second has right.
        neither: how many neither has right.
        difference: accuracy of the second less that of the first.
        interval: `[low, high]`, 95 %, of the difference; None where no example
            tells them apart.
        p: the chance of a split at least as uneven as that of `first` and
            `second` were both models equally good: McNemar's exact test
            (McNemar 1947, https://doi.org/10.1007/BF02295996). Of groups: of
            sums at least as large, were the sign of each group's chance
            (Fisher's randomisation test; 10,000 draws, where not all can be).
        groups: how many there are; None where examples have none.
        disagreements: ids of the examples that one has right and the other
            has not, the largest difference in loss first.
    """

    examples: int
    both: int
    first: int
    second: int
    neither: int
    difference: float
    interval: tuple[float, float] | None
    p: float
    groups: int | None
    disagreements: tuple[str, ...]


def compare(
    first: Predictions,
    second: Predictions,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Paired | None:
    """Compares two models on the examples that both have judged.

    The interval is the percentile bootstrap of the paired difference (Efron
    and Tibshirani 1993, ch. 13). Examples of one group are alike: where there
    are some, groups are what is drawn and tested, as in `metrics.intervals`.

    Args:
        first: of one model.
        second: of the other, of the same examples or some of them, in any
            order; the same ids are the same examples.
        groups: `[N]` strings, of the examples of `first`; "" is a group of its
            own.
        seed: of the draws.

    Returns:
        None where they have no example in common.

    Raises:
        ValueError: an example has one label in the one and another in the
            other.
    """
    places = {name: place for place, name in enumerate(second.ids)}
    mine = np.array([i for i, n in enumerate(first.ids) if n in places], int)
    if not len(mine):
        return None
    theirs = np.array([places[first.ids[i]] for i in mine])
    if (first.labels[mine] != second.labels[theirs]).any():
        raise ValueError("The same examples have other labels.")
    one = (first.predicted == first.labels)[mine]
    other = (second.predicted == second.labels)[theirs]
    only_first, only_second = (
        int((one & ~other).sum()),
        int((other & ~one).sum()),
    )
    gain = other.astype(float) - one
    differ = np.flatnonzero(one != other)
    apart = np.abs(first.losses[mine] - second.losses[theirs])[differ]
    order = differ[np.argsort(-apart, kind="stable")]
    unit = unit_numbers(None if groups is None else groups[mine])
    if not len(differ):
        p = 1.0
    elif unit is None:
        p = scipy.stats.binomtest(only_first, only_first + only_second).pvalue
    else:
        p = _by_groups(np.bincount(unit, gain), seed)
    return Paired(
        examples=len(mine),
        both=int((one & other).sum()),
        first=only_first,
        second=only_second,
        neither=int((~one & ~other).sum()),
        difference=float(gain.mean()),
        interval=_interval(gain, unit, seed) if len(differ) else None,
        p=float(p),
        groups=None if unit is None else int(unit.max()) + 1,
        disagreements=tuple(first.ids[mine[place]] for place in order),
    )


def adjusted(chances: Sequence[float]) -> list[float]:
    """Chances of several tests, so that a small one among many is no accident.

    Holm's step-down method: Holm 1979, https://www.jstor.org/stable/4615733.
    """
    order = np.argsort(chances, kind="stable")
    made = [0.0] * len(chances)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, (len(chances) - rank) * chances[place])
        made[place] = min(1.0, highest)
    return made


def _by_groups(sums: np.ndarray, seed: int) -> float:
    return scipy.stats.permutation_test(
        (sums[sums != 0],),
        np.sum,
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        random_state=np.random.default_rng(seed),
    ).pvalue


def _interval(
    gain: np.ndarray, unit: np.ndarray | None, seed: int
) -> tuple[float, float]:
    sizes = np.ones(len(gain))
    if unit is not None:
        gain, sizes = np.bincount(unit, gain), np.bincount(unit)
    random = np.random.default_rng(seed)
    # How many units of each kind are drawn is multinomial: of a kind are those
    # that are as large and gain as much.
    kinds, counts = np.unique(
        np.stack([gain, sizes], 1), axis=0, return_counts=True
    )
    drawn = random.multinomial(
        len(gain), counts / counts.sum(), size=_RESAMPLES
    )
    means = drawn @ kinds[:, 0] / (drawn @ kinds[:, 1])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
