"""Turns what `make bench` is asked for into what every section gets."""

import dataclasses
import pathlib

BATCH = 32

# Where `python -m benchmarks...` finds itself.
ROOT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure on, and how long.

    Attributes:
        folder: one folder of images per class; an absolute path.
        rounds: in which all sides take their turns.
        size: side of the pictures in pixels, where the input alone is
            measured.
        quick: whether to show only that everything runs.
    """

    folder: str
    rounds: int = 5
    size: int = 150
    quick: bool = False

    def short(self, usual: int, quick: int) -> int:
        """How many of something to run."""
        return quick if self.quick else usual
