"""Turns what is registered into texts that one can choose by."""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from framework import registry as registries
from framework.configuration import import_named, import_registered
from framework.errors import UserError
from framework.model.backbones.facts import facts
from framework.registry import BACKBONES, MODES, Registry, all_names, find

_WIDTH = 80
_EMPTY = inspect.Parameter.empty
# Where the shipped tasks lie, in a checkout as in an installation.
_SHIPPED = pathlib.Path(__file__).resolve().parent.parent / "tasks"
_MODES = pathlib.Path(__file__).resolve().parent / "modes"
# Modes that take finished runs and nothing of a gin file: what they are given.
OF_RUNS = {
    "compare": "RUN RUN ...",
    "evaluate": "RUN FOLDER",
    "explain": "RUN PICTURE ...",
    "export": "RUN",
    "predict": "RUN PICTURE ...",
    "serve": "RUN",
}
# How a gin file asks for what is registered, by its kind; or by its name.
_ASKED = {
    "augmentation layer": "classifier.augmentation = [@{}()]",
    "backbone": "classifier.backbone = @{}",
    "callback": "train.callbacks = [@{}()]",
    "head": "classifier.head = @{}",
    "learning rate schedule": "train.schedule = @{}",
    "optimizer": "train.optimizer = @{}",
    "task": "train.task = @{}()",
    "Checkpoints": "train.checkpoints = @{}()",
    "CutMix": "train.mixing = [@{}()]",
    "EarlyStopping": "train.early_stopping = @{}()",
    "Export": "train.export = @{}()",
    "MixUp": "train.mixing = [@{}()]",
    "Phase": "train.phases = [@head/{}(), @tune/{}()]",
    "TestTimeAugmentation": "train.test_time_augmentation = @{}()",
    "choice": "search.space = {{'softmax_head.hidden': @hidden/{}()}}",
    "classifier": "train.classifier = @{}",
    "distribution": "train.distribution = @{}()",
    "fine_tune": "train.phases = @{}()",
    "integer": "search.space = {{'train.batch_size': @size/{}()}}",
    "log_uniform": "search.space = {{'keras.Adam.learning_rate': @rate/{}()}}",
    "pipeline": "train.pipeline = @{}()",
    "uniform": "search.space = {{'softmax_head.dropout': @dropout/{}()}}",
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What of a thing a gin file may bind.

    Attributes:
        name: "patience".
        default: as a gin file would have it; "..." where there is none.
        required: whether it has to be bound.
        takes: of what type, in words; "" where the thing does not say.
        text: what its docstring says of it, on one line, or "".
    """

    name: str
    default: str
    required: bool
    takes: str
    text: str


@dataclasses.dataclass(frozen=True)
class Description:
    """What one registered thing is.

    Attributes:
        name: as gin files have it.
        kind: the registry's.
        origin: module and name of the builder.
        text: its docstring, whole.
        about: the docstring without its sections.
        errors: of the docstring's section "Raises", (error, when).
        parameters: what may be bound.
        given: what the framework fills in, among what it takes.
        asked: lines of a gin file, or of a shell, that ask for it.
        facts: of a backbone, what is known of it, a text each.
    """

    name: str
    kind: str
    origin: str
    text: str
    about: str
    errors: tuple[tuple[str, str], ...]
    parameters: tuple[Parameter, ...]
    given: tuple[str, ...]
    asked: str
    facts: tuple[tuple[str, str], ...]

    @property
    def summary(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.about.split("\n\n")[0].split())

    @property
    def is_own(self) -> bool:
        """Whether this framework wrote it."""
        return self.origin.startswith(("framework.", "tasks."))


def listing(imports: Sequence[str] = ()) -> str:
    """All that gin files can name, by kind, with a line on each.

    Loads no data and makes no layer.

    Args:
        imports: modules that register more.
    """
    left_out = import_all(imports)
    parts = []
    for registry in Registry.instances:
        lines = {name: _summary(registry.thing(name)) for name in registry}
        if registry is BACKBONES:
            lines |= _columns(registry)
        elif registry is MODES:
            lines |= {n: _summary_of_mode(n) for n in OF_RUNS}
        if not lines:
            continue
        # The longest names of backbones have no columns, which would not fit.
        widths = [
            len(n) for n in lines if registry is not BACKBONES or facts(n)
        ]
        heads = {
            name: f"  {name:<{max(widths, default=0)}}  " for name in lines
        }
        rows = [_fitted(heads[name], lines[name]) for name in sorted(lines)]
        parts.append("\n".join([f"{registry.kind.capitalize()}s", *rows]))
    parts += left_out
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
    left_out = import_all(imports)
    name = name.removeprefix("@").removesuffix("()")
    if name in OF_RUNS:
        return "\n\n".join(
            [
                f"{name}: mode, of finished runs",
                _documented_mode(name),
                f"From the command line:\n\n    {_command(name)}",
            ]
        )
    if find(name) is None:
        near = registries.nearest(name, [*all_names(), *OF_RUNS])
        raise UserError(
            " ".join(
                [
                    f"Nothing is called {name!r}.",
                    *filter(None, [near]),
                    "--list names all.",
                    *left_out,
                ]
            )
        )
    found = description(name)
    made = [f"{name}: {found.kind}, {found.origin}"]
    if found.text:
        made.append(found.text)
    if found.facts:
        made.append(
            "\n".join(f"{what}: {value}" for what, value in found.facts)
        )
    if found.given:
        made.append(f"The framework fills in: {', '.join(found.given)}.")
    if found.asked:
        where = "a gin file" if "--" not in found.asked else "a shell"
        made.append(f"In {where}:\n\n" + _indented(found.asked))
    if found.parameters:
        lines = ["Bindings, as they are if nobody says otherwise:", ""]
        for each in found.parameters:
            line = f"    {name}.{each.name} = {each.default}"
            hints = [each.takes, "has to be bound" if each.required else ""]
            hint = "; ".join(filter(None, hints))
            lines.append(f"{line}  # {hint}" if hint else line)
        made.append("\n".join(lines))
    return "\n\n".join(made)


def description(name: str) -> Description:
    """What is called `name`, of which there must be something."""
    registry = find(name)
    thing = registry.thing(name)
    text = inspect.getdoc(thing) or ""
    about, sections = _sections(text)
    documented = {**sections.get("Args", {}), **sections.get("Attributes", {})}
    if registry is MODES:
        # Those of a mode's recipe stand where that is defined.
        from framework.modes.recipe import Recipe

        _, of_recipe = _sections(inspect.getdoc(Recipe) or "")
        documented = {**of_recipe["Attributes"], **documented}
    signature = inspect.signature(thing)
    hints = registries.hints(thing)
    # Others' hints are not meant to be read: see `names.Thing`.
    own = thing.__module__.startswith(("framework.", "tasks."))
    parameters = []
    for each in registry.parameters(name):
        taken = signature.parameters[each]
        if taken.kind in (taken.VAR_KEYWORD, taken.VAR_POSITIONAL):
            continue
        hint = hints.get(each, Any)
        parameters.append(
            Parameter(
                name=each,
                default=_default(taken),
                required=taken.default is _EMPTY,
                takes=(
                    registries.in_words(hint) if own and hint is not Any else ""
                ),
                text=documented.get(each, ""),
            )
        )
    asked = _ASKED.get(name, _ASKED.get(registry.kind, ""))
    asked = [asked.format(*[name] * asked.count("{}"))] if asked else []
    if registry is MODES and name != "train":
        asked = [_command(name)]
    for each in parameters if "--" not in "".join(asked) else ():
        if example := _example(each):
            asked.append(f"{name}.{each.name} = {example}")
            break
    return Description(
        name=name,
        kind=registry.kind,
        origin=f"{thing.__module__}.{thing.__qualname__}",
        text=text,
        about=about,
        errors=tuple(sections.get("Raises", {}).items()),
        parameters=tuple(parameters),
        # A mode's are those of its Python function.
        given=() if registry is MODES else registry.given(name),
        asked="\n".join(asked),
        facts=_facts(name) if registry is BACKBONES else (),
    )


def import_all(
    imports: Sequence[str] = (), only_shipped: bool = False
) -> list[str]:
    """Imports what registers names: ours, the tasks', what is asked for.

    Args:
        imports: modules that register more, beside the shipped tasks and those
            of a folder `tasks` in the working directory.
        only_shipped: the latter not.

    Returns:
        sentences on what of the user's can't be imported, and why.

    Raises:
        UserError: a module of `imports` can't be found.
    """
    import_registered()
    left_out = []
    # A package of several places: ours, and the user's own.
    package = importlib.import_module("tasks")
    places = [str(_SHIPPED)] if only_shipped else package.__path__
    for module in pkgutil.iter_modules(places):
        name = f"tasks.{module.name}"
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            why = error.message if isinstance(error, UserError) else str(error)
            left_out.append(
                f"Left out: {name}, which can't be imported "
                f"({type(error).__name__}: {why})."
            )
    import_named(imports)
    return left_out


def documented_modes() -> dict[str, tuple[str, str]]:
    """Of each mode that takes finished runs its text, and how to ask for it."""
    return {n: (_documented_mode(n), _command(n)) for n in OF_RUNS}


def _command(mode: str) -> str:
    if mode in OF_RUNS:
        return f"python -m framework.main --mode={mode} {OF_RUNS[mode]}"
    return f"python -m framework.main --gin_file=gin/smoke.gin --mode={mode}"


def _documented_mode(name: str) -> str:
    # Read and not imported: each takes a library more to answer than to name.
    source = ast.parse((_MODES / f"{name}.py").read_text("utf-8"))
    (function,) = (
        node
        for node in source.body
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    # Its parameters are those of Python; the flags have their own texts.
    about, _ = _sections(ast.get_docstring(function) or "")
    return about


def _summary_of_mode(name: str) -> str:
    return " ".join(_documented_mode(name).split("\n\n")[0].split())


def _summary(thing: Callable[..., Any]) -> str:
    """The first paragraph of a docstring, on one line."""
    text = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return " ".join(text.split())


def _facts(name: str) -> tuple[tuple[str, str], ...]:
    known, found = facts(name), []
    if known:
        found = [
            ("Pixels inside, made of 0..255", known.input_range),
            ("Side of its images", f"{known.image_size} px"),
            ("Parameters, without a head", f"{known.parameters:,}"),
        ]
    return (*found, ("Weights", _weights(name)))


def _weights(name: str) -> str:
    default = BACKBONES.default(name, "weights")
    return {"imagenet": "ImageNet", "preset": "preset", None: "random"}[default]


def _columns(names: Iterable[str]) -> dict[str, str]:
    """By backbone: side of the images, parameters, weights, range of pixels."""
    lines = {}
    for name in names:
        if known := facts(name):
            lines[name] = (
                f"{known.image_size:>3} px  {_millions(known.parameters):>7}  "
                f"{_weights(name):<8}  {known.input_range}"
            )
    return lines


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"


def _sections(text: str) -> tuple[str, dict[str, dict[str, str]]]:
    """A docstring's text before its sections, and what these say of each name.

    Both of Google's style: a heading ("Args:"), names with a colon below, what
    is said of them, further lines of which are indented more.
    """
    head = r"^(Args|Arguments|Attributes|Raises|Returns|Yields|Reference|"
    head += r"References|Input shape|Output shape|Call arguments|Example|"
    head += r"Examples|Note|Notes|Inputs):\s*$"
    parts = re.split(head, text, flags=re.MULTILINE)
    sections = {}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        entries: dict[str, str] = {}
        names: list[str] = []
        body = textwrap.dedent(body.strip("\n"))
        for line in body.splitlines():
            if not line.strip() and names:
                continue
            # One line may be of several: "UserError, OSError: ...".
            start = re.match(r"([\w*`, ]+):(?:\s+(.*))?$", line)
            if start and not line.startswith(" "):
                names = [n.strip("`* ") for n in start[1].split(",")]
                for name in names:
                    entries[name] = start[2] or ""
            elif names and line.startswith(" "):
                for name in names:
                    entries[name] = f"{entries[name]} {line.strip()}".strip()
            else:
                break
        sections[title] = entries
    return parts[0].strip(), sections


def _example(parameter: Parameter) -> str | None:
    """A value that may be bound, where one can be told."""
    if not parameter.required and parameter.default not in ("None", "..."):
        return None if "<" in parameter.default else parameter.default
    return {
        "a number": "0.1",
        "a whole number": "3",
        "a list, in brackets": "[1, 2]",
    }.get(parameter.takes)


def _fitted(head: str, text: str) -> str:
    if len(text) <= _WIDTH - len(head):  # Columns keep their blanks.
        return (head + text).rstrip()
    # By hand: textwrap would take columns apart.
    kept = text[: max(20, _WIDTH - len(head)) - 3].rpartition(" ")[0]
    return f"{head}{kept.rstrip()} ...".replace("   ...", "  ...")


def _indented(text: str) -> str:
    return textwrap.indent(text, "    ")


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is _EMPTY:
        return "..."
    value = parameter.default
    if isinstance(value, str | int | float | bool | tuple | list | type(None)):
        return repr(value)
    return f"<{type(value).__name__}>"
