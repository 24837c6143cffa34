import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import (
    RandomContrast,
    RandomFlip,
    RandomRotation,
    RandomShear,
    RandomTranslation,
    RandomZoom,
)

from framework.errors import UserError
from framework.model.affine import (
    RandomAffine,
    RandomResizedCrop,
    fuse,
    parts,
    resample,
)
from framework.model.augmentation import augment_in_pipeline, place
from framework.model.backbones import tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.registry import AUGMENTATIONS
from framework.training.trainer import _draw_apart

FILL_MODES = ("constant", "nearest", "reflect", "wrap")
ALL = {
    "flip_mode": "horizontal",
    "rotation_factor": 0.1,
    "zoom_height_factor": 0.2,
    "zoom_width_factor": (-0.1, 0.3),
    "shear_x_factor": 0.2,
    "shear_y_factor": (0.0, 0.1),
    "translation_height_factor": 0.1,
    "translation_width_factor": 0.1,
}


@pytest.fixture(scope="module")
def images():
    """Noise: what is resampled wrongly shows."""
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (6, 21, 26, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def smooth():
    """What can be resampled twice without much loss."""
    y, x = np.mgrid[:64, :64] / 64
    waves = [np.sin(5 * x + k) + np.cos(4 * y - x * k) for k in range(3)]
    picture = 127 + 60 * np.stack(waves, -1)
    return np.repeat(picture[None], 8, 0).astype(np.float32)


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("reach", [0.5, 3])
def test_plain_operations_are_the_kernel(
    images, fill_mode, interpolation, reach
):
    rng = np.random.default_rng(1)
    matrices = rng.normal(size=(6, 3, 3)).astype(np.float32) * reach
    matrices[:, :2, 2] *= 20
    matrices[:, 2] = 0, 0, 1
    matrices[0] = np.eye(3)
    matrices[1, :2] = (-1, 0, 25), (0, -1, 20)
    arguments = (images, matrices, fill_mode, 7.0, interpolation)
    kernel = resample(*arguments, plain=False)
    compiled = tf.function(
        lambda *pair: resample(*pair, *arguments[2:]), jit_compile=True
    )
    for other in (resample(*arguments, plain=True), compiled(*arguments[:2])):
        # Compiled, a source on the border of two pixels may be rounded to the
        # other one.
        apart = np.abs(other - kernel) > 0.05
        assert apart.mean() < 1e-3
    np.testing.assert_array_equal(kernel[0], images[0])
    np.testing.assert_array_equal(kernel[1], images[1, ::-1, ::-1])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"rotation_factor": (0.07, 0.07)}, RandomRotation((0.07, 0.07))),
        (
            {"zoom_height_factor": (0.2, 0.2), "zoom_width_factor": (0.1, 0.1)},
            RandomZoom((0.2, 0.2), (0.1, 0.1)),
        ),
        ({"zoom_height_factor": (-0.3, -0.3)}, RandomZoom((-0.3, -0.3))),
        (
            {
                "translation_height_factor": (0.2, 0.2),
                "translation_width_factor": (-0.11, -0.11),
            },
            RandomTranslation((0.2, 0.2), (-0.11, -0.11)),
        ),
    ],
)
@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_alone_each_is_kerass_layer(images, ours, theirs, fill_mode):
    theirs.fill_mode, theirs.fill_value = fill_mode, 9.0
    layer = RandomAffine(**ours, fill_mode=fill_mode, fill_value=9.0)
    np.testing.assert_allclose(
        layer(images, training=True), theirs(images, training=True), atol=0.05
    )


def test_shear_alone_is_kerass(images):
    factors = {"x_factor": (0.1, 0.1), "y_factor": (0.2, 0.2)}
    theirs = RandomShear(**factors)
    ours = RandomAffine(**{f"shear_{k}": v for k, v in factors.items()})
    # The sign is drawn.
    both = [theirs(images[:1], training=True).numpy() for _ in range(12)]
    for picture in ours(images[[0] * 12], training=True).numpy():
        assert min(np.abs(picture - other).max() for other in both) < 0.05


