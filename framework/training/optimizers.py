"""Turns names in gin files into Keras optimizers and callbacks."""

import inspect
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from framework import registry
from framework.errors import UserError
from framework.registry import CALLBACKS, OPTIMIZERS

for _optimizer in (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adadelta,
    keras.optimizers.Adagrad,
    keras.optimizers.Adamax,
    keras.optimizers.Adafactor,
    keras.optimizers.Nadam,
    keras.optimizers.Lion,
):
    OPTIMIZERS.adopt("keras", _optimizer)


class _CSVLogger(keras.callbacks.CSVLogger):
    """keras.callbacks.CSVLogger, mended: it can be continued.

    Keras opens the file anew when training begins, and with `append` would
    leave what was written after the checkpoint.
    """

    chief_only = True

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        self.append = True  # When another phase begins.

    def get_state(self) -> dict:
        with tf.io.gfile.GFile(self.filename) as file:
            return {"text": file.read()}

    def set_state(self, state: dict) -> None:
        with tf.io.gfile.GFile(self.filename, "w") as file:
            file.write(state["text"])
        self.append = True
        self.on_train_begin()


class _ReduceLROnPlateau(keras.callbacks.ReduceLROnPlateau):
    """keras.callbacks.ReduceLROnPlateau, mended: it can be continued."""

    _memory = ("best", "wait", "cooldown_counter")

    def get_state(self) -> dict:
        return {name: getattr(self, name) for name in self._memory}

    def set_state(self, state: dict) -> None:
        for name in self._memory:
            setattr(self, name, state[name])


class _TerminateOnNaN(keras.callbacks.TerminateOnNaN):
    """keras.callbacks.TerminateOnNaN, which has nothing to remember."""

    def get_state(self) -> dict:
        return {}

    def set_state(self, state: dict) -> None:
        pass


for _callback in (_CSVLogger, _ReduceLROnPlateau, _TerminateOnNaN):
    CALLBACKS.adopt("keras", _callback, _callback.__name__[1:])


def make_optimizer(
    optimizer: Callable[..., keras.optimizers.Optimizer],
    schedule: Callable[..., object] | None,
    steps: int,
    peak: float | None = None,
) -> keras.optimizers.Optimizer:
    """Makes the optimizer, with the schedule where there is one.

    Call it inside the strategy's scope. Under mixed_float16 losses are scaled
    so that small gradients are not lost
    (https://arxiv.org/abs/1710.03740, section 3.2), and clipping sees the
    gradients as they are without it.

    Args:
        optimizer: makes it.
        schedule: from the number of updates to the learning rate.
        steps: that number.
        peak: the learning rate, or the schedule's `peak`, in place of what
            they have themselves.

    Raises:
        UserError: the schedule has no `peak`.
    """
    given = {}
    if schedule is not None:
        if peak is not None and not _has_peak(schedule):
            raise UserError(
                "Phase.learning_rate is bound, but the schedule has no "
                "parameter `peak` to take it. Bind what it has in the phase's "
                "scope (tune/my_schedule.rate = ...), or use one that has."
            )
        rate = schedule(steps, **({} if peak is None else {"peak": peak}))
        given["learning_rate"] = rate
    elif peak is not None:
        given["learning_rate"] = peak
    made = optimizer(**given)
    if keras.config.dtype_policy().name != "mixed_float16":
        return made
    return keras.optimizers.LossScaleOptimizer(made)


def refuse_rate() -> None:
    """Refuses a bound learning rate, which a schedule would override."""
    for name in OPTIMIZERS:
        rate = registry.bound(name, "learning_rate")
        if rate is not None:
            raise UserError(
                f"{name}.learning_rate is bound to {rate}, and there is a "
                "schedule, which overrides it. Bind the schedule's rate "
                "(warmup_cosine.peak) or the phase's "
                "(tune/Phase.learning_rate), or train.schedule = None."
            )


def _has_peak(schedule: Callable[..., object]) -> bool:
    return "peak" in inspect.signature(schedule).parameters


def unwrapped(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """The optimizer itself, where another one scales the loss for it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def learning_rates(
    optimizer: keras.optimizers.Optimizer, steps: Sequence[int]
) -> np.ndarray:
    """The learning rate of each of these updates, the first being 0."""
    iterations = unwrapped(optimizer).iterations
    now = iterations.numpy()
    rates = []
    for step in steps:
        iterations.assign(step)
        rate = unwrapped(optimizer).learning_rate
        rates.append(float(keras.ops.convert_to_numpy(rate)))
    iterations.assign(now)
    return np.array(rates)


def rate_by_variable(
    optimizer: keras.optimizers.Optimizer, shares: Sequence[float]
) -> None:
    """Has each variable updated at a share of the learning rate.

    Weight decay, which goes by the learning rate, too, has the same share.

    Args:
        optimizer: built, for as many variables; not a LossScaleOptimizer.
        shares: one a variable.
    """
    # Scaled gradients would do nothing: Adam divides by their size.
    update = optimizer.update_step
    decay = optimizer.weight_decay or 0.0

    def update_step(gradient, variable, learning_rate):
        share = shares[optimizer._get_variable_index(variable)]
        rate = tf.cast(learning_rate * share, variable.dtype)
        if decay and optimizer._use_weight_decay(variable):
            variable.assign_sub(variable * tf.cast(decay, rate.dtype) * rate)
        return update(gradient, variable, rate)

    optimizer.update_step = update_step
    optimizer._apply_weight_decay = lambda variables: None
