"""Turns a configuration into a text of all values, each with its origin."""

import inspect
from collections.abc import Iterator

from framework.configuration.names import MACRO, Thing, look_up
from framework.configuration.reading import Binding, Text
from framework.configuration.uses import Key, Uses, key_of

_COLUMN = 48


def provenance(text: Text, mode: str = "train") -> str:
    """What a mode would take, as gin lines with where each value stands.

    Defaults are among them, and what was bound before and replaced.

    Args:
        text: without mistakes.
        mode: whose parameters to show, used or not; of other modes, those
            that are bound.
    """
    uses = Uses(text)
    history: dict[Key, list[Binding]] = {}
    for binding in text.bindings():
        history.setdefault(key_of(binding), []).append(binding)
    called = {selector for _, selector in uses.reached} - {MACRO}
    things = sorted(
        filter(None, map(look_up, called)),
        key=lambda thing: (thing.name != mode, thing.name.lower()),
    )
    bound = {key[1] for key in uses.final}
    blocks = [
        "\n".join(_of_thing(thing, history))
        for thing in things
        if thing.selector in bound
        or thing.name == mode
        or not (thing.registry and thing.name in thing.registry.roots)
    ]
    macros = [_line(k[0], history[k]) for k in sorted(history) if not k[1]]
    unused = [
        _line(bindings[-1].key, bindings)
        for key, bindings in sorted(history.items())
        if key[1] not in ("", *called)
    ]
    if macros:
        blocks.insert(0, "\n".join(["# Macros", *macros]))
    if unused:
        blocks.append("\n".join(["# Bound, and read by nothing", *unused]))
    return "\n\n".join(filter(None, blocks))


def _of_thing(thing: Thing, history: dict[Key, list[Binding]]) -> Iterator[str]:
    names = list(thing.parameters or ())
    keys = [key for key in history if key[1] == thing.selector]
    if not names and not keys:
        return
    yield f"# {thing.name}"
    for key in sorted(keys, key=lambda key: (_rank(names, key[2]), key[0])):
        scope = f"{key[0]}/" if key[0] else ""
        yield _line(f"{scope}{thing.name}.{key[2]}", history[key])
    everywhere = {key[2] for key in keys if not key[0]}
    for name in names:
        default = thing.defaults.get(name, inspect.Parameter.empty)
        if name in everywhere or default is inspect.Parameter.empty:
            continue
        value = repr(default)
        if " at 0x" in value:  # Where it lies in memory tells nobody anything.
            value = getattr(default, "__qualname__", type(default).__name__)
        yield _with(f"{thing.name}.{name} = {value}", "default")


def _rank(names: list[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _line(key: str, bindings: list[Binding]) -> str:
    *before, last = bindings
    replaced = (f"{each.value!r} ({each.place})" for each in reversed(before))
    origin = ", in place of ".join([str(last.place), *replaced])
    return _with(f"{key} = {last.value!r}", origin)


def _with(line: str, origin: str) -> str:
    return f"{line:<{_COLUMN}}  # {origin}"
