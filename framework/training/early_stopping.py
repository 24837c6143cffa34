"""Turns the history of a monitored figure into 'best so far' and 'stop'."""

import dataclasses
import math

from framework.errors import UserError
from framework.registry import PARTS

# Figures of which more is better; of all others less is.
_HIGHER_IS_BETTER = ("accuracy",)


@PARTS.register()
@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """When to stop, and which epoch was best.

    The weights of the best epoch are restored at the end, whether training
    was stopped early or not.

    Attributes:
        monitor: "validation.loss", "validation.accuracy", "train.loss" or
            "train.accuracy".
        patience: epochs without improvement after which training stops; None
            never stops and only restores the best epoch.
        min_delta: what counts as improvement.
    """

    monitor: str = "validation.loss"
    patience: int | None = 5
    min_delta: float = 0.0

    def __post_init__(self):
        split, _, figure = self.monitor.partition(".")
        if split not in ("train", "validation") or figure not in (
            "loss",
            "accuracy",
        ):
            raise UserError(
                f"EarlyStopping.monitor is {self.monitor!r}; expected "
                "validation.loss, validation.accuracy, train.loss or "
                "train.accuracy."
            )
        if self.patience is not None and self.patience < 1:
            raise UserError(
                f"EarlyStopping.patience is {self.patience}; expected a "
                "number of epochs, at least 1, or None."
            )

    @property
    def split(self) -> str:
        """The split whose figure is monitored."""
        return self.monitor.partition(".")[0]

    def best_epoch(self, history: list[dict]) -> int:
        """Index of the best epoch in a history, the first of equals.

        Args:
            history: an epoch each, `{"validation": {"loss": ...}, ...}`.
        """
        best, best_value = 0, -math.inf
        for epoch, figures in enumerate(history):
            value = self._value(figures)
            if value > best_value + self.min_delta:
                best, best_value = epoch, value
        return best

    def should_stop(self, history: list[dict], first: int = 0) -> bool:
        """Whether the best epoch lies `patience` epochs or more back.

        Args:
            history: as for `best_epoch`.
            first: index of the first epoch that counts, of this phase: it may
                begin worse than the one before, and get better all the time.
        """
        phase = history[first:]
        if self.patience is None or not phase:
            return False
        return len(phase) - 1 - self.best_epoch(phase) >= self.patience

    def _value(self, figures: dict) -> float:
        """The monitored figure, turned so that more is better."""
        split, _, figure = self.monitor.partition(".")
        if split not in figures:
            raise UserError(
                f"EarlyStopping.monitor is {self.monitor!r}, but the task has "
                f"no {split} split. Set the task's validation fraction, or "
                "EarlyStopping.monitor = 'train.loss'."
            )
        value = figures[split][figure]
        return value if figure in _HIGHER_IS_BETTER else -value
