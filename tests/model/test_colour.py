import keras
import numpy as np
import pytest
import tensorflow as tf

from framework.errors import UserError
from framework.model.augmentation import place
from framework.model.colour import RandomColor

ALL = {
    "brightness_factor": 0.2,
    "contrast_factor": 0.3,
    "saturation_factor": (0.3, 0.7),
    "degeneration_factor": 0.4,
}


@pytest.fixture(scope="module")
def images():
    """Of all colours, in three exposures."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 255, (6, 12, 15, 3))
    pixels *= np.array([0.3, 0.6, 1, 0.3, 0.6, 1])[:, None, None, None]
    return pixels.astype(np.float32)


def twice(value):
    """A factor that leaves nothing to chance."""
    return (value, value)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            {"brightness_factor": twice(value)},
            keras.layers.RandomBrightness(twice(value)),
        )
        for value in (-0.3, 0.4)
    ]
    + [
        (
            {"degeneration_factor": twice(value)},
            keras.layers.RandomColorDegeneration(twice(value)),
        )
        for value in (0.0, 0.3, 1.0)
    ]
    # Saturation of f multiplies by f / (1 - f) what degeneration of d does by
    # 1 - d.
    + [
        (
            {"saturation_factor": twice(value)},
            keras.layers.RandomColorDegeneration(
                twice(1 - value / (1 - value))
            ),
        )
        for value in (0.0, 0.2, 0.5)
    ],
)
def test_alone_each_is_kerass_layer(images, ours, theirs):
    np.testing.assert_allclose(
        RandomColor(**ours)(images, training=True),
        theirs(images, training=True),
        atol=0.02,
    )


def test_contrast_alone_is_kerass_layer(images):
    theirs = keras.layers.RandomContrast((0.3, 0.2))
    ours = RandomColor(contrast_factor=(0.3, 0.2), seed=1)
    drawn = keras.random.uniform(
        (6, 1, 1, 1), 0.7, 1.2, seed=keras.random.SeedGenerator(1)
    )
    np.testing.assert_allclose(
        ours(images, training=True),
        theirs.transform_images(images, {"contrast_factor": drawn}),
        atol=0.02,
    )


def test_all_in_a_row(images):
    """Against the definition, in float64, with the same draws."""
    drawn = np.asarray(
        keras.random.uniform((6, 4), seed=keras.random.SeedGenerator(3))
    ).astype(np.float64)[:, :, None, None]

    def grey(x):
        return (x @ [0.2989, 0.587, 0.114])[..., None]

    x = images.astype(np.float64)
    brightness, contrast, saturation, degeneration = (
        low + (high - low) * drawn[:, [number]]
        for number, (low, high) in enumerate(
            [(-0.2, 0.2), (0.7, 1.3), (0.3, 0.7), (0, 0.4)]
        )
    )
    x = x + 255 * brightness
    mean = x.mean(axis=(1, 2), keepdims=True)
    x = mean + contrast * (x - mean)
    x = grey(x) + saturation / (1 - saturation) * (x - grey(x))
    x = np.clip(x + degeneration * (grey(x) - x), 0, 255)
    layer = RandomColor(**ALL, seed=3)
    np.testing.assert_allclose(layer(images, training=True), x, atol=0.05)


@pytest.mark.parametrize(
    ("factor", "low", "high"),
    [
        ({"brightness_factor": 0.2}, -0.2, 0.2),
        ({"brightness_factor": (0.1, 0.2)}, 0.1, 0.2),
        ({"contrast_factor": 0.2}, 0.8, 1.2),
        ({"contrast_factor": (0.1, 0.3)}, 0.9, 1.3),
        ({"saturation_factor": 0.4}, 0, 0.4),
        ({"degeneration_factor": (0.2, 0.4)}, 0.2, 0.4),
    ],
)
def test_ranges_are_those_documented(factor, low, high):
    assert RandomColor(**factor)._drawn[0][1:] == pytest.approx((low, high))


def test_clips_but_to_the_range_of_pixels(images):
    bright = RandomColor(brightness_factor=twice(0.5))(images, training=True)
    assert np.max(bright) == 255
    dark = RandomColor(brightness_factor=twice(-0.5))(images, training=True)
    assert np.min(dark) == 0


def test_compiles(images):
    layer = RandomColor(**ALL)
    assert place([layer], compiled=True) == ((layer,), ())
    step = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    first, second = step(images).numpy(), step(images).numpy()
    assert first.shape == images.shape
    assert (first != second).any()
    assert 0 <= first.min() < first.max() <= 255


def test_identity_but_in_training(images):
    layer = RandomColor(**ALL)
    for arguments in ({}, {"training": False}):
        np.testing.assert_array_equal(layer(images, **arguments), images)
    np.testing.assert_array_equal(RandomColor()(images, training=True), images)
    changed = layer(images[[0] * 6], training=True).numpy()
    assert len({picture.tobytes() for picture in changed}) == 6


def test_dtypes_and_single_pictures(images):
    pixels = images.astype(np.uint8)
    arguments = {"brightness_factor": twice(0.1)}
    expected = RandomColor(**arguments)(pixels, training=True)
    assert expected.dtype == tf.float32
    one = RandomColor(**arguments)(pixels[0], training=True)
    np.testing.assert_allclose(one, expected[0], atol=1e-3)
    whole = RandomColor(**arguments, dtype="uint8")(pixels, training=True)
    assert whole.dtype == tf.uint8
    assert np.abs(whole.numpy() - expected.numpy()).max() <= 0.501
    half = RandomColor(**arguments, dtype="mixed_float16")
    assert half(images, training=True).dtype == tf.float16


def test_config_and_file(images, tmp_path):
    layer = RandomColor(**ALL, seed=4, name="colour")
    again = RandomColor.from_config(layer.get_config())
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
        ({"brightness_factor": 1.5}, "brightness_factor is 1.5; expected"),
        ({"contrast_factor": -0.1}, "contrast_factor is -0.1"),
        ({"saturation_factor": (0, 2)}, "a lower and an upper limit"),
        ({"degeneration_factor": [0.1]}, "degeneration_factor is"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        RandomColor(**arguments)
    with pytest.raises(UserError, match="three channels"):
        RandomColor(0.1)(np.zeros((1, 4, 4, 1), np.float32))
