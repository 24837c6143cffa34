import keras
import numpy as np
import pytest
import tensorflow as tf

from framework.errors import UserError
from framework.model.augmentation import _KERAS_LAYERS
from framework.model.backbones import efficientnet_lite0, tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.registry import AUGMENTATIONS

ARGUMENTS = {
    "CenterCrop": {"height": 32, "width": 32},
    "RandAugment": {"value_range": (0, 255)},
    "RandomBrightness": {"factor": 0.5},
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomColorJitter": {"value_range": (0, 255), "brightness_factor": 0.5},
    "RandomContrast": {"factor": 0.5},
    "RandomCrop": {"height": 32, "width": 32},
    "RandomHue": {"factor": 0.5, "value_range": (0, 255)},
    "RandomPosterization": {"factor": 4},
    "RandomRotation": {"factor": 0.2},
    "RandomSaturation": {"factor": 0.5},
    "RandomSharpness": {"factor": 0.5},
    "RandomShear": {"x_factor": 0.3},
    "RandomTranslation": {"height_factor": 0.3, "width_factor": 0.3},
    "RandomZoom": {"height_factor": 0.3},
}
# These keep the whole picture where the size fits already.
UNCHANGING = ("CenterCrop", "RandomCrop")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(
        0, 256, (8, 32, 32, 3), dtype=np.uint8
    )


def layer_names():
    return [f"keras.{n}" for n in _KERAS_LAYERS if hasattr(keras.layers, n)]


@pytest.mark.parametrize("name", layer_names())
def test_augmentation_is_identity_but_in_training(name, images, tmp_path):
    short = name.removeprefix("keras.")
    layer = AUGMENTATIONS[name](**ARGUMENTS.get(short, {}))
    built = classifier(2, tiny_cnn, softmax_head, augmentation=[layer])
    plain = classifier(2, tiny_cnn, softmax_head)
    plain.model.set_weights(
        [w for w in built.model.get_weights() if w.dtype != np.uint32]
    )
    expected = plain.model.predict(images, verbose=0)
    for _ in range(3):
        np.testing.assert_allclose(
            built.model(images, training=False), expected, atol=1e-5
        )
    random = [np.asarray(built.model(images, training=True)) for _ in range(4)]
    trained = np.asarray(plain.model(images, training=True))
    if short not in UNCHANGING:
        assert any(np.abs(r - trained).max() > 1e-6 for r in random)
    built.model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    # Not `expected`: the calls above moved batch normalisation's averages.
    np.testing.assert_allclose(
        again.predict(images, verbose=0),
        built.model.predict(images, verbose=0),
        atol=1e-5,
    )


def test_the_model_takes_raw_pixels(images):
    built = classifier(3, tiny_cnn, softmax_head)
    assert built.model.input_shape == (None, 32, 32, 3)
    assert built.model.inputs[0].dtype == "uint8"
    assert built.image_size == 32
    assert built.model.predict(images, verbose=0).shape == (8, 3)
    rescalings = [
        layer
        for layer in built.model._flatten_layers()
        if isinstance(layer, keras.layers.Rescaling)
    ]
    assert len(rescalings) == 1


def changed_by_a_step(built, images):
    """Names of weights that one update, by gradient or average, changes."""
    before = {w.path: w.numpy() for w in built.model.weights}
    built.model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss="sparse_categorical_crossentropy",
    )
    built.model.train_on_batch(images, np.arange(len(images)) % 2)
    return {
        w.path
        for w in built.model.weights
        if (w.numpy() != before[w.path]).any()
    }


@pytest.fixture
def lite(images):
    def build(**arguments):
        return classifier(
            2,
            lambda image_size: efficientnet_lite0(image_size),
            softmax_head,
            image_size=32,
            **arguments,
        )

    return build


def test_freeze_all_trains_the_head_alone(lite, images):
    built = lite(freeze="all")
    changed = changed_by_a_step(built, images)
    assert changed == {"logits/kernel", "logits/bias"}
    # Block dropout sleeps as well: training=True is not random.
    outputs = [np.asarray(built.model(images, training=True)) for _ in "ab"]
    np.testing.assert_array_equal(*outputs)


