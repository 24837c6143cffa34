"""Turns messages into lines on a terminal or in a log."""

import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


def say(console: Console, text: str) -> None:
    """Prints text as it is: names in it are data, not markup, and a log's
    lines are not broken at 80 columns.
    """
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def some(names: Iterable[str], most: int = 8) -> str:
    """The first of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def in_megabytes(count: int) -> str:
    """A number of bytes, to be read."""
    if count < 1e6:
        return f"{count / 1e3:,.1f} kB"
    return f"{count / 1e6:,.1f} MB" if count < 1e7 else f"{count / 1e6:,.0f} MB"


class Bar:
    """A bar for what is under way; lines where there is no terminal."""

    def __init__(self, console: Console, seconds_between_lines: float = 5.0):
        self._console = console
        self._interval = seconds_between_lines
        self._last = time.monotonic()
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def show(self, title: str, done: int, total: int) -> None:
        """Says that `done` of `total` are behind in what `title` names."""
        if self._console.is_terminal:
            if title not in self._tasks:
                self._tasks[title] = self._progress.add_task(title)
            self._progress.update(
                self._tasks[title], completed=done, total=total
            )
            return
        if time.monotonic() - self._last > self._interval:
            self._last = time.monotonic()
            say(self._console, f"{title}: {done:,} of {total:,}")
