import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from framework.model.backbones import tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.training.distribution import Distribution
from framework.training.state import Plan, TrainState
from framework.training.throughput import throughput, verdict
from framework.training.trainer import Trainer

ALONE = Distribution("one").make()
STEPS, BATCH = 6, 4
PAUSE = 0.3


def train(first: float, others: float, compiled=False):
    """Trains on batches that are so many seconds in the making."""
    built = classifier(2, tiny_cnn, softmax_head)
    trainer = Trainer(built, keras.optimizers.Adam(), ALONE, compiled=compiled)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 32, 32, 3), np.uint8)

    def make(number):
        time.sleep(others if number else first)
        return images

    def batches(first_position, share):
        return tf.data.Dataset.range(STEPS + 9).map(
            lambda number: {
                "image": tf.ensure_shape(
                    tf.numpy_function(make, [number], tf.uint8), images.shape
                ),
                "label": tf.range(BATCH, dtype=tf.int64) % 2,
                "position": number * BATCH + tf.range(BATCH, dtype=tf.int64),
                "weight": tf.ones(BATCH),
            }
        )

    return trainer.fit(Plan(STEPS * BATCH, BATCH, 1), batches, None, None)


def test_waiting_is_told_from_working():
    history = train(0, PAUSE)
    # At most so many; the batch that is made while another is waited for.
    assert 0 < history.images_per_second <= BATCH / PAUSE * 1.5
    assert history.input_wait > 0.5
    assert verdict(history.input_wait).startswith("Input-bound")
    # Weighed by the seconds and divided by them again, which rounds.
    assert history.epochs[0]["input_wait"] == pytest.approx(history.input_wait)


def test_the_first_update_does_not_count():
    history = train(5 * PAUSE, 0)
    assert history.images_per_second > BATCH / PAUSE
    assert history.epochs[0]["seconds"] > 5 * PAUSE
    assert history.input_wait < 0.5


@pytest.mark.slow
def test_a_compiled_update_is_the_same_update():
    """With XLA, up to rounding."""
    losses = []
    for compiled in (False, True):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        losses.append(train(0, 0, compiled).epochs[0]["train"]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1] != 0


def test_rates_are_weighed_by_time():
    epochs = [
        {"seconds": 1.0, "images_per_second": 10.0, "input_wait": 0.0},
        {"seconds": 3.0, "images_per_second": 50.0, "input_wait": 0.4},
        # Of one update, which does not count.
        {"seconds": 9.0, "images_per_second": 0.0, "input_wait": 0.0},
    ]
    assert throughput(epochs) == {
        "images_per_second": 40.0,
        "input_wait": pytest.approx(0.3),
    }
    assert throughput(epochs[2:])["images_per_second"] == 0


def test_the_verdict_follows_from_the_share():
    assert verdict(0.1).startswith("Input-bound: 10%")
    assert verdict(0.09).startswith("Compute-bound: 9%")


def test_an_epoch_begins_at_zero():
    state = TrainState(timed_steps=5, timed_seconds=2.0, waited=0.5)
    assert state.pace(8) == {"images_per_second": 20.0, "input_wait": 0.25}
    state.begin_epoch()
    assert state.pace(8) == {"images_per_second": 0.0, "input_wait": 0.0}
