"""Turns some updates of a run into a trace that TensorBoard shows."""

from collections.abc import Callable

import tensorflow as tf

from framework.training.trainer import Observer

# Not the first ones, which warm up.
_FIRST, _LAST = 10, 20


class Profiler(Observer):
    """Traces ten updates, from the tenth after the start on.

    `pip install tensorboard-plugin-profile`, then `tensorboard --logdir` on
    the run's directory shows it. https://www.tensorflow.org/guide/profiler

    Args:
        directory: where to write.
        step: updates done before.
    """

    def __init__(self, directory: str, step: int):
        self._directory = directory
        self._first, self._last = step + _FIRST, step + _LAST
        self._is_on = False

    def on_step(
        self, epoch: int, step: int, figures: Callable[[], dict[str, float]]
    ) -> None:
        if not self._is_on and self._first <= step < self._last:
            tf.profiler.experimental.start(self._directory)
            self._is_on = True
        elif step >= self._last:
            self.close()

    def close(self) -> None:
        """Writes what there is."""
        if self._is_on:
            tf.profiler.experimental.stop()
            self._is_on = False
