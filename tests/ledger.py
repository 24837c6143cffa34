"""A task whose model counts, in its weights, how often it saw each picture.

For tests that kill runs: in the end every picture must have been trained on
as often as there were epochs, whatever happened on the way.
"""

import dataclasses
import os

import keras
import numpy as np
import tensorflow as tf

from framework import (
    BACKBONES,
    CALLBACKS,
    TASKS,
    Backbone,
    Source,
    Task,
    array_source,
)

COUNT, SIZE = 200, 10


def source():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, COUNT)
    images = rng.integers(0, 156, (COUNT, SIZE, SIZE, 3))
    images += 100 * labels[:, None, None, None]
    # Each picture's first row is its number, so that flips don't hide it.
    images[:, 0] = np.arange(COUNT)[:, None, None]
    return array_source(
        images.astype(np.uint8), labels, ("dark", "bright"), name="ledger"
    )


@TASKS.register()
def ledger(broken: int = 0) -> Task:
    """The task, with so many pictures that do not decode."""

    def encoded():
        whole = source().splits["train"]
        pictures = tf.constant(
            [
                b""
                if row < broken
                else tf.io.encode_png(whole.read(row)).numpy()
                for row in range(COUNT)
            ]
        )
        train = dataclasses.replace(
            whole, read=lambda row: tf.gather(pictures, row)
        )
        return Source("ledger", ("dark", "bright"), {"train": train})

    return Task(encoded if broken else source, validation=0.0)


class Ledger(keras.layers.Layer):
    """Passes pictures on, and counts them in training."""

    def build(self, input_shape):
        self.counts = self.add_weight(
            shape=(COUNT,),
            initializer="zeros",
            trainable=False,
            aggregation="sum",
            name="counts",
        )

    def call(self, x, training=False):
        if training:
            numbers = tf.cast(tf.round(x[:, 0, 0, 0]), tf.int32)
            seen = tf.reduce_sum(tf.one_hot(numbers, COUNT), axis=0)
            # Keras's assign_add would read before it sums over replicas.
            self.counts.value.assign_add(seen)
        return x


@BACKBONES.register(given=["image_size"])
def ledger_cnn(image_size: int | None = None) -> Backbone:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = Ledger(name="ledger")(inputs)
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(x)
    x = keras.layers.Conv2D(8, 3, strides=2, name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    return Backbone(
        keras.Model(inputs, x), lambda pixels: pixels, "0..255", False
    )


@CALLBACKS.register()
class StepFile(keras.callbacks.Callback):
    """Writes the number of updates so far to a file, for who watches."""

    chief_only = True

    def __init__(self, path: str):
        super().__init__()
        self._path = path

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations.numpy())
        with open(self._path + ".new", "w") as file:
            file.write(str(step))
        os.replace(self._path + ".new", self._path)

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


GIN = """
include 'gin/base.gin'
import ledger
train.task = @ledger()
train.early_stopping = None
train.report_page = False
train.epochs = 40
train.batch_size = 16
classifier.backbone = @ledger_cnn
classifier.head = @softmax_head
softmax_head.dropout = 0.3
classifier.augmentation = [@keras.RandomFlip()]
keras.RandomFlip.mode = 'horizontal'
keras.Adam.learning_rate = 0.003
keras.Adam.use_ema = True
Checkpoints.every_steps = 10
train.callbacks = [@StepFile()]
StepFile.path = 'step'
"""
