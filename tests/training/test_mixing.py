import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import framework
from framework.data.pipeline import Pipeline
from framework.errors import UserError
from framework.model.backbones import Backbone
from framework.model.classifier import classifier
from framework.model.heads import sigmoid_head, softmax_head
from framework.training.distribution import Distribution, World
from framework.training.interruption import Interrupted
from framework.training.mixing import CutMix, MixUp, check, drawing, mix
from framework.training.progress import ProgressObserver
from framework.training.trainer import Trainer

ALONE = Distribution("one").make()
BATCH, SIZE = 8, 16
BOTH = [MixUp(alpha=1.0), CutMix()]


def draw(mixing, first=0, rows=BATCH, seed=0):
    positions = tf.range(first, first + rows, dtype=tf.int64)
    return drawing(mixing, seed)({"position": positions})["mixing"].numpy()


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (5, 10, 20, 3), dtype=np.uint8)


def test_a_blend_is_of_two_pictures_and_a_box_of_one(images):
    drawn = np.array(
        [
            [0.25, 0, 0, 0, 0],
            [1, 0.2, 0.5, 0.4, 0.9],  # Rows 2..5, columns 8..18.
            [0.5, 0, 0, 0, 0],  # With itself.
            [0.5, 0, 0, 0, 0],  # Its partner, row 1, did not decode.
            [1, 0, 0, 0, 0],
        ],
        np.float32,
    )
    weights = np.array([1, 0, 1, 1, 1], np.float32)
    mixed, share = mix(tf.constant(images), weights, drawn)
    assert mixed.dtype == tf.uint8
    expected = images.copy()
    blend = 0.25 * images[0].astype(np.float32) + 0.75 * images[4]
    expected[0] = np.round(blend)
    expected[1, 2:5, 8:18] = images[3, 2:5, 8:18]
    np.testing.assert_array_equal(mixed, expected)
    np.testing.assert_allclose(
        share, [0.25, 1 - 30 / 200, 0.5, 1, 1], atol=1e-6
    )
    # Without rounding, where pixels are no integers.
    blended, _ = mix(tf.constant(images, tf.float32), weights, drawn)
    np.testing.assert_allclose(blended[0], blend, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_of_the_beta_distribution(alpha):
    shares = draw([MixUp(alpha)], rows=4000)[:, 0]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    # What floating point has no gamma variates for.
    tiny = draw([MixUp(1e-3)], rows=4000)[:, 0]
    assert 0.45 < tiny.mean() < 0.55
    assert (np.minimum(tiny, 1 - tiny) < 1e-3).mean() > 0.98


def test_boxes_have_the_area_drawn_before_they_are_cut_off():
    _, top, bottom, left, right = draw([CutMix(1.0)], rows=4000).T
    inside = (top > 0) & (bottom < 1) & (left > 0) & (right < 1)
    assert 0.1 < inside.mean() < 0.9
    np.testing.assert_allclose(
        (bottom - top)[inside], (right - left)[inside], atol=1e-5
    )
    assert ((top >= 0) & (top <= bottom) & (bottom <= 1)).all()
    middle = (top + bottom)[inside] / 2
    assert 0.45 < middle.mean() < 0.55
    # A side of sqrt(1 - share), with shares evenly from 0 to 1: of boxes that
    # need not be cut off, cut off or not.
    assert (bottom - top).max() > 0.9


def test_each_row_is_mixed_by_one_of_several_or_not():
    drawn = draw([MixUp(1.0, 0.5), CutMix(1.0, 1.0)], rows=4000)
    blended = drawn[:, 0] < 1
    boxed = drawn[:, 2] > drawn[:, 1]
    assert not (blended & boxed).any()
    assert 0.22 < blended.mean() < 0.28
    assert 0.45 < boxed.mean() < 0.55


def test_draws_follow_from_seed_and_position():
    np.testing.assert_array_equal(draw(BOTH, 64), draw(BOTH, 64))
    assert (draw(BOTH, 64) != draw(BOTH, 72)).any()
    assert (draw(BOTH, 64) != draw(BOTH, 64, seed=1)).any()


def plain(image_size=None):
    """Without batch normalisation, so that rows don't meet but by mixing."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(inputs)
    rescale = keras.layers.Rescaling(1 / 127.5, -1.0)
    return Backbone(keras.Model(inputs, x), rescale, "-1..1", False)


def batch_of(arrays):
    return next(
        iter(Pipeline().training(arrays.splits["train"], SIZE, BATCH, 0))
    )


@pytest.mark.parametrize(
    ("accumulation", "weights", "head"),
    [
        (1, None, softmax_head),
        (2, [0.5, 3.0], softmax_head),
        (2, [0.5, 3.0], sigmoid_head),
    ],
)
def test_an_update_is_that_of_mixed_targets(
    arrays, accumulation, weights, head
):
    keras.utils.set_random_seed(0)
    built = classifier(2, plain, head)
    trainer = Trainer(
        built,
        keras.optimizers.SGD(1.0),
        ALONE,
        accumulation,
        mixing=BOTH,
        class_weights=weights,
    )
    batch = batch_of(arrays)
    drawn = draw(BOTH)
    there = batch["weight"].numpy()
    there[2] = 0
    mixed, share = mix(batch["image"], there, drawn)
    labels = batch["label"].numpy()
    counted = np.ones(2) if weights is None else np.array(weights)
    share = share.numpy()[:, None]
    # Of both classes, with what the class counts for.
    targets = share * np.eye(2)[labels] + (1 - share) * np.eye(2)[labels[::-1]]
    assert ((targets > 0.05) & (targets < 0.95)).any()
    with tf.GradientTape() as tape:
        outputs = built.model(mixed, training=True)
        if head is sigmoid_head:
            outputs = tf.concat([1 - outputs, outputs], -1)
        losses = -tf.reduce_sum(targets * counted * tf.math.log(outputs), -1)
        loss = tf.reduce_sum(losses * there) / there.sum()
    expected = tape.gradient(loss, built.model.trainable_variables)
    before = [v.numpy() for v in built.model.trainable_variables]
    (report,) = tf.function(trainer._replica_step)(
        batch["image"],
        batch["label"],
        tf.constant(there),
        tf.zeros(2),
        tf.constant(drawn),
    )
    for was, variable, gradient in zip(
        before, built.model.trainable_variables, expected, strict=True
    ):
        np.testing.assert_allclose(was - variable, gradient, atol=2e-6)
    right = outputs.numpy().argmax(-1) == targets.argmax(-1)
    report = report.numpy()
    assert report[2] == (right * there).sum()
    assert report[1] == pytest.approx(float(loss) * there.sum(), rel=1e-4)


def test_the_step_compiles(arrays):
    trainer = Trainer(
        classifier(2, plain, softmax_head),
        keras.optimizers.SGD(0.1),
        World(tf.distribute.get_strategy(), "tpu"),
        mixing=BOTH,
        class_weights=[1.0, 2.0],
    )
    batch = batch_of(arrays)
    (report,) = tf.function(trainer._replica_step, jit_compile=True)(
        batch["image"],
        batch["label"],
        batch["weight"],
        tf.zeros(2),
        tf.constant(draw(BOTH)),
    )
    assert 0 < report[0] < 10


MIXED = [
    "shapes.examples = 90",
    "train.epochs = 2",
    "train.mixing = [@MixUp(), @CutMix()]",
    "train.class_weights = {'circle': 2.0}",
    "train.sampling = 'balanced'",
    "Checkpoints.every_steps = 1",
]


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_mixtures(
    in_tmp, monkeypatch, capsys
):
    """While decoded pictures are kept, and read."""
    on_step = ProgressObserver.on_step

    def interrupt(self, epoch, now, figures):
        on_step(self, epoch, now, figures)
        if now == 3:
            signal.raise_signal(signal.SIGTERM)

    expected = framework.run("gin/smoke.gin", MIXED)
    said = capsys.readouterr().out
    for sentence in (
        "mixed by MixUp (alpha 0.2) or CutMix (alpha 1)",
        "by class: circle 2, square 1, triangle 1",
        "Balanced sampling: an epoch of 54 examples shows each class 18",
        "Pictures are decoded once",
    ):
        assert sentence in said
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(ProgressObserver, "on_step", interrupt)
        framework.run("gin/smoke.gin", MIXED)
    result = framework.run("gin/smoke.gin", MIXED)
    assert result.history.continued == 1
    assert (
        result.summary["weights_sha256"] == expected.summary["weights_sha256"]
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixUp(0.0), "MixUp.alpha is 0.0; expected more than 0"),
        (lambda: CutMix(probability=1.5), "CutMix.probability is 1.5"),
        (lambda: check([0.2], 8), "@MixUp.. and @CutMix.., with parentheses"),
        (lambda: check(BOTH, 1), "there is but one"),
    ],
)
def test_what_can_not_be_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
