import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from augmentations import OURS, SIZE, keras_layers, make

from framework.errors import UserError
from framework.model.augmentation import (
    _KERAS_CV_LAYERS,
    _STATEFUL,
    NOT_COMPILED,
    _traced,
    augment_in_pipeline,
    exactly_resumable,
    place,
)
from framework.registry import AUGMENTATIONS

# The others' own tests see to most of it.
QUICK = ("RandomAffine", "RandomColor", "RandomPolicy")
# These do the same to every picture.
NOT_RANDOM = (
    "keras.CenterCrop",
    "keras.RandomCrop",  # To the size that there is.
    "keras_cv.AutoContrast",
    "keras_cv.Equalization",
    "keras_cv.Posterization",
)


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def augment(image, layers, first, count, seed=1, parallel=None):
    dataset = tf.data.Dataset.range(first, first + count).map(
        lambda position: {"image": tf.constant(image), "position": position}
    )
    dataset = dataset.map(
        augment_in_pipeline(layers, seed, SIZE), num_parallel_calls=parallel
    )
    return np.stack([e["image"] for e in dataset.as_numpy_iterator()])


def slow_but(quick, names):
    """`names` as parameters, of which all but the `quick` are marked slow."""
    return [
        n if n in quick else pytest.param(n, marks=pytest.mark.slow)
        for n in names
    ]


@pytest.mark.parametrize(
    "name",
    slow_but(
        (
            *QUICK,
            "keras.RandomFlip",
            "keras.RandomRotation",
            "keras.RandomZoom",
            "keras_cv.ChannelShuffle",
            "keras_cv.GridMask",
        ),
        [f"keras_cv.{n}" for n in _KERAS_CV_LAYERS] + keras_layers() + OURS,
    ),
)
def test_position_and_seed_determine_the_picture(name, image):
    layer = make(name)
    pictures = augment(image, [layer], 0, 12)
    assert pictures.dtype == np.uint8
    # From the middle, in parallel, the same layer once more.
    rest = augment(image, [layer], 6, 6, parallel=3)
    np.testing.assert_array_equal(rest, pictures[6:])
    # As in a process of its own that is somewhere else by chance.
    keras.utils.set_random_seed(77)
    again = augment(image, [make(name)], 0, 12, parallel=2)
    np.testing.assert_array_equal(again, pictures)
    assert exactly_resumable(layer, SIZE)
    graph = _traced([layer], 0, SIZE).graph.as_graph_def()
    functions = [f.node_def for f in graph.library.function]
    ops = {n.op for nodes in (graph.node, *functions) for n in nodes}
    assert not ops & _STATEFUL
    if name in NOT_RANDOM:
        assert (pictures == pictures[0]).all()
    else:
        assert (pictures != pictures[0]).any()
        assert (pictures != augment(image, [layer], 0, 12, seed=2)).any()


def test_layers_draw_independently(image):
    def shares(layers):
        pictures = augment(image, layers, 0, 400)
        return (pictures == image).all(axis=(1, 2, 3)).mean()

    flip = keras.layers.RandomFlip("horizontal")
    assert 0.4 < shares([flip]) < 0.6
    # The same layer twice: undone in half of all cases, not always.
    assert 0.4 < shares([flip, flip]) < 0.6


def test_a_layers_own_seed_counts(image):
    one, two = (
        augment(image, [keras.layers.RandomRotation(0.3, seed=s)], 0, 3)
        for s in (1, 2)
    )
    assert (one != two).any()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_for_the_model(image, policy):
    names = ("keras.RandomRotation", "keras_cv.RandomColorJitter")
    expected = augment(image, [make(n) for n in names], 0, 3)
    keras.config.set_dtype_policy(policy)
    try:
        mixed = augment(image, [make(n) for n in names], 0, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(mixed, expected)


def test_nothing_is_left_replaced(image):
    crop, mix = keras.layers.RandomCrop(9, 9), make("keras.AugMix")
    before = (
        tf.random.uniform,
        tf.random.Generator.uniform,
        keras.random.SeedGenerator.next,
        random.getstate(),
    )
    with pytest.raises(UserError, match="keeps the image's size"):
        augment(image, [crop], 0, 1)
    augment(image, [mix], 0, 1)
    assert before == (
        tf.random.uniform,
        tf.random.Generator.uniform,
        keras.random.SeedGenerator.next,
        random.getstate(),
    )


def test_no_variable_is_left_in_the_dataset(image):
    layers = [make("keras.RandAugment"), make("keras_cv.RandAugment")]
    dataset = tf.data.Dataset.range(3).map(
        lambda position: {"image": tf.constant(image), "position": position}
    )
    dataset = dataset.map(augment_in_pipeline(layers, 0, SIZE))
    graph = dataset._as_serialized_graph().numpy()
    assert b"VarHandleOp" not in graph
    assert b"ReadVariableOp" not in graph


class FromAfar(keras.layers.Layer):
    """Draws from an operation that keeps a state."""

    def call(self, x, training=False):
        return tf.image.random_flip_left_right(x)


class Gamma(keras.layers.Layer):
    """Draws from what no named layer draws from."""

    def call(self, x, training=False):
        draws = tf.concat(
            [
                tf.random.gamma([2], [1.0, 2.0]),  # [2, 2]
                tf.random.normal([2, 2]),
                tf.random.truncated_normal([2, 2]),
            ],
            0,
        )
        rows = tf.random.shuffle(tf.range(tf.shape(x)[1]))
        row = tf.random.categorical([[0.0, 0.0]], 1)[0, 0]
        return tf.gather(x, rows, axis=1) + draws[row, 0]


def test_layers_of_others(image):
    assert not exactly_resumable(FromAfar(), SIZE)
    assert exactly_resumable(Gamma(), SIZE)
    pictures = augment(image, [Gamma()], 0, 4)
    assert (pictures == augment(image, [Gamma()], 0, 4)).all()
    assert len({p.tobytes() for p in pictures}) == 4


def compiles(layer):
    inputs = keras.Input((SIZE, SIZE, 3), batch_size=2)
    model = keras.Model(inputs, layer(inputs))
    step = tf.function(lambda x: model(x, training=True), jit_compile=True)
    try:
        step(tf.zeros((2, SIZE, SIZE, 3)))
    except tf.errors.InvalidArgumentError:
        return False
    return True


@pytest.mark.parametrize(
    "name",
    slow_but(
        (
            *QUICK,
            "keras.RandomFlip",
            "keras.RandomContrast",
            "keras.RandomRotation",
        ),
        keras_layers() + OURS,
    ),
)
def test_what_stays_in_a_compiled_model_compiles(name):
    layer = make(name)
    in_model, in_pipeline = place([layer], compiled=True)
    assert place([layer]) == ((layer,), ())
    assert bool(in_pipeline) == (name.removeprefix("keras.") in NOT_COMPILED)
    assert compiles(layer) == bool(in_model)


def test_places_keep_the_order():
    flip, turn, grid, contrast = (
        keras.layers.RandomFlip(),
        keras.layers.RandomRotation(0.1),
        AUGMENTATIONS["keras_cv.GridMask"](),
        keras.layers.RandomContrast(0.1),
    )
    assert place([flip, turn]) == ((flip, turn), ())
    assert place([flip, turn], compiled=True) == ((), (flip, turn))
    assert place([flip, grid, turn]) == ((turn,), (flip, grid))
    assert place([turn, contrast], True) == ((contrast,), (turn,))
    assert place([contrast, grid]) == ((), (contrast, grid))
    with pytest.raises(UserError, match="with parentheses"):
        place([keras.layers.RandomFlip])
