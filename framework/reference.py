"""Turns what is registered, and the command lines' flags, into Markdown pages.

    python -m framework.reference docs/reference

writes them anew (`make docs`). The same for the same versions of this and of
Keras, whatever the machine, the working directory and what is installed
beside.
"""

import argparse
import importlib
import os
import pathlib
import re
import sys

from absl import flags

from framework.noise import STARTUP, standard_error_without

# As in framework.main.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_OURS = ("framework", "tasks", "keras", "keras_cv")
# Those that parse their flags by absl; `framework.launch` has its own --help.
_COMMANDS = (
    "framework.main",
    "framework.sweep",
    "framework.data_service",
)
_OPENING = "<!-- Made by `make docs`; what is written here is lost. -->\n"
_SWEEPS = "sweep"


def pages() -> dict[str, str]:
    """All pages by file name; `README.md` leads to the others.

    What a user's packages or working directory register is left out.
    """
    with standard_error_without(STARTUP):
        import keras

        from framework import describing
        from framework.errors import UserError
        from framework.registry import Registry
    if left_out := describing.import_all(only_shipped=True):
        raise UserError(" ".join(left_out))
    kinds = {}
    for registry in Registry.instances:
        for name in registry:
            thing = registry.thing(name)
            if thing.__module__.partition(".")[0] not in _OURS:
                continue
            kind = registry.kind
            if thing.__module__.startswith("framework.sweeping"):
                kind = _SWEEPS
            kinds.setdefault(kind, []).append(describing.description(name))
    made, index = {}, []
    for kind in sorted(kinds):
        things = kinds[kind]
        file = f"{kind.replace(' ', '-')}s.md"
        title = f"{kind.capitalize()}s"
        of_runs = describing.documented_modes() if kind == "mode" else {}
        made[file] = _page(title, things, of_runs)
        names = sorted([*(each.name for each in things), *of_runs])
        links = ", ".join(f"[`{n}`]({file}#{_anchor(n)})" for n in names)
        index.append(f"## [{title}]({file})\n\n{links}\n")
    made["command-line.md"] = _command_line()
    made["README.md"] = "\n".join(
        [
            _OPENING,
            "# Reference\n",
            "Everything that a gin file can name, with what of it can be "
            "bound, and the [flags of the command line](command-line.md). "
            "`python -m framework.main --list` and `--describe=NAME` tell the "
            "same in a terminal, and of your own tasks and parts as well.\n",
            "What is of Keras is as Keras "
            f"{'.'.join(keras.__version__.split('.')[:2])} has it.\n",
            *index,
        ]
    )
    return made


def _page(title: str, things: list, of_runs: dict) -> str:
    parts = [_OPENING, f"# {title}\n"]
    if any(each.kind == "backbone" for each in things):
        parts.append(_table_of_backbones(things))
    sections = {each.name: _section(each) for each in things}
    for name, (text, command) in of_runs.items():
        sections[name] = (
            f"## `{name}`\n\n{_prose(text)}\n\n"
            "Works on what was trained already, without a gin file "
            "([flags](command-line.md)):\n\n"
            f"```\n{command}\n```\n"
        )
    parts += [sections[name] for name in sorted(sections)]
    return "\n".join(parts)


def _section(found) -> str:
    parts = [f"## `{found.name}`"]
    if found.is_own:
        parts.append(_prose(found.about))
    elif found.summary:
        # The rest is Keras's, in Keras's own documentation.
        parts.append(_prose(found.summary))
    if found.facts:
        parts.append(
            "\n".join(f"- {what}: {value}" for what, value in found.facts)
        )
    if found.asked:
        parts.append(f"```\n{found.asked}\n```")
    if found.parameters:
        parts.append(_table_of_parameters(found))
    if found.given:
        given = ", ".join(f"`{name}`" for name in found.given)
        parts.append(f"The framework fills in: {given}.")
    parts += [
        f"Refused (`{error}`): {_prose(when)}" for error, when in found.errors
    ]
    return "\n\n".join(parts) + "\n"


