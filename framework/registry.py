"""Turns builders into names that gin files and Python code can choose by.

A registered name is also a gin name: `@BACKBONES.register()` lets a gin file
write `@efficientnet_lite0` and `efficientnet_lite0.weights = None`. Things of
other libraries are adopted under the library's name, `@keras.RandomFlip()`.

Registering never changes the thing itself (a Keras 3 layer decorated with
`gin.configurable` cannot be constructed), so a *direct* call ignores what the
gin files bind. Reach a registered thing through a gin reference or through
`REGISTRY["name"]`, which both apply the bindings.
"""

import contextlib
import difflib
import functools
import inspect
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import gin
import keras

from framework.errors import UserError
from framework.ranges import Range

Thing = TypeVar("Thing", bound=Callable[..., Any])

_OWN_LIBRARY = "framework"

# Of `Registry.register`: the scope in which the thing itself is made.
OWN_SCOPE = ""

# Made already, where a reference to what makes them is expected.
MADE = (
    keras.layers.Layer,
    keras.losses.Loss,
    keras.optimizers.schedules.LearningRateSchedule,
)


class Registry:
    """The builders of one kind, by name.

    Args:
        kind: what the entries are, in the singular ("backbone"); error
            messages use it.
    """

    instances: ClassVar[list["Registry"]] = []

    def __init__(self, kind: str):
        self.instances.append(self)
        self.kind = kind
        self._things: dict[str, Callable[..., Any]] = {}
        self._given: dict[str, tuple[str, ...]] = {}
        self._scopes: dict[str, tuple[str, ...]] = {}
        self.roots: set[str] = set()

    def register(
        self,
        name: str | None = None,
        given: Sequence[str] = (),
        scopes: Sequence[str] = (),
        is_root: bool = False,
    ) -> Callable[[Thing], Thing]:
        """Records the decorated builder under `name`, its own by default.

        Values that a gin file binds are checked against the builder's type
        hints.

        Args:
            name: what gin files call it.
            given: parameters that the framework fills in, and no gin file may.
            scopes: gin scopes in which it has other things built, beside the
                one it is made in; `OWN_SCOPE` is that one.
            is_root: whether the framework asks for it by name, so that no gin
                file need refer to it, as for modes.

        Raises:
            UserError: the name is taken. The same thing defined again, as in
                a notebook or by a reloaded module, replaces the old one.
        """

        def decorator(thing: Thing) -> Thing:
            self._record(
                name or thing.__name__, thing, _OWN_LIBRARY, list(given)
            )
            self._scopes[name or thing.__name__] = tuple(scopes)
            if is_root or self.kind == "mode":
                self.roots.add(name or thing.__name__)
            return thing

        return decorator

    def adopt(
        self, library: str, thing: Callable[..., Any], name: str | None = None
    ) -> None:
        """Records another library's `thing` as `library.name`."""
        name = name or thing.__name__
        self._record(f"{library}.{name}", thing, library)

    def _record(
        self,
        key: str,
        thing: Callable[..., Any],
        library: str,
        given: list[str] | None = None,
    ) -> None:
        redefined = False
        if key in self._things:
            redefined = _origin(thing) == _origin(self._things[key])
            if not redefined:
                raise UserError(
                    f"The {self.kind} {key!r} is registered twice: by "
                    f"{_origin(self._things[key])} and by {_origin(thing)}. "
                    "Give one of them another name: "
                    '@....register("other_name").'
                )
        gin_name = key.rpartition(".")[2]
        allowed = (
            gin.config.interactive_mode()
            if redefined
            else contextlib.nullcontext()
        )
        # Other libraries check, or don't, what they are given.
        checked = thing if library != _OWN_LIBRARY else _checked(thing, key)
        try:
            with allowed, gin.unlock_config():
                gin.external_configurable(
                    checked, gin_name, module=library, denylist=given
                )
        except ValueError as error:
            raise UserError(
                f"The name {key!r} of {_origin(thing)} is already a gin name "
                f"of another kind of thing. Choose another one. ({error})"
            ) from error
        self._things[key] = thing
        self._given[key] = tuple(given or ())

    def parameters(self, name: str) -> tuple[str, ...]:
        """What a gin file may bind of the thing called `name`."""
        signature = inspect.signature(self._things[name])
        return tuple(
            p for p in signature.parameters if p not in self._given[name]
        )

    def default(self, name: str, parameter: str) -> Any:
        """What a parameter of the thing called `name` is if nobody says."""
        found = inspect.signature(self._things[name]).parameters[parameter]
        return None if found.default is found.empty else found.default

    def thing(self, name: str) -> Callable[..., Any]:
        """What is called `name`, as it was registered: for its docstring."""
        return self._things[name]

    def given(self, name: str) -> tuple[str, ...]:
        """What the framework fills in of the thing called `name`."""
        return self._given[name]

    def scopes(self, name: str) -> tuple[str, ...]:
        """The gin scopes in which the thing has others built."""
        return self._scopes.get(name, ())

    def library(self, name: str) -> str:
        """Whose the thing called `name` is: "keras", or "framework"."""
        return name.rpartition(".")[0] or _OWN_LIBRARY

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """The thing called `name`, with the gin bindings applied to it.

        Raises:
            UserError: nothing is called so; lists the nearest known names.
        """
        if name not in self._things:
            raise UserError(
                f"Unknown {self.kind} {name!r}. {nearest(name, self)} "
                f"Known: {', '.join(self) or 'none'}."
            )
        bare = name.rpartition(".")[2]
        return gin.get_configurable(f"{self.library(name)}.{bare}")

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things))

    def __len__(self) -> int:
        return len(self._things)


