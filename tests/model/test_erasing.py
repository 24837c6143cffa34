import keras
import numpy as np
import pytest
import tensorflow as tf

from framework.errors import UserError
from framework.model.erasing import RandomErase


@pytest.fixture(scope="module")
def images():
    return np.full((300, 40, 60, 3), 300, np.float32)  # Nothing is drawn so.


def boxes(erased):
    """Height and width of what was erased, as shares; 0 where nothing was."""
    gone = (erased != 300).all(-1)
    assert (gone == (erased != 300).any(-1)).all(), "all channels"
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    assert (gone.sum((1, 2)) == rows * columns).all(), "a box"
    return rows / 40, columns / 60


def test_boxes_are_as_large_as_asked_for(images):
    layer = RandomErase(1.0, (0.1, 0.4), (0.5, 2.0), fill_value=7.0)
    erased = layer(images, training=True).numpy()
    assert set(np.unique(erased)) == {7.0, 300.0}
    height, width = boxes(erased)
    area, ratio = width * height, width / height
    # But for rounding to whole pixels.
    assert 0.09 < area.min() < 0.13 and 0.37 < area.max() < 0.42
    assert 0.22 < area.mean() < 0.28
    assert 0.45 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.2
    assert 0.85 < np.median(ratio) < 1.18
    # Everywhere: at each border in some.
    gone = erased[..., 0] == 7
    for border in (gone[:, 0], gone[:, -1], gone[..., 0], gone[..., -1]):
        assert 0 < border.any(1).mean() < 0.2


def test_as_many_pictures_as_asked_for_and_noise(images):
    erased = RandomErase(0.3)(images, training=True).numpy()
    height, _ = boxes(erased)
    assert 0.2 < (height > 0).mean() < 0.4
    noise = erased[erased != 300]
    assert 120 < noise.mean() < 135 and 70 < noise.std() < 77
    assert 0 <= noise.min() < 1 and 254 < noise.max() <= 255
    height, _ = boxes(RandomErase(0.0)(images, training=True).numpy())
    assert not height.any()


def test_identity_but_in_training(images):
    layer = RandomErase(1.0)
    for arguments in ({}, {"training": False}):
        np.testing.assert_array_equal(layer(images, **arguments), images)


def test_dtypes_and_single_pictures(images):
    pixels = np.full((40, 60, 3), 9, np.uint8)
    one = RandomErase(1.0, fill_value=3.6)(pixels, training=True)
    assert one.dtype == tf.float32 and one.shape == pixels.shape
    assert set(np.unique(one)) == {np.float32(3.6), 9.0}
    whole = RandomErase(1.0, fill_value=3.6, dtype="uint8")
    assert set(np.unique(whole(pixels, training=True))) == {4, 9}
    half = RandomErase(dtype="mixed_float16")
    assert half(images, training=True).dtype == tf.float16


def test_in_a_graph_and_compiled(images):
    layer = RandomErase(1.0)
    step = tf.function(
        lambda x: layer(x, training=True),
        input_signature=[tf.TensorSpec((None, None, None, 3))],
        jit_compile=True,
    )
    first, second = step(images[:8]).numpy(), step(images[:8]).numpy()
    assert (first != second).any() and np.isfinite(first).all()
    boxes(first)


def test_config_and_file(images, tmp_path):
    layer = RandomErase(0.9, (0.1, 0.3), (1.0, 2.0), 5.0, seed=4, name="erase")
    again = RandomErase.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    some = images[:8]
    np.testing.assert_array_equal(loaded.predict(some, verbose=0), some)
    np.testing.assert_array_equal(
        loaded(some, training=True), again(some, training=True)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probability": 1.5}, "probability is 1.5; expected a share"),
        ({"scale": (0.2, 1.1)}, "scale is .*not above 1"),
        ({"ratio": 1.0}, "ratio is 1.0; expected a lower and an upper"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        RandomErase(**arguments)
