"""Turns what gin files say into a list of what is wrong with it.

gin accepts in silence what costs people weeks: a typo in a scope, a macro or a
binding that nothing uses, a value of the wrong type, a binding given twice, or
undone by an `include` below it. All of that is found here from the text alone,
before anything is built.

What uses what is followed from the modes on: a mode's parameters name parts,
whose parameters name others, in gin's scopes. A part can have others built that
no gin file names: in scopes of its own (`Registry.register(scopes=...)`), or by
name, in its code (`SOURCES["Tfds"]`).
"""

import dataclasses
import functools
import inspect
import numbers
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import gin

from framework import registry
from framework.configuration.reading import (
    COMMAND_LINE,
    MAY_BE_UNUSED,
    Binding,
    Block,
    Import,
    Macro,
    Place,
    Problem,
    Reference,
    Text,
    imported,
)
from framework.registry import Registry

Scope = tuple[str, ...]
# (scope, selector, parameter) of a binding; of a macro (scope, "", "").
Key = tuple[str, str, str]
_NONE: frozenset[str] = frozenset()
_CONTAINERS = (Sequence, list, tuple, Mapping, dict)
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

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """Type hints by parameter, and of what it makes, "return"."""
        found = registry.hints(self.call)
        if self.registry and self.registry.library(self.name) == "framework":
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
            if not isinstance(made, type):
                return None
            # They go to the classes it is made of, which refuse others late.
            for base in made.__mro__[:-1]:
                own = inspect.signature(base.__init__).parameters
                found = {**own, **found}
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


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


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


def check(text: Text) -> list[Problem]:
    """Imports what a configuration asks for, and tells what is wrong with it.

    Args:
        text: as `reading.read` gives it.

    Returns:
        all problems, in the order of the text.
    """
    problems = []
    for statement in text.flat():
        if isinstance(statement, Import) and (why := imported(statement)):
            problems.append(Problem(statement.place, why))
    if not problems:  # Else what is missing would be unknown names.
        problems = _Check(text).problems
    order = {file.name: n for n, file in enumerate(text.texts())}
    # An included file comes before the one that includes it.
    return sorted(
        dict.fromkeys(problems),
        key=lambda p: (order.get(p.place.file, 0), p.place.line),
    )


