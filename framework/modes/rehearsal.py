"""Turns a phase that is set up into what it would cost, by a few updates of it.

The updates are real, on real batches; their weights are thrown away.
"""

import dataclasses
import time
from collections.abc import Iterator

import keras
import numpy as np
import psutil
import tensorflow as tf

from framework.console import in_megabytes
from framework.model import cost
from framework.modes.recipe import Setup
from framework.task import Data
from framework.training.state import Plan

# How long to train for, and to judge: enough for a rate, not for a coffee.
_SECONDS = 4.0
# The first update is slow, and the first epoch's are like the others of it.
_FEWEST_UPDATES = 4


@dataclasses.dataclass(frozen=True)
class Rehearsed:
    """What a phase would cost.

    Attributes:
        batch: what goes into an update.
        layers: layers with weights, those that are trained and all.
        operations: floating-point operations a picture, forth only; None
            where they can't be counted.
        variables: bytes of the weights, and of what the optimizer remembers.
        held: bytes that this process, or the fullest GPU, holds now.
        is_of_gpu: whether it is the GPU.
        images_per_second: of training; None where an epoch is too short to
            tell.
        seconds: of the phase, training and validation, at most: where what is
            frozen is kept, later epochs are faster. None as above.
    """

    batch: str
    layers: tuple[int, int]
    operations: int | None
    variables: tuple[int, int]
    held: int
    is_of_gpu: bool
    images_per_second: float | None
    seconds: float | None

    @property
    def description(self) -> list[str]:
        """Sentences on it."""
        weights, remembered = self.variables
        holder = "the GPU" if self.is_of_gpu else "the process"
        lines = [
            f"A batch: {self.batch}.",
            f"{self.layers[0]} of {self.layers[1]} layers with weights are "
            "trained."
            + (
                f" {_short(self.operations)} floating-point operations a "
                "picture, without the way back."
                if self.operations
                else ""
            ),
            f"Memory: weights {in_megabytes(weights)}, optimizer "
            f"{in_megabytes(remembered)}; {holder} held "
            f"{in_megabytes(self.held)} after some updates.",
        ]
        if self.seconds is not None:
            lines.append(
                f"At {self.images_per_second:.0f} images/s, as measured in "
                f"some updates, training and validation take about "
                f"{_duration(self.seconds)}, or less where features or "
                "pictures are kept."
            )
        return lines


def rehearse(setup: Setup, data: Data) -> Rehearsed:
    """Trains for some seconds and judges some batches.

    Args:
        setup: of a phase; its model is another one afterwards.
        data: it was built for.

    Raises:
        UserError: the loss is not finite, or nothing decodes.
    """
    world, plan = setup.trainer.world, setup.plan
    batch = next(iter(setup.batches(0, world.share)))
    steps = plan.last_step(plan.first_epoch) - plan.first_step

    def update(count: int) -> float:
        few = Plan(count * plan.batch_size, plan.batch_size, 1)
        return setup.trainer.fit(
            few, setup.batches, None, None, steps_per_call=setup.steps_per_call
        ).images_per_second

    rate = seconds = None
    least = _FEWEST_UPDATES * setup.steps_per_call
    rough = update(min(steps, least))
    if steps >= least:
        most = int(rough * _SECONDS / plan.batch_size)
        rate = update(min(steps, max(least, most)))
        examples = (plan.total_steps - plan.first_step) * plan.batch_size
        seconds = examples / rate
        if "validation" in data.splits:
            seconds += plan.epochs * _judging(setup, data)
    model, optimizer = setup.built.model, setup.trainer.optimizer
    layers = [each for each in _leaves(model) if each.weights]
    held, is_of_gpu = _held()
    return Rehearsed(
        ", ".join(
            f"{name} {value.dtype.name} {list(value.shape)}"
            for name, value in batch.items()
            if name in ("image", "label")
        ),
        (sum(bool(e.trainable_weights) for e in layers), len(layers)),
        cost.operations(model),
        (_bytes(model.weights), _bytes(optimizer.variables)),
        held,
        is_of_gpu,
        rate,
        seconds,
    )


def _leaves(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a model and of those in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _judging(setup: Setup, data: Data) -> float:
    """Seconds to judge the validation split, by its first batches."""
    batches = setup.evaluation("validation")
    setup.predictor.predict(batches.take(1), 1.0)  # Compiles.
    began = time.monotonic()
    predicted = setup.predictor.predict(batches.take(4), 1.0)
    spent = time.monotonic() - began
    share = max(1, len(predicted.labels)) / len(data.splits["validation"])
    return spent / min(1.0, share)


def _held() -> tuple[int, bool]:
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        memory = tf.config.experimental.get_memory_info
        return max(memory(gpu.name)["peak"] for gpu in gpus), True
    return psutil.Process().memory_info().rss, False


def _bytes(variables) -> int:
    return sum(
        int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in variables
    )


def _short(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
