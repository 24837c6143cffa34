"""Turns a run under way into what a checkpoint holds, and back."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from framework.errors import UserError


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, in one phase of a run.

    Epochs and steps count through all phases; each phase begins its order of
    the examples anew.

    Attributes:
        examples: in the training split.
        batch_size: examples an update, over all replicas.
        epochs: passes over the training split in this phase.
        first_epoch, first_step: epochs and updates in the phases before.
    """

    examples: int
    batch_size: int
    epochs: int
    first_epoch: int = 0
    first_step: int = 0

    def __post_init__(self):
        for field in ("batch_size", "epochs"):
            value = getattr(self, field)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < 1:
                raise UserError(
                    f"train.{field} is {value!r}; expected a whole number, at "
                    "least 1."
                )
        if self.batch_size > self.examples:
            raise UserError(
                f"train.batch_size is {self.batch_size}, more than the "
                f"{self.examples} examples to train on; expected at most as "
                f"many: train.batch_size = {self.examples}."
            )

    def last_step(self, epoch: int) -> int:
        """Steps done when the epoch of this index is complete.

        Batches run across the border of epochs, so that the steps of two
        epochs may differ by one.
        """
        passes = epoch + 1 - self.first_epoch
        return self.first_step + math.ceil(
            passes * self.examples / self.batch_size
        )

    @property
    def last_epoch(self) -> int:
        """Epochs done when this phase is."""
        return self.first_epoch + self.epochs

    @property
    def total_steps(self) -> int:
        """Steps done when this phase is."""
        return self.last_step(self.last_epoch - 1)

    @property
    def steps(self) -> int:
        """Steps of this phase."""
        return self.total_steps - self.first_step

    def position(self, step: int) -> int:
        """Where in the phase's order of examples the update after `step` is."""
        return (step - self.first_step) * self.batch_size


@dataclasses.dataclass
class TrainState:
    """Where a run is, apart from what the model and the optimizer hold.

    Attributes:
        phase: index of the phase under way.
        first_epoch, first_step: epochs and updates in the phases before.
        step: updates so far.
        epochs: an entry an epoch that is complete, as in `History`.
        loss, correct, examples: sums over the epoch under way.
        epoch_seconds: spent in the epoch under way, in training alone.
        timed_steps, timed_seconds, waited: the updates of the epoch under way
            but for the first of each start; what they took; how much of that
            they waited for pictures.
        seconds: spent in all, before the process at work now started.
        unreadable: ids of training examples that did not decode; a set that
            keeps its order.
        best_epoch: index of the best epoch so far.
        best_weights: the classifier's weights then.
        stop: whether the phase is to end before its last epoch.
        stopped_early: whether one did.
        continued: how often the run was taken up again.
    """

    phase: int = 0
    first_epoch: int = 0
    first_step: int = 0
    step: int = 0
    epochs: list[dict] = dataclasses.field(default_factory=list)
    loss: float = 0.0
    correct: float = 0.0
    examples: float = 0.0
    epoch_seconds: float = 0.0
    timed_steps: int = 0
    timed_seconds: float = 0.0
    waited: float = 0.0
    seconds: float = 0.0
    unreadable: dict[str, None] = dataclasses.field(default_factory=dict)
    best_epoch: int = 0
    best_weights: list[np.ndarray] | None = None
    stop: bool = False
    stopped_early: bool = False
    continued: int = 0

    @property
    def figures(self) -> dict[str, float]:
        """Mean loss and accuracy of the epoch under way."""
        count = max(self.examples, 1.0)
        return {"loss": self.loss / count, "accuracy": self.correct / count}

    def pace(self, batch_size: int) -> dict[str, float]:
        """Of the epoch under way, as `throughput` explains it."""
        seconds = max(self.timed_seconds, 1e-9)
        return {
            "images_per_second": self.timed_steps * batch_size / seconds,
            "input_wait": min(self.waited / seconds, 1.0),
        }

    def begin_phase(self) -> None:
        """The next one, from where training stands."""
        self.phase += 1
        self.first_epoch, self.first_step = len(self.epochs), self.step
        self.stop = False

    def begin_epoch(self) -> None:
        self.loss = self.correct = self.examples = self.epoch_seconds = 0.0
        self.timed_steps, self.timed_seconds, self.waited = 0, 0.0, 0.0

    def pack(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Copies everything; returns (arrays, the rest for JSON)."""
        arrays = {
            f"{group}/{number:05}": np.array(value)
            for group, values in (
                ("model", [v.numpy() for v in model.variables]),
                ("optimizer", [v.numpy() for v in optimizer.variables]),
                ("best", self.best_weights or ()),
            )
            for number, value in enumerate(values)
        }
        rest = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "best_weights"
        }
        rest["unreadable"] = list(self.unreadable)
        rest["epochs"] = list(self.epochs)
        rest["callbacks"] = [
            callback.get_state() if has_state(callback) else None
            for callback in callbacks
        ]
        return arrays, rest

    @classmethod
    def unpack(
        cls, arrays: dict[str, np.ndarray], rest: dict[str, Any]
    ) -> "TrainState":
        """What `pack` packed; for model and optimizer see `assign`."""
        values = {
            field.name: rest[field.name]
            for field in dataclasses.fields(cls)
            if field.name in rest
        }
        values["unreadable"] = dict.fromkeys(rest["unreadable"])
        values["continued"] += 1
        best = sorted(name for name in arrays if name.startswith("best/"))
        return cls(
            **values, best_weights=[arrays[name] for name in best] or None
        )


def assign(
    arrays: dict[str, np.ndarray],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
) -> None:
    """Gives model and optimizer the values that `TrainState.pack` copied."""
    for group, variables in (
        ("model", model.variables),
        ("optimizer", optimizer.variables),
    ):
        for number, variable in enumerate(variables):
            variable.assign(arrays[f"{group}/{number:05}"])


def misfit(
    arrays: dict[str, np.ndarray],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
) -> str | None:
    """Why a checkpoint's arrays are not those of model and optimizer."""
    for group, variables in (
        ("model", model.variables),
        ("optimizer", optimizer.variables),
    ):
        expected = [tuple(v.shape) for v in variables]
        received = [
            arrays[name].shape
            for name in sorted(arrays)
            if name.startswith(f"{group}/")
        ]
        if expected != received:
            return (
                f"it holds {len(received)} arrays of the {group}, expected "
                f"{len(expected)}, or of other shapes"
            )
    return None


def has_state(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback can say, and be told, what it remembers."""
    return hasattr(callback, "get_state") and hasattr(callback, "set_state")
