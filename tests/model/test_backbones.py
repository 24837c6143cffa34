import time

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

from framework.data import network
from framework.errors import UserError
from framework.model import backbones
from framework.registry import BACKBONES

# One of each family of keras.applications, at a size that builds quickly.
SMALL = {
    "efficientnet_lite0": 64,
    "course_cnn": 64,
    "tiny_cnn": 32,
    "keras.MobileNetV2": 64,
    "keras.MobileNetV3Small": 64,
    "keras.EfficientNetV2B0": 64,
    "keras.EfficientNetB0": 64,
    "keras.InceptionV3": 75,
    "keras.Xception": 71,
    "keras.ResNet50": 64,
    "keras.DenseNet121": 64,
}


# The others are as long to build as all the rest of the tests here together.
QUICK = (
    "efficientnet_lite0",
    "course_cnn",
    "tiny_cnn",
    "keras.MobileNetV3Small",
    "keras.VGG16",
)


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in SMALL
    ],
)
def test_every_backbone_keeps_the_contract(name, tmp_path):
    size = SMALL[name]
    backbone = BACKBONES[name](image_size=size, weights=None)
    assert backbone.model.input_shape == (None, size, size, 3)
    assert len(backbone.model.output_shape) == 4
    assert not backbone.pretrained
    assert isinstance(backbone.model, keras.Model)
    # Built-in layers only: the file loads in plain Keras.
    for layer in backbone.model._flatten_layers():
        assert type(layer).__module__.startswith("keras."), layer
    inputs = keras.Input((size, size, 3))
    model = keras.Model(inputs, backbone.model(backbone.prepare(inputs)))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3))
    pixels = pixels.astype(np.float32)
    first = model.predict(pixels, verbose=0)
    np.testing.assert_array_equal(first, again.predict(pixels, verbose=0))
    np.testing.assert_allclose(
        first, model(pixels, training=False), atol=1e-5 * np.abs(first).max()
    )


# The pixel values 0, 127.5 and 255 of one grey picture, as each family's own
# preprocess_input makes them.
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("MobileNetV2", "mobilenet_v2"),
        ("MobileNetV3Small", "mobilenet_v3"),
        ("InceptionV3", "inception_v3"),
        ("Xception", "xception"),
        ("ResNet50", "resnet"),
        ("ResNet50V2", "resnet_v2"),
        ("DenseNet121", "densenet"),
        ("EfficientNetB0", "efficientnet"),
        ("EfficientNetV2B0", "efficientnet_v2"),
        ("VGG16", "vgg16"),
        ("NASNetMobile", "nasnet"),
        ("ConvNeXtTiny", "convnext"),
    ],
)
def test_pixels_are_prepared_as_keras_does(name, module):
    make_prepare, _, _ = backbones._APPLICATIONS[name][0]
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3))
    pixels = pixels.astype(np.float32)
    family = getattr(keras.applications, module)
    np.testing.assert_allclose(
        np.asarray(make_prepare()(keras.ops.convert_to_tensor(pixels))),
        family.preprocess_input(pixels.copy()),
        atol=2e-5,
    )


def test_imagenet_without_a_network_fails_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(network, "reachable", lambda urls, *_: False)
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        BACKBONES["keras.MobileNetV2"](image_size=96)
    assert time.monotonic() - started < 5
    assert "mobilenet_v2_weights" in str(error.value)
    assert str(tmp_path / "models") in str(error.value)
    assert "https://" in str(error.value)


def test_weights_that_are_there_need_no_network(monkeypatch):
    asked = []
    monkeypatch.setattr(network, "reachable", asked.append)
    BACKBONES["keras.MobileNetV2"](image_size=96, weights=None)
    assert not asked


def test_weights_of_a_run_are_taken_by_name(tmp_path):
    first = backbones.tiny_cnn()
    inputs = keras.Input((32, 32, 3))
    whole = keras.Model(
        inputs,
        keras.layers.Flatten()(first.model(first.prepare(inputs))),
    )
    whole.save(tmp_path / "model.keras")
    for path in (tmp_path, tmp_path / "model.keras"):
        second = backbones.tiny_cnn(weights=str(path))
        assert second.pretrained
        for a, b in zip(
            first.model.get_weights(), second.model.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    first.model.save_weights(tmp_path / "b.weights.h5")
    third = backbones.tiny_cnn(weights=str(tmp_path / "b.weights.h5"))
    np.testing.assert_array_equal(
        third.model.get_weights()[0], first.model.get_weights()[0]
    )
    with pytest.raises(UserError, match=r"'conv1' .* has weights of shapes"):
        backbones.course_cnn(64, weights=str(tmp_path))
    with pytest.raises(UserError, match="no layer 'stem_conv'"):
        backbones.efficientnet_lite0(64, weights=str(tmp_path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: backbones.tiny_cnn(weights="nowhere"), "no weights at"),
        (lambda: backbones.tiny_cnn(weights="imagenet"), "no ImageNet"),
        (lambda: backbones.course_cnn(image_size=40), "at least 46 px"),
        (
            lambda: BACKBONES["keras.InceptionV3"](image_size=32, weights=None),
            "at least 75x75",
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_model_is_cut_in_two():
    model = backbones.efficientnet_lite0(64, weights=None).model
    lower, upper = backbones.split_at(model, "block3b_add")
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3))
    np.testing.assert_allclose(
        upper.predict(lower.predict(images, verbose=0), verbose=0),
        model.predict(images, verbose=0),
        atol=1e-5,
    )
    assert lower.get_layer("stem_conv") is model.get_layer("stem_conv")
    assert len(lower.weights) + len(upper.weights) == len(model.weights)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("block3_add", "Did you mean 'block3b_add'"),
        ("block3b_expand_conv", "branch leads round"),
        ("top_activation", "freeze = 'all'"),
    ],
)
def test_impossible_cuts_are_refused(name, message):
    model = backbones.efficientnet_lite0(64, weights=None).model
    with pytest.raises(UserError, match=message):
        backbones.split_at(model, name)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "keras.ResNet50"])
def test_suggested_cuts_are_possible(name):
    model = BACKBONES[name](image_size=64, weights=None).model
    cuts = backbones._cuts(model)
    assert 5 <= len(cuts) <= 13
    for cut in cuts:
        backbones.split_at(model, cut)
