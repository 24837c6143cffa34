"""Turns a classifier and endless batches into trained weights and a history.

The loop is short and our own, around Keras models, optimizers, losses,
metrics and callbacks: Keras's `fit` neither works on several workers nor
continues exactly where it was stopped.
"""

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from framework.console import some
from framework.errors import UserError
from framework.evaluation.predictions import Predictor, readable_ids
from framework.model.classifier import Classifier
from framework.training.early_stopping import EarlyStopping


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train.

    Attributes:
        examples: in the training split.
        batch_size: examples an update, over all replicas.
        epochs: passes over the training split.
    """

    examples: int
    batch_size: int
    epochs: int

    def __post_init__(self):
        for field in ("batch_size", "epochs"):
            value = getattr(self, field)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < 1:
                raise UserError(
                    f"train.{field} is {value!r}; expected a whole number, at "
                    "least 1."
                )
        if self.batch_size > self.examples:
            raise UserError(
                f"train.batch_size is {self.batch_size}, more than the "
                f"{self.examples} examples to train on; expected at most as "
                f"many: train.batch_size = {self.examples}."
            )

    def last_step(self, epoch: int) -> int:
        """Steps done when every example was seen `epoch + 1` times.

        Batches run across the border of epochs, so that the steps of two
        epochs may differ by one.
        """
        return math.ceil((epoch + 1) * self.examples / self.batch_size)

    @property
    def total_steps(self) -> int:
        return self.last_step(self.epochs - 1)


@dataclasses.dataclass
class History:
    """What happened, epoch by epoch.

    Attributes:
        epochs: an entry an epoch: `{"epoch": 1, "step": ..., "train":
            {"loss": ..., "accuracy": ...}, "validation": {...},
            "learning_rate": ..., "images_per_second": ..., "seconds": ...}`.
            "train" is measured while training, with augmentation and
            dropout; "validation" without.
        best_epoch: index of the epoch whose weights the model holds in the
            end.
        stopped_early: whether training ended before the last epoch.
        unreadable: ids of training examples that did not decode.
        seconds: spent in all, validation included.
        images_per_second: in training alone.
    """

    epochs: list[dict]
    best_epoch: int
    stopped_early: bool
    unreadable: tuple[str, ...]
    seconds: float
    images_per_second: float


class Trainer:
    """Updates a classifier's weights. Make it inside the strategy's scope.

    Args:
        classifier: what to train.
        optimizer: a Keras optimizer made in the same scope.
        strategy: of `tf.distribute`.
    """

    def __init__(
        self,
        classifier: Classifier,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
    ):
        self.classifier = classifier
        self.model = classifier.model
        self.optimizer = optimizer
        self.strategy = strategy
        self._loss = classifier.head.loss()
        self._mean_loss = keras.metrics.Mean("loss")
        self._accuracy = classifier.head.accuracy()
        optimizer.build(self.model.trainable_variables)
        # Keras's callbacks look for the optimizer on the model.
        self.model.compile(optimizer=optimizer, loss=self._loss)
        self._step = tf.function(self._distributed_step, reduce_retracing=True)

    def trace(self, batches: tf.data.Dataset) -> None:
        """Builds the training step without running it.

        Parts that don't fit together show here, before anything is written,
        and the first step is as quick as the others.
        """
        spec = batches.element_spec
        self._step.get_concrete_function(
            spec["image"], spec["label"], spec["weight"]
        )

    def _distributed_step(self, images, labels, weights):
        losses = self.strategy.run(
            self._replica_step, args=(images, labels, weights)
        )
        return self.strategy.reduce(
            tf.distribute.ReduceOp.SUM, losses, axis=None
        )

    def _replica_step(self, images, labels, weights):
        """One replica's share of an update; returns its part of the loss."""
        context = tf.distribute.get_replica_context()
        # What did not decode is black and has weight 0, which keeps it out of
        # the loss. Batch normalisation knows no weights: it sees the batch's
        # first readable picture once more instead.
        readable = (weights > 0)[:, None, None, None]
        images = tf.where(readable, images, images[tf.argmax(weights)])
        targets = self.classifier.head.encode(labels)
        # The mean is over the whole batch, whichever replica holds a row.
        total_weight = context.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.reduce_sum(weights)
        )
        with tf.GradientTape() as tape:
            outputs = self.model(images, training=True)
            losses = self._loss(targets, outputs)
            loss = tf.math.divide_no_nan(
                tf.reduce_sum(losses * weights), total_weight
            )
            if self.model.losses:  # Regularisers, once over all replicas.
                loss += (
                    tf.add_n(self.model.losses)
                    / self.strategy.num_replicas_in_sync
                )
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply(gradients, variables)
        self._mean_loss.update_state(losses, sample_weight=weights)
        self._accuracy.update_state(targets, outputs, sample_weight=weights)
        return loss

    def fit(
        self,
        plan: Plan,
        batches: tf.data.Dataset,
        validate: Callable[[], dict[str, float]] | None,
        early_stopping: EarlyStopping | None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        observers: Sequence["Observer"] = (),
        max_unreadable: float = 1.0,
    ) -> History:
        """Trains; in the end the model holds the best epoch's weights.

        Args:
            plan: how long.
            batches: endless, from `Pipeline.training`.
            validate: returns the figures of the validation split, or None
                where there is no such split.
            early_stopping: tells the best epoch and when to stop; None
                trains all epochs and keeps the last one's weights.
            callbacks: Keras callbacks.
            observers: told of every step and epoch (progress, logs).
            max_unreadable: the share of an epoch's examples that may fail to
                decode.

        Raises:
            UserError: the loss is not finite, or too many examples do not
                decode.
        """
        keras_callbacks = keras.callbacks.CallbackList(
            list(callbacks),
            model=self.model,
            epochs=plan.epochs,
            steps=plan.last_step(0),
            verbose=0,
        )
        watch = _Watch(plan, max_unreadable)
        history: list[dict] = []
        best_weights = self.model.get_weights()
        best_epoch = 0
        stopped_early = False
        started = time.monotonic()
        training_seconds = 0.0
        step = 0
        self.model.stop_training = False
        keras_callbacks.on_train_begin()
        stream: Iterator = iter(batches)
        for epoch in range(plan.epochs):
            keras_callbacks.on_epoch_begin(epoch)
            epoch_started = time.monotonic()
            first_step = step
            self._mean_loss.reset_state()
            self._accuracy.reset_state()
            while step < plan.last_step(epoch):
                keras_callbacks.on_train_batch_begin(step - first_step)
                batch = next(stream)
                loss = self._step(
                    batch["image"], batch["label"], batch["weight"]
                )
                step += 1
                watch.check(epoch, step, loss, batch)
                for observer in observers:
                    observer.on_step(epoch, step, self._figures)
                keras_callbacks.on_train_batch_end(
                    step - first_step - 1, {"loss": loss}
                )
            watch.flush()
            seconds = time.monotonic() - epoch_started
            training_seconds += seconds
            images = (step - first_step) * plan.batch_size
            figures = {
                "epoch": epoch + 1,
                "step": step,
                "train": self._figures(),
                "learning_rate": float(self.optimizer.learning_rate),
                "images_per_second": images / seconds,
                "seconds": seconds,
            }
            if validate is not None:
                figures["validation"] = validate()
            history.append(figures)
            for observer in observers:
                observer.on_epoch(figures)
            if (
                early_stopping is None
                or early_stopping.best_epoch(history) == epoch
            ):
                best_epoch, best_weights = epoch, self.model.get_weights()
            keras_callbacks.on_epoch_end(epoch, _keras_logs(figures))
            stop = self.model.stop_training or (
                early_stopping is not None
                and early_stopping.should_stop(history)
            )
            if stop and epoch + 1 < plan.epochs:
                stopped_early = True
                break
        self.model.set_weights(best_weights)
        keras_callbacks.on_train_end(_keras_logs(history[best_epoch]))
        return History(
            epochs=history,
            best_epoch=best_epoch,
            stopped_early=stopped_early,
            unreadable=tuple(watch.unreadable),
            seconds=time.monotonic() - started,
            images_per_second=step * plan.batch_size / training_seconds,
        )

    def _figures(self) -> dict[str, float]:
        return {
            "loss": float(self._mean_loss.result()),
            "accuracy": float(self._accuracy.result()),
        }


