"""Turns rates measured in turns into ratios, and these into rows of a table.

What a machine does beside drifts, and so no rate is worth much by itself. All
sides run once a round, one right after the other; a ratio is the median of
those of all rounds, and beside it stand the least and the greatest.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.table import Table

HEADERS = ("what", "ours", "theirs", "ratio", "min..max", "goal")


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: is compared.
        ours: the median of our figures.
        theirs: of theirs.
        unit: of both.
        ratios: ours by theirs, an entry a round.
        goal: of their median; None where there is none.
        at_most: whether the goal is an upper limit.
    """

    what: str
    ours: float
    theirs: float
    unit: str
    ratios: tuple[float, ...]
    goal: float | None = None
    at_most: bool = False

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def cells(self) -> tuple[str, ...]:
        """As `HEADERS` names them."""
        return (
            self.what,
            f"{_short(self.ours)} {self.unit}",
            f"{_short(self.theirs)} {self.unit}",
            f"{self.ratio:.2f}",
            f"{min(self.ratios):.2f}..{max(self.ratios):.2f}",
            self._verdict(),
        )

    def _verdict(self) -> str:
        if self.goal is None:
            return ""
        ratio = round(self.ratio, 2)
        if self.at_most:
            sign, met = "≤", ratio <= self.goal
        else:
            sign, met = "≥", ratio >= self.goal
        return f"{sign} {self.goal:g}: {'met' if met else 'missed'}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


@dataclasses.dataclass(frozen=True)
class Section:
    """A table of the report.

    Attributes:
        title: what was measured.
        rows: of the table.
        notes: sentences on how, and on what was left out.
    """

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def table(self) -> Table:
        """For the terminal."""
        table = Table(*HEADERS, title=self.title, caption=" ".join(self.notes))
        for row in self.rows:
            table.add_row(*row.cells)
        return table

    def markdown(self) -> str:
        lines = [HEADERS, ["---"] * len(HEADERS), *(r.cells for r in self.rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join((f"## {self.title}", table, *self.notes))


Sides = Mapping[str, Callable[[], float]]
Rates = dict[str, list[float]]


def rounds_of(sides: Sides, rounds: int) -> Iterator[dict[str, float]]:
    """Runs all sides, every other round in the opposite order.

    So drift hits all alike. Yields what they return, by name, after each
    round.
    """
    names = list(sides)
    for number in range(rounds):
        yield {name: sides[name]() for name in names[:: (-1) ** number]}


def in_turns(sides: Sides, rounds: int) -> Rates:
    """What the sides return, a list an entry a round."""
    rates = {name: [] for name in sides}
    for results in rounds_of(sides, rounds):
        for name, rate in results.items():
            rates[name].append(rate)
    return rates


def against(
    what: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    goal: float | None = None,
    unit: str = "images/s",
    at_most: bool = False,
) -> Row:
    """The row of two sides of `in_turns`."""
    return Row(
        what,
        statistics.median(ours),
        statistics.median(theirs),
        unit,
        tuple(a / b for a, b in zip(ours, theirs, strict=True)),
        goal,
        at_most,
    )
