"""Turns messages into lines on a terminal or in a log."""

from collections.abc import Iterable

from rich.console import Console


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
