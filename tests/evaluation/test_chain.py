import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from framework.errors import UserError
from framework.evaluation.chain import Chain
from framework.model.backbones import (
    Backbone,
    course_cnn,
    efficientnet_lite0,
    tiny_cnn,
)
from framework.model.backbones.backbone import minus_one_to_one
from framework.model.classifier import classifier
from framework.model.heads import sigmoid_head, softmax_head
from framework.registry import BACKBONES


def pictures(count=4, size=32, seed=0):
    return np.random.default_rng(seed).integers(
        0, 256, (count, size, size, 3), dtype=np.uint8
    )


@pytest.fixture
def augmentation():
    return [
        keras.layers.RandomFlip(),
        keras.layers.RandomContrast(0.5, value_range=(0, 255)),
    ]


def small_course_cnn(image_size=None):
    return course_cnn(image_size=46, filters=(8, 16, 32))


def resnet(image_size=None):
    return BACKBONES["keras_cv.ResNetV2Backbone"](
        image_size=64,
        weights=None,
        stackwise_filters=[64, 128],
        stackwise_blocks=[2, 2],
        stackwise_strides=[1, 2],
        block_type="basic_block",
    )


def mobilenet(image_size=None):
    return BACKBONES["keras.MobileNetV2"](image_size=64, weights=None)


def lite(image_size=None):
    return efficientnet_lite0(image_size=64, weights=None)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("freeze", ["none", "relu1", "all"])