def _table_of_parameters(found) -> str:
    own = any(each.takes or each.text for each in found.parameters)
    what = "| what it is " if found.is_own and own else ""
    rows = [f"| binding | by default {what}|"]
    rows.append("|---|---|---|" if what else "|---|---|")
    for each in found.parameters:
        default = "has to be bound" if each.required else _code(each.default)
        row = f"| `{found.name}.{each.name}` | {default} |"
        if what:
            takes = _prose(each.takes).replace("'", "&#39;")
            told = [_prose(each.text), f"({takes})" if each.takes else ""]
            row += f" {_cell(' '.join(filter(None, told)))} |"
        rows.append(row)
    return "\n".join(rows)


def _table_of_backbones(things: list) -> str:
    heads = []
    rows = []
    for each in things:
        if len(each.facts) < 2:
            continue
        heads = [what for what, _ in each.facts]
        values = " | ".join(_cell(value) for _, value in each.facts)
        rows.append(f"| [`{each.name}`](#{_anchor(each.name)}) | {values} |")
    return "\n".join(
        [
            f"| backbone | {' | '.join(heads)} |",
            "|---" * (len(heads) + 1) + "|",
            *rows,
            "",
        ]
    )


def _command_line() -> str:
    parts = [_OPENING, "# Command line\n"]
    for command in _COMMANDS:
        module = importlib.import_module(command)
        known = flags.FLAGS.flags_by_module_dict().get(command, [])
        lines = (module.__doc__ or "").splitlines()
        parts.append(f"## `python -m {command}`\n\n{_prose(lines[0])}\n")
        parts.append("| flag | by default | |\n|---|---|---|")
        parts.append(
            "\n".join(
                f"| `--{flag.name}` | {_default_of(flag)} | "
                f"{_cell(_prose(_help(flag)))} |"
                for flag in sorted(known, key=lambda flag: flag.name)
            )
            + "\n"
        )
        # Two commands may have flags of one name.
        for flag in list(known):
            delattr(flags.FLAGS, flag.name)
    parts.append(
        "`python -m framework.launch` starts workers, `python -m "
        "framework.new_task` writes a task: see their `--help`.\n"
    )
    return "\n".join(parts)


def _help(flag: flags.Flag) -> str:
    """As it was written, without what absl adds for a terminal."""
    text = re.sub(r"^<[^>]*>: ", "", flag.help)
    return re.sub(r";\s+repeat this option.*", "", text, flags=re.DOTALL)


def _default_of(flag: flags.Flag) -> str:
    if flag.default is None or flag.default == []:
        return ""
    if isinstance(flag.default, list):
        return _code(",".join(flag.default))
    return _code(str(flag.default))


def _prose(text: str) -> str:
    """Text that Markdown shows as it stands, but for what is in backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        parts[i] = parts[i].replace("<", "&lt;").replace("*", r"\*")
    return "".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


def _anchor(name: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w-]", "", name.lower())


def main(argv: list[str] | None = None) -> None:
    """Writes the pages into the directory that the command names."""
    parser = argparse.ArgumentParser(
        prog="python -m framework.reference",
        description="Writes the reference: Markdown pages of all that gin "
        "files can name and of the flags.",
    )
    parser.add_argument("directory", help="where to: docs/reference")
    directory = pathlib.Path(parser.parse_args(argv).directory)
    made = pages()
    directory.mkdir(parents=True, exist_ok=True)
    for stale in set(directory.glob("*.md")) - {directory / n for n in made}:
        if stale.read_text("utf-8").startswith(_OPENING):
            stale.unlink()
    for name, text in made.items():
        (directory / name).write_text(text, "utf-8")
    print(f"{len(made)} pages in {directory}", file=sys.stdout)


if __name__ == "__main__":
    main()
