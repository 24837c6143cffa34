"""Turns work that every epoch would do alike into work that is done once.

While part of a backbone is frozen, what it makes of a picture depends on the
picture and its augmentation alone. So the first epochs train as ever, and what
the frozen part made is kept; every later epoch reads one of these *views* of
each picture again, in its own order, and trains what is above.

With as many views as epochs nothing is read twice and the run is the plain one.
With fewer, augmentation shows so many variants of each picture instead of one
an epoch. Without augmentation one view is all there is.

Where nothing is frozen, or each epoch is to augment anew, decoding is what can
be done once: then the views are the decoded pictures.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from framework.console import in_megabytes
from framework.data import rows
from framework.data.pipeline import Order, Pipeline, Share
from framework.data.rows import Rows
from framework.data.source import IndexedExamples
from framework.errors import UserError
from framework.model.classifier import Classifier
from framework.task import Data
from framework.training.distribution import World
from framework.training.state import Plan


class Views:
    """What was made of the training split: features, or decoded pictures.

    Args:
        kept: room for `count` views of each example.
        count: K; the time n that an example comes, it is seen by its view n
            modulo K.
        key: "features", or "image" for decoded pictures.
        plan: of the phase.
        order: of training.
        batches_in_order: from (first position, share of each batch) to the
            batches of `Pipeline.order`.
    """

    def __init__(
        self,
        kept: Rows,
        count: int,
        key: str,
        plan: Plan,
        order: Order,
        batches_in_order: Callable[[int, Share], tf.data.Dataset],
    ):
        self.count = count
        self.key = key
        # Epochs of the phase, and updates, until each example's views are
        # there.
        self.epochs = order.until(count)
        self.complete_after = plan.last_step(plan.first_epoch + self.epochs - 1)
        self.kept = kept
        self._weights = np.zeros(len(kept), np.float32)
        self._examples = plan.examples
        self._order = order
        self._batches_in_order = batches_in_order

    def _places(self, position):
        index, visit = self._order.visit(position)
        return visit % self.count * self._examples + index

    def put(
        self, positions: np.ndarray, weights: np.ndarray, features: np.ndarray
    ) -> None:
        """Keeps what was made of a batch.

        Args:
            positions: int64 `[B]`, of the training order.
            weights: float32 `[B]`, 0 where an example did not decode.
            features: `[B, ...]`; or pictures.
        """
        # The last batch may run into the first epoch that reads.
        mine = positions < self.epochs * self._examples
        places = self._places(tf.constant(positions[mine])).numpy()
        self.kept.put(places, features[mine])
        self._weights[places] = weights[mine]

    def batches(self, first_position: int, share: Share) -> tf.data.Dataset:
        """As `Pipeline.training`, with `key` from what is kept.

        Only once all of them are there: they are read ahead.
        """
        shape, dtype = self.kept.shape, tf.as_dtype(self.kept.dtype)

        # TensorFlow holds such functions for ever, and they would hold this.
        myself = weakref.ref(self)

        def get(at):
            views = myself()
            return views.kept.get(at), views._weights[at]

        @tf.autograph.experimental.do_not_convert
        def read(batch):
            places = self._places(batch["position"])
            features, weights = tf.numpy_function(
                get,
                [places],
                [dtype, tf.float32],
            )
            size = batch["position"].shape
            return {
                **batch,
                self.key: tf.ensure_shape(features, size + shape),
                "weight": tf.ensure_shape(weights, size),
            }

        return self._batches_in_order(first_position, share).map(read)


@dataclasses.dataclass(frozen=True)
class Once:
    """What of a run's work is done once.

    Attributes:
        views: of the training split, or None: each epoch makes its own.
        evaluated: room for the features, or pictures, of splits that are
            judged repeatedly.
        augments: whether pictures are to be augmented at all.
        description: sentences for the start-up text.
    """

    views: Views | None
    evaluated: dict[str, Rows]
    augments: bool = True
    description: tuple[str, ...] = ()


def once(
    asked: int | str | None,
    built: Classifier,
    data: Data,
    pipeline: Pipeline,
    world: World,
    plan: Plan,
    seed: int,
    sampling: str = "natural",
    mixes: bool = False,
) -> Once:
    """Decides what to keep and where.

    Args:
        asked: how many views of features; 1 augments nothing. Where they can't
            be kept, every epoch works anew. "auto": one where nothing
            augments, else as many as epochs, which is the plain way; None
            keeps no features, and none of the validation split either.
        built: the classifier.
        data: all splits.
        pipeline: makes the batches; its `cache` says where decoded pictures
            may be kept.
        world: the replicas.
        plan: how long the phase is.
        seed: of the training order.
        sampling: of the training order.
        mixes: whether every update mixes pictures, which makes new ones.

    Raises:
        UserError: `asked` makes no sense, or pictures can't be kept in the
            place that `pipeline.cache` names.
    """
    if asked is not None and asked != "auto" and not _is_number(asked):
        raise UserError(
            f"train.feature_views is {asked!r}; expected 'auto', None or a "
            "number of views, at least 1."
        )
    decision = _Decision(
        built, data, pipeline, world, plan, seed, sampling, mixes
    )
    if built.features is None and asked == 1 and decision.augments:
        raise UserError(
            "train.feature_views is 1, which augments nothing, but nothing of "
            "the backbone is frozen and classifier.augmentation names layers. "
            "Expected classifier.augmentation = [], or feature_views = 'auto'."
        )
    return decision.decide(asked)


@dataclasses.dataclass
class _Decision:
    """See `once`."""

    built: Classifier
    data: Data
    pipeline: Pipeline
    world: World
    plan: Plan
    seed: int
    sampling: str
    mixes: bool
    # Bytes given away already.
    taken: int = 0

    def __post_init__(self):
        self.has_layers = bool(
            self.built.augmentation_in_model
            or self.built.augmentation_in_pipeline
        )
        self.augments = self.has_layers

    def decide(self, asked: int | str | None) -> Once:
        if asked == 1:
            self.augments = False
        if self.plan.epochs == 1:
            return Once(None, {}, self.augments)
        keeps_features = self.built.features is not None and asked is not None
        validation = len(self.data.splits.get("validation", ()))
        padded = -(-validation // self.plan.batch_size) * self.plan.batch_size
        judged = padded // self.world.workers
        views, kept, remarks = None, None, []
        if keeps_features:
            views, remarks = self._views_of_features(asked)
            kept = self._room_for_features(judged) if judged else None
        elif _is_number(asked):
            remarks = [
                f"train.feature_views = {asked} changes nothing: nothing of "
                "the backbone is frozen."
            ]
        if views is None:
            views = self._views_of_pictures()
        if judged and not keeps_features and self.pipeline.cache != "none":
            kept = self._room_for_pictures(judged)
        return Once(
            views,
            {} if kept is None else {"validation": kept},
            self.augments,
            (*self._in_words(views, kept, keeps_features, asked), *remarks),
        )

    def _views_of_features(
        self, asked: int | str
    ) -> tuple[Views | None, list[str]]:
        count = asked
        if asked == "auto":
            count = self.plan.epochs if self.augments else 1
        if self._epochs_until(count) >= self.plan.epochs:
            return None, []
        wanted = count * self.plan.examples
        why_not, kept = self._why_no_features(), None
        if not why_not:
            kept = self._room_for_features(wanted)
            why_not = "they find no room in memory and on the disk"
        if kept is None:
            return None, [
                f"The features of {wanted:,} pictures are not kept, and each "
                f"epoch makes them anew: {why_not}."
            ]
        return self._views(kept, count, "features"), []

    def _views_of_pictures(self) -> Views | None:
        if self.pipeline.cache == "none":
            return None
        why_not = self._why_not()
        if self.world.kind == "tpu":
            why_not = "they would have to come back from the TPU"
        if self.augments and self.built.augmentation_in_pipeline:
            why_not = why_not or "the pipeline augments them"
        if self._epochs_until(1) >= self.plan.epochs:
            return None
        kept = None if why_not else self._room_for_pictures(self.plan.examples)
        if kept is None:
            if self.pipeline.cache != "auto":
                why_not = why_not or "they find no room there"
                raise UserError(
                    f"pipeline.cache is {self.pipeline.cache!r}, but decoded "
                    f"pictures can't be kept: {why_not}. Expected 'auto' or "
                    "'none'."
                )
            return None
        return self._views(kept, 1, "image")

    def _views(self, kept: Rows, count: int, key: str) -> Views:
        train = self.data.splits["train"]
        batches_in_order = functools.partial(
            self.pipeline.order,
            train,
            self.plan.batch_size,
            self.seed,
            sampling=self.sampling,
        )
        order = Order.of(train, self.seed, self.sampling)
        return Views(kept, count, key, self.plan, order, batches_in_order)

    def _epochs_until(self, visits: int) -> int:
        """See `Order.until`; as many as `visits` where there is no order."""
        train = self.data.splits["train"]
        if not isinstance(train, IndexedExamples):
            return visits
        return Order.of(train, self.seed, self.sampling).until(visits)

    def _why_no_features(self) -> str | None:
        if self.mixes:
            return "train.mixing makes the pictures of every update new"
        return self._why_not()

    def _why_not(self) -> str | None:
        if not isinstance(self.data.splits["train"], IndexedExamples):
            return "the training split is too large to be indexed"
        if self.world.workers > 1:
            return (
                f"{self.world.workers} workers would need each other's, since "
                "every epoch deals the examples out anew"
            )
        if self.pipeline.service is not None:
            return "the tf.data service may leave out examples"
        return None

    def _room_for_features(self, count: int) -> Rows | None:
        output = self.built.features.output
        dtype = tf.as_dtype(output.dtype).as_numpy_dtype
        return self._room(count, output.shape[1:], dtype, rows.PLACES)

    def _room_for_pictures(self, count: int) -> Rows | None:
        size, cache = self.built.image_size, self.pipeline.cache
        # Files that are read again lie in memory, too, as far as there is
        # room: a scratch file of pixels would be no faster.
        places = ("memory",) if cache == "auto" else (cache,)
        return self._room(count, (size, size, 3), np.uint8, places)

    def _room(self, count, shape, dtype, places) -> Rows | None:
        needed = rows.size(count, shape, dtype)
        where = rows.place(needed, self.taken, places)
        if where is None:
            return None
        self.taken += needed
        return Rows(count, shape, dtype, where)

    def _in_words(
        self,
        views: Views | None,
        judged: Rows | None,
        keeps_features: bool,
        asked: int | str | None,
    ) -> Iterator[str]:
        """What is saved, counted in pictures."""
        plan = self.plan
        of_features = views if views and views.key == "features" else None
        if keeps_features:
            stores = [*([of_features.kept] if of_features else []), judged]
            stores = [store for store in stores if store is not None]
            validation = len(self.data.splits.get("validation", ()))
            made = plan.examples * (
                of_features.epochs if of_features else plan.epochs
            )
            made += validation * (plan.epochs if judged is None else 1)
            if stores:
                yield (
                    f"Features once: {made:,} pictures pass the frozen part "
                    "instead of "
                    f"{plan.epochs * (plan.examples + validation):,}; "
                    f"{_takes(stores)}."
                )
            judged = None
        if of_features and self.augments:
            yield (
                f"Each picture is augmented in {of_features.count} ways, "
                f"which {plan.epochs} epochs share."
            )
        more = (plan.epochs - self._epochs_until(2)) * plan.examples
        if (
            asked == "auto"
            and keeps_features
            and self.augments
            and more > 0
            and not self._why_no_features()
        ):
            yield (
                "Each epoch augments anew. train.feature_views = 2 would keep "
                "two augmented views of each picture and save the frozen part "
                f"{more:,} more."
            )
        if asked == 1 and self.has_layers:
            yield "train.feature_views = 1: nothing is augmented."
        pictures = [
            *([views.kept] if views and not of_features else []),
            *([judged] if judged is not None else []),
        ]
        if pictures:
            yield f"Pictures are decoded once; {_takes(pictures)}."


def _takes(stores: list[Rows]) -> str:
    taken = sum(rows.size(len(r), r.shape, r.dtype) for r in stores)
    on_disk = any(r.place == "disk" for r in stores)
    return (
        f"what is kept takes {in_megabytes(taken)}"
        f"{', partly in a scratch file' if on_disk else ''}"
    )


def _is_number(asked: object) -> bool:
    return isinstance(asked, int) and not isinstance(asked, bool) and asked >= 1