@pytest.mark.parametrize(
    ("mode", "flip"),
    [
        ("horizontal", np.s_[:, :, ::-1]),
        ("vertical", np.s_[:, ::-1]),
        ("horizontal_and_vertical", np.s_[:, ::-1, ::-1]),
    ],
)
def test_flips_are_exact(images, mode, flip):
    many = np.repeat(images, 30, 0)
    flipped = RandomAffine(mode)(many, training=True).numpy()
    turned = (flipped == many[flip]).all(axis=(1, 2, 3))
    kept = (flipped == many).all(axis=(1, 2, 3))
    assert (turned | kept).all()
    assert 0.3 < turned.mean() < 0.7


def stack(seed=1):
    return [
        RandomFlip("horizontal", seed=seed),
        RandomRotation(0.03, seed=seed + 1),
        RandomZoom(0.1, 0.2, seed=seed + 2),
        AUGMENTATIONS["keras.RandomShear"](0.1, 0.05, seed=seed + 3),
        RandomTranslation(0.05, 0.05, seed=seed + 4),
    ]


def one_by_one(layers, images):
    for layer in layers:
        images = layer(images, training=True)
    return np.asarray(images)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [3, 1]])
def test_fused_draw_and_move_as_the_stack(smooth, order):
    (fused,) = fuse([stack()[number] for number in order])
    layers = [stack()[number] for number in order]
    middle = np.s_[:, 20:-20, 20:-20]
    for _ in range(2):
        together = fused(smooth, training=True)
        expected = one_by_one(layers, smooth)
        moved = np.abs(expected - smooth)[middle].mean()
        assert moved > 5
        difference = np.abs(together - expected)[middle]
        assert difference.mean() < 0.5
        assert difference.max() < 5


def test_a_crop_is_a_part_of_the_picture_scaled_up():
    """Left to right a picture counts from 0, top to bottom in tens."""
    y, x = np.mgrid[:40, :60]
    ramp = np.stack([x, y, 0 * x], -1).astype(np.float32)
    layer = RandomResizedCrop((0.1, 0.6), (0.5, 2.0), seed=1)
    shown = layer(np.repeat(ramp[None], 200, 0), training=True).numpy()
    # Half a pixel at each border is reflected.
    width = (shown[:, 20, 50, 0] - shown[:, 20, 10, 0]) / 40
    height = (shown[:, 30, 30, 1] - shown[:, 10, 30, 1]) / 20
    area, ratio = width * height, width / height
    assert 0.099 < area.min() < 0.15 and 0.55 < area.max() < 0.601
    assert 0.3 < area.mean() < 0.4
    assert 0.499 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.01
    assert 0.8 < np.median(ratio) < 1.25
    left = shown[:, 20, 30, 0] + 0.5 - width * 30.5
    assert (left > -0.01).all() and (left + width * 60 < 60.01).all()
    assert left.min() < 3 and (left + width * 60).max() > 57
    # Each is what its corners say, and nothing from outside.
    top = shown[:, 20, 30, 1] + 0.5 - height * 20.5
    columns = left[:, None] + width[:, None] * (np.arange(60) + 0.5) - 0.5
    rows = top[:, None] + height[:, None] * (np.arange(40) + 0.5) - 0.5
    columns, rows = np.clip(columns, 0, 59), np.clip(rows, 0, 39)
    for channel, expected in (
        (0, columns[:, None, :]),
        (1, rows[:, :, None]),
    ):
        assert np.abs(shown[..., channel] - expected).max() < 0.01


def test_the_whole_picture_is_the_picture(images):
    layer = RandomResizedCrop((1.0, 1.0), (1 / 3, 3.0))
    np.testing.assert_allclose(layer(images, training=True), images, atol=1e-2)


def test_a_crop_is_fused_with_its_neighbours(smooth):
    def layers():
        return [
            RandomResizedCrop((0.5, 0.9), seed=1),
            RandomFlip("horizontal", seed=2),
            RandomRotation(0.02, seed=3),
        ]

    (fused,) = fuse(layers())
    together = fused(smooth, training=True)
    expected = one_by_one(layers(), smooth)
    middle = np.s_[:, 12:-12, 12:-12]
    assert np.abs(expected - smooth)[middle].mean() > 5
    assert np.abs(together - expected)[middle].mean() < 0.5
    # Not with who fills otherwise.
    assert len(fuse([layers()[0], RandomRotation(0.1, fill_mode="wrap")])) == 2


