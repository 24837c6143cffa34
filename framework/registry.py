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
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import gin

from framework.errors import UserError

Thing = TypeVar("Thing", bound=Callable[..., Any])

_OWN_LIBRARY = "framework"


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

    def register(self, name: str | None = None) -> Callable[[Thing], Thing]:
        """Records the decorated builder under `name`, its own by default.

        Raises:
            UserError: the name is taken. A notebook cell that defines the
                same thing again replaces it.
        """

        def decorator(thing: Thing) -> Thing:
            self._record(name or thing.__name__, thing, _OWN_LIBRARY)
            return thing

        return decorator

    def adopt(
        self, library: str, thing: Callable[..., Any], name: str | None = None
    ) -> None:
        """Records another library's `thing` as `library.name`."""
        name = name or thing.__name__
        self._record(f"{library}.{name}", thing, library)

    def _record(
        self, key: str, thing: Callable[..., Any], library: str
    ) -> None:
        redefined = False
        if key in self._things:
            old = self._things[key]
            redefined = (
                thing.__module__ == old.__module__ == "__main__"
                and thing.__qualname__ == old.__qualname__
            )
            if not redefined:
                raise UserError(
                    f"The {self.kind} {key!r} is registered twice: by "
                    f"{_origin(old)} and by {_origin(thing)}. Give one of "
                    f'them another name: @....register("other_name").'
                )
        gin_name = key.rpartition(".")[2]
        allowed = (
            gin.config.interactive_mode()
            if redefined
            else contextlib.nullcontext()
        )
        try:
            with allowed, gin.unlock_config():
                gin.external_configurable(thing, gin_name, module=library)
        except ValueError as error:
            raise UserError(
                f"The name {key!r} of {_origin(thing)} is already a gin name "
                f"of another kind of thing. Choose another one. ({error})"
            ) from error
        self._things[key] = thing

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


def all_names() -> dict[str, Callable[..., Any]]:
    """Everything registered, of whatever kind, by the name gin files use."""
    return {
        name: thing
        for registry in Registry.instances
        for name, thing in registry._things.items()
    }


def nearest(name: str, known: Any) -> str:
    """'Did you mean ...?' with up to three of the `known` names, or ''."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else ""


def _origin(thing: Callable[..., Any]) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


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
