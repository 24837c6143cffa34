"""Turns a model and a split's batches into one prediction an example."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from framework.console import some
from framework.errors import UserError
from framework.model.classifier import Classifier


def readable_ids(ids: Iterable[bytes]) -> list[str]:
    """A batch's ids as text; file names need not be valid in any encoding."""
    return [example_id.decode("utf-8", "replace") for example_id in ids]


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

    @property
    def predicted(self) -> np.ndarray:
        """`[N]` int64, the class of the highest probability."""
        return self.probabilities.argmax(axis=-1)

    def figures(self) -> dict[str, float]:
        """Mean loss and accuracy."""
        return {
            "loss": float(self.losses.mean(dtype=np.float64)),
            "accuracy": float((self.predicted == self.labels).mean()),
        }


class Predictor:
    """Applies a classifier, never with augmentation or dropout.

    Args:
        classifier: its model is used as it is at the time of the call.
    """

    def __init__(self, classifier: Classifier):
        self._classifier = classifier
        self._loss = classifier.head.loss()
        self._step = tf.function(self._batch, reduce_retracing=True)

    def _batch(self, images, labels):
        outputs = self._classifier.model(images, training=False)
        targets = self._classifier.head.encode(labels)
        return outputs, self._loss(targets, outputs)

    def predict(
        self, batches: tf.data.Dataset, max_unreadable: float = 1.0
    ) -> Predictions:
        """Predicts every example of `batches` once.

        Args:
            batches: from `Pipeline.evaluation`.
            max_unreadable: the share of examples that may fail to decode.

        Raises:
            UserError: more examples than that do not decode, or all of them.
        """
        ids, labels, outputs, losses, weights = [], [], [], [], []
        for batch in batches:
            output, loss = self._step(batch["image"], batch["label"])
            ids.append(batch["id"].numpy())
            labels.append(batch["label"].numpy())
            weights.append(batch["weight"].numpy())
            outputs.append(output.numpy())
            losses.append(loss.numpy())
        names = np.array(readable_ids(np.concatenate(ids)), object)
        read = np.concatenate(weights) > 0
        # Padding has no id; what has one and no weight did not decode.
        unreadable = tuple(names[~read & (names != "")])
        real = len(unreadable) + read.sum()
        if not read.any() or len(unreadable) > max_unreadable * real:
            raise UserError(
                f"{len(unreadable)} of {real} examples to judge by do not "
                f"decode, more than pipeline.max_unreadable = "
                f"{max_unreadable}: {some(unreadable)}. Expected "
                "JPEG, PNG, GIF, BMP or WebP images. Mend or remove them, or "
                "allow more."
            )
        return Predictions(
            ids=names[read],
            labels=np.concatenate(labels)[read],
            probabilities=self._classifier.head.probabilities(
                np.concatenate(outputs)[read]
            ),
            losses=np.concatenate(losses)[read],
            unreadable=unreadable,
        )
