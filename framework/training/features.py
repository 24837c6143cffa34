"""Turns a frozen part's work of every epoch into work that is done once.

While part of a backbone is frozen, what it makes of a picture depends on the
picture and its augmentation alone. So the first epochs train as ever, and what
the frozen part made is kept; every later epoch reads one of these *views* of
each picture again, in its own order, and trains what is above.

With as many views as epochs nothing is read twice and the run is the plain one.
With fewer, augmentation shows so many variants of each picture instead of one
an epoch. Without augmentation one view is all there is.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from framework.data import rows
from framework.data.pipeline import Pipeline, Share, shuffled_index
from framework.data.rows import Rows
from framework.data.source import IndexedExamples
from framework.errors import UserError
from framework.model.classifier import Classifier
from framework.task import Data
from framework.training.distribution import World
from framework.training.state import Plan


class Views:
    """What the frozen part made of the training split.

    Args:
        kept: room for `count` views of each example.
        count: K; epoch e trains on view e modulo K.
        augmented: whether the views are; else all are the clean picture.
        plan: of the run.
        seed: of the training order.
        order: that order, from (first position, share of each batch) to the
            batches of `Pipeline.order`.
    """

    def __init__(
        self,
        kept: Rows,
        count: int,
        augmented: bool,
        plan: Plan,
        seed: int,
        order: Callable[[int, Share], tf.data.Dataset],
    ):
        self.count = count
        self.augmented = augmented
        # Updates until each example's views are there.
        self.complete_after = plan.last_step(count - 1)
        self.kept = kept
        self._weights = np.zeros(len(kept), np.float32)
        self._examples = plan.examples
        self._seed = seed
        self._order = order

    def _places(self, position):
        view = position // self._examples % self.count
        index = shuffled_index(position, self._examples, self._seed)
        return view * self._examples + index

    def put(
        self, positions: np.ndarray, weights: np.ndarray, features: np.ndarray
    ) -> None:
        """Keeps what was made of a batch.

        Args:
            positions: int64 `[B]`, of the training order.
            weights: float32 `[B]`, 0 where an example did not decode.
            features: `[B, ...]`.
        """
        # The last batch may run into the first epoch that reads.
        mine = positions < self.count * self._examples
        places = self._places(tf.constant(positions[mine])).numpy()
        self.kept.put(places, features[mine])
        self._weights[places] = weights[mine]

    def batches(self, first_position: int, share: Share) -> tf.data.Dataset:
        """As `Pipeline.training`, with "features" in place of "image".

        Only once all of them are there: they are read ahead.
        """
        shape, dtype = self.kept.shape, tf.as_dtype(self.kept.dtype)

        def read(batch):
            places = self._places(batch["position"])
            features, weights = tf.numpy_function(
                lambda at: (self.kept.get(at), self._weights[at]),
                [places],
                [dtype, tf.float32],
            )
            size = batch["position"].shape
            return {
                **batch,
                "features": tf.ensure_shape(features, size + shape),
                "weight": tf.ensure_shape(weights, size),
            }

        return self._order(first_position, share).map(read)


@dataclasses.dataclass(frozen=True)
class Once:
    """What of a run's work with the frozen part is done once.

    Attributes:
        views: of the training split, or None: each epoch makes its own.
        evaluated: room for the features of splits that are judged repeatedly.
        description: sentences for the start-up text.
    """

    views: Views | None
    evaluated: dict[str, Rows]
    description: tuple[str, ...]


def once(
    asked: int | str | None,
    built: Classifier,
    data: Data,
    pipeline: Pipeline,
    world: World,
    plan: Plan,
    seed: int,
) -> Once:
    """Decides what to keep and where.

    Args:
        asked: how many views; "auto": one where nothing augments, else as
            many as epochs, which is the plain way; None keeps nothing, and
            nothing of the validation split either.
        built: the classifier.
        data: all splits.
        pipeline: makes the batches.
        world: the replicas.
        plan: how long the run is.
        seed: of the training order.

    Raises:
        UserError: so many views were asked for, and can't be had.
    """
    if asked is not None and asked != "auto" and not _is_number(asked):
        raise UserError(
            f"train.feature_views is {asked!r}; expected 'auto', None or a "
            "number of views, at least 1."
        )
    if built.features is None and _is_number(asked):
        raise UserError(
            f"train.feature_views is {asked}, and nothing of the backbone is "
            "frozen: its output changes with every update. Expected "
            "classifier.freeze = 'all' or a layer's name, or feature_views = "
            "'auto'."
        )
    if asked is None or built.features is None or plan.epochs == 1:
        return Once(None, {}, ())
    shape = tuple(built.features.output.shape[1:])
    dtype = tf.as_dtype(built.features.output.dtype).as_numpy_dtype
    promised = 0

    def room(count: int) -> Rows | None:
        nonlocal promised
        needed = rows.size(count, shape, dtype)
        where = rows.place(needed, promised)
        if where is None:
            return None
        promised += needed
        return Rows(count, shape, dtype, where)

    augments = bool(
        built.augmentation_in_model or built.augmentation_in_pipeline
    )
    count = asked
    if asked == "auto":
        count = plan.epochs if augments else 1
    views, remarks = None, []
    if count < plan.epochs:
        why_not = _why_not(data, pipeline, world)
        kept = None if why_not else room(count * plan.examples)
        if kept is None:
            why_not = why_not or (
                f"{_megabytes(count * plan.examples, shape, dtype)} of "
                "features find no room in memory and on the disk"
            )
            if asked != "auto":
                raise UserError(
                    f"train.feature_views is {asked}, but {why_not}. Expected "
                    "feature_views = 'auto'."
                )
            remarks.append(
                f"The frozen part works anew in each epoch: {why_not}."
            )
        else:
            order = functools.partial(
                pipeline.order, data.splits["train"], plan.batch_size, seed
            )
            views = Views(
                kept, count, augments and count > 1, plan, seed, order
            )
    evaluated = {}
    if "validation" in data.splits:
        size = len(data.splits["validation"])
        padded = -(-size // plan.batch_size) * plan.batch_size
        kept = room(padded // world.workers)
        if kept is not None:
            evaluated["validation"] = kept
    remarks[:0] = _in_words(plan, data, views, evaluated, augments)
    return Once(views, evaluated, tuple(remarks))


def _is_number(asked: object) -> bool:
    return isinstance(asked, int) and not isinstance(asked, bool) and asked >= 1


def _why_not(data: Data, pipeline: Pipeline, world: World) -> str | None:
    if not isinstance(data.splits["train"], IndexedExamples):
        return "the training split is too large to be indexed"
    if world.workers > 1:
        return (
            f"{world.workers} workers would need each other's features, since "
            "every epoch deals the examples out anew"
        )
    if pipeline.service is not None:
        return "the tf.data service may leave out examples"
    return None


def _megabytes(count: int, shape: tuple[int, ...], dtype: np.dtype) -> str:
    return f"{rows.size(count, shape, dtype) / 1e6:,.0f} MB"


def _in_words(
    plan: Plan,
    data: Data,
    views: Views | None,
    evaluated: dict[str, Rows],
    augments: bool,
) -> Iterator[str]:
    """What is saved, counted in pictures that pass the frozen part."""
    stores = [*([views.kept] if views else []), *evaluated.values()]
    if not stores:
        return
    judged = len(data.splits.get("validation", ()))
    train = plan.examples * (views.count if views else plan.epochs)
    made = train + judged * (1 if evaluated else plan.epochs)
    taken = sum(rows.size(len(r), r.shape, r.dtype) for r in stores)
    on_disk = any(r.place == "disk" for r in stores)
    yield (
        f"Features once: {made:,} pictures pass the frozen part instead of "
        f"{plan.epochs * (plan.examples + judged):,}; what it makes of them "
        f"takes {taken / 1e6:,.0f} MB"
        f"{', partly in a scratch file' if on_disk else ''}."
    )
    if views is None:
        more = (plan.epochs - 2) * plan.examples
        if augments and more > 0:
            yield (
                "Each epoch augments anew. train.feature_views = 2 would keep "
                f"two augmented views of each picture and save {more:,} more."
            )
    elif views.augmented:
        yield (
            f"Each picture is augmented in {views.count} ways, which "
            f"{plan.epochs} epochs share."
        )
    elif augments:
        yield "train.feature_views = 1: nothing is augmented."
