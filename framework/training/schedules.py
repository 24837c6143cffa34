"""Turns a number of updates into the learning rate of each of them."""

import itertools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.ranges import Part, Positive
from framework.registry import SCHEDULES


@SCHEDULES.register(given=["total_steps"])
def warmup_cosine(
    total_steps: int,
    peak: Positive = 1e-3,
    warmup: Part = 0.1,
    end: float = 0.01,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Rises linearly to `peak`, then falls along a cosine.

    Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983; the warm-up is
    that of Goyal et al. 2017, https://arxiv.org/abs/1706.02677.

    Args:
        total_steps: updates in the phase.
        peak: the highest learning rate.
        warmup: the share of the phase in which it rises.
        end: the last learning rate, as a share of `peak`.

    Raises:
        UserError: `warmup` is not a share.
    """
    rising = _rising("warmup_cosine.warmup", warmup, total_steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / 100 if rising else peak,
        decay_steps=max(total_steps - rising, 1),
        alpha=end,
        warmup_target=peak if rising else None,
        warmup_steps=rising,
    )


class _WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to where another schedule begins, then follows it."""

    def __init__(self, steps: int, after):
        self._steps = steps
        self._after = after

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        steps = float(self._steps)
        then = tf.cast(self._after(tf.maximum(step - steps, 0.0)), tf.float32)
        # The first update has a rate, too.
        return then * tf.minimum((step + 1.0) / (steps + 1.0), 1.0)

    def get_config(self) -> dict:
        return {"steps": self._steps, "after": self._after}


@SCHEDULES.register(given=["total_steps"])
def warmup_linear(
    total_steps: int,
    peak: Positive = 1e-3,
    warmup: Part = 0.1,
    end: float = 0.0,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Rises linearly to `peak`, then falls linearly.

    Args:
        total_steps: updates in the phase.
        peak: the highest learning rate.
        warmup: the share of the phase in which it rises.
        end: the last learning rate, as a share of `peak`.

    Raises:
        UserError: `warmup` is not a share.
    """
    rising = _rising("warmup_linear.warmup", warmup, total_steps)
    return _WarmUp(
        rising,
        keras.optimizers.schedules.PolynomialDecay(
            peak, max(total_steps - rising, 1), peak * end
        ),
    )


@SCHEDULES.register(given=["total_steps"])
def warmup_step(
    total_steps: int,
    peak: Positive = 1e-3,
    warmup: Part = 0.0,
    milestones: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Rises linearly to `peak`, then falls by `factor` at each milestone.

    He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2.

    Args:
        total_steps: updates in the phase.
        peak: the highest learning rate.
        warmup: the share of the phase in which it rises.
        milestones: shares of the phase at which it falls, in rising order.
        factor: what is left of it each time.

    Raises:
        UserError: these are not shares, or not in order.
    """
    rising = _rising("warmup_step.warmup", warmup, total_steps)
    order = itertools.pairwise([warmup, *milestones, 1])
    if not milestones or any(a >= b for a, b in order):
        raise UserError(
            f"warmup_step.milestones is {list(milestones)} and its warmup "
            f"{warmup}; expected shares of the phase in rising order, after "
            "the warm-up and below 1: [0.5, 0.75]."
        )
    return _WarmUp(
        rising,
        keras.optimizers.schedules.PiecewiseConstantDecay(
            # Up to and including a boundary the rate before it holds.
            [round(m * total_steps) - rising - 1.0 for m in milestones],
            [peak * factor**i for i in range(len(milestones) + 1)],
        ),
    )


class _OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """See `one_cycle`."""

    def __init__(
        self, first: float, peak: float, last: float, up: int, to: int
    ):
        self._rates = first, peak, last
        self._up, self._to = up, to

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        first, peak, last = self._rates

        def along(low, high, share):
            turned = tf.cos(np.pi * tf.clip_by_value(share, 0.0, 1.0))
            return high + (low - high) * (1 + turned) / 2

        return tf.where(
            step < self._up,
            along(first, peak, step / max(self._up, 1)),
            along(peak, last, (step - self._up) / max(self._to - self._up, 1)),
        )

    def get_config(self) -> dict:
        first, peak, last = self._rates
        return {
            "first": first,
            "peak": peak,
            "last": last,
            "up": self._up,
            "to": self._to,
        }


@SCHEDULES.register(given=["total_steps"])
def one_cycle(
    total_steps: int,
    peak: Positive = 1e-3,
    warmup: Part = 0.3,
    start: float = 0.04,
    end: float = 1e-5,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Rises along a cosine to `peak`, then falls along one to almost nothing.

    Smith and Topin 2017, https://arxiv.org/abs/1708.07120; the shape and the
    defaults are fast.ai's (https://docs.fast.ai/callback.schedule.html). The
    momentum is left as it is.

    Args:
        total_steps: updates in the phase.
        peak: the highest learning rate.
        warmup: the share of the phase in which it rises.
        start: the first learning rate, as a share of `peak`.
        end: the last one, as a share of `peak`.

    Raises:
        UserError: `warmup` is not a share.
    """
    rising = _rising("one_cycle.warmup", warmup, total_steps)
    return _OneCycle(
        peak * start, peak, peak * end, rising, max(total_steps - 1, rising)
    )


def _rising(name: str, warmup: float, total_steps: int) -> int:
    """How many updates `warmup` is of all."""
    if not 0 <= warmup < 1:
        raise UserError(
            f"{name} is {warmup}; expected 0 <= warmup < 1, a share of the "
            "phase."
        )
    return round(warmup * total_steps)
