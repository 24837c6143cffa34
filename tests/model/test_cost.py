"""What a model costs."""

import keras

from framework.model import cost


def model():
    inputs = keras.Input((16, 20, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.RandomFlip()(x)
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(0.5)(x)
    return keras.Model(inputs, keras.layers.Dense(5)(x))


def test_operations_are_those_of_convolutions_and_products():
    places = 16 * 20
    products = places * 4 * 9 * 3 + places * 4 * 9 + places * 4 * 5
    # Beside them: rescaling, the bias.
    others = 2 * places * 3 + 5
    found = cost.operations(model())
    assert 2 * products <= found <= 2 * products + 2 * others