class Observer:
    """Is told what happens; changes nothing."""

    def on_step(
        self, epoch: int, step: int, figures: Callable[[], dict[str, float]]
    ) -> None:
        """After every update.

        Args:
            epoch: from 0.
            step: updates so far.
            figures: gives the epoch's loss and accuracy so far; asking waits
                for the device, so ask seldom.
        """

    def on_epoch(self, figures: dict) -> None:
        """After every epoch, with its entry of `History.epochs`."""


class _Watch:
    """Stops a run that is lost: a loss that isn't finite, data that is broken.

    It looks at a step when the next one is under way, so that an accelerator
    need not wait for the host.
    """

    def __init__(self, plan: Plan, max_unreadable: float):
        self._plan = plan
        self._max_unreadable = max_unreadable
        self._pending = collections.deque()
        self.unreadable: dict[str, None] = {}  # A set that keeps its order.

    def check(self, epoch: int, step: int, loss, batch: dict) -> None:
        self._pending.append((epoch, step, loss, batch))
        if len(self._pending) > 1:
            self._look(*self._pending.popleft())

    def flush(self) -> None:
        while self._pending:
            self._look(*self._pending.popleft())

    def _look(self, epoch: int, step: int, loss, batch: dict) -> None:
        weights = np.asarray(batch["weight"])
        if not weights.all():
            ids = np.asarray(batch["id"])[weights == 0]
            self.unreadable.update(dict.fromkeys(readable_ids(ids)))
            allowed = self._max_unreadable * self._plan.examples
            if len(self.unreadable) > allowed:
                raise UserError(
                    f"{len(self.unreadable)} of {self._plan.examples} training "
                    "examples do not decode so far, more than "
                    f"pipeline.max_unreadable = {self._max_unreadable}: "
                    f"{some(self.unreadable)}. Mend or remove them, or allow "
                    "more."
                )
        if not math.isfinite(float(loss)):
            raise UserError(
                f"The loss is {float(loss)} at step {step} (epoch "
                f"{epoch + 1}). The batch held "
                f"{some(readable_ids(np.asarray(batch['id'])), 64)}. What "
                "usually helps: a learning rate ten times lower, a warm-up "
                "(train.schedule = @warmup_cosine), clipping "
                "(keras.Adam.global_clipnorm = 1.0). If it happens at the "
                "very first step, look at these images and at the "
                "augmentation."
            )


def _keras_logs(figures: dict) -> dict[str, float]:
    logs = dict(figures["train"])
    for key, value in figures.get("validation", {}).items():
        logs[f"val_{key}"] = value
    return logs


def validation(
    predictor: Predictor, batches: tf.data.Dataset, max_unreadable: float = 1.0
) -> Callable[[], dict[str, float]]:
    """A function that judges the model as it is on the same batches.

    Args:
        predictor: of the model.
        batches: of the validation split.
        max_unreadable: as for `Predictor.predict`.
    """

    def validate() -> dict[str, float]:
        return predictor.predict(batches, max_unreadable).figures()

    return validate
