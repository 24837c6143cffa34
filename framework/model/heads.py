"""Turns a feature map into class probabilities, and labels into targets.

A head owns everything that follows from how labels are read: the layers, the
activation, the loss, the metrics and the targets' encoding. A gin file picks
one by name and so cannot mismatch loss and activation.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.ranges import Count, NotNegative, Part
from framework.registry import HEADS

POOLINGS = ("average", "max", "flatten")
LOSSES = ("cross_entropy", "focal")


@dataclasses.dataclass(frozen=True)
class Head:
    """How a model's outputs are made, judged and read.

    Attributes:
        layers: applied one after another to the feature map
            `[B, h, w, C]`; the last one gives float32 outputs `[B, units]`.
        loss: makes the loss that models are judged by, which keeps one value
            an example: plain cross-entropy, whatever is trained with, so that
            `validation.loss` compares runs that differ in that.
        correct: maps targets and outputs to 1 for each example that is
            classified rightly, else 0; `[B]`.
        encode: maps labels int `[B]` to the targets that both of them take.
        probabilities: maps outputs `[N, units]` to probabilities
            `[N, num_classes]`, both numpy arrays.
        training_loss: makes what training minimises and reports as
            `train.loss`, from (targets, outputs) to `[B]`; None where that is
            `loss`.
    """

    layers: tuple[keras.layers.Layer, ...]
    loss: Callable[[], keras.losses.Loss]
    correct: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    encode: Callable[[tf.Tensor], tf.Tensor]
    probabilities: Callable[[np.ndarray], np.ndarray]
    training_loss: (
        Callable[[], Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] | None
    ) = None


@HEADS.register(given=["num_classes"])
def softmax_head(
    num_classes: int,
    labels: Literal["sparse", "one_hot"] = "sparse",
    hidden: Sequence[Count] = (),
    dropout: Part = 0.0,
    pooling: Literal[*POOLINGS] = "average",
    label_smoothing: Part = 0.0,
    loss: Literal["cross_entropy", "focal"] = "cross_entropy",
    focal_gamma: NotNegative = 2.0,
) -> Head:
    """One probability a class: softmax and categorical cross-entropy.

    Label smoothing and the focal loss are for training only. Evaluation, and
    so early stopping, goes by the plain cross-entropy.

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
        label_smoothing: the share of every target that is spread evenly over
            all classes (Szegedy et al. 2016, section 7,
            https://arxiv.org/abs/1512.00567).
        loss: "cross_entropy", or "focal", which counts what is classified
            well already for less: (1 - p) ** focal_gamma * -log(p), p being
            the true class's probability (Lin et al. 2017,
            https://arxiv.org/abs/1708.02002). Their alpha, a weight for each
            class, is `train.class_weights`.
        focal_gamma: of "focal"; 0 is the cross-entropy.

    Raises:
        UserError: an argument is none of these.
    """
    if labels not in ("sparse", "one_hot"):
        raise UserError(
            f"softmax_head.labels is {labels!r}; expected 'sparse' or "
            "'one_hot'."
        )
    _check_losses("softmax_head", label_smoothing, loss, focal_gamma)
    layers = _layers(num_classes, "softmax", hidden, dropout, pooling)
    # Keras's sparse loss knows no smoothing.
    if labels == "sparse" and not label_smoothing:
        return Head(
            layers,
            lambda: keras.losses.SparseCategoricalCrossentropy(reduction=None),
            keras.metrics.sparse_categorical_accuracy,
            lambda y: y,
            lambda outputs: outputs,
            _training_loss(
                keras.losses.SparseCategoricalCrossentropy, loss, focal_gamma
            ),
        )
    return Head(
        layers,
        lambda: keras.losses.CategoricalCrossentropy(reduction=None),
        keras.metrics.categorical_accuracy,
        lambda y: tf.one_hot(y, num_classes, dtype=keras.config.floatx()),
        lambda outputs: outputs,
        _training_loss(
            keras.losses.CategoricalCrossentropy,
            loss,
            focal_gamma,
            label_smoothing,
        ),
    )


@HEADS.register(given=["num_classes"])
def sigmoid_head(
    num_classes: int,
    hidden: Sequence[Count] = (),
    dropout: Part = 0.0,
    pooling: Literal[*POOLINGS] = "average",
    label_smoothing: Part = 0.0,
    loss: Literal["cross_entropy", "focal"] = "cross_entropy",
    focal_gamma: NotNegative = 2.0,
) -> Head:
    """The probability of the second of two classes: binary cross-entropy.

    Args:
        num_classes: 2.
        hidden: as in `softmax_head`.
        dropout: as in `softmax_head`.
        pooling: as in `softmax_head`.
        label_smoothing: as in `softmax_head`.
        loss: as in `softmax_head`.
        focal_gamma: as in `softmax_head`.

    Raises:
        UserError: there are not two classes, or an argument is none of these.
    """
    if num_classes != 2:
        raise UserError(
            f"sigmoid_head tells two classes apart; the data has "
            f"{num_classes}. Use classifier.head = @softmax_head."
        )
    _check_losses("sigmoid_head", label_smoothing, loss, focal_gamma)
    return Head(
        _layers(1, "sigmoid", hidden, dropout, pooling),
        lambda: keras.losses.BinaryCrossentropy(reduction=None),
        lambda y, outputs: keras.metrics.binary_accuracy(y, outputs)[:, 0],
        lambda y: tf.cast(y, keras.config.floatx())[:, None],
        lambda outputs: np.concatenate([1 - outputs, outputs], axis=-1),
        _training_loss(
            keras.losses.BinaryCrossentropy, loss, focal_gamma, label_smoothing
        ),
    )


def _check_losses(
    head: str, label_smoothing: float, loss: str, focal_gamma: float
) -> None:
    for name, value, fits, expected in (
        (
            "label_smoothing",
            label_smoothing,
            0 <= label_smoothing < 1,
            "0 <= label_smoothing < 1, the share that all classes get",
        ),
        (
            "loss",
            loss,
            loss in LOSSES,
            f"one of {', '.join(map(repr, LOSSES))}",
        ),
        ("focal_gamma", focal_gamma, focal_gamma >= 0, "0 or more"),
    ):
        if not fits:
            raise UserError(f"{head}.{name} is {value!r}; expected {expected}.")
    if loss == "focal" and label_smoothing:
        raise UserError(
            f"{head}.loss is 'focal' and {head}.label_smoothing is "
            f"{label_smoothing}; expected one of the two, since the focal loss "
            "is of one true class."
        )


def _training_loss(
    cross_entropy: Callable[..., keras.losses.Loss],
    loss: str,
    focal_gamma: float,
    label_smoothing: Part = 0.0,
) -> Callable[[], Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] | None:
    if loss == "focal":
        return lambda: _focal(cross_entropy(reduction=None), focal_gamma)
    if label_smoothing:
        return lambda: cross_entropy(
            label_smoothing=label_smoothing, reduction=None
        )
    return None


def _focal(
    cross_entropy: keras.losses.Loss, gamma: float
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The focal loss of what has one true class, from its cross-entropy.

    Keras 3.15's own focal losses clip probabilities, so that the categorical
    one has no gradient where p is below 1e-7, of all examples; and the
    gradient of the binary one is not a number where p is 1 and gamma below 1.
    """

    def focal(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        losses = cross_entropy(targets, outputs)
        # 1 - p, of which a power below 1 has no slope at 0.
        error = tf.maximum(-tf.math.expm1(-losses), keras.config.epsilon())
        return error**gamma * losses

    return focal


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
