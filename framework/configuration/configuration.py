"""Turns gin files, bindings and imports into a configuration, and back."""

import contextlib
import copy
import functools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gin

from framework.configuration import checking, reading
from framework.configuration.files import find_gin_file, open_gin_file
from framework.configuration.importing import import_named, import_registered
from framework.configuration.provenance import provenance
from framework.configuration.uses import Key, Uses
from framework.errors import UserError
from framework.registry import BACKBONES, MODES, all_names, find
from framework.task import Task


class Configuration:
    """What one run was asked to do.

    Attributes:
        name: of the gin file, without folder and ending; names the run.
        asked: the text of everything that was given, for `config.gin`.
    """

    def __init__(
        self,
        gin_file: str | os.PathLike,
        bindings: Sequence[str] = (),
        imports: Sequence[str] = (),
    ):
        """Imports plug-ins, then parses; replaces any configuration before.

        Args:
            gin_file: path, or the name of a shipped one.
            bindings: gin lines that override it ("train.epochs = 3").
            imports: modules that register tasks or parts.

        Raises:
            UserError: with all that is wrong, and where.
        """
        bindings = listed("bindings", bindings)
        imports = listed("imports", imports)
        if not isinstance(gin_file, (str, os.PathLike)):
            raise UserError(
                f"gin_file is {gin_file!r}; expected the path of a gin file, "
                "or the name of a shipped one ('gin/smoke.gin')."
            )
        gin_file = os.fspath(gin_file)
        path = find_gin_file(gin_file)
        self.name = os.path.splitext(os.path.basename(path))[0]
        self._imports = list(imports)
        self._imports += import_registered()
        import_named(imports)
        with open_gin_file(path) as file:
            text = file.read()
        self.asked = text.rstrip("\n") + "\n"
        self.asked += "".join(f"import {module}\n" for module in imports)
        self.asked += overriding(bindings)
        gin.clear_config()
        self._text, problems = reading.read(gin_file, bindings)
        # What can't be read may be what the rest lacks.
        refuse(problems or checking.check(self._text))
        gin.parse_config_files_and_bindings(
            [path], list(bindings), finalize_config=True
        )

    def call(self, mode: str, **arguments):
        """Calls a mode with what the configuration binds.

        Raises:
            UserError: a required argument is not bound.
        """
        self._share_with(mode)
        given = MODES.given(mode)
        arguments = {k: v for k, v in arguments.items() if k in given}
        return self._told(MODES[mode], **arguments)

    def _placed(self, message: str) -> str:
        """A message, and where that is bound which it speaks of."""
        places = {}
        for binding in self._text.bindings():
            if not binding.name:
                continue
            key = f"{binding.name}.{binding.parameter}"
            if re.search(rf"(?<![\w.]){re.escape(key)}\b", message):
                places[key] = binding.place
        if not places:
            return message
        return f"{message} ({', '.join(map(str, places.values()))})"

    def _share_with(self, mode: str) -> None:
        """What a gin file says to train on, it says to examine, too.

        A parameter that a mode has in common with `train` and that is not
        bound has the value it has there.
        """
        shared = {
            name: f"train.{name}"
            for name in MODES.parameters(mode)
            if mode != "train" and name in MODES.parameters("train")
        }
        values = {name: _bound(origin) for name, origin in shared.items()}
        if "image_size" in MODES.parameters(mode):
            values["image_size"] = _image_size()
        with gin.unlock_config():
            for name, value in values.items():
                parameter = f"{mode}.{name}"
                if value is not None and not _is_bound(parameter):
                    gin.bind_parameter(parameter, value)

    def task(self) -> Task:
        """Makes the task that is trained on.

        Raises:
            UserError: none is bound.
        """
        # This is how gin makes what is written with parentheses.
        made = copy.deepcopy(_bound("train.task"))
        if not isinstance(made, Task):
            raise UserError(
                f"train.task is {made!r}; expected a task, made with "
                "parentheses (@rock_paper_scissors())."
            )
        return made

    def make(self, name: str):
        """Makes the registered thing of that name from what is bound of it.

        Raises:
            UserError: a required parameter is not bound, or a value doesn't
                fit.
        """
        return self._told(find(name)[name])

    def _told(self, call: Callable[..., Any], **arguments):
        """Calls; a user's mistake is told with where it is, without gin's."""
        try:
            return call(**arguments)
        except UserError as error:
            # Without gin's account of the functions it came through.
            raise UserError(self._placed(error.message)) from error
        except (TypeError, ValueError) as error:
            mistake = _mistake(str(error))
            if mistake is None:
                raise
            raise UserError(self._placed(mistake)) from error

    def whole(self) -> str:
        """All that is bound, used or not, and what was imported."""
        lines = [f"import {m}" for m in dict.fromkeys(self._imports)]
        return "\n".join([*lines, gin.config_str()])

    @functools.cached_property
    def _uses(self) -> Uses:
        return Uses(self._text)

    def printed(self, mode: str = "train") -> str:
        """All that a mode would take, and where each value comes from."""
        return provenance(self._text, mode)

    def bound(self) -> dict[Key, reading.Binding]:
        """What holds in the end, by scope, selector and parameter."""
        return self._uses.final

    def rebind(self, parameter: str, value: Any) -> None:
        """Binds a parameter to a value that no gin file could write."""
        with gin.unlock_config():
            gin.bind_parameter(parameter, value)

    def resolved(self, value: Any) -> Any:
        """A value as written, with what its macros stand for."""
        return self._uses.resolved(value)

    def binds(self, parameter: str) -> bool:
        """Whether a parameter is bound, be it to None."""
        return _is_bound(parameter)

    def operative(self) -> str:
        """The configuration as used, with the imports it needs to replay."""
        text = gin.operative_config_str()
        # gin writes down what the gin files imported; a module that a flag or
        # an entry point imported would be missing when the run is repeated.
        lines = [
            f"import {module}"
            for module in dict.fromkeys(self._imports)
            if not re.search(rf"^import {re.escape(module)}$", text, re.M)
        ]
        # It was used, be it by code that names things itself.
        return "\n".join([reading.ALL_MAY_BE_UNUSED, *lines, text])


