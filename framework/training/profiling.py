"""Turns some updates of a run into a trace that TensorBoard shows."""

from collections.abc import Callable

import tensorflow as tf
from rich.console import Console

from framework.console import say
from framework.training.trainer import Observer

# So many updates are traced, after as many to warm up.
_UPDATES = 10


class Profiler(Observer):
    """Traces ten updates, from the tenth after the start on.

    `pip install tensorboard-plugin-profile`, then `tensorboard --logdir` on
    the run's directory shows it. https://www.tensorflow.org/guide/profiler

    Args:
        console: where to say that there were too few updates.
        directory: where to write.
        step: updates done before.
    """

    def __init__(self, console: Console, directory: str, step: int):
        self._console = console
        self._directory = directory
        self._first = step + _UPDATES
        # Where it began, None before; whether it is over.
        self._began: int | None = None
        self._is_over = False

    def on_step(
        self, epoch: int, step: int, figures: Callable[[], dict[str, float]]
    ) -> None:
        if self._began is None and step >= self._first:
            tf.profiler.experimental.start(self._directory)
            self._began = step
        elif self._began is not None and step >= self._began + _UPDATES:
            self._finish()

    def _finish(self) -> None:
        if not self._is_over:
            tf.profiler.experimental.stop()
            self._is_over = True

    def close(self) -> None:
        """Writes what there is."""
        if self._began is None:
            say(
                self._console,
                "--profile: no trace, since there were no more than "
                f"{_UPDATES} updates, which warm up.",
            )
        else:
            self._finish()
