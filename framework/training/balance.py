"""Turns how often classes occur into what makes up for it in training."""

from collections.abc import Mapping, Sequence

import numpy as np

from framework.console import some
from framework.data.pipeline import Order, check_sampling
from framework.data.source import IndexedExamples
from framework.errors import UserError
from framework.registry import nearest
from framework.task import Data


def class_weights(
    asked: Mapping[str, float] | str | None, data: Data
) -> tuple[Sequence[float] | None, tuple[str, ...]]:
    """What each class's losses are multiplied by in training.

    Args:
        asked: by the name of the class, others count 1; or "balanced": the
            mean number of examples a class over that of this class, as in
            scikit-learn's `compute_class_weight`, so that all classes count
            alike and all examples together what they do without weights.
        data: all splits; the training split counts.

    Returns:
        A number a class, in the order of labels, or None where nothing is
        asked; and sentences for the start-up text.

    Raises:
        UserError: there is no such class, a weight is no number of at least
            0, or the examples of each class can't be counted.
    """
    if asked is None:
        return None, ()
    names = data.class_names
    if asked == "balanced":
        train = data.splits["train"]
        if not isinstance(train, IndexedExamples):
            raise UserError(
                "train.class_weights is 'balanced', and the training split is "
                "too large to be indexed, so that nobody has counted its "
                "classes. Expected weights by name: {'" + names[0] + "': 2.0}."
            )
        counts = np.bincount(train.labels, minlength=len(names))
        mean = counts.sum() / np.count_nonzero(counts)
        weights = [mean / max(count, 1) for count in counts.tolist()]
    elif isinstance(asked, Mapping):
        for name, weight in asked.items():
            if name not in names:
                raise UserError(
                    f"train.class_weights names the class {name!r}; expected "
                    f"one of {', '.join(names)}. {nearest(str(name), names)}"
                )
            is_number = isinstance(weight, (int, float))
            if not is_number or not 0 <= weight < float("inf"):
                raise UserError(
                    f"train.class_weights has {weight!r} for {name!r}; "
                    "expected a number, 0 or more."
                )
        weights = [float(asked.get(name, 1.0)) for name in names]
    else:
        raise UserError(
            f"train.class_weights is {asked!r}; expected None, 'balanced' or "
            "weights by the names of classes: {'" + names[0] + "': 2.0}."
        )
    each = [f"{n} {w:.3g}" for n, w in zip(names, weights, strict=True)]
    return weights, (
        f"Losses in training are weighted by class: {some(each, 20)}.",
    )


def describe_order(data: Data, seed: int, sampling: str) -> tuple[str, ...]:
    """Sentences for the start-up text on what an epoch shows.

    Args:
        data: all splits; the training split counts.
        seed: of the order.
        sampling: as `train.sampling`.

    Raises:
        UserError: there is no such sampling, or not of this data.
    """
    train = data.splits["train"]
    check_sampling(sampling, train)
    if sampling != "balanced":
        return ()
    order = Order.of(train, seed, sampling)
    present = np.unique(train.labels)
    each = [
        f"{data.class_names[label]} ({count:,}) {shown / count:.3g} times"
        for label, count, shown in zip(
            present, order.counts, order.per_epoch, strict=True
        )
    ]
    return (
        f"Balanced sampling: an epoch of {order.size:,} examples shows each "
        f"class {order.size // len(present):,} times, on average an example of "
        f"{some(each, 20)}.",
    )