def test_freeze_up_to_a_layer(lite, images):
    changed = changed_by_a_step(lite(freeze="block5b_add"), images)
    assert "block5c_expand_conv/kernel" in changed
    assert "block5b_expand_conv/kernel" not in changed
    assert not any("_bn/" in path for path in changed), "auto freezes these"


def test_batch_norm_trains_where_asked(lite, images):
    changed = changed_by_a_step(
        lite(freeze="block5b_add", batch_norm="trained"), images
    )
    assert "block5c_expand_bn/gamma" in changed
    assert "block5c_expand_bn/moving_mean" in changed
    assert "block5b_expand_bn/moving_mean" not in changed


def test_batch_norm_of_random_weights_trains(images):
    changed = changed_by_a_step(classifier(2, tiny_cnn, softmax_head), images)
    assert {"bn1/gamma", "bn1/moving_mean", "conv1/kernel"} <= changed


def build(*augmentation, compiled=False):
    return classifier(
        2,
        tiny_cnn,
        softmax_head,
        augmentation=augmentation,
        compiled=compiled,
    )


def test_keras_cv_layers_go_to_the_pipeline():
    grid = AUGMENTATIONS["keras_cv.GridMask"]()
    flip = keras.layers.RandomFlip()
    built = build(grid, flip)
    assert built.augmentation_in_pipeline == (grid,)
    assert grid not in built.model.layers
    assert flip in built.model.layers
    text = " ".join(built.description)
    assert "in the model: RandomFlip." in text
    assert "not in the model: GridMask (augments in predict too)." in text
    assert "resumable" not in text


def test_what_comes_before_a_layer_in_the_pipeline_runs_there_too():
    grid = AUGMENTATIONS["keras_cv.GridMask"]()
    flip, contrast = (
        keras.layers.RandomFlip(),
        keras.layers.RandomContrast(0.1),
    )
    built = build(flip, grid, contrast)
    assert built.augmentation_in_pipeline == (flip, grid)
    assert contrast in built.model.layers
    assert flip not in built.model.layers
    text = " ".join(built.description)
    assert "RandomFlip (comes before such), GridMask (augments" in text


def test_what_xla_cannot_compile_goes_to_the_pipeline_when_compiling():
    # Nothing to fuse here: what is fused, XLA can compile.
    contrast, turn, brightness = (
        keras.layers.RandomContrast(0.1),
        keras.layers.RandomRotation(0.1),
        keras.layers.RandomBrightness(0.1),
    )
    assert build(contrast, turn, brightness).augmentation_in_pipeline == ()
    built = build(contrast, turn, brightness, compiled=True)
    assert built.augmentation_in_pipeline == (contrast, turn)
    assert "RandomRotation (XLA can't compile it)" in " ".join(
        built.description
    )
    built.model(tf.zeros((2, 32, 32, 3), tf.uint8))
    step = tf.function(
        lambda x: built.model(x, training=True), jit_compile=True
    )
    assert step(tf.zeros((2, 32, 32, 3), tf.uint8)).shape == (2, 2)


class Stateful(keras.layers.Layer):
    def call(self, x, training=False):
        return tf.image.random_flip_left_right(x) if training else x


def test_layers_that_keep_their_state_to_themselves_are_made_known():
    grid = AUGMENTATIONS["keras_cv.GridMask"]()
    text = " ".join(build(Stateful(), grid).description)
    assert "Not exactly resumable: Stateful draws" in text


def softmax_head_as_backbone(image_size):
    return softmax_head(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"freeze": True}, "'all', 'none', the name"),
        ({"freeze": "conv"}, "no layer 'conv'"),
        ({"batch_norm": "off"}, "'auto', 'frozen' or 'trained'"),
        ({"augmentation": [keras.layers.RandomFlip]}, "with parentheses"),
        ({"backbone": softmax_head_as_backbone}, "expected one that makes"),
        ({"augmentation": [keras.layers.RandomCrop(9, 9)]}, "image's size"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    arguments = {"backbone": tiny_cnn, "head": softmax_head, **arguments}
    with pytest.raises(UserError, match=message):
        classifier(2, **arguments)
