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
