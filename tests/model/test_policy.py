import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from framework.errors import UserError
from framework.model.augmentation import place
from framework.model.policy import OPERATIONS, RandomPolicy


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (12, 24, 24, 3)).astype(np.float32)


def only(name, magnitude=5.0, num_ops=1, **arguments):
    return RandomPolicy(magnitude, num_ops, [name], **arguments)


def pillow(images, operation):
    return np.stack(
        [
            np.asarray(operation(Image.fromarray(i.astype(np.uint8))))
            for i in images
        ]
    ).astype(np.float32)


def test_pointwise_operations_are_pillows(images):
    for name, operation in (
        ("identity", lambda image: image),
        ("invert", ImageOps.invert),
        ("posterize", lambda image: ImageOps.posterize(image, 6)),
        ("solarize", lambda image: ImageOps.solarize(image, 128)),
    ):
        np.testing.assert_allclose(
            only(name)(images, training=True),
            pillow(images, operation),
            atol=1e-3,
            err_msg=name,
        )


@pytest.fixture(scope="module")
def pale(images):
    """Channels that differ in range, and one picture of a single tone."""
    dim = np.round(images / [2, 3, 5] + [100, 3, 90])
    dim[3] = 77
    return dim.astype(np.float32)


@pytest.mark.parametrize("size", [24, 128])  # Above 16 px equalize does much.
def test_auto_contrast_and_equalize_are_pillows(pale, size):
    large = np.repeat(np.repeat(pale, 8, 1), 8, 2)[:, :size, :size]
    # Pillow cuts tones off to whole numbers.
    for name, operation, atol in (
        ("auto_contrast", ImageOps.autocontrast, 1.0),
        ("equalize", ImageOps.equalize, 1e-3),
    ):
        augmented = only(name)(large, training=True).numpy()
        expected = pillow(large, operation)
        np.testing.assert_allclose(augmented, expected, atol=atol, err_msg=name)
        assert np.abs(augmented - large).max() > 10
        np.testing.assert_array_equal(augmented[3], large[3])


@pytest.mark.parametrize("magnitude", [5.0, 10.0])
def test_sharpness_is_pillows(images, magnitude):
    # Of some contrast: what is cut off at 0 and 255 hides differences.
    pictures = np.round(images / 3 + 80)
    expected = [
        pillow(
            pictures,
            lambda image, f=factor: ImageEnhance.Sharpness(image).enhance(f),
        )
        for factor in (1 - 0.09 * magnitude, 1 + 0.09 * magnitude)
    ]
    counts = [0, 0]
    augmented = only("sharpness", magnitude)(pictures, training=True)
    for number, picture in enumerate(augmented.numpy()):
        apart = [np.abs(picture - other[number]).max() for other in expected]
        counts[int(np.argmin(apart))] += 1
        # It rounds what it smoothes, and cuts off what it blends.
        assert min(apart) < 1.5 < 5 < max(apart)
    assert min(counts) > 0
    flat = np.full((2, 2, 9, 3), 7, np.float32)
    np.testing.assert_array_equal(only("sharpness")(flat, training=True), flat)


def test_more_and_less_sharpness_cancel(images):
    twice = only("sharpness", num_ops=2)(images, training=True)
    same = np.isclose(twice, images, atol=1e-3).all(axis=(1, 2, 3))
    assert 0.1 < same.mean() < 0.9


def test_only_those_that_drew_it_change(pale):
    many = np.repeat(pale[:1], 600, 0)
    out = RandomPolicy(5.0, 1, ["identity", "auto_contrast", "equalize"])(
        many, training=True
    ).numpy()
    shares = [
        np.isclose(out, other, atol=1.0).all(axis=(1, 2, 3)).mean()
        for other in (
            many,
            pillow(many, ImageOps.autocontrast),
            pillow(many, ImageOps.equalize),
        )
    ]
    assert sum(shares) == 1
    np.testing.assert_allclose(shares, 1 / 3, atol=0.08)


def test_uncompiled_as_on_a_gpu_it_does_the_same(pale):
    layer = RandomPolicy(5.0, 2, OPERATIONS[-3:])
    drawn = tf.random.stateless_uniform((len(pale), 2, 2), (1, 2))
    pictures = tf.constant(pale)
    plain = layer._operate(pictures, drawn).numpy()
    assert (plain != pale).any(axis=(1, 2, 3)).sum() > 6
    np.testing.assert_allclose(
        plain, layer._augment(pictures, drawn), atol=1e-2
    )


