"""Turns a classifier into two rates of training: bare, and in our loop."""

import functools
import io
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from benchmarks.settings import BATCH
from framework.data.pipeline import Pipeline, Share
from framework.data.source import IndexedExamples
from framework.model.backbones import Backbone
from framework.model.classifier import Classifier, classifier
from framework.model.heads import softmax_head
from framework.task import Data
from framework.training.distribution import Distribution
from framework.training.features import once
from framework.training.progress import ProgressObserver
from framework.training.state import Plan
from framework.training.trainer import Observer, Trainer

# So small that no loss ends the run, whatever the model.
LEARNING_RATE = 1e-5

# From a number of steps to how many images a second there were.
Run = Callable[[int], float]


def build(
    backbone: Callable[..., Backbone], classes: int, **head_options
) -> Classifier:
    """The same weights every time."""
    keras.utils.set_random_seed(0)
    head = functools.partial(softmax_head, **head_options)
    return classifier(classes, backbone, head)


def a_batch(rows: int, size: int, classes: int) -> dict[str, tf.Tensor]:
    """A batch of noise in memory, as our pipeline would make it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, size, size, 3))
    return {
        "image": tf.constant(images.astype(np.uint8)),
        "label": tf.constant(rng.integers(0, classes, rows)),
        "position": tf.range(rows, dtype=tf.int64),
        "weight": tf.ones(rows),
    }


def bare(made: Classifier, batch: dict[str, tf.Tensor]) -> Run:
    """The compiled step as a user would write it, in a Python loop."""
    model = made.model
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy()

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    def run(steps: int) -> float:
        float(step(batch["image"], batch["label"]))
        began = time.perf_counter()
        for _ in range(steps):
            loss = step(batch["image"], batch["label"])
        float(loss)
        seconds = time.perf_counter() - began
        return steps * len(batch["label"]) / seconds

    return run


class _Clock(Observer):
    """Notes when each step was done."""

    def __init__(self):
        self.times = []

    def on_step(self, epoch, step, figures) -> None:
        self.times.append(time.perf_counter())


def in_our_loop(
    made: Classifier,
    rows: int,
    batches: Callable[[int, Share], tf.data.Dataset],
    warm: int = 1,
) -> Run:
    """`Trainer.fit` with progress, history and all else that a run has.

    Args:
        made: the classifier.
        rows: of a batch.
        batches: as for `Trainer.stream`.
        warm: how many steps to do before those that count, until what feeds
            them runs as it always will.
    """
    world = Distribution("one").make()
    trainer = Trainer(made, keras.optimizers.Adam(LEARNING_RATE), world)
    console = Console(file=io.StringIO())

    def run(steps: int) -> float:
        plan = Plan(rows * (warm + steps), rows, 1)
        stream = trainer.stream(batches, plan)
        trainer.trace(stream)
        clock = _Clock()
        trainer.fit(
            plan,
            batches,
            None,
            None,
            observers=[ProgressObserver(console, plan), clock],
            stream=stream,
        )
        return steps * rows / (clock.times[-1] - clock.times[warm - 1])

    return run


def in_later_epochs(made: Classifier, examples: IndexedExamples) -> Run:
    """As `in_our_loop` over pictures, which a first epoch has decoded."""
    world = Distribution("one").make()
    pipeline = Pipeline()

    def run(steps: int) -> float:
        chosen = examples.select(np.arange(steps * BATCH))
        data = Data("folder", (), {"train": chosen}, False, ())
        plan = Plan(len(chosen), BATCH, epochs=2)
        kept = once(None, made, data, pipeline, world, plan, seed=0)
        optimizer = keras.optimizers.Adam(LEARNING_RATE)
        history = Trainer(made, optimizer, world, views=kept.views).fit(
            plan,
            lambda first, share: pipeline.training(
                chosen, made.image_size, BATCH, 0, first, share=share
            ),
            None,
            None,
            observers=[ProgressObserver(Console(file=io.StringIO()), plan)],
        )
        return history.epochs[1]["images_per_second"]

    return run
