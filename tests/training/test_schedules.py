"""Learning rates by the number of the update."""

import keras
import numpy as np
import pytest

from framework.errors import UserError
from framework.training.optimizers import learning_rates, make_optimizer
from framework.training.schedules import (
    one_cycle,
    warmup_cosine,
    warmup_linear,
    warmup_step,
)

STEPS = 100
ALL = [one_cycle, warmup_cosine, warmup_linear, warmup_step]


def rates(schedule, **arguments) -> np.ndarray:
    made = schedule(STEPS, **arguments)
    return np.array([float(made(step)) for step in range(STEPS)])


@pytest.mark.parametrize("schedule", ALL)
def test_it_rises_to_its_peak_and_falls_from_there(schedule):
    found = rates(schedule, peak=0.2, warmup=0.2)
    assert found.min() > 0, "no update is made in vain"
    assert found.max() == pytest.approx(0.2, rel=0.01)
    top = int(found.argmax())
    assert 19 <= top <= 21
    assert (np.diff(found[: top + 1]) > 0).all()
    assert (np.diff(found[top:]) <= 0).all()
    assert found[-1] < 0.02


@pytest.mark.parametrize("schedule", [warmup_cosine, warmup_linear])
def test_without_warm_up_it_begins_at_its_peak(schedule):
    assert rates(schedule, peak=0.2, warmup=0.0)[0] == pytest.approx(0.2)


def test_linear_is_a_line():
    found = rates(warmup_linear, peak=1.0, warmup=0.0, end=0.5)
    np.testing.assert_allclose(found, 1 - 0.5 * np.arange(STEPS) / STEPS)


def test_steps_fall_at_the_milestones():
    found = rates(
        warmup_step, peak=1.0, warmup=0.1, milestones=[0.5, 0.8], factor=0.2
    )
    np.testing.assert_allclose(found[10:50], 1.0)
    np.testing.assert_allclose(found[50:80], 0.2, rtol=1e-6)
    np.testing.assert_allclose(found[80:], 0.04, rtol=1e-6)


def test_one_cycle_ends_at_almost_nothing():
    found = rates(one_cycle, peak=1.0)
    assert found[0] == pytest.approx(0.04)
    assert found[-1] == pytest.approx(1e-5, rel=1e-2)


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        *(
            (schedule, {"warmup": 1.0}, "a share of the phase")
            for schedule in ALL
        ),
        (warmup_step, {"milestones": [0.8, 0.5]}, "in rising order"),
        (warmup_step, {"warmup": 0.6}, "after the warm-up"),
        (warmup_step, {"milestones": []}, "in rising order"),
    ],
)
def test_what_makes_no_sense_is_refused(schedule, arguments, message):
    with pytest.raises(UserError, match=message):
        schedule(STEPS, **arguments)


@pytest.mark.parametrize("schedule", ALL)
def test_an_optimizer_follows_it(schedule):
    keras.utils.clear_session()
    optimizer = make_optimizer(keras.optimizers.SGD, schedule, STEPS, peak=0.3)
    steps = [0, 17, 60, 99]
    expected = schedule(STEPS, peak=0.3)
    np.testing.assert_allclose(
        learning_rates(optimizer, steps),
        [float(expected(step)) for step in steps],
    )
    assert int(optimizer.iterations) == 0
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    optimizer.apply([keras.ops.ones([1])])
    np.testing.assert_allclose(
        1 - variable.numpy()[0], float(expected(0)), rtol=1e-3
    )


def test_a_phase_without_a_schedule_has_its_rate():
    optimizer = make_optimizer(keras.optimizers.SGD, None, STEPS, peak=0.3)
    np.testing.assert_allclose(learning_rates(optimizer, [0, 9]), [0.3, 0.3])
