"""Turns training's steps and epochs into lines a person reads."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from framework.console import say
from framework.training.state import Plan
from framework.training.trainer import Observer


class ProgressObserver(Observer):
    """A bar with images/s, time left and figures; lines without a terminal.

    Args:
        console: where to write.
        plan: how long training takes.
        step: updates done already.
        started: when the command was given, in seconds since 1970; how long
            it took to the first update is told then. None tells nothing.
        seconds_between_lines: without a terminal, how often to write.
    """

    def __init__(
        self,
        console: Console,
        plan: Plan,
        step: int = 0,
        started: float | None = None,
        seconds_between_lines: float = 5.0,
    ):
        self.seconds_to_first_update: float | None = None
        self._console = console
        self._plan = plan
        self._started = started
        self._interval = 0.5 if console.is_terminal else seconds_between_lines
        self._last_time = time.monotonic()
        self._last_step = step
        self._progress: Progress | None = None

    def on_step(
        self, epoch: int, step: int, figures: Callable[[], dict[str, float]]
    ) -> None:
        if self._started is not None and self.seconds_to_first_update is None:
            self.seconds_to_first_update = time.time() - self._started
            say(
                self._console,
                f"First update {self.seconds_to_first_update:.1f} s after the "
                "start.",
            )
        now = time.monotonic()
        if now - self._last_time < self._interval:
            return
        values = figures()
        if not values["images_per_second"]:
            return  # Of the first update nothing is known yet.
        rate = (step - self._last_step) / (now - self._last_time)
        self._last_time, self._last_step = now, step
        text = (
            f"{_pace(values)}  "
            f"loss {values['loss']:.4f}  accuracy {values['accuracy']:.4f}"
        )
        first = self._plan.last_step(epoch - 1)
        last = self._plan.last_step(epoch)
        if self._console.is_terminal:
            self._bar(epoch, step - first, last - first, text)
            return
        left = (self._plan.total_steps - step) / rate
        say(
            self._console,
            f"epoch {epoch + 1}/{self._plan.last_epoch}  step {step - first}/"
            f"{last - first}  {text}  {_clock(left)} left",
        )

    def _bar(self, epoch: int, done: int, total: int, text: str) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=self._console,
                transient=True,
            )
            self._progress.start()
            self._progress.add_task(
                f"epoch {epoch + 1}/{self._plan.last_epoch}",
                total=total,
                text="",
            )
        (task,) = self._progress.task_ids
        self._progress.update(task, completed=done, text=text)

    def on_epoch(self, figures: dict) -> None:
        self.close()
        self._last_time = time.monotonic()
        self._last_step = figures["step"]
        parts = [
            f"epoch {figures['epoch']}/{self._plan.last_epoch}",
            f"{figures['seconds']:.0f} s",
            _pace(figures),
        ]
        for split in ("train", "validation"):
            for name, value in figures.get(split, {}).items():
                parts.append(f"{split} {name} {value:.4f}")
        say(self._console, "  ".join(parts))

    def close(self) -> None:
        """Takes the bar away, also when training fails."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _pace(figures: dict) -> str:
    waited = figures["input_wait"]
    return f"{figures['images_per_second']:.0f} images/s" + (
        f", {waited:.0%} waiting for input" if waited >= 0.01 else ""
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
