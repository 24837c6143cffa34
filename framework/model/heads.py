"""Turns a feature map into class probabilities, and labels into targets.

A head owns everything that follows from how labels are read: the layers, the
activation, the loss, the metrics and the targets' encoding. A gin file picks
one by name and so cannot mismatch loss and activation.
"""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.registry import HEADS

POOLINGS = ("average", "max", "flatten")


@dataclasses.dataclass(frozen=True)
class Head:
    """How a model's outputs are made, judged and read.

    Attributes:
        layers: applied one after another to the feature map
            `[B, h, w, C]`; the last one gives float32 outputs `[B, units]`.
        loss: makes the loss, which keeps one value an example.
        correct: maps targets and outputs to 1 for each example that is
            classified rightly, else 0; `[B]`.
        encode: maps labels int `[B]` to the targets that both of them take.
        probabilities: maps outputs `[N, units]` to probabilities
            `[N, num_classes]`, both numpy arrays.
    """

    layers: tuple[keras.layers.Layer, ...]
    loss: Callable[[], keras.losses.Loss]
    correct: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    encode: Callable[[tf.Tensor], tf.Tensor]
    probabilities: Callable[[np.ndarray], np.ndarray]


@HEADS.register(given=["num_classes"])
def softmax_head(
    num_classes: int,
    labels: str = "sparse",
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    pooling: str = "average",
) -> Head:
    """One probability a class: softmax and categorical cross-entropy.

    Args:
        num_classes: how many classes there are.
        labels: "sparse" (integers, sparse_categorical_crossentropy) or
            "one_hot" (one-hot vectors, categorical_crossentropy). The two
            give the same loss.
        hidden: units of ReLU layers before the last one.
        dropout: the share of units to drop before each dense layer
            (Srivastava et al. 2014,
            https://jmlr.org/papers/v15/srivastava14a.html).
        pooling: "average" or "max" over the feature map's positions, or
            "flatten" to keep them all.

    Raises:
        UserError: an argument is none of these.
    """
    if labels not in ("sparse", "one_hot"):
        raise UserError(
            f"softmax_head.labels is {labels!r}; expected 'sparse' or "
            "'one_hot'."
        )
    layers = _layers(num_classes, "softmax", hidden, dropout, pooling)
    if labels == "sparse":
        return Head(
            layers,
            lambda: keras.losses.SparseCategoricalCrossentropy(reduction=None),
            keras.metrics.sparse_categorical_accuracy,
            lambda y: y,
            lambda outputs: outputs,
        )
    return Head(
        layers,
        lambda: keras.losses.CategoricalCrossentropy(reduction=None),
        keras.metrics.categorical_accuracy,
        lambda y: tf.one_hot(y, num_classes, dtype=keras.config.floatx()),
        lambda outputs: outputs,
    )


@HEADS.register(given=["num_classes"])
def sigmoid_head(
    num_classes: int,
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    pooling: str = "average",
) -> Head:
    """The probability of the second of two classes: binary cross-entropy.

    Args:
        num_classes: 2.
        hidden: as in `softmax_head`.
        dropout: as in `softmax_head`.
        pooling: as in `softmax_head`.

    Raises:
        UserError: there are not two classes.
    """
    if num_classes != 2:
        raise UserError(
            f"sigmoid_head tells two classes apart; the data has "
            f"{num_classes}. Use classifier.head = @softmax_head."
        )
    return Head(
        _layers(1, "sigmoid", hidden, dropout, pooling),
        lambda: keras.losses.BinaryCrossentropy(reduction=None),
        lambda y, outputs: keras.metrics.binary_accuracy(y, outputs)[:, 0],
        lambda y: tf.cast(y, keras.config.floatx())[:, None],
        lambda outputs: np.concatenate([1 - outputs, outputs], axis=-1),
    )


def _layers(
    units: int,
    activation: str,
    hidden: Sequence[int],
    dropout: float,
    pooling: str,
) -> tuple[keras.layers.Layer, ...]:
    if not 0 <= dropout < 1:
        raise UserError(
            f"The head's dropout is {dropout}; expected 0 <= dropout < 1, the "
            "share of units to drop."
        )
    if pooling not in POOLINGS:
        raise UserError(
            f"The head's pooling is {pooling!r}; expected one of "
            f"{', '.join(POOLINGS)}."
        )
    if pooling == "average":
        layers = [keras.layers.GlobalAveragePooling2D(name="pooling")]
    elif pooling == "max":
        layers = [keras.layers.GlobalMaxPooling2D(name="pooling")]
    else:
        layers = [keras.layers.Flatten(name="pooling")]
    for number, width in enumerate(hidden, 1):
        if dropout:
            layers.append(
                keras.layers.Dropout(dropout, name=f"head_dropout_{number}")
            )
        layers.append(
            keras.layers.Dense(
                width, activation="relu", name=f"head_dense_{number}"
            )
        )
    if dropout:
        layers.append(keras.layers.Dropout(dropout, name="head_dropout"))
    layers.append(keras.layers.Dense(units, name="logits"))
    # float32 under mixed precision too: probabilities near 1 need it.
    layers.append(
        keras.layers.Activation(
            activation, dtype=keras.config.floatx(), name="probabilities"
        )
    )
    return tuple(layers)
