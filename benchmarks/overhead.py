"""Turns one training step into two rates: bare, and inside our loop.

    python benchmarks/overhead.py [--milliseconds=30] [--rounds=9]

Both sides train the same model on the same batch in memory, in turns, in one
process. "bare" is the compiled step as a user would write it (GradientTape,
`optimizer.apply`), called in a Python loop; "framework" is `Trainer.fit` with
progress, history and everything else that a run has, on the same batch from
an endless `tf.data` pipeline.
"""

import argparse
import io
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from framework.model.backbones import tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.training.distribution import Distribution
from framework.training.progress import ProgressObserver
from framework.training.state import Plan
from framework.training.trainer import Trainer

SIZE = 64


def build():
    keras.utils.set_random_seed(0)
    return classifier(10, lambda image_size: tiny_cnn(SIZE), softmax_head)


def a_batch(rows: int) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, SIZE, SIZE, 3))
    return {
        "image": tf.constant(images.astype(np.uint8)),
        "label": tf.constant(rng.integers(0, 10, rows)),
        "position": tf.range(rows, dtype=tf.int64),
        "weight": tf.ones(rows),
    }


def bare(rows: int):
    """The step alone; returns a function that runs so many of them."""
    model = build().model
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy()
    batch = a_batch(rows)

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            loss = step(batch["image"], batch["label"])
        float(loss)
        return (time.perf_counter() - began) / steps

    return run


def ours(rows: int):
    """The same inside `Trainer.fit`."""
    world = Distribution("one").make()
    trainer = Trainer(build(), keras.optimizers.Adam(1e-4), world)
    batch = a_batch(rows)
    console = Console(file=io.StringIO())

    def batches(first, share):
        return tf.data.Dataset.from_tensors(batch).repeat()

    def run(steps: int) -> float:
        plan = Plan(rows * steps, rows, 1)
        stream = trainer.stream(batches, plan)
        trainer.trace(stream)
        history = trainer.fit(
            plan,
            batches,
            None,
            None,
            observers=[ProgressObserver(console, plan)],
            stream=stream,
        )
        return history.epochs[0]["seconds"] / steps

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--milliseconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    # As many rows as make a step take about so long.
    rows = 128
    for _ in range(3):
        trial = bare(rows)
        trial(10)
        rows = max(1, round(rows * asked.milliseconds / 1000 / trial(50)))
    bare_run, our_run = bare(rows), ours(rows)
    steps = max(10, round(3000 / asked.milliseconds))
    bare_run(5), our_run(5)
    pairs = []
    for number in range(asked.rounds):
        # In turns, and each first as often: drift hits both alike.
        if number % 2:
            b, a = our_run(steps), bare_run(steps)
        else:
            a, b = bare_run(steps), our_run(steps)
        pairs.append((a, b))
        print(
            f"bare {1000 * a:.2f} ms  framework {1000 * b:.2f} ms  "
            f"ratio {b / a:.3f}",
            flush=True,
        )
    ratio = statistics.median(b / a for a, b in pairs)
    print(
        f"{rows} rows of {SIZE}x{SIZE} px a step, {steps} steps a round: "
        f"median ratio {ratio:.3f}, the framework's overhead "
        f"{100 * (ratio - 1):+.1f} %"
    )


if __name__ == "__main__":
    main()
