"""Turns a value as written and a type hint into whether the one fits the other.

A reference is judged by what it would make, before anything is made.
"""

import dataclasses
import inspect
import numbers
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from framework import registry
from framework.configuration.names import Thing, constants, look_up
from framework.configuration.reading import Binding, Macro, Place, Reference
from framework.ranges import Positive

_CONTAINERS = (Sequence, list, tuple, Mapping, dict)


def fits(value: Any, hint: Any) -> bool:
    """As `registry.fits`, of a value that has references in it."""
    return hint is None or registry.fits(value, hint, _stands_for)


def _stands_for(value: Any, hint: Any) -> bool | None:
    """Whether what is written fits by what it stands for; None of values."""
    if isinstance(value, Macro):
        known = list(constants(value.name).items())
        if len(known) != 1 or known[0][0] == "gin.REQUIRED":
            return True
        return registry.fits(known[0][1], hint)
    return _refers(value, hint) if isinstance(value, Reference) else None


def _refers(reference: Reference, hint: Any) -> bool:
    """Whether a reference gives what is hinted; lenient where unknown."""
    thing = look_up(reference.name)
    if thing is None:
        return True
    made = thing.hints.get("return")
    origin = typing.get_origin(hint)
    if origin is Callable or hint is Callable:
        if not reference.is_made:
            arguments = typing.get_args(hint)
            return not arguments or _is_a(made, arguments[1])
        if not isinstance(made, type):
            return typing.get_origin(made) not in _CONTAINERS
        # A class itself can be called, too; what it makes is asked for.
        return not issubclass(made, registry.MADE) and any(
            "__call__" in vars(base) for base in made.__mro__
        )
    if not reference.is_made:
        is_open = not isinstance(hint, type) and origin not in _CONTAINERS
        return is_open or hint in (type, object)
    if origin in _CONTAINERS:
        return not isinstance(made, type) or issubclass(made, _CONTAINERS)
    if typing.get_origin(made) in _CONTAINERS:
        return False
    return _is_a(made, hint)


def _is_a(made: Any, hint: Any) -> bool:
    # Any is a class, too.
    if hint is Any or not isinstance(made, type) or not isinstance(hint, type):
        return True
    if hint is float:  # As `registry.fits` has it.
        return issubclass(made, numbers.Real) and made is not bool
    try:
        return issubclass(made, hint)
    except TypeError:  # A protocol.
        return True


def makes(name: str, hint: Any) -> bool:
    """Whether what is hinted, or an item of it, is what a name makes."""
    return any(
        _is_known_to_make(Reference("", name, is_made, Place("", 0)), option)
        for is_made in (True, False)
        for option in _items(hint)
        if option is not Any
    )


def _is_known_to_make(reference: Reference, hint: Any) -> bool:
    made = look_up(reference.name).hints.get("return")
    return isinstance(made, type) and fits(reference, hint)


def _items(hint: Any) -> list[Any]:
    """A hint, and that of its items."""
    found = [hint]
    for option in typing.get_args(hint):
        if typing.get_origin(hint) is not Callable:
            found += _items(option)
    return found


# What other libraries call numbers, or pairs of them.
_NUMBERS = re.compile(r"(^|_)(factor|factors|rate|size|height|width)$")


def other_kind(thing: Thing, binding: Binding, value: Any) -> Any:
    """What another library's parameter takes, where a value is nothing alike.

    Its default tells, or its name. Where a number is taken, a schedule or a
    range may be meant as well; where a text, a list or an object.
    """
    default = thing.defaults.get(binding.parameter)
    if binding.parameter == "learning_rate" and isinstance(value, (int, float)):
        return None if registry.fits(value, Positive) else Positive
    if value is None or isinstance(value, (Reference, Macro)):
        return None
    if isinstance(default, bool):
        return None if isinstance(value, bool) else bool
    if isinstance(default, (int, float)) or (
        default is inspect.Parameter.empty
        and _NUMBERS.search(binding.parameter)
    ):
        return float if isinstance(value, (str, bool)) else None
    if isinstance(default, str):
        return str if isinstance(value, (bool, int, float)) else None
    return None


def misfit(key: str, value: Any, hint: Any) -> str:
    """As `registry.misfit`, of a reference or a constant, too."""
    if isinstance(value, Reference):
        return _wrong_reference(key, value, hint)
    if isinstance(value, Macro):
        (value,) = constants(value.name).values()
    return registry.misfit(key, value, hint)


def _wrong_reference(key: str, reference: Reference, hint: Any) -> str:
    thing = look_up(reference.name)
    made = thing.hints.get("return")
    makes = ""
    if isinstance(made, type) and made.__name__ != thing.name:
        makes = f", which makes {registry.a(made.__name__)}"
    others = [
        each
        for each in registry.all_names()
        if _is_known_to_make(dataclasses.replace(reference, name=each), hint)
    ]
    known = f" Those are {', '.join(others)}." if 0 < len(others) < 15 else ""
    return (
        f"{key} is {reference}{makes}; expected {registry.in_words(hint)}."
        f"{known}"
    )
