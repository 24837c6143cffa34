"""Turns a model and a split's batches into one prediction an example."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from framework.console import some
from framework.data.rows import Rows
from framework.data.source import Examples, IndexedExamples
from framework.errors import UserError
from framework.evaluation import metrics
from framework.model.classifier import Classifier
from framework.training.distribution import World

# From a replica's pictures, uint8 [b, S, S, 3], and their positions, int64
# [b], to further views of them, of the same shape and dtype.
Views = Callable[[tf.Tensor, tf.Tensor], Iterable[tf.Tensor]]
# As Keras's losses have it.
_LEAST = 1e-7


def readable_ids(ids: Iterable[bytes]) -> list[str]:
    """A batch's ids as text; file names need not be valid in any encoding."""
    return [example_id.decode("utf-8", "replace") for example_id in ids]


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log of the true class's probability, `[N]`; finite, as in Keras."""
    true = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.clip(true, _LEAST, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What the model said of every readable example of a split.

    Attributes:
        ids: `[N]` strings.
        labels: `[N]` int64, the true classes.
        probabilities: `[N, num_classes]` float32.
        losses: `[N]` float32.
        unreadable: ids of examples that did not decode; they count nowhere.
    """

    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    unreadable: tuple[str, ...]

    @classmethod
    def concatenated(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """All of several splits' predictions as one."""
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("ids", "labels", "probabilities", "losses")
            ),
            unreadable=tuple(u for part in parts for u in part.unreadable),
        )

    @property
    def predicted(self) -> np.ndarray:
        """`[N]` int64, the class of the highest probability."""
        return self.probabilities.argmax(axis=-1)

    def groups_in(self, examples: Examples) -> np.ndarray | None:
        """`[N]` strings, the groups that these have among `examples`.

        None where nothing is known of groups.
        """
        if not isinstance(examples, IndexedExamples) or examples.groups is None:
            return None
        groups = dict(zip(examples.ids, examples.groups, strict=True))
        return np.array([groups[i] for i in self.ids], object)

    def figures(self, others: Iterable[str] = ()) -> dict[str, float]:
        """Mean loss and accuracy.

        Args:
            others: of `metrics.names_for`, wanted beside these; NaN where
                they are not defined.
        """
        found = {
            name: metrics.single(name, self.labels, self.probabilities)
            for name in ("accuracy", *others)
        }
        return {
            "loss": float(self.losses.mean(dtype=np.float64)),
            **{k: np.nan if v is None else v for k, v in found.items()},
        }


