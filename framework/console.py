"""Turns messages into lines on a terminal or in a log."""

from rich.console import Console


def say(console: Console, text: str) -> None:
    """Prints text as it is: names in it are data, not markup, and a log's
    lines are not broken at 80 columns.
    """
    console.print(text, highlight=False, markup=False, soft_wrap=True)