def test_nothing_is_compiled_anew_for_other_draws(images):
    """XLA takes where a slice begins for a constant."""
    layer = RandomPolicy(5.0, 2, OPERATIONS[-3:])
    step = tf.function(lambda x: layer(x, training=True), autograph=False)
    graph = step.get_concrete_function(images).graph.as_graph_def()
    slices = 0
    for function in graph.library.function:
        known = {n.name for n in function.node_def if n.op == "Const"}
        if "while_body" in function.signature.name:
            for node in function.node_def:
                if node.op == "StridedSlice":
                    slices += 1
                    assert node.input[1].split(":")[0] in known
    assert slices > 0


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("rotate", lambda s: keras.layers.RandomRotation((s / 24, s / 24))),
        (
            "translate_x",
            lambda s: keras.layers.RandomTranslation(
                0.0, (s * 75 / 331, s * 75 / 331)
            ),
        ),
        (
            "translate_y",
            lambda s: keras.layers.RandomTranslation(
                (s * 75 / 331, s * 75 / 331), 0.0
            ),
        ),
        (
            "saturation",
            lambda s: keras.layers.RandomColorDegeneration((0.45, 0.45)),
        ),
    ],
)
def test_others_are_kerass(images, name, theirs):
    """By half of what is the most: 15 degrees, 75 of 331 pixels, 0.45."""
    expected = [
        np.asarray(theirs(sign)(images, training=True)) for sign in (-1, 1)
    ]
    counts = [0, 0]
    for number, picture in enumerate(only(name)(images, training=True)):
        apart = [np.abs(picture - other[number]).max() for other in expected]
        counts[int(np.argmin(apart))] += 1
        # Saturation can be raised, too; Keras has no layer that does so.
        assert min(apart) < 0.1 or name == "saturation"
        if name == "saturation" and min(apart) >= 0.1:
            assert (
                np.std(picture, -1).mean() > np.std(images[number], -1).mean()
            )
    assert sum(counts) == 12
    assert name == "saturation" or min(counts) > 0


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_blends(images, name):
    dim = images / 2 + 20
    base = 0 if name == "brightness" else dim.mean((1, 2), keepdims=True)
    expected = [
        np.clip(base + factor * (dim - base), 0, 255) for factor in (0.55, 1.45)
    ]
    for number, picture in enumerate(only(name)(dim, training=True)):
        assert (
            min(np.abs(picture - other[number]).max() for other in expected)
            < 0.05
        )


def test_magnitude_0_changes_nothing_that_has_one(images):
    whole = ("invert", "auto_contrast", "equalize")
    names = [name for name in OPERATIONS if name not in whole]
    layer = RandomPolicy(0.0, 3, names)
    np.testing.assert_allclose(layer(images, training=True), images, atol=1e-3)


def test_draws_differ_by_picture_and_are_even(images):
    many = np.repeat(images[:1], 1200, 0)
    out = RandomPolicy(10.0, 1, ["identity", "invert", "posterize"])(
        many, training=True
    ).numpy()
    shares = [
        np.isclose(out, other, atol=1e-2).all(axis=(1, 2, 3)).mean()
        for other in (many, 255 - many, many // 16 * 16)
    ]
    assert sum(shares) == 1
    np.testing.assert_allclose(shares, 1 / 3, atol=0.06)


def test_operations_follow_one_another(images):
    # 255 - (255 - x), not invert once; two turns add up or cancel.
    np.testing.assert_allclose(
        only("invert", num_ops=2)(images, training=True), images, atol=1e-3
    )
    turned = only("rotate", num_ops=2)(images, training=True)
    shares = np.isclose(turned, images, atol=0.1).all(axis=(1, 2, 3)).mean()
    assert 0.1 < shares < 0.9
    twice = keras.layers.RandomRotation((1 / 12, 1 / 12))
    expected = twice(images, training=True)
    assert np.isclose(turned, expected, atol=0.1).all(axis=(1, 2, 3)).any()


def test_compiles(images):
    layer = RandomPolicy(10.0, 3)
    assert place([layer], compiled=True) == ((layer,), ())
    step = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    first, second = step(images).numpy(), step(images).numpy()
    assert first.shape == images.shape
    assert (first != second).any()
    assert 0 <= first.min() < first.max() <= 255


def test_identity_but_in_training(images):
    layer = RandomPolicy()
    for arguments in ({}, {"training": False}):
        np.testing.assert_array_equal(layer(images, **arguments), images)


def test_dtypes_and_single_pictures(images):
    pixels = images.astype(np.uint8)
    whole = only("solarize", dtype="uint8")(pixels, training=True)
    assert whole.dtype == tf.uint8
    one = only("solarize")(pixels[0], training=True)
    assert one.dtype == tf.float32
    np.testing.assert_allclose(one, whole[0], atol=1e-3)
    half = RandomPolicy(dtype="mixed_float16")(images, training=True)
    assert half.dtype == tf.float16


def test_config_and_file(images, tmp_path):
    layer = RandomPolicy(7, 3, fill_mode="constant", seed=4, name="policy")
    again = RandomPolicy.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), images)
    np.testing.assert_array_equal(
        loaded(images, training=True), again(images, training=True)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"magnitude": 11}, "magnitude is 11; expected 0 to 10"),
        ({"magnitude": math.nan}, "magnitude is nan"),
        ({"num_ops": 0}, "num_ops is 0; expected 1 or more"),
        ({"operations": []}, "at least one"),
        ({"operations": ["rotat"]}, "'rotat'; expected one of 'identity'"),
        ({"fill_mode": "mirror"}, "RandomPolicy.fill_mode is 'mirror'"),
        ({"interpolation": "cubic"}, "RandomPolicy.interpolation"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        RandomPolicy(**arguments)
    with pytest.raises(UserError, match="three channels"):
        RandomPolicy()(np.zeros((1, 4, 4, 1), np.float32))