def current_scope() -> str:
    """The gin scope at work: "tune" while `@tune/Phase()` is made, or ""."""
    return gin.current_scope_str()


def in_scope(scope: str) -> contextlib.AbstractContextManager:
    """Inside, what gin files bind in that scope holds, and no other scope's."""
    # A text would be added to the scope at work.
    return gin.config_scope(scope.split("/") if scope else None)


def bound(name: str, parameter: str) -> Any:
    """What a parameter is bound to in the scope at work, None if it isn't."""
    return gin.get_bindings(name, resolve_references=False).get(parameter)


def find(name: str) -> "Registry | None":
    """The registry that has something called `name`, as gin files call it."""
    for registry in Registry.instances:
        if name in registry:
            return registry
    return None


def all_names() -> list[str]:
    """Everything registered, of whatever kind, by the name gin files use."""
    return [name for registry in Registry.instances for name in registry]


def nearest(name: str, known: Any, likely: Any = ()) -> str:
    """'Did you mean ...?' with up to three of the `known` names, or ''.

    Args:
        name: what was written.
        known: what could have been.
        likely: those of them that come first where several are as near.
    """
    close = closest(name, known, likely)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else ""


def closest(name: str, known: Any, likely: Any = ()) -> list[str]:
    """Up to three of the `known` names, the most similar one first."""

    def similarity(candidate: str) -> float:
        # Whoever forgets the library means the name behind it.
        bare = candidate.rpartition(".")[2]
        case = 0.01 * difflib.SequenceMatcher(None, name, candidate).ratio()
        return case + max(_ratio(name, candidate), _ratio(name, bare) - 0.01)

    likely = set(likely)
    scores = {each: similarity(each) for each in known}
    return sorted(
        (each for each in scores if scores[each] >= 0.5),
        key=lambda each: (-scores[each] - 0.05 * (each in likely), each),
    )[:3]


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()


def _origin(thing: Callable[..., Any]) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def hints(thing: Callable[..., Any]) -> dict[str, Any]:
    """The type hints of what a thing takes, by parameter, and its "return"."""
    hinted = thing.__init__ if isinstance(thing, type) else thing
    try:
        found = typing.get_type_hints(hinted, include_extras=True)
    except (NameError, TypeError):  # Hints that only a type checker resolves.
        return {}
    if isinstance(thing, type):
        found["return"] = thing
    return found


