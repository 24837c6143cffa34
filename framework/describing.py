"""Turns what is registered into texts that one can choose by."""

import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from framework.configuration import import_named, import_registered
from framework.errors import UserError
from framework.registry import Registry, all_names, find, nearest

_WIDTH = 80
_EMPTY = inspect.Parameter.empty


def listing(imports: Sequence[str] = ()) -> str:
    """All that gin files can name, by kind, with a line on each.

    Loads no data and makes no layer.

    Args:
        imports: modules that register more.
    """
    _import_all(imports)
    parts = []
    for registry in Registry.instances:
        if not len(registry):
            continue
        width = max(map(len, registry)) + 2
        lines = [f"{registry.kind.capitalize()}s"]
        for name in registry:
            head = f"  {name:<{width}}"
            lines.append(_fitted(head, _summary(registry.thing(name))))
        parts.append("\n".join(lines))
    parts.append("--describe=NAME tells more of one.")
    return "\n\n".join(parts)


def describe(name: str, imports: Sequence[str] = ()) -> str:
    """What one registered thing is, its parameters, and how to bind them.

    Args:
        name: as gin files have it, with or without the "@".
        imports: modules that register more.

    Raises:
        UserError: nothing is called so.
    """
    _import_all(imports)
    name = name.removeprefix("@").removesuffix("()")
    registry = find(name)
    if registry is None:
        raise UserError(
            f"Nothing is called {name!r}. {nearest(name, all_names())} --list "
            "names all."
        )
    thing = registry.thing(name)
    signature = inspect.signature(thing)
    parameters = {
        parameter: signature.parameters[parameter]
        for parameter in registry.parameters(name)
        if signature.parameters[parameter].kind
        not in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
    }
    documented = inspect.getdoc(thing) or ""
    made = [f"{name}: {registry.kind}, {thing.__module__}.{thing.__qualname__}"]
    if documented:
        made.append(documented)
    if parameters:
        lines = ["Bindings, as they are if nobody says otherwise:", ""]
        for parameter, value in parameters.items():
            lines.append(f"    {name}.{parameter} = {_default(value)}")
            hint = _hint(value)
            if hint:
                lines[-1] += f"  # {hint}"
        made.append("\n".join(lines))
    return "\n\n".join(made)


def _import_all(imports: Sequence[str]) -> None:
    import_registered()
    # A package of several places: ours, and the user's own.
    tasks = importlib.import_module("tasks")
    for module in pkgutil.iter_modules(tasks.__path__):
        importlib.import_module(f"tasks.{module.name}")
    import_named(imports)


def _summary(thing: Callable[..., Any]) -> str:
    """The first sentence of a docstring, on one line."""
    text = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return " ".join(text.split())


def _fitted(head: str, text: str) -> str:
    room = max(20, _WIDTH - len(head))
    return (head + textwrap.shorten(text, room, placeholder=" ...")).rstrip()


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is _EMPTY:
        return "..."
    value = parameter.default
    if isinstance(value, str | int | float | bool | tuple | list | type(None)):
        return repr(value)
    return f"<{type(value).__name__}>"


def _hint(parameter: inspect.Parameter) -> str:
    required = "has to be bound" if parameter.default is _EMPTY else ""
    if parameter.annotation is _EMPTY:
        return required
    hint = inspect.formatannotation(parameter.annotation)
    for prefix in ("collections.abc.", "typing.", "framework."):
        hint = hint.replace(prefix, "")
    return f"{hint}; {required}" if required else hint
