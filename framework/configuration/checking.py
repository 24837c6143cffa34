"""Turns what gin files say into a list of what is wrong with it.

gin accepts in silence what costs people weeks: a typo in a scope, a macro or a
binding that nothing uses, a value of the wrong type, a binding given twice, or
undone by an `include` below it. All of that is found here from the text alone,
before anything is built.
"""

import reprlib
from collections.abc import Iterator, Sequence
from typing import Any

from framework import registry
from framework.configuration import fitting
from framework.configuration.names import (
    Thing,
    constants,
    find,
    look_up,
    takes,
)
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
from framework.configuration.uses import (
    Key,
    Uses,
    is_left_open,
    key_of,
    walk,
)


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
            # gin refuses these, used or not.
            if any(map(is_left_open, walk(binding.value))):
                self._say(
                    binding.place,
                    f"{binding.key} is left open, to be bound by who includes "
                    "this file, or with --gin_param.",
                )
        self._epochs_twice()
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
            if circle := self._circle(binding):
                self._say(
                    binding.place,
                    f"%{binding.scope} is made of itself "
                    f"({', '.join(f'%{each}' for each in circle)}). Expected "
                    "a value in one of them.",
                )
            for name in constants(binding.scope):
                self._say(
                    binding.place,
                    f"%{binding.scope} is the constant {name} already, which "
                    "stays what it is. Choose another name.",
                )
            return
        if binding.is_in_block and not look_up(binding.name):
            return  # Told of its head.
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
        value = self._uses.resolved(binding.value)
        hint = thing.hints.get(binding.parameter)
        if not fitting.fits(value, hint):
            self._say(binding.place, fitting.misfit(binding.key, value, hint))
        elif hint is None and (
            kind := fitting.other_kind(thing, binding, value)
        ):
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
                repr(thing.name) for each in found if (thing := look_up(each))
            )
            self._say(place, f"{written}{name!r} is more than one: {names}.")
            return None
        known = registry.all_names()
        if hint is not None:
            likely = [each for each in known if fitting.makes(each, hint)]
        elif parameter is not None:
            likely = [each for each in known if takes(each, parameter)]
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
        if self._uses.macro(macro.name) or constants(macro.name):
            return
        self._has_unknown = True
        macros = (b.scope for b in self._uses.final.values() if not b.name)
        known = [*macros, *constants()]
        self._say(
            macro.place,
            f"%{macro.name} stands for nothing.",
            registry.nearest(macro.name, known),
            f"Expected a line {macro.name} = value.",
        )

    def _circle(self, macro: Binding) -> list[str]:
        """The macros by which one is made of itself, or none."""
        waiting = [[macro.scope]]
        seen = set()
        while waiting:
            way = waiting.pop()
            for each in walk(self._uses.macro(way[-1]).value):
                if not isinstance(each, Macro):
                    continue
                if each.name == macro.scope:
                    return [*way, each.name]
                if self._uses.macro(each.name) and each.name not in seen:
                    seen.add(each.name)
                    waiting.append([*way, each.name])
        return []

    def _epochs_twice(self) -> None:
        phases, epochs = (
            self._uses.final.get(("", "framework.train", name))
            for name in ("phases", "epochs")
        )
        if not (phases and epochs):
            return
        values = [self._uses.resolved(each.value) for each in (phases, epochs)]
        if any(isinstance(each, Macro) for each in values):
            return  # Told already.
        if values[0] and values[1] is not None:
            self._say(
                epochs.place,
                f"train.epochs is bound and so is train.phases "
                f"({phases.place}), which replace it. Bind the epochs of each "
                "phase (tune/Phase.epochs, fine_tune.epochs), or train.phases "
                "= [].",
            )

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
            thing = look_up(binding.name)
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
                able = [n for n in near if takes(n, binding.parameter)]
                yield registry.nearest(thing.name, able)
        yield (
            f"Refer to it, remove it, or write '# {MAY_BE_UNUSED}' beside it."
        )


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