def test_a_fused_crop_is_saved_and_loaded(images, tmp_path):
    inputs = keras.Input(images.shape[1:])
    (fused,) = fuse([RandomResizedCrop(seed=1), RandomRotation(0.1)])
    model = keras.Model(inputs, fused(inputs))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), images)
    (crop, _) = loaded.layers[-1].layers
    assert isinstance(crop, RandomResizedCrop)
    assert crop.get_config() == fused.layers[0].get_config()


def test_what_is_fused():
    flip, turn, zoom, shear, shift = stack()
    contrast = RandomContrast(0.1)
    constant = RandomRotation(0.1, fill_mode="constant")
    for number, (layers, expected) in enumerate(
        [
            ([], []),
            ([flip], [[flip]]),
            ([turn], [[turn]]),
            ([flip, flip], [[flip], [flip]]),
            ([flip, turn], [[flip, turn]]),
            ([turn, flip], [[turn, flip]]),
            ([flip, contrast, turn], [[flip], [contrast], [turn]]),
            (
                [flip, turn, zoom, contrast, shear, shift],
                [[flip, turn, zoom], [contrast], [shear, shift]],
            ),
            ([turn, constant], [[turn], [constant]]),
            ([turn, flip, constant], [[turn, flip], [constant]]),
            ([zoom, constant, flip], [[zoom], [constant, flip]]),
            (
                [turn, RandomZoom(0.1, interpolation="nearest")],
                [[turn], [...]],
            ),
            (
                [turn, RandomZoom(0.1, data_format="channels_first")],
                [[turn], [...]],
            ),
        ]
    ):
        got = [list(parts(x)) or [x] for x in fuse(layers)]
        assert [len(x) for x in got] == [len(x) for x in expected], number
        for x, y in zip(got, expected, strict=True):
            assert y == [...] or x == y, number


def test_a_fused_classifier_is_built_in_layers(images, tmp_path):
    keras.utils.set_random_seed(5)
    build = {"backbone": tiny_cnn, "head": softmax_head, "image_size": 32}
    built = classifier(2, **build, augmentation=stack(), fuse=True)
    assert (
        "RandomFlip, RandomRotation, RandomZoom, RandomShear, "
        "RandomTranslation fused into one resampling." in built.description
    )
    assert any(
        "model: RandomFlip+RandomRotation+" in line
        for line in built.description
    )
    assert "framework" not in built.model.to_json()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    expected = built.model.predict(pixels, verbose=0)
    for _ in range(3):
        np.testing.assert_allclose(
            built.model(pixels, training=False), expected, atol=1e-5
        )
    built.model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(
        again.predict(pixels, verbose=0), expected, atol=1e-5
    )
    # Loaded, it augments by the layers it was made of.
    (pipeline,) = (
        x for x in again.layers if isinstance(x, keras.layers.Pipeline)
    )
    assert not parts(pipeline)
    names = [type(layer).__name__ for layer in pipeline.layers]
    assert names == [type(layer).__name__ for layer in stack()]
    assert (np.asarray(pipeline(pixels, training=True)) != pixels).any()

    apart = classifier(2, **build, augmentation=stack(), fuse=False)
    assert not any("fused" in line for line in apart.description)
    assert not any(parts(layer) for layer in apart.model.layers)
    # Checkpoints hold the same variables, random states included.
    assert [v.shape for v in apart.model.variables] == [
        v.shape for v in built.model.variables
    ]


def test_one_layer_stays_as_it_was():
    flip = RandomFlip("horizontal")
    built = classifier(2, tiny_cnn, softmax_head, augmentation=[flip])
    assert flip in built.model.layers


def test_compiled_what_is_fused_stays_in_the_model():
    assert place(stack()[:3], compiled=True)[0] == ()
    fused = fuse(stack()[:3])
    assert place(fused, compiled=True) == (tuple(fused), ())


def variants():
    return [RandomAffine(**ALL), *fuse(stack()), RandomResizedCrop()]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_compiles(images, number):
    layer = variants()[number]
    step = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    first, second = step(images), step(images)
    assert first.shape == images.shape
    assert np.isfinite(first).all()
    assert np.any(first != second)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_in_a_graph_of_unknown_sizes(images, number):
    layer = variants()[number]
    step = tf.function(
        lambda x: layer(x, training=True),
        input_signature=[tf.TensorSpec((None, None, None, 3))],
    )
    assert step(images).shape == images.shape
    assert step(images[:2, :9]).shape == images[:2, :9].shape


