"""Turns a name of a gin file into the thing it stands for, and its parameters.

gin's tables of names, which it keeps to itself, are read here alone.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gin

from framework import registry
from framework.registry import Registry

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
MACRO = "gin.macro"


@dataclasses.dataclass(frozen=True)
class Thing:
    """What a name of a gin file stands for.

    Attributes:
        selector: gin's full name, "framework.classifier".
        name: as gin files have it, "classifier".
        registry: where it is registered; None if only gin knows it.
        call: what is called.
    """

    selector: str
    name: str
    registry: Registry | None
    call: Callable[..., Any]

    @property
    def library(self) -> str:
        """Whose it is: "keras", or "framework"."""
        return self.registry.library(self.name) if self.registry else "gin"

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """Type hints by parameter, and of what it makes, "return"."""
        found = registry.hints(self.call)
        if self.library == "framework":
            return found
        # Other libraries' hints are not meant to be checked.
        return {"return": found["return"]} if "return" in found else {}

    @functools.cached_property
    def _signature(self) -> dict[str, inspect.Parameter] | None:
        """What it takes, by name; None where that can't be told."""
        try:
            found = dict(inspect.signature(self.call).parameters)
        except (TypeError, ValueError):
            return None
        if any(p.kind is p.VAR_KEYWORD for p in found.values()):
            made = self.hints.get("return")
            # What a function of one's own does with them, nobody knows.
            is_own = self.library == "framework" and made is not self.call
            if is_own or not isinstance(made, type):
                return None
            # They go to the classes it is made of, which refuse others late.
            for base in made.__mro__[:-1]:
                found = {**dict(_taken(base)), **found}
            found.pop("self", None)
        return {n: p for n, p in found.items() if p.kind not in _VARIABLE}

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of each parameter, `inspect.Parameter.empty` for none."""
        return {n: p.default for n, p in (self._signature or {}).items()}

    @property
    def parameters(self) -> tuple[str, ...] | None:
        """What may be bound; None where that can't be told."""
        if self._signature is None:
            return None
        given = self.registry.given(self.name) if self.registry else ()
        own = inspect.signature(self.call).parameters
        names = sorted(self._signature, key=lambda name: name not in own)
        return tuple(name for name in names if name not in given)


def _taken(base: type) -> Iterator[tuple[str, inspect.Parameter]]:
    """What a class itself takes, by name or out of its **kwargs."""
    own = inspect.signature(base.__init__).parameters
    yield from own.items()
    code = getattr(base.__init__, "__code__", None)
    is_known = base.__module__.partition(".")[0] in ("keras", "keras_cv")
    if is_known or code is None:
        return
    if any(p.kind is p.VAR_KEYWORD for p in own.values()):
        for name in code.co_consts:  # kwargs.pop("name")
            if isinstance(name, str) and name.isidentifier():
                yield (
                    name,
                    inspect.Parameter(
                        name, inspect.Parameter.KEYWORD_ONLY, default=None
                    ),
                )


@functools.cache
def _thing(selector: str, call: Callable[..., Any]) -> Thing:
    library, _, bare = selector.rpartition(".")
    name = bare if library == "framework" else selector
    found = registry.find(name)
    return Thing(selector, name, found, found.thing(name) if found else call)


def find(name: str) -> Thing | list[str]:
    """What is called so, or the names it could stand for: none, several."""
    # gin tells a user of a name, or of two, by an error alone.
    known = gin.config._REGISTRY
    found = known.matching_selectors(name)
    if len(found) != 1:
        return found
    return _thing(found[0], known[found[0]].wrapped)


def look_up(name: str) -> Thing | None:
    """What is called so; None if nothing is, or several are."""
    found = find(name)
    return found if isinstance(found, Thing) else None


def takes(name: str, parameter: str) -> bool:
    """Whether what is called so has a parameter of that name, or could."""
    thing = look_up(name)
    return bool(thing) and parameter in (thing.parameters or (parameter,))


def constants(name: str = "") -> dict[str, Any]:
    """gin's constants by their full names: all, or those `%name` can mean."""
    known = gin.config._CONSTANTS
    found = set(known.matching_selectors(name))
    return {n: each for n, each in known.items() if not name or n in found}