class Uses:
    """What a text's bindings reach, from the modes on.

    Attributes:
        reached: the things that are called, each in its gin scope.
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
            _found(name) for each in Registry.instances for name in each.roots
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
            if other := _found(name):
                self._visit(scope, other)

    def _follow(self, value: Any, scope: Scope) -> None:
        for each in walk(value):
            if isinstance(each, Reference):
                inside = tuple(each.scope.split("/")) if each.scope else scope
                if thing := _found(each.name):
                    self._visit(inside, thing)
            elif isinstance(each, Macro):
                if each.name not in self.macros:
                    self.macros.add(each.name)
                macro = self.final.get((each.name, "", ""))
                if macro is not None:
                    # gin makes what a macro holds in the macro's own scope.
                    self._follow_macro(macro)
            elif isinstance(each, str) and registry.find(each):
                # A parameter can name a part by a text.
                self._visit(scope, _found(each))

    def _follow_macro(self, macro: Binding) -> None:
        state = (tuple(macro.scope.split("/")), MACRO)
        if state not in self.reached:
            self.reached.add(state)
            self._follow(macro.value, state[0])


class _Check:
    """The problems of one text."""

    def __init__(self, text: Text):
        self._text = text
        self.problems: list[Problem] = []
        # A name that is unknown leaves without a use what it was to be.
        self._has_unknown = False
        self._uses = Uses(text)
        self._likely = {
            thing.name
            for _, selector in self._uses.reached
            if isinstance(thing := find(selector), Thing)
        }
        self._macros = {
            each.scope: each for each in text.bindings() if not each.name
        }
        for statement in text.flat():
            if isinstance(statement, Block):
                self._known(statement.name, statement.place)
            elif isinstance(statement, Binding):
                self._binding(statement)
        for part in text.texts():
            if part.name and part.name != COMMAND_LINE:
                self._twice(part)
            self._undone(part)
        for binding in self._uses.final.values():
            if str(binding.value) == "%gin.REQUIRED":
                self._say(
                    binding.place,
                    f"{binding.key} is left open, to be bound by who includes "
                    "this file, or with --gin_param.",
                )
        if not self._has_unknown:
            self._unused()

    def _say(self, place: Place, *sentences: str) -> None:
        self.problems.append(Problem(place, " ".join(filter(None, sentences))))

    def _binding(self, binding: Binding) -> None:
        for each in walk(binding.value):
            if isinstance(each, Reference):
                hint = None
                if isinstance(thing := find(binding.name or "-"), Thing):
                    hint = thing.hints.get(binding.parameter)
                self._known(each.name, each.place, str(each), hint)
            elif isinstance(each, Macro):
                self._macro(each)
        if not binding.name:
            return
        thing = self._known(
            binding.name,
            binding.place,
            binding.key,
            parameter=binding.parameter,
        )
        if thing is None:
            return
        if not self._parameter(binding, thing):
            return
        value = self._resolved(binding.value)
        hint = thing.hints.get(binding.parameter)
        if not fits(value, hint):
            if isinstance(value, Reference):
                why = _misfit(binding.key, value, hint)
            else:
                why = registry.misfit(binding.key, value, hint)
            self._say(binding.place, why)
        elif hint is None and (kind := _other_kind(thing, binding, value)):
            self._say(
                binding.place,
                f"{binding.key} is {_short(value)} ({type(value).__name__}); "
                f"expected {registry.in_words(kind)}.",
            )

    def _known(
        self,
        name: str,
        place: Place,
        written: str = "",
        hint: Any = None,
        parameter: str | None = None,
    ) -> Thing | None:
        found = find(name)
        if isinstance(found, Thing):
            return found
        self._has_unknown = True
        written = f"{written!r}: " if written else ""
        if found:
            names = " or ".join(
                repr(thing.name) for each in found if (thing := _found(each))
            )
            self._say(place, f"{written}{name!r} is more than one: {names}.")
            return None
        known = registry.all_names()
        if hint is not None:
            likely = [each for each in known if _makes(each, hint)]
        elif parameter is not None:
            likely = [each for each in known if _takes(each, parameter)]
            likely = [n for n in likely if n in self._likely] or likely
        else:
            likely = self._likely
        self._say(
            place,
            f"{written}nothing is called {name!r}.",
            registry.nearest(name, known, likely),
            "--list names all.",
        )
        return None

    def _parameter(self, binding: Binding, thing: Thing) -> bool:
        names = thing.parameters
        if names is None or binding.parameter in names:
            return True
        if binding.parameter in thing.defaults and thing.registry:
            self._say(
                binding.place,
                f"{binding.key} is what the framework gives to a "
                f"{thing.registry.kind}; expected one of {', '.join(names)}.",
            )
            return False
        self._say(
            binding.place,
            f"{binding.key}: {thing.name} has no parameter "
            f"{binding.parameter!r}.",
            registry.nearest(binding.parameter, names),
            f"Its parameters: {', '.join(names)}.",
        )
        return False

    def _macro(self, macro: Macro) -> None:
        constants = gin.config._CONSTANTS.matching_selectors(macro.name)
        if macro.name in self._macros or constants:
            return
        self._has_unknown = True
        known = [*self._macros, *(name for name, _ in _constants())]
        self._say(
            macro.place,
            f"%{macro.name} stands for nothing.",
            registry.nearest(macro.name, known),
            f"Expected a line {macro.name} = value.",
        )

    def _resolved(self, value: Any, within: frozenset[str] = _NONE) -> Any:
        """The value with what its macros stand for, but for circles of them."""
        while isinstance(value, Macro) and value.name in self._macros:
            if value.name in within:
                return value
            within |= {value.name}
            value = self._macros[value.name].value
        if isinstance(value, (list, tuple)):
            return type(value)(self._resolved(each, within) for each in value)
        return value

    def _twice(self, part: Text) -> None:
        first: dict[Key, Binding] = {}
        for binding in part.statements:
            # Below `OVERRIDES` the last one wins, as on the command line.
            if not isinstance(binding, Binding) or binding.section:
                continue
            key = key_of(binding)
            if key in first:
                self._say(
                    binding.place,
                    f"{binding.key} is bound a second time, after line "
                    f"{first[key].place.line} ({_short(first[key].value)}, now "
                    f"{_short(binding.value)}). Remove one of them.",
                )
            elif key:
                first[key] = binding

    def _undone(self, part: Text) -> None:
        """Finds what a file binds before it includes what binds it, too."""
        if not part.name:
            return  # The command line comes after the file: it overrides it.
        before: dict[Key, Binding] = {}
        last = {
            key: n
            for n, each in enumerate(part.statements)
            if isinstance(each, Binding) and (key := key_of(each))
        }
        for n, statement in enumerate(part.statements):
            if isinstance(statement, Binding):
                if key := key_of(statement):
                    before[key] = statement
                continue
            if not isinstance(statement, Text):
                continue
            now = {k: b for b in statement.bindings() if (k := key_of(b))}
            for key, binding in now.items():
                earlier = before.get(key)
                # What the file binds once more, below, is what holds.
                if last.get(key, -1) > n:
                    continue
                if earlier and not _same(earlier.value, binding.value):
                    self._say(
                        earlier.place,
                        f"{earlier.key} = {_short(earlier.value)} is undone "
                        f"by {statement.place}, which includes "
                        f"{statement.name!r}: there it is "
                        f"{_short(binding.value)} ({binding.place}). Bind it "
                        f"in {part.name}, below that line.",
                    )
            before |= now

    def _unused(self) -> None:
        uses = {"": self._uses}
        # What an including file replaces leaves parts without a use; whether
        # they had one is told by the files that bind them, taken alone.
        chains = list(_chains(self._text))
        unused = []
        for chain, binding in chains:
            if binding.may_be_unused or self._uses.is_used(binding):
                continue
            for text in chain:
                if text.name == COMMAND_LINE:
                    continue
                alone = uses.get(text.name) or Uses(text)
                uses[text.name] = alone
                if alone.is_used(binding):
                    break
            else:
                unused.append(binding)
        lost = self._lost_scopes(unused)
        # What only these would use is theirs.
        macros = {
            each.name
            for binding in unused
            for each in walk(binding.value)
            if isinstance(each, Macro)
        }
        for binding in unused:
            if binding.name or binding.scope not in macros:
                if binding.place in lost:
                    continue
                self._say(binding.place, *self._why_unused(binding))

    def _lost_scopes(self, unused: Sequence[Binding]) -> set[Place]:
        """Says which references name a scope that has nothing bound in it.

        Returns:
            where that is bound which they will have meant.
        """
        scopes = {b.scope for b in unused if b.name and b.scope}
        bound = {b.scope for b in self._text.bindings() if b.name}
        lost = set()
        for binding in self._text.bindings():
            for each in walk(binding.value):
                if not isinstance(each, Reference) or not each.scope:
                    continue
                if any(f"{b}/".startswith(f"{each.scope}/") for b in bound):
                    continue
                meant = registry.closest(each.scope, scopes)
                if not meant:
                    continue
                places = [b.place for b in unused if b.scope == meant[0]]
                lost.update(places)
                self._say(
                    each.place,
                    f"{each} names the scope {each.scope!r}, in which nothing "
                    f"is bound. Did you mean {meant[0]!r}? Nothing uses that "
                    f"one ({', '.join(map(str, dict.fromkeys(places)))}).",
                )
        return lost

    def _why_unused(self, binding: Binding) -> Iterator[str]:
        if not binding.name:
            yield f"nothing uses %{binding.scope}."
            yield registry.nearest(binding.scope, sorted(self._uses.macros))
        else:
            thing = _found(binding.name)
            selectors = {selector for _, selector in self._uses.reached}
            scopes = sorted(self._uses.scopes)
            first = binding.scope.partition("/")[0]
            if binding.scope and not any(
                f"{scope}/".startswith(f"{binding.scope}/") for scope in scopes
            ):
                yield (
                    f"{binding.key}: nothing is in the scope {first!r}"
                    if first == binding.scope
                    else f"{binding.key}: nothing is in that scope"
                ) + "."
                yield registry.nearest(binding.scope, scopes)
                if scopes:
                    yield f"Scopes: {', '.join(scopes)}."
                else:
                    yield "No reference names a scope (@scope/name())."
            elif thing.selector in selectors:
                yield (
                    f"{binding.key}: nothing is called {thing.name!r} in that "
                    "scope."
                )
            else:
                yield f"{binding.key}: nothing uses {thing.name}."
                near = [n for n in self._likely if n != thing.name]
                # Another one's parameter, perhaps, or the other way round.
                able = [n for n in near if _takes(n, binding.parameter)]
                yield registry.nearest(thing.name, able)
        yield (
            f"Refer to it, remove it, or write '# {MAY_BE_UNUSED}' beside it."
        )


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


def key_of(binding: Binding) -> Key | None:
    """The same for all ways to write one parameter; None of unknown names."""
    if not binding.name:
        return binding.scope, "", ""
    thing = _found(binding.name)
    if thing is None:
        return None
    return binding.scope, thing.selector, binding.parameter


def fits(value: Any, hint: Any) -> bool:
    """As `registry.fits`, of a value that has references in it."""
    if hint is None or hint is Any:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Macro):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Annotated and isinstance(value, Reference):
        return fits(value, arguments[0])
    if isinstance(value, Reference):
        return _refers(value, hint)
    if isinstance(value, (list, tuple)):
        if origin in (Sequence, list, tuple):
            item = arguments[0] if arguments else Any
            return all(fits(each, item) for each in value)
        # Of some other type: its own checks see what is made.
        if any(isinstance(each, (Reference, Macro)) for each in walk(value)):
            return not isinstance(hint, type) or hint in (list, tuple)
    if isinstance(value, Mapping) and any(
        isinstance(each, (Reference, Macro)) for each in walk(value)
    ):
        return origin in (Mapping, dict) or not isinstance(hint, type)
    return registry.fits(value, hint)


def _refers(reference: Reference, hint: Any) -> bool:
    """Whether a reference gives what is hinted; lenient where unknown."""
    thing = _found(reference.name)
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
        return not isinstance(hint, type) or hint is type
    if origin in _CONTAINERS:
        return not isinstance(made, type) or made in (list, tuple, dict)
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


def _items(hint: Any) -> list[Any]:
    """A hint, and that of its items."""
    found = [hint]
    for option in typing.get_args(hint):
        if typing.get_origin(hint) is not Callable:
            found += _items(option)
    return found


# What other libraries call numbers, or pairs of them.
_NUMBERS = re.compile(r"(^|_)(factor|factors|rate|size|height|width)$")


def _other_kind(thing: Thing, binding: Binding, value: Any) -> Any:
    """What another library's parameter takes, where a value is nothing alike.

    Its default tells, or its name. Where a number is taken, a schedule or a
    range may be meant as well; where a text, a list or an object.
    """
    default = thing.defaults.get(binding.parameter)
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


def _misfit(key: str, reference: Reference, hint: Any) -> str:
    thing = _found(reference.name)
    made = thing.hints.get("return")
    makes = ""
    if isinstance(made, type) and made.__name__ != thing.name:
        makes = f", which makes a {made.__name__}"
    others = [
        each
        for each in registry.all_names()
        if isinstance(_found(each).hints.get("return"), type)
        and fits(dataclasses.replace(reference, name=each), hint)
    ]
    known = f" Those are {', '.join(others)}." if 0 < len(others) < 15 else ""
    return (
        f"{key} is {reference}{makes}; expected {registry.in_words(hint)}."
        f"{known}"
    )


def _found(name: str) -> Thing | None:
    found = find(name)
    return found if isinstance(found, Thing) else None


def _makes(name: str, hint: Any) -> bool:
    """Whether what is hinted, or an item of it, is what a name makes."""
    if not isinstance(_found(name).hints.get("return"), type):
        return False
    return any(
        fits(Reference("", name, is_made, Place("", 0)), option)
        for is_made in (True, False)
        for option in _items(hint)
        if typing.get_origin(option) is not None or option is not Any
    )


def _takes(name: str, parameter: str) -> bool:
    thing = _found(name)
    return bool(thing) and parameter in (thing.parameters or (parameter,))


def _constants() -> Iterable[tuple[str, Any]]:
    return gin.config._CONSTANTS.items()


def _short(value: Any) -> str:
    return reprlib.repr(value)


def _same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


def _chains(
    text: Text, above: tuple[Text, ...] = ()
) -> Iterator[tuple[tuple[Text, ...], Binding]]:
    """Each binding, with the texts it stands in, but for the outermost."""
    chain = (*above, text) if text.name else above
    for statement in text.statements:
        if isinstance(statement, Text):
            yield from _chains(statement, chain)
        elif isinstance(statement, Binding):
            yield chain, statement


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
