"""Turns names in gin files into Keras optimizers and learning rates."""

from collections.abc import Callable

import keras
import tensorflow as tf

from framework.errors import UserError
from framework.registry import CALLBACKS, OPTIMIZERS, SCHEDULES

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


@SCHEDULES.register(given=["total_steps"])
def warmup_cosine(
    total_steps: int,
    peak: float = 1e-3,
    warmup: float = 0.1,
    end: float = 0.01,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Rises linearly to `peak`, then falls along a cosine.

    Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983; the warm-up is
    that of Goyal et al. 2017, https://arxiv.org/abs/1706.02677.

    Args:
        total_steps: updates in the whole run.
        peak: the highest learning rate.
        warmup: the share of the run in which it rises.
        end: the last learning rate, as a share of `peak`.

    Raises:
        UserError: `warmup` is not a share.
    """
    if not 0 <= warmup < 1:
        raise UserError(
            f"warmup_cosine.warmup is {warmup}; expected 0 <= warmup < 1, a "
            "share of the run."
        )
    rising = round(warmup * total_steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / 100 if rising else peak,
        decay_steps=max(total_steps - rising, 1),
        alpha=end,
        warmup_target=peak if rising else None,
        warmup_steps=rising,
    )


def make_optimizer(
    optimizer: Callable[..., keras.optimizers.Optimizer],
    schedule: Callable[..., object] | None,
    total_steps: int,
) -> keras.optimizers.Optimizer:
    """Makes the optimizer, with the schedule where there is one.

    Call it inside the strategy's scope. Under mixed_float16 losses are scaled
    so that small gradients are not lost
    (https://arxiv.org/abs/1710.03740, section 3.2), and clipping sees the
    gradients as they are without it.
    """
    if schedule is None:
        made = optimizer()
    else:
        made = optimizer(learning_rate=schedule(total_steps))
    if keras.config.dtype_policy().name != "mixed_float16":
        return made
    return keras.optimizers.LossScaleOptimizer(made)