@pytest.mark.parametrize("number", [0, 1])
def test_in_the_pipeline(number):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)

    def augmented(layer, first, count):
        dataset = tf.data.Dataset.range(first, first + count).map(
            lambda position: {"image": tf.constant(image), "position": position}
        )
        dataset = dataset.map(
            augment_in_pipeline([layer], 1, 32), num_parallel_calls=2
        )
        return np.stack([e["image"] for e in dataset.as_numpy_iterator()])

    pictures = augmented(variants()[number], 0, 8)
    again = augmented(variants()[number], 4, 4)
    np.testing.assert_array_equal(again, pictures[4:])
    assert len({picture.tobytes() for picture in pictures}) == 8


def test_identity_but_in_training(images):
    layer = RandomAffine(**ALL)
    for arguments in ({}, {"training": False}):
        np.testing.assert_array_equal(layer(images, **arguments), images)
    moved = layer(images[[0] * 6], training=True).numpy()
    assert len({picture.tobytes() for picture in moved}) == 6
    np.testing.assert_array_equal(RandomAffine()(images, training=True), images)


def test_dtypes_and_single_pictures(images):
    pixels = images.astype(np.uint8)
    arguments = {"rotation_factor": (0.1, 0.1)}
    expected = RandomAffine(**arguments)(pixels, training=True)
    assert expected.dtype == tf.float32  # As Keras's layers have it.
    one = RandomAffine(**arguments)(pixels[0], training=True)
    np.testing.assert_allclose(one, expected[0], atol=1e-3)
    whole = RandomAffine(**arguments, dtype="uint8")(pixels, training=True)
    assert whole.dtype == tf.uint8
    assert np.abs(whole.numpy() - expected.numpy()).max() <= 0.501
    half = RandomAffine(**arguments, dtype="mixed_float16")
    assert half(pixels, training=False).dtype == tf.float16
    np.testing.assert_allclose(
        half(images, training=True),
        RandomAffine(**arguments)(images, training=True),
        atol=0.1,
    )


def test_seeds(images):
    one, two, other = (
        RandomAffine(**ALL, seed=seed)(images, training=True).numpy()
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    # A seed is not the same for all that is drawn.
    layer = RandomAffine(rotation_factor=0.1, zoom_height_factor=0.1, seed=3)
    seeds = [step.generator._initial_seed for step in layer.steps]
    assert len(set(seeds)) == 2


def test_config_and_file(images, tmp_path):
    layer = RandomAffine(**ALL, fill_mode="wrap", seed=4, name="moves")
    again = RandomAffine.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(loaded.get_layer("moves"), RandomAffine)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), images)
    np.testing.assert_array_equal(
        loaded(images, training=True), again(images, training=True)
    )


def test_checkpoints_and_replicas_find_its_generators():
    for layer in variants():
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, layer(inputs))
        states = [v for v in model.variables if "seed" in v.path]
        _draw_apart(model)
        if isinstance(layer, RandomResizedCrop):
            assert len(states) == 1
            assert layer.generator._draws_apart
            continue
        assert len(states) == 5
        drawing = getattr(layer, "steps", None) or layer.layers
        assert all(step.generator._draws_apart for step in drawing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip_mode": "sideways"}, "flip_mode is 'sideways'; expected one"),
        ({"fill_mode": "mirror"}, "fill_mode is 'mirror'"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'"),
        ({"rotation_factor": 30}, "rotation_factor is 30; expected a number"),
        ({"zoom_height_factor": -1.0}, "zoom_height_factor is -1.0"),
        ({"shear_x_factor": (-0.1, 0.1)}, "from 0 to 1"),
        ({"translation_width_factor": (0.1,)}, "a lower and an upper limit"),
        ({"translation_width_factor": "a"}, "translation_width_factor is 'a'"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        RandomAffine(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": (0.0, 1.0)}, "scale is (0.0, 1.0); expected a lower"),
        ({"scale": (0.5, 1.5)}, "above 0 and not above 1"),
        ({"scale": 0.5}, "scale is 0.5"),
        ({"ratio": (2.0, 1.0)}, "ratio is (2.0, 1.0)"),
        ({"fill_mode": "mirror"}, "fill_mode is 'mirror'"),
    ],
)
def test_what_is_refused_of_a_crop(arguments, message):
    message = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(UserError, match=message):
        RandomResizedCrop(**arguments)
