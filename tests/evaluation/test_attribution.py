import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from framework.evaluation import attribution
from framework.evaluation.attribution import (
    agreement,
    grad_cam,
    occlusion,
    places,
    why_not_grad_cam,
)
from framework.evaluation.chain import Chain
from framework.model.backbones import tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import sigmoid_head, softmax_head


def pictures(count=4, size=32):
    return np.random.default_rng(0).integers(
        0, 256, (count, size, size, 3), dtype=np.uint8
    )


def made(head, **options):
    return classifier(
        2,
        tiny_cnn,
        functools.partial(head, dropout=0.5, **options),
        augmentation=[keras.layers.RandomFlip()],
    ).model


@pytest.mark.parametrize("pooling", ["average", "max", "flatten"])
@pytest.mark.parametrize(
    "head", [softmax_head, sigmoid_head], ids=lambda head: head.__name__
)
def test_grad_cam_is_what_the_paper_says(head, pooling):
    model = made(head, pooling=pooling, hidden=[6])
    images, classes = pictures(), [0, 1, 1, 0]
    found = grad_cam(Chain(model), images, classes)

    # Written out: the model's own arithmetic, a picture and a class at a time.
    weights = {
        name: model.get_layer(name).get_weights()
        for name in ("head_dense_1", "logits")
    }
    backbone = model.get_layer("tiny_cnn")
    reduce = {
        "average": lambda x: tf.reduce_mean(x, (1, 2)),
        "max": lambda x: tf.reduce_max(x, (1, 2)),
        "flatten": lambda x: tf.reshape(x, (1, -1)),
    }[pooling]
    expected = []
    for image, label in zip(images, classes, strict=True):
        maps = backbone(image[None] / np.float32(127.5) - 1, training=False)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            kernel, bias = weights["head_dense_1"]
            x = tf.nn.relu(reduce(maps) @ kernel + bias)
            kernel, bias = weights["logits"]
            logits = (x @ kernel + bias)[0]
            if len(logits) == 1:
                logit = logits[0] if label == 1 else -logits[0]
            else:
                logit = logits[label]
        slopes = tape.gradient(logit, maps).numpy()[0]
        alphas = slopes.mean((0, 1))
        heat = np.maximum((maps.numpy()[0] * alphas).sum(-1), 0)
        expected.append(heat / heat.max() if heat.max() > 0 else heat)
    assert found.dtype == np.float32
    assert any(heat.any() for heat in expected)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Not random, whatever the model does in training.
    np.testing.assert_array_equal(
        found, grad_cam(Chain(model), images, classes)
    )
    alone = grad_cam(Chain(model), images[1:2], classes[1:2])
    np.testing.assert_allclose(alone[0], found[1], atol=1e-5)


def test_grad_cam_is_zero_where_nothing_speaks_for_a_class():
    model = made(sigmoid_head)
    kernel, bias = model.get_layer("logits").get_weights()
    # What comes out of a ReLU only speaks for the second class.
    model.get_layer("logits").set_weights([np.abs(kernel), bias])
    maps = grad_cam(Chain(model), pictures(2), [0, 1])
    assert not maps[0].any()
    assert maps[1].max() == 1


def bright_at(rows, columns, size=56):
    """A model whose logits are how bright, and how dark, one place is."""
    weights = np.zeros((size, size, 3), np.float32)
    weights[rows, columns] = 1 / 255
    inputs = keras.Input((size, size, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.ops.cast(inputs, "float32"))
    x = keras.layers.Dense(2, use_bias=False, name="logits")(x)
    x = keras.layers.Activation("softmax")(x)
    model = keras.Model(inputs, x)
    kernel = np.stack([weights.ravel(), -weights.ravel()], axis=-1)
    model.get_layer("logits").set_weights([kernel])
    return model


def test_occlusion_finds_what_counts():
    # The flattened pixels are a feature map of the size of the picture.
    rows, columns = slice(4, 12), slice(40, 48)
    image = np.zeros((56, 56, 3), np.uint8)
    image[rows, columns] = 255
    drops = occlusion(Chain(bright_at(rows, columns)), image)
    assert drops.shape == (7, 7, 2)
    # Patches are 8 pixels apart and 24 wide: the third row covers pixels 8 to
    # 32, half of the light; the columns 4 to 6 cover all of it.
    whole = 3 * 64 * (255 - round(image.mean())) / 255
    expected = np.zeros((7, 7))
    expected[0:2, 4:7] = whole
    expected[2, 4:7] = whole / 2
    np.testing.assert_allclose(drops[..., 0], expected, rtol=1e-4)
    np.testing.assert_allclose(drops[..., 1], -expected, rtol=1e-4)


def test_occlusion_is_the_same_every_time():
    chain = Chain(made(softmax_head))
    image = pictures()[0]
    before = image.copy()
    first = occlusion(chain, image)
    np.testing.assert_array_equal(first, occlusion(chain, image))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("size", "count"), [(224, 7), (150, 7), (32, 7), (20, 5), (3, 1)]
)
def test_patches_cover_the_picture(size, count):
    assert places(size) == count
    covered = np.zeros((size, size), int)
    for patch in attribution._patches(size):
        covered[patch] += 1
        assert covered[patch].size
    assert covered.min() >= 1


def test_agreement_is_spearmans():
    rng = np.random.default_rng(0)
    heat = rng.random((8, 8)).astype(np.float32)
    drops = rng.random((7, 7)) - 0.2
    whole = tf.image.resize(heat[..., None], (56, 56))[..., 0].numpy()
    means = [
        whole[max(0, 8 * y - 8) : 8 * y + 16, max(0, 8 * x - 8) : 8 * x + 16]
        for y in range(7)
        for x in range(7)
    ]
    means = np.array([part.mean() for part in means])
    cut = np.maximum(drops, 0).ravel()
    expected = stats.spearmanr(means, cut).statistic
    assert agreement(heat, drops, 56) == pytest.approx(expected)
    assert agreement(heat, means.reshape(7, 7) ** 3, 56) == pytest.approx(1)
    assert agreement(heat, 1 - means.reshape(7, 7), 56) == pytest.approx(-1)
    assert agreement(np.zeros((8, 8), np.float32), drops, 56) is None
    assert agreement(heat, -drops.clip(0), 56) is None


def test_heads_that_grad_cam_is_not_made_for():
    def doubt(pooling):
        return why_not_grad_cam(Chain(made(softmax_head, pooling=pooling)))

    assert doubt("average") == ""
    assert "flattens" in doubt("flatten")
    assert "largest value" in doubt("max")