class Predictor:
    """Applies a classifier, never with augmentation or dropout.

    Args:
        classifier: its model is used as it is at the time of the call.
        world: the replicas that share the work; every example is predicted
            by one of them, and all workers get all predictions.
    """

    def __init__(self, classifier: Classifier, world: World):
        self._classifier = classifier
        self._head = classifier.head
        self._world = world
        self._loss = self._head.loss()
        self._step = tf.function(
            self._distributed, reduce_retracing=True, autograph=False
        )
        self._kept: dict[int, tuple[Rows, list[dict]]] = {}

    def keep(self, batches: tf.data.Dataset, kept: Rows) -> None:
        """Has these batches decoded, and seen by a frozen part, once only.

        Args:
            batches: as for `predict`, which they'll be passed to repeatedly;
                the same object.
            kept: room for this worker's rows, padding included: for what the
                classifier's `features` make of them; or for the pictures.
        """
        self._kept[id(batches)] = kept, []

    def _distributed(self, inputs, labels, given):
        strategy = self._world.strategy
        # Bound beforehand: a TPU would make a tensor of it.
        replica = functools.partial(self._replica, given=given)
        results = strategy.run(replica, args=(inputs, labels))
        return [
            tf.concat(strategy.experimental_local_results(result), 0)
            for result in results
        ]

    def _replica(self, inputs, labels, given):
        classifier = self._classifier
        if classifier.features is not None and given == "pixels":
            inputs = classifier.features(inputs, training=False)
        outputs = classifier.from_features(inputs, training=False)
        targets = self._head.encode(labels)
        return outputs, self._loss(targets, outputs), inputs

    def predict(
        self, batches: tf.data.Dataset, max_unreadable: float = 1.0
    ) -> Predictions:
        """Predicts every example of `batches` once.

        Every worker must call it.

        Args:
            batches: from `Pipeline.evaluation`, of the world's share.
            max_unreadable: the share of examples that may fail to decode.

        Raises:
            UserError: more examples than that do not decode, or all of them.
        """
        plain, _ = self._predictions(batches, None, max_unreadable)
        return plain

    def predict_views(
        self,
        batches: tf.data.Dataset,
        views: Views,
        max_unreadable: float = 1.0,
    ) -> tuple[Predictions, Predictions]:
        """Predicts every example as it is, and from several views of it.

        Every worker must call it. Pictures are decoded once for all views.

        Args:
            batches: as for `predict`.
            views: makes views of pictures, to be judged beside these; the
                same ones for the same pictures and positions.
            max_unreadable: as for `predict`.

        Returns:
            what `predict` returns; and of the same examples the arithmetic
            mean of the probabilities, the picture as it is being one of the
            views. The losses there are the cross-entropy of that mean.

        Raises:
            UserError: as for `predict`.
        """
        return self._predictions(batches, views, max_unreadable)

    def _predictions(
        self,
        batches: tf.data.Dataset,
        views: Views | None,
        max_unreadable: float,
    ) -> tuple[Predictions, Predictions | None]:
        read = self._head.probabilities
        parts = collections.defaultdict(list)
        for batch, outputs, losses, images in self._judged(
            batches, of_pictures=views is not None
        ):
            parts["outputs"].append(outputs.numpy())
            parts["losses"].append(losses.numpy())
            for key in ("id", "label", "position", "weight"):
                parts[key] += [rows.numpy() for rows in batch[key]]
            if views is not None:
                # All are under way before the first one is waited for.
                seen = [outputs, *self._seen(batch, images, views)]
                parts["averaged"].append(
                    np.mean([read(each.numpy()) for each in seen], 0, "f8")
                )
        mine = {key: np.concatenate(rows) for key, rows in parts.items()}
        everywhere = self._world.exchange(mine)
        whole = {
            key: np.concatenate([part[key] for part in everywhere])
            for key in mine
        }
        order = np.argsort(whole["position"], kind="stable")
        whole = {key: values[order] for key, values in whole.items()}
        names = np.array(readable_ids(whole["id"]), object)
        there = whole["weight"] > 0
        # Padding has no id; what has one and no weight did not decode.
        unreadable = tuple(names[~there & (names != "")])
        real = len(unreadable) + there.sum()
        if not there.any() or len(unreadable) > max_unreadable * real:
            raise UserError(
                f"{len(unreadable)} of {real} examples to judge by do not "
                f"decode, more than pipeline.max_unreadable = "
                f"{max_unreadable}: {some(unreadable)}. Expected "
                "JPEG, PNG, GIF, BMP or WebP images. Mend or remove them, "
                "leave them out (--mode=doctor finds them all), or allow more."
            )
        plain = Predictions(
            ids=names[there],
            labels=whole["label"][there],
            probabilities=read(whole["outputs"][there]),
            losses=whole["losses"][there],
            unreadable=unreadable,
        )
        if views is None:
            return plain, None
        averaged = whole["averaged"][there]
        return plain, dataclasses.replace(
            plain,
            probabilities=averaged.astype(plain.probabilities.dtype),
            losses=cross_entropy(averaged, plain.labels).astype(
                plain.losses.dtype
            ),
        )

    def _seen(
        self, batch: dict, images: list[tf.Tensor], views: Views
    ) -> Iterator[tf.Tensor]:
        """The outputs of a step for each view of its pictures."""
        for made in zip(*map(views, images, batch["position"]), strict=True):
            outputs, *_ = self._call(list(made), batch, "pixels")
            yield outputs

    def _judged(
        self, batches: tf.data.Dataset, of_pictures: bool = False
    ) -> Iterator[tuple[dict, tf.Tensor, tf.Tensor, list[tf.Tensor]]]:
        """Each step's batch, outputs, losses, and what they were made of.

        These are pictures where `of_pictures` asks for them, if need be
        decoded anew; else they may be what is kept of them.
        """
        kept, steps = self._kept.get(id(batches), (None, []))
        # Pictures are bytes, what a model makes of them never is.
        of_features = kept is not None and kept.dtype != np.uint8
        if of_pictures and of_features:
            kept, steps = None, []
        if kept is not None and kept.are_complete:
            for batch, places in steps:
                rows = [tf.constant(kept.get(place)) for place in places]
                outputs, losses, _ = self._call(
                    rows, batch, "features" if of_features else "pixels"
                )
                yield batch, outputs, losses, rows
            return
        steps.clear()
        first = 0
        for batch in self._by_step(batches):
            images = batch.pop("image")
            outputs, losses, made = self._call(images, batch, "pixels")
            if kept is not None:
                rows = made if of_features else tf.concat(images, 0)
                places = np.split(first + np.arange(len(rows)), len(images))
                kept.put(np.concatenate(places), rows.numpy())
                steps.append((batch, places))
                first += len(rows)
            yield batch, outputs, losses, images

    def _call(self, inputs, batch: dict, given: str) -> list[tf.Tensor]:
        return self._step(
            self._to_replicas(inputs), self._to_replicas(batch["label"]), given
        )

    def _by_step(self, batches: tf.data.Dataset) -> Iterator[dict]:
        """One batch for each of this worker's replicas at a time."""
        rows = iter(batches)
        while step := list(itertools.islice(rows, self._world.share.replicas)):
            yield {key: [batch[key] for batch in step] for key in step[0]}

    def _to_replicas(self, rows: list[tf.Tensor]):
        if len(rows) == 1:
            return rows[0]
        first = self._world.worker * len(rows)
        return (
            self._world.strategy.experimental_distribute_values_from_function(
                lambda context: rows[context.replica_id_in_sync_group - first]
            )
        )
