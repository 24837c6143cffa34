import keras
import numpy as np
import pytest
import tensorflow as tf

from framework.errors import UserError
from framework.model.heads import sigmoid_head, softmax_head


def outputs_of(head, features):
    x = inputs = keras.Input(features.shape[1:])
    for layer in head.layers:
        x = layer(x)
    return keras.Model(inputs, x)(features).numpy()


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 4, 4, 8)).astype(np.float32)


@pytest.mark.parametrize("pooling", ["average", "max", "flatten"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: softmax_head(2, **kw),
        lambda **kw: softmax_head(2, labels="one_hot", **kw),
        lambda **kw: sigmoid_head(2, **kw),
    ],
)
def test_every_head_keeps_the_contract(make, pooling, features):
    head = make(pooling=pooling, hidden=[5], dropout=0.5)
    outputs = outputs_of(head, features)
    assert outputs.dtype == np.float32
    probabilities = head.probabilities(outputs)
    assert probabilities.shape == (6, 2)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
    labels = tf.constant([0, 1, 0, 1, 0, 1], tf.int64)
    losses = head.loss()(head.encode(labels), outputs)
    # Whatever the encoding: the loss is the cross-entropy of the true class.
    expected = -np.log(probabilities[np.arange(6), labels.numpy()])
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    correct = head.correct(head.encode(labels), outputs)
    np.testing.assert_array_equal(
        correct, probabilities.argmax(-1) == labels.numpy()
    )


def test_dropout_stands_before_every_dense_layer():
    head = softmax_head(3, hidden=[7, 5], dropout=0.4)
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds == [
        "GlobalAveragePooling2D",
        *["Dropout", "Dense"] * 3,
        "Activation",
    ]
    assert {x.rate for x in head.layers if hasattr(x, "rate")} == {0.4}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sigmoid_head(3), "softmax_head"),
        (lambda: softmax_head(3, labels="dense"), "'sparse' or 'one_hot'"),
        (lambda: softmax_head(3, dropout=1.0), "dropout is 1.0"),
        (lambda: softmax_head(3, pooling="sum"), "average, max, flatten"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


HEADS = {
    "sparse": softmax_head,
    "one_hot": lambda n, **kw: softmax_head(n, labels="one_hot", **kw),
    "sigmoid": sigmoid_head,
}


def training_losses(head, logits, labels):
    """Losses and their gradients by the logits, compiled as in training."""

    @tf.function
    def compute(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            outputs = head.layers[-1](logits)
            targets = head.encode(tf.constant(labels, tf.int64))
            losses = (head.training_loss or head.loss)()(targets, outputs)
        return losses, tape.gradient(losses, logits), outputs

    losses, gradients, outputs = compute(tf.constant(logits, tf.float32))
    return (
        losses.numpy(),
        gradients.numpy(),
        head.probabilities(outputs.numpy()),
    )


LOGITS = {2: [[2.0, -1.0], [0.5, 0.0]], 1: [[2.0], [-0.7]]}


@pytest.mark.parametrize("kind", HEADS)
def test_losses_to_train_by_are_those_of_the_papers(kind):
    labels = [0, 1]
    logits = LOGITS[1 if kind == "sigmoid" else 2]
    losses, _, p = training_losses(
        HEADS[kind](2, label_smoothing=0.2), logits, labels
    )
    target = 0.8 * np.eye(2)[labels] + 0.2 / 2
    np.testing.assert_allclose(losses, -(target * np.log(p)).sum(-1), rtol=1e-5)
    for gamma in (0.5, 2.0):
        head = HEADS[kind](2, loss="focal", focal_gamma=gamma)
        losses, _, p = training_losses(head, logits, labels)
        p = p[[0, 1], labels]
        np.testing.assert_allclose(
            losses, -((1 - p) ** gamma) * np.log(p), rtol=1e-5
        )
    # What is judged by is the same for all.
    head = HEADS[kind](2, loss="focal")
    outputs = head.layers[-1](tf.constant(logits))
    np.testing.assert_allclose(
        head.loss()(head.encode(tf.constant(labels)), outputs),
        -np.log(p),
        rtol=1e-5,
    )


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_learns_from_what_is_wrong_beyond_doubt(kind, gamma):
    """Where Keras's have no gradient, and where they have one of NaN."""
    logits = [[-40.0], [40.0]] if kind == "sigmoid" else [[40.0, 0], [0, 40.0]]
    head = HEADS[kind](2, loss="focal", focal_gamma=gamma)
    losses, gradients, _ = training_losses(head, logits, [1, 1])
    assert losses[0] == pytest.approx(40, rel=1e-3)
    assert np.abs(gradients[0]).max() == pytest.approx(1, rel=1e-3)
    assert losses[1] < 1e-6 and np.abs(gradients[1]).max() < 1e-3


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; expected 0 <="),
        ({"loss": "mse"}, "loss is 'mse'; expected one of 'cross_entropy'"),
        ({"focal_gamma": -1.0}, "focal_gamma is -1.0; expected 0 or more"),
        ({"loss": "focal", "label_smoothing": 0.1}, "one of the two"),
    ],
)
def test_bad_losses_are_refused(how, message):
    for name in ("softmax_head", "sigmoid_head"):
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            {"softmax_head": softmax_head, "sigmoid_head": sigmoid_head}[name](
                2, **how
            )