def test_feature_maps_are_those_of_a_sub_model(
    freeze, saved, augmentation, tmp_path
):
    backbone = tiny_cnn()
    # Made before the classifier takes the backbone apart.
    parts = {
        name: keras.Model(
            backbone.model.input, backbone.model.get_layer(name).output
        )
        for name in ("conv1", "bn1", "relu1", "conv2", "relu2")
    }
    head = functools.partial(softmax_head, dropout=0.5)
    built = classifier(
        3,
        lambda image_size: backbone,
        head,
        freeze=freeze,
        augmentation=augmentation,
    )
    model = built.model
    if saved:
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    chain = Chain(model)
    images = pictures()
    names = [stage.name for stage in chain.stages()]
    assert names == ["conv1", "bn1", "relu1", "conv2", "bn2", "relu2"]
    for name, part in parts.items():
        expected = part(images / 127.5 - 1, training=False).numpy()
        found = chain.feature_map(name, images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
        stage = chain.stage(name)
        assert (stage.height, stage.width, stage.channels) == found.shape[1:]
        # Not random, however often.
        np.testing.assert_array_equal(chain.feature_map(name, images), found)
    together = chain.feature_maps(["relu2", "conv1"], images)
    assert list(together) == ["relu2", "conv1"]
    np.testing.assert_array_equal(
        together["conv1"], chain.feature_map("conv1", images)
    )
    np.testing.assert_array_equal(chain.features(images), together["relu2"])


@pytest.mark.parametrize(
    "make",
    [
        small_course_cnn,
        lite,
        pytest.param(mobilenet, marks=pytest.mark.slow),
        pytest.param(resnet, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_backbone_can_be_looked_into(make):
    built = classifier(3, make, softmax_head, freeze="all")
    chain = Chain(built.model)
    images = pictures(2, built.image_size)
    stages = chain.stages()
    assert len({stage.name for stage in stages}) == len(stages)
    last = stages[-1]
    assert last.name == built.backbone.layers[-1].name
    assert (last.height, last.width) == chain.last_map
    maps = chain.feature_maps(chain.chosen(), images)
    for name, values in maps.items():
        stage = chain.stage(name)
        assert values.shape == (2, stage.height, stage.width, stage.channels)
        assert stage.height > 1
    # They get smaller from one to the next, and end with the last one.
    sides = [values.shape[1] for values in maps.values()]
    assert sides == sorted(set(sides), reverse=True)
    assert len(sides) > 2
    np.testing.assert_allclose(
        maps[last.name], chain.features(images), atol=1e-4
    )


def test_the_chosen_ones_of_a_plain_network_are_what_the_course_shows():
    built = classifier(2, small_course_cnn, softmax_head)
    chain = Chain(built.model)
    every = ["conv1", "pool1", "conv2", "pool2", "conv3", "pool3"]
    assert chain.chosen() == every
    assert chain.chosen(3) == ["conv1", "conv2", "pool3"]


def test_a_layer_that_is_not_there():
    chain = Chain(classifier(2, tiny_cnn, softmax_head).model)
    with pytest.raises(UserError, match=r"layer 'rellu1'.*'relu1'"):
        chain.feature_map("rellu1", pictures())


def test_layers_of_one_name_are_told_apart():
    def two(image_size):
        def part(shape, name):
            inputs = keras.Input(shape)
            x = keras.layers.Conv2D(4, 3, strides=2, name="conv")(inputs)
            return keras.Model(inputs, x, name=name)

        inputs = keras.Input((32, 32, 3))
        x = part((32, 32, 3), "lower")(inputs)
        x = part(x.shape[1:], "upper")(x)
        model = keras.Model(inputs, x, name="both")
        return Backbone(model, minus_one_to_one(), "-1..1", False)

    chain = Chain(classifier(2, two, softmax_head).model)
    lower, upper = (stage.name for stage in chain.stages())
    assert (lower, upper) == ("both/lower/conv", "both/upper/conv")
    assert chain.feature_map(lower, pictures()).shape == (4, 15, 15, 4)
    assert chain.feature_map(upper, pictures()).shape == (4, 7, 7, 4)


@pytest.mark.parametrize("pooling", ["average", "max", "flatten"])
@pytest.mark.parametrize(
    "head", [softmax_head, sigmoid_head], ids=lambda head: head.__name__
)
def test_logits_and_embeddings(head, pooling, augmentation):
    head = functools.partial(head, hidden=[7], dropout=0.5, pooling=pooling)
    model = classifier(2, tiny_cnn, head, augmentation=augmentation).model
    chain = Chain(model)
    images = pictures(40)  # More than go at a time.
    logits = chain.logits(images)
    embeddings, outputs = chain.judge(images)
    np.testing.assert_allclose(
        outputs, model.predict(images, verbose=0), atol=1e-6
    )
    assert embeddings.shape == (40, 7)
    kernel, bias = model.get_layer("logits").get_weights()
    plain = embeddings @ kernel + bias
    if plain.shape[-1] == 1:
        plain = np.concatenate([-plain, plain], axis=-1)
        np.testing.assert_allclose(
            1 / (1 + np.exp(-logits[:, 1:])), outputs, atol=1e-5
        )
    else:
        np.testing.assert_allclose(tf.nn.softmax(logits), outputs, atol=1e-5)
    np.testing.assert_allclose(logits, plain, atol=1e-5)
    np.testing.assert_array_equal(logits, chain.logits(images))


@pytest.mark.parametrize("activation", ["softmax", None])
def test_a_last_layer_with_its_activation_inside(activation):
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3)(keras.ops.cast(inputs, "float32"))
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(3, activation=activation, name="last")(x)
    model = keras.Model(inputs, x)
    chain = Chain(model)
    images = pictures(3, 8)
    embeddings, outputs = chain.judge(images)
    kernel, bias = model.get_layer("last").get_weights()
    np.testing.assert_allclose(
        chain.logits(images), embeddings @ kernel + bias, rtol=1e-5
    )
    np.testing.assert_allclose(
        outputs, model.predict(images, verbose=0), rtol=1e-5
    )


def test_half_precision():
    with_policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        model = classifier(3, tiny_cnn, softmax_head).model
    finally:
        keras.mixed_precision.set_dtype_policy(with_policy)
    chain = Chain(model)
    assert chain.feature_map("relu2", pictures()).dtype == np.float32
    outputs = chain.judge(pictures())[1]
    assert outputs.dtype == chain.logits(pictures()).dtype == np.float32
    np.testing.assert_allclose(
        outputs, model.predict(pictures(), verbose=0), atol=1e-3
    )


def test_filters_are_in_the_colours_of_the_picture():
    # It wants blue first, and each channel less a mean.
    def make(image_size):
        return BACKBONES["keras.VGG16"](image_size=32, weights=None)

    built = classifier(2, make, softmax_head)
    name, filters = Chain(built.model).first_filters()
    assert name == "block1_conv1"
    kernel = built.backbone.get_layer(name).get_weights()[0]
    assert filters.shape == kernel.shape == (3, 3, 3, 64)
    np.testing.assert_allclose(filters, 255 * kernel[:, :, ::-1], rtol=1e-4)


def test_no_filters_to_see():
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.ops.cast(inputs, "float32")
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(2)(x)
    assert Chain(keras.Model(inputs, x)).first_filters() is None


def test_the_model_stays_as_it_is():
    model = classifier(2, tiny_cnn, softmax_head, freeze="relu1").model
    config, weights = model.get_config(), model.get_weights()
    chain = Chain(model)
    chain.feature_maps(chain.chosen(), pictures())
    chain.judge(pictures())
    assert model.get_config() == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_models_of_other_kinds_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UserError, match="functional model"):
        Chain(Own())
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.ops.cast(inputs, "float32"))
    forked = keras.layers.Add()(
        [keras.layers.Dense(2)(x), keras.layers.Dense(2)(x)]
    )
    with pytest.raises(UserError, match="one layer after another"):
        Chain(keras.Model(inputs, forked))