def _checked(thing: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`thing`, refusing arguments that don't fit its type hints."""
    signature = inspect.signature(thing)
    hinted = hints(thing)

    @functools.wraps(thing, updated=())
    def call(*args, **kwargs):
        bound = signature.bind_partial(*args, **kwargs)
        for parameter, value in bound.arguments.items():
            hint = hinted.get(parameter, Any)
            if not fits(value, hint):
                raise UserError(misfit(f"{name}.{parameter}", value, hint))
        return thing(*args, **kwargs)

    # gin reads the parameters here; it doesn't follow __wrapped__.
    call.__signature__ = signature
    return call


def misfit(parameter: str, value: Any, hint: Any) -> str:
    """What is told of a value that is not of the hinted type."""
    near = ""
    if isinstance(value, str):
        near = nearest(value, _choices(hint))
    return (
        f"{parameter} is {reprlib.repr(value)} ({type(value).__name__}); "
        f"expected {in_words(hint)}.{' ' * bool(near)}{near}"
    )


def fits(
    value: Any,
    hint: Any,
    stands_for: Callable[[Any, Any], bool | None] | None = None,
) -> bool:
    """Whether a value is of the hinted type; lenient where it can't tell.

    Args:
        value: what is given.
        hint: a type hint.
        stands_for: of a value and a hint, whether what the value stands for
            fits; None of one that stands for itself.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    each_fits = functools.partial(fits, stands_for=stands_for)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(each_fits(value, option) for option in arguments)
    if origin is Annotated:
        return each_fits(value, arguments[0]) and all(
            value in limit
            for limit in arguments[1:]
            if isinstance(limit, Range) and isinstance(value, numbers.Real)
        )
    if stands_for and (known := stands_for(value, hint)) is not None:
        return known
    if origin is Literal:
        # True is 1 to Python, but nobody means it.
        return any(
            value == each and isinstance(value, bool) is isinstance(each, bool)
            for each in arguments
        )
    if hint is None or hint is types.NoneType:
        return value is None
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if origin is Callable or hint is Callable:
        # Keras's schedules, layers and losses are callable too.
        return callable(value) and not isinstance(value, MADE)
    if origin in (Sequence, list, tuple) or hint in (list, tuple):
        # gin files don't tell lists from tuples.
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and arguments[1:] not in ((), (...,)):
            return len(value) == len(arguments) and all(
                map(each_fits, value, arguments)
            )
        item = arguments[0] if arguments else Any
        return all(each_fits(each, item) for each in value)
    if origin in (Mapping, dict):
        kinds = arguments or (Any, Any)
        return isinstance(value, Mapping) and all(
            each_fits(key, kinds[0]) and each_fits(item, kinds[1])
            for key, item in value.items()
        )
    try:
        return not isinstance(hint, type) or isinstance(value, hint)
    except TypeError:  # A protocol, or a mapping with named keys.
        return True


def _choices(hint: Any) -> list[str]:
    """The texts that a hint names."""
    if typing.get_origin(hint) is Literal:
        return [each for each in typing.get_args(hint) if isinstance(each, str)]
    return [
        choice
        for option in typing.get_args(hint)
        if not isinstance(option, Range)
        for choice in _choices(option)
    ]


def in_words(hint: Any) -> str:
    """A type hint as an error tells what it expects."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(in_words, arguments))
    if origin is Annotated:
        limits = [str(each) for each in arguments[1:]]
        return ", ".join([in_words(arguments[0]), *limits])
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if hint is types.NoneType:
        return "None"
    if origin is Callable or hint is Callable:
        made = arguments[1] if arguments else Any
        what = "a reference"
        if isinstance(made, type) and made is not Any:
            what += f" to what makes {a(made.__name__)}"
        return f"{what}, without parentheses (@name)"
    if origin in (Mapping, dict):
        values = arguments[1] if arguments else Any
        of = "" if values is Any else f" (each value {in_words(values)})"
        return f"a mapping, {{'name': value}}{of}"
    if origin is tuple and arguments[1:] not in ((), (...,)):
        return f"a list in brackets: {', '.join(map(in_words, arguments))}"
    if origin in (Sequence, list, tuple):
        items = {
            int: " of whole numbers",
            str: " of texts",
            float: " of numbers",
        }
        item = arguments[0] if arguments else Any
        limits = ""
        if typing.get_origin(item) is Annotated:
            item, *ranges = typing.get_args(item)
            limits = "".join(f", each {limit}" for limit in ranges)
        of = f"{items[item]}{limits}" if item in items else ""
        if isinstance(item, type) and item is not Any and not of:
            of = f" of {item.__name__}s, each made with parentheses"
            return f"a list{of}, [@name()], or what makes one, @name()"
        return f"a list{of}, in brackets"
    words = {
        int: "a whole number",
        float: "a number",
        str: "a text in quotes",
        bool: "True or False",
    }
    if hint in words:
        return words[hint]
    if isinstance(hint, type) and issubclass(hint, os.PathLike):
        return "a path, which no gin file can write (let it be hinted as str)"
    name = getattr(hint, "__name__", str(hint))
    return f"{a(name)}, made with parentheses (@name())"


def a(name: str) -> str:
    """A name after "a" or "an"."""
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


# What a gin file can choose between, by kind.
AUGMENTATIONS = Registry("augmentation layer")
BACKBONES = Registry("backbone")
CALLBACKS = Registry("callback")
HEADS = Registry("head")
MODES = Registry("mode")
OPTIMIZERS = Registry("optimizer")
PARTS = Registry("part")
SCHEDULES = Registry("learning rate schedule")
SOURCES = Registry("source")
TASKS = Registry("task")
