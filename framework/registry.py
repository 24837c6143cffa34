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
import reprlib
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import gin
import keras

from framework.errors import UserError

Thing = TypeVar("Thing", bound=Callable[..., Any])

_OWN_LIBRARY = "framework"

# Made already, where a reference to what makes them is expected.
_MADE = (
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

    def register(
        self, name: str | None = None, given: Sequence[str] = ()
    ) -> Callable[[Thing], Thing]:
        """Records the decorated builder under `name`, its own by default.

        Values that a gin file binds are checked against the builder's type
        hints.

        Args:
            name: what gin files call it.
            given: parameters that the framework fills in, and no gin file may.

        Raises:
            UserError: the name is taken. The same thing defined again, as in
                a notebook or by a reloaded module, replaces the old one.
        """

        def decorator(thing: Thing) -> Thing:
            self._record(
                name or thing.__name__, thing, _OWN_LIBRARY, list(given)
            )
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
        library, _, bare = name.rpartition(".")
        return gin.get_configurable(f"{library or _OWN_LIBRARY}.{bare}")

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


def nearest(name: str, known: Any) -> str:
    """'Did you mean ...?' with up to three of the `known` names, or ''."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else ""


def _origin(thing: Callable[..., Any]) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _checked(thing: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`thing`, refusing arguments that don't fit its type hints."""
    signature = inspect.signature(thing)
    hinted = thing.__init__ if isinstance(thing, type) else thing
    try:
        hints = typing.get_type_hints(hinted)
    except (NameError, TypeError):  # Hints that only a type checker resolves.
        hints = {}

    @functools.wraps(thing, updated=())
    def call(*args, **kwargs):
        bound = signature.bind_partial(*args, **kwargs)
        for parameter, value in bound.arguments.items():
            hint = hints.get(parameter, Any)
            if not _fits(value, hint):
                raise UserError(
                    f"{name}.{parameter} is {reprlib.repr(value)} "
                    f"({type(value).__name__}); expected {_in_words(hint)}."
                )
        return thing(*args, **kwargs)

    # gin reads the parameters here; it doesn't follow __wrapped__.
    call.__signature__ = signature
    return call


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the hinted type; lenient where it can't tell."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if hint is Any:
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        # True is an int to Python, but nobody means it.
        return isinstance(value, kind) and not isinstance(value, bool)
    if origin is Callable or hint is Callable:
        # Keras's schedules, layers and losses are callable too.
        return callable(value) and not isinstance(value, _MADE)
    if origin in (Sequence, list, tuple):
        items = arguments[:1] if arguments else [Any]
        return isinstance(value, (list, tuple)) and all(
            _fits(item, items[0]) for item in value
        )
    if isinstance(hint, type):
        return isinstance(value, hint)
    return True


def _in_words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_in_words, arguments))
    if hint is types.NoneType:
        return "None"
    if origin is Callable or hint is Callable:
        return "a reference without parentheses (@name)"
    if origin in (Sequence, list, tuple):
        items = {
            int: " of whole numbers",
            str: " of texts",
            float: " of numbers",
        }
        item = arguments[0] if arguments else None
        of = items.get(item, "")
        if isinstance(item, type) and not of:
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
    name = getattr(hint, "__name__", str(hint))
    return f"a {name}, made with parentheses (@name())"


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