def listed(name: str, texts: Iterable[str] | None) -> tuple[str, ...]:
    """Some texts, given in whatever holds texts; None for no text.

    Raises:
        UserError: it is one text, or holds something else.
    """
    found = () if texts is None else texts
    if not isinstance(found, str):
        with contextlib.suppress(TypeError):
            found = tuple(found)
            if all(isinstance(each, str) for each in found):
                return found
    raise UserError(
        f"{name} is {texts!r}; expected a list of texts, ['train.epochs = 3']."
        if name == "bindings"
        else f"{name} is {texts!r}; expected a list of texts."
    )


def overriding(bindings: Sequence[str]) -> str:
    """Lines to end a gin file with that may bind anew what it binds."""
    if not bindings:
        return ""
    return "\n".join([reading.OVERRIDES, *bindings, ""])


def operative_now() -> str:
    """What the calls since the last `Configuration` have used of it."""
    return gin.operative_config_str()


def bindings(text: str) -> dict[str, str]:
    """What a text of `operative` binds, value by parameter."""
    bound: dict[str, str] = {}
    parameter = None
    for line in text.splitlines():
        start = re.match(r"([\w./]+)\s*=\s*(.*)", line)
        if start:
            parameter, bound[parameter] = start[1], start[2].rstrip("\\")
        elif parameter and line.startswith(" "):
            bound[parameter] += " ".join(line.split())
        else:
            parameter = None
    return {name: " ".join(value.split()) for name, value in bound.items()}


def _bound(parameter: str):
    """What a parameter is bound to, None if it isn't."""
    try:
        return gin.query_parameter(parameter)
    except ValueError:
        return None


def _is_bound(parameter: str) -> bool:
    """Whether it is, be it to None."""
    try:
        gin.query_parameter(parameter)
    except ValueError:
        return False
    return True


def _image_size() -> int | None:
    """The side of the model's input, as far as the configuration says."""
    bound = _bound("classifier.image_size")
    if bound is not None:
        return bound
    name = str(_bound("classifier.backbone")).removeprefix("@")
    return BACKBONES.default(name, "image_size") if name in BACKBONES else None


def _mistake(message: str) -> str | None:
    """Tells a user's mistake from ours by what gin adds to an error."""
    calls = re.findall(
        r"In call to configurable '([^']+)' \(.*\)(?: in scope '([^']+)')?",
        message,
    )
    if not calls:
        return None
    callers = [name for name, _ in calls]
    missing = re.search(
        r"No values supplied by Gin or caller for arguments: \[(.*?)\]", message
    )
    if missing:
        name, scope = calls[0]
        owner = f"{scope}/{name}" if scope else name
        names = [
            f"{owner}.{each.strip()[1:-1]}"
            for each in missing.group(1).split(",")
        ]
        registry = find(callers[0])
        if registry and missing.group(1).split("'")[1] not in (
            registry.parameters(callers[0])
        ):
            return (
                f"@{callers[0]} is called without what the framework gives to "
                f"a {registry.kind}. Either it stands where something else "
                f"belongs, or it is written with parentheses: expected "
                f"@{callers[0]} without."
            )
        return (
            f"The configuration leaves open: {', '.join(names)}. Bind it in "
            "the gin file or with --gin_param (see gin/smoke.gin for an "
            "example of each)."
        )
    # A layer or an optimizer of another library that refuses its arguments.
    adopted = [
        name
        for name in all_names()
        if "." in name and name.endswith(f".{callers[0]}")
    ]
    if not adopted:
        return None
    reason = message[: message.index("In call to configurable")].strip()
    return f"{' or '.join(adopted)} refuses its arguments: {reason}"


def refuse(problems: Sequence[reading.Problem]) -> None:
    """Raises a UserError that tells all problems, if there are any."""
    if len(problems) == 1:
        raise UserError(str(problems[0]))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(
            f"The configuration has {len(problems)} mistakes:\n{lines}"
        )
