"""Turns a gin file of its own into what a sweep tries, and how it chooses."""

import dataclasses
import math
import reprlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from framework.configuration.reading import MAY_BE_UNUSED, Binding, parse
from framework.errors import UserError
from framework.ranges import Count, Number, Seed
from framework.registry import PARTS, current_scope

# What of the monitored figures is better when it is lower.
_LOWER_IS_BETTER = ("loss",)
Monitor = Literal[
    "validation.accuracy", "validation.loss", "train.accuracy", "train.loss"
]
# More would be no list that anybody could work through.
_MOST_COMBINATIONS = 100_000


class Written(str):
    """A value as gin files write it, "@keras.Adam"."""


@dataclasses.dataclass(frozen=True)
class Distribution:
    """What one parameter may be.

    Attributes:
        options: the values to choose from, as gin files write them; empty of
            numbers.
        low, high: the least and the largest number, themselves included.
        is_log: whether what matters is how many times larger a number is.
        is_whole: whether only whole numbers are meant.
    """

    options: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_whole: bool = False

    @property
    def values(self) -> Sequence[Any]:
        """All values of what has an end."""
        return self.options or range(int(self.low), int(self.high) + 1)

    @property
    def count(self) -> float:
        """How many values there are; infinity where there is no end."""
        if self.options:
            return len(self.options)
        return self.high - self.low + 1 if self.is_whole else math.inf

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values between or among which all others are."""
        if self.options:
            return self.options
        kind = int if self.is_whole else float
        return kind(self.low), kind(self.high)

    def written(self, value: Any) -> str:
        """A value of it as gin files write it."""
        return str(value) if self.options else repr(value)

    def __str__(self) -> str:
        if self.options:
            return f"one of {', '.join(self.options)}"
        kind = "a whole number, " if self.is_whole else ""
        scale = ", on a logarithmic scale" if self.is_log else ""
        return f"{kind}{self.low!r} to {self.high!r}{scale}"


@PARTS.register()
def uniform(low: float, high: float) -> Distribution:
    """Of a sweep: any number from `low` to `high`, all alike.

    Args:
        low: the least.
        high: the largest, more than `low`.
    """
    return _numbers("uniform", low, high)


@PARTS.register()
def log_uniform(low: float, high: float) -> Distribution:
    """Of a sweep: any number, as often from 1 to 10 as from 10 to 100.

    Args:
        low: the least, more than 0.
        high: the largest, more than `low`.
    """
    return _numbers("log_uniform", low, high, is_log=True)


@PARTS.register()
def integer(low: int, high: int, log: bool = False) -> Distribution:
    """Of a sweep: a whole number from `low` to `high`.

    Args:
        low: the least; at least 1 where `log` is True.
        high: the largest, more than `low`.
        log: as of `log_uniform`.
    """
    return _numbers("integer", low, high, is_log=log, is_whole=True)


@PARTS.register()
def choice(options: Sequence[Any]) -> Distribution:
    """Of a sweep: one of some values, without an order.

    Args:
        options: numbers, texts, lists or names (`[@keras.Adam, @keras.SGD]`),
            at least two.
    """
    texts = tuple(
        str(each) if isinstance(each, Written) else repr(each)
        for each in options
    )
    if len(set(texts)) < 2 or len(set(texts)) < len(texts):
        raise UserError(
            f"{_named('choice')}.options is [{', '.join(texts)}]; expected at "
            "least two values, each of them once."
        )
    return Distribution(options=texts)


def _numbers(
    kind: str,
    low: float,
    high: float,
    is_log: bool = False,
    is_whole: bool = False,
) -> Distribution:
    name = _named(kind)
    most = sys.maxsize if is_whole else sys.float_info.max
    if not -most <= low < high <= most:
        raise UserError(
            f"{name}.low is {reprlib.repr(low)} and {name}.high is "
            f"{reprlib.repr(high)}; expected low to be less than high, and "
            f"high to be at most {most:g}."
        )
    if is_log and low <= 0:
        raise UserError(
            f"{name}.low is {low!r}, on a logarithmic scale; expected more "
            f"than 0, or @{'integer' if is_whole else 'uniform'}() "
            "without it."
        )
    if not is_whole:
        low, high = float(low), float(high)
    return Distribution(low=low, high=high, is_log=is_log, is_whole=is_whole)


def _named(kind: str) -> str:
    scope = current_scope()
    return f"{scope}/{kind}" if scope else kind


def binding_of(name: str) -> Binding | None:
    """What a gin line would bind; None if no line can bind that."""
    found = list(parse([f"{name} = None"]).bindings())
    return found[0] if len(found) == 1 and found[0].key == name else None


@PARTS.register("search", is_root=True)
@dataclasses.dataclass(frozen=True)
class Search:
    """What `python -m framework.sweep` tries around a gin file.

    Attributes:
        space: by the parameter that is bound what it may be:
            {'keras.Adam.learning_rate': @rate/log_uniform()}. There are
            `uniform`, `log_uniform`, `integer` and `choice`.
        trials: how many; `--trials` overrides it. A grid has as many as it
            has combinations, at most.
        monitor: the figure of an epoch that trials are judged by:
            "validation.accuracy", "validation.loss", or the same of "train".
            A trial's value is that of the epoch whose weights it keeps.
        sampler: what chooses the next trial's values: "tpe" (from what came
            of the trials before), "random", or "grid" (all combinations, one
            after another).
        pruner: what gives up a trial by its first epochs: "median" (its best
            epoch so far is worse than half of the trials were after as
            many), "hyperband" or "none".
        startup_trials: trials that are complete before "median" gives any up.
        warmup_epochs: epochs that every trial is given.
        seed: of what is drawn.
    """

    space: Mapping[str, Any]
    trials: Count = 20
    monitor: Monitor = "validation.accuracy"
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
    startup_trials: Number = 4
    warmup_epochs: Number = 1
    seed: Seed = 0

    def __post_init__(self):
        self._check_space()
        endless = [n for n, d in self.space.items() if d.count == math.inf]
        if self.sampler == "grid" and endless:
            raise UserError(
                f"search.sampler is 'grid', and {', '.join(endless)} may be "
                "any number. Expected @choice() or @integer(), or another "
                "sampler."
            )
        if (self.combinations or 0) > _MOST_COMBINATIONS:
            raise UserError(
                f"search.sampler is 'grid', and the space has "
                f"{self.combinations:,} combinations; expected at most "
                f"{_MOST_COMBINATIONS:,}, or another sampler."
            )

    def _check_space(self) -> None:
        if not isinstance(self.space, Mapping) or not self.space:
            raise UserError(
                f"search.space is {self.space!r}; expected what to try by "
                "parameter, {'keras.Adam.learning_rate': "
                "@rate/log_uniform()}."
            )
        for name, what in self.space.items():
            if not isinstance(name, str) or binding_of(name) is None:
                raise UserError(
                    f"search.space has the name {name!r}; expected a "
                    "parameter as gin files bind it, "
                    "'keras.Adam.learning_rate'."
                )
            if not isinstance(what, Distribution):
                raise UserError(
                    f"search.space has {what!r} for {name!r}; expected "
                    "@uniform(), @log_uniform(), @integer() or @choice(), "
                    "with a name before a slash where there are several of a "
                    "kind: @rate/log_uniform()."
                )

    @property
    def is_lower_better(self) -> bool:
        """Whether the best trial is the one with the lowest value."""
        return self.monitor.rpartition(".")[2] in _LOWER_IS_BETTER

    @property
    def combinations(self) -> int | None:
        """How many trials a grid has; None of another sampler."""
        if self.sampler != "grid":
            return None
        return math.prod(what.count for what in self.space.values())

    def lines(self, values: Mapping[str, Any]) -> list[str]:
        """What a trial binds, to be read.

        Args:
            values: by parameter, a number or an option's text.
        """
        return [
            f"{name} = {what.written(values[name])}"
            for name, what in self.space.items()
        ]

    def bindings(self, values: Mapping[str, Any]) -> list[str]:
        """The same, to be given to gin."""
        lines = zip(self.lines(values), self.space, strict=True)
        return [f"{line}{self._mark(name)}" for line, name in lines]

    def _mark(self, name: str) -> str:
        """What only some option of another parameter reads may be unused."""
        chosen = any(
            "@" in text
            for other, what in self.space.items()
            for text in what.options
            if other != name
        )
        return f"  # {MAY_BE_UNUSED}" if chosen else ""

    def brief(self, values: Mapping[str, Any]) -> str:
        """The same on one line, with four digits of each number."""
        return "; ".join(
            f"{name} = {v:.4g}" if isinstance(v, float) else f"{name} = {v}"
            for name, v in ((n, values[n]) for n in self.space)
        )

    def facts(self) -> dict[str, str]:
        """What must not change while a sweep goes on, by name."""
        said = {
            f"search.space[{name!r}]": str(what)
            for name, what in self.space.items()
        }
        for field in dataclasses.fields(self):
            if field.name not in ("space", "trials"):
                said[f"search.{field.name}"] = repr(getattr(self, field.name))
        return said
