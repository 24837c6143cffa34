"""Turns bindings into what of them is used, followed from the modes on.

A mode's parameters name parts, whose parameters name others, in gin's scopes. A
part can have others built that no gin file names: in scopes of its own
(`Registry.register(scopes=...)`), or by name, in its code (`SOURCES["Tfds"]`).
"""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from framework import registry
from framework.configuration.names import MACRO, Thing, constants, look_up
from framework.configuration.reading import Binding, Macro, Reference, Text
from framework.registry import Registry

Scope = tuple[str, ...]
# (scope, selector, parameter) of a binding; of a macro (scope, "", "").
Key = tuple[str, str, str]
_NONE: frozenset[str] = frozenset()


class Uses:
    """What a text's bindings reach, from the modes on.

    Attributes:
        final: what holds in the end, by what is bound.
        reached: (scope, selector) of all that is called, macros among them.
        macros: the names of those that are used.
    """

    def __init__(self, text: Text):
        self.final: dict[Key, Binding] = {}
        for binding in text.bindings():
            if key := key_of(binding):
                self.final[key] = binding
        self.reached: set[tuple[Scope, str]] = set()
        self.macros: set[str] = set()
        self._by_selector: dict[str, list[Key]] = {}
        for key in self.final:
            self._by_selector.setdefault(key[1], []).append(key)
        self._building: set[Scope] = set()  # Where modes have parts built.
        roots = [
            look_up(name) for each in Registry.instances for name in each.roots
        ]
        before = None
        while before != (before := (len(self.reached), len(self._building))):
            for root in roots:
                for value in self._effective((), root).values():
                    for scope in [(), *sorted(self._building)]:
                        self._follow(value, scope)
                self._visit((), root)

    def bindings_of(
        self, scope: Scope, selector: str
    ) -> dict[str, tuple[Binding, list[Binding]]]:
        """By parameter: what holds in a scope, and what it stands before."""
        found: dict[str, list[Binding]] = {}
        for depth in range(len(scope) + 1):
            here = "/".join(scope[:depth])
            for key in self._by_selector.get(selector, ()):
                if key[0] == here:
                    found.setdefault(key[2], []).append(self.final[key])
        return {name: (each[-1], each[:-1]) for name, each in found.items()}

    def macro(self, name: str) -> Binding | None:
        """What a macro is bound to in the end."""
        return self.final.get((name, "", ""))

    def resolved(self, value: Any, within: frozenset[str] = _NONE) -> Any:
        """The value with what its macros stand for, but for circles of them.

        Constants and the keys of mappings stay as they are.
        """
        while isinstance(value, Macro) and (bound := self.macro(value.name)):
            if value.name in within:
                return value
            within |= {value.name}
            value = bound.value
        if isinstance(value, (list, tuple)):
            return type(value)(self.resolved(each, within) for each in value)
        if isinstance(value, Mapping):
            return {k: self.resolved(v, within) for k, v in value.items()}
        return value

    def is_used(self, binding: Binding) -> bool:
        """Whether something that is reached takes it, or could."""
        key = key_of(binding)
        if key is None or not key[1]:
            return key is None or key[0] in self.macros
        scope = tuple(filter(None, key[0].split("/")))
        return any(
            selector == key[1] and at[: len(scope)] == scope
            for at, selector in self.reached
        )

    @property
    def scopes(self) -> set[str]:
        """The scopes that something is called in."""
        return {"/".join(scope) for scope, _ in self.reached if scope}

    def _effective(self, scope: Scope, thing: Thing) -> dict[str, Any]:
        bound = self.bindings_of(scope, thing.selector)
        values = {
            name: default
            for name, default in thing.defaults.items()
            if isinstance(default, str)
        }
        return values | {name: each.value for name, (each, _) in bound.items()}

    def _visit(self, scope: Scope, thing: Thing) -> None:
        if (scope, thing.selector) in self.reached:
            return
        self.reached.add((scope, thing.selector))
        for name in thing.registry.scopes(thing.name) if thing.registry else ():
            own = name == registry.OWN_SCOPE
            self._building.add(scope if own else tuple(name.split("/")))
        for value in self._effective(scope, thing).values():
            self._follow(value, scope)
        for name in _mentioned(thing.call):
            if other := look_up(name):
                self._visit(scope, other)

    def _follow(self, value: Any, scope: Scope) -> None:
        for each in walk(value):
            if isinstance(each, Reference):
                inside = tuple(each.scope.split("/")) if each.scope else scope
                if thing := look_up(each.name):
                    self._visit(inside, thing)
            elif isinstance(each, Macro):
                self.macros.add(each.name)
                if macro := self.macro(each.name):
                    # gin makes what a macro holds in the macro's own scope.
                    self._follow_macro(macro)
            elif isinstance(each, str) and registry.find(each):
                # A parameter can name a part by a text.
                self._visit(scope, look_up(each))

    def _follow_macro(self, macro: Binding) -> None:
        state = (tuple(macro.scope.split("/")), MACRO)
        if state not in self.reached:
            self.reached.add(state)
            self._follow(macro.value, state[0])


def walk(value: Any) -> Iterator[Any]:
    """The value and all in it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk(key)
            yield from walk(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from walk(item)
    else:
        yield value


def is_left_open(value: Any) -> bool:
    """Whether it is gin's mark of what others are to bind."""
    return isinstance(value, Macro) and list(constants(value.name)) == [
        "gin.REQUIRED"
    ]


def key_of(binding: Binding) -> Key | None:
    """The same for all ways to write one parameter; None of unknown names."""
    if not binding.name:
        return binding.scope, "", ""
    thing = look_up(binding.name)
    if thing is None:
        return None
    return binding.scope, thing.selector, binding.parameter


def _mentioned(call: Callable[..., Any]) -> set[str]:
    """Names of registered things in the code of a function or a class.

    Where a task has its source made, `SOURCES["Tfds"]`, only its code tells;
    of what it calls of its own package, that code as well.
    """
    names, seen, waiting = set(), set(), [call]
    while waiting:
        this = inspect.unwrap(waiting.pop())
        if isinstance(this, type) and this.__module__ == call.__module__:
            waiting += filter(inspect.isfunction, vars(this).values())
        if not inspect.isfunction(this) or this in seen:
            continue
        seen.add(this)
        codes = [this.__code__]
        while codes:
            code = codes.pop()
            for constant in code.co_consts:
                if isinstance(constant, types.CodeType):
                    codes.append(constant)
                else:
                    names.update(_named(constant))
            for name in code.co_names:
                other = this.__globals__.get(name)
                if isinstance(other, (str, Mapping, list, tuple)):
                    names.update(_named(other))
                elif _are_neighbours(other, call):
                    waiting.append(other)
    return names


def _are_neighbours(other: Any, call: Callable[..., Any]) -> bool:
    """Whether both are of one module, or of one package that is not ours."""
    theirs, own = getattr(other, "__module__", None), call.__module__
    if theirs == own or theirs is None:
        return theirs == own
    top = own.partition(".")[0]
    return top != "framework" and theirs.partition(".")[0] == top


def _named(value: Any) -> Iterator[str]:
    for each in walk(value):
        if isinstance(each, str) and registry.find(each):
            yield each
