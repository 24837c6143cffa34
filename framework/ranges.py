"""Turns limits of a number into a type hint: `epochs: Count`."""

import dataclasses
import sys
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers make sense.

    Attributes:
        least: the smallest, or what they must be above.
        most: the largest, or what they must be below; None for no limit.
        open_below: whether `least` itself does not.
        open_above: whether `most` itself does not.
    """

    least: float
    most: float | None = None
    open_below: bool = False
    open_above: bool = False

    def __contains__(self, value: float) -> bool:
        # Whole numbers may be larger than any float.
        if not abs(value) <= sys.float_info.max:
            return False
        if not (value > self.least if self.open_below else value >= self.least):
            return False
        if self.most is None:
            return True
        return value < self.most if self.open_above else value <= self.most

    def __str__(self) -> str:
        low = f"{'above' if self.open_below else 'at least'} {self.least:g}"
        if self.most is None:
            return low
        return f"{low} and {'below' if self.open_above else 'at most'} " + (
            f"{self.most:g}"
        )


Count = Annotated[int, Range(1)]
Number = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open_below=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, open_below=True)]
# Some, but never all: dropout.
Part = Annotated[float, Range(0, 1, open_above=True)]
Seed = Annotated[int, Range(0, 2**32, open_above=True)]
