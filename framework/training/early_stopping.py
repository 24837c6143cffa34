"""Turns the history of a monitored figure into 'best so far' and 'stop'."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from framework.data.source import IndexedExamples
from framework.errors import UserError
from framework.evaluation import metrics
from framework.ranges import Count, NotNegative
from framework.registry import PARTS
from framework.task import Data

_MORE_IS_BETTER = {"loss": False, **metrics.MORE_IS_BETTER}
# What there is of a split while it is trained on; and of any without asking.
_ALWAYS = ("loss", "accuracy")


@PARTS.register()
@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """When to stop, and which epoch was best.

    The weights of the best epoch are restored at the end, whether training
    was stopped early or not.

    Attributes:
        monitor: "train.loss", "train.accuracy", "validation.loss" or another
            figure of the validation split, by the names of
            `metrics.measure`: "validation.accuracy", "validation.macro_f1",
            "validation.auc", "validation.log_loss" ... Which way is better
            follows from the name. Beside loss and accuracy the one that is
            named is computed after each epoch, of the same predictions: in no
            time, but for AUC and average precision of hundreds of classes.
        patience: epochs without improvement after which training stops; None
            never stops and only restores the best epoch.
        min_delta: what counts as improvement.
    """

    monitor: str = "validation.loss"
    patience: Count | None = 5
    min_delta: NotNegative = 0.0

    def __post_init__(self):
        known = {"train": _ALWAYS, "validation": _MORE_IS_BETTER}
        if self._figure not in known.get(self.split, ()):
            raise self._unknown(_MORE_IS_BETTER)
        if self.patience is not None and self.patience < 1:
            raise UserError(
                f"EarlyStopping.patience is {self.patience}; expected a "
                "number of epochs, at least 1, or None."
            )

    @property
    def split(self) -> str:
        """The split whose figure is monitored."""
        return self.monitor.partition(".")[0]

    @property
    def figures(self) -> tuple[str, ...]:
        """What to compute beside loss and accuracy; of `metrics.names_for`."""
        return () if self._figure in _ALWAYS else (self._figure,)

    def check(self, data: Data) -> None:
        """Refuses, before any training, what the data has no figure of.

        Args:
            data: to be trained on; without the monitored split nothing is
                refused.

        Raises:
            UserError: there is no such figure of so many classes, or it is
                not defined for want of examples of some class.
        """
        if not self.figures or self.split not in data.splits:
            return
        names = metrics.names_for(data.num_classes)
        if self._figure not in names:
            raise self._unknown(
                ("loss", *names), f" with {data.num_classes} classes"
            )
        examples = data.splits[self.split]
        if not isinstance(examples, IndexedExamples):
            return
        # One example a class, taken for what it is, tells what is defined.
        present = np.unique(examples.labels)
        right = np.eye(data.num_classes)[present]
        if metrics.single(self._figure, present, right) is None:
            only = ", ".join(data.class_names[label] for label in present)
            raise UserError(
                f"EarlyStopping.monitor is {self.monitor!r}, which is not "
                f"defined for a {self.split} split of {only} alone. Expected "
                "examples of every class there, or monitor = "
                "'validation.loss'."
            )

    @property
    def _figure(self) -> str:
        return self.monitor.partition(".")[2]

    def _unknown(self, figures: Iterable[str], where: str = "") -> UserError:
        names = [f"validation.{name}" for name in figures]
        names += [f"train.{name}" for name in _ALWAYS]
        return UserError(
            f"EarlyStopping.monitor is {self.monitor!r}{where}; expected "
            f"{', '.join(names[:-1])} or {names[-1]}."
        )

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
        if self.split not in figures:
            raise UserError(
                f"EarlyStopping.monitor is {self.monitor!r}, but the task has "
                f"no {self.split} split. Set the task's validation fraction, "
                "or EarlyStopping.monitor = 'train.loss'."
            )
        value = figures[self.split][self._figure]
        return value if _MORE_IS_BETTER[self._figure] else -value
