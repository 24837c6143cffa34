"""Turns a name into a task to start from: its file, a gin file and a test.

    python -m framework.new_task coins

writes tasks/coins.py, gin/coins.gin and tests/test_coins.py into the working
directory; they train, and the test passes, as they are. Nothing that is there
is overwritten.
"""

import argparse
import ast
import keyword
import os
import pathlib
import re
import sys
from collections.abc import Mapping

from framework.errors import UserError
from framework.noise import STARTUP, standard_error_without

# As in framework.main.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

KINDS = ("arrays", "folder", "tfds")
_TEMPLATES = pathlib.Path(__file__).resolve().parent / "templates"
# Lines of gin files begin so, and with no parameter then.
_GIN_WORDS = ("include", "import", "from")


def new_task(
    name: str,
    kind: str = "arrays",
    root: str = "photos",
    dataset: str = "rock_paper_scissors",
) -> dict[str, str]:
    """The files of a new task, from their paths to their texts.

    Args:
        name: of the task, and of its files.
        kind: where its pictures come from: "arrays" draws some in Python,
            "folder" reads a folder a class, "tfds" a data set of TFDS.
        root: of "folder": the directory that holds the classes' folders.
        dataset: of "tfds": what TFDS calls the data set.

    Raises:
        UserError: something else is called so, or it is no name.
    """
    _check_name(name)
    if kind not in KINDS:
        raise UserError(
            f"The kind is {kind!r}; expected one of {', '.join(KINDS)}."
        )
    if not re.fullmatch(r"[\w.+-]+(/[\w.+-]+)?(:[\w.*]+)?", dataset):
        raise UserError(
            f"--dataset is {dataset!r}; expected a name of TFDS: mnist, "
            "mnist:3.*.*, cifar10_corrupted/fog_5."
        )
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    templates.filters["quoted"] = _quoted
    values = {"name": name, "kind": kind, "root": root, "dataset": dataset}

    def rendered(template: str) -> str:
        return templates.get_template(template).render(values)

    gin_file = "arrays.gin.j2" if kind == "arrays" else "folder.gin.j2"
    made = {
        f"tasks/{name}.py": rendered(f"{kind}.py.j2"),
        f"gin/{name}.gin": rendered(gin_file),
        f"tests/test_{name}.py": rendered("test.py.j2"),
    }
    for path, text in made.items():
        if path.endswith(".py") and name in _names_in(text, but=name):
            raise UserError(
                f"The task is to be called {name!r}, and so is something that "
                f"{path} would use. Choose another name."
            )
    return made


def write(files: Mapping[str, str], folder: str | os.PathLike = ".") -> None:
    """Writes all of the files, or none.

    Raises:
        UserError: one of them is there, or can't be written.
    """
    folder = pathlib.Path(folder)
    for package in ("tasks", "gin"):
        if (folder / package / "__init__.py").exists():
            raise UserError(
                f"There is {package}/__init__.py, which hides what is "
                f"installed under the name {package!r}. Expected a folder "
                "without it; remove it, or work in another directory."
            )
    there = [path for path in files if os.path.lexists(folder / path)]
    if there:
        raise UserError(
            f"There is {' and '.join(there)} already, and nothing is "
            "overwritten. Choose another name, or move it away."
        )
    made: list[pathlib.Path] = []
    try:
        for path, text in files.items():
            whole = folder / path
            if not whole.parent.is_dir():
                whole.parent.mkdir()
                made.append(whole.parent)
            with open(whole, "x", encoding="utf-8") as file:
                made.append(whole)
                file.write(text)
    except BaseException as error:
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()
        if isinstance(error, OSError):
            raise UserError(
                f"{error.filename} can't be written: {error.strerror}. "
                "Expected a directory that you may write to; nothing was "
                "written."
            ) from error
        raise


def _check_name(name: str) -> None:
    """Refuses what is no name, or another thing's.

    Raises:
        UserError: it is one of these.
    """
    if (
        not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name)
        or keyword.iskeyword(name)
        or name in _GIN_WORDS
    ):
        what = "a word of Python's or gin's own"
        if not (keyword.iskeyword(name) or name in _GIN_WORDS):
            what = "no name that Python, gin and a file can have"
        raise UserError(
            f"Received {name!r}, {what}. Expected letters, digits and "
            "underscores, a letter first: coins, my_birds2."
        )
    with standard_error_without(STARTUP):
        from framework import describing
        from framework.configuration import names, shipped_gin_files
    describing.import_all()
    # gin names things by their last part, too: Adam is keras.Adam.
    if names.find(name):
        raise UserError(
            f"{name!r} is registered already: see --describe={name}. Choose "
            "another name."
        )
    taken = [f"gin/{name}.gin", f"tasks/{name}.py"]
    if taken[0] in shipped_gin_files():
        raise UserError(
            f"A gin file {taken[0]} is shipped with the framework, and yours "
            "would hide it. Choose another name."
        )


def _names_in(text: str, but: str) -> set[str]:
    """What Python source names, without the function that is called `but`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.FunctionDef) and node.name != but:
            found.add(node.name)
    return found


def _quoted(text: str) -> str:
    """A literal of Python and gin, in the double quotes of the templates."""
    made = repr(text)
    if made.startswith("'") and '"' not in made and "\\" not in made:
        return f'"{made[1:-1]}"'
    return made


def main(argv: list[str] | None = None) -> None:
    """Writes what the command line asks for; exits with 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m framework.new_task",
        description="Writes tasks/NAME.py, gin/NAME.gin and tests/test_NAME.py"
        " into the working directory, to start a task of your own from.",
    )
    parser.add_argument("name", metavar="NAME", help="of the task: coins")
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="arrays",
        help="where pictures come from: drawn or read in Python (the default; "
        "it draws some, so that it trains at once), a folder a class, or a "
        "data set of TensorFlow Datasets",
    )
    parser.add_argument(
        "--root", help="with --kind=folder: the directory, photos by default"
    )
    parser.add_argument(
        "--dataset", help="with --kind=tfds: what TFDS calls the data set"
    )
    asked = parser.parse_args(argv)
    for flag, kind in (("root", "folder"), ("dataset", "tfds")):
        if getattr(asked, flag) is not None and asked.kind != kind:
            parser.error(
                f"--{flag} is given with --kind={asked.kind}; expected "
                f"--kind={kind}"
            )
    if asked.kind == "tfds" and not asked.dataset:
        parser.error("--kind=tfds needs a data set: --dataset=mnist")
    given = {
        flag: value
        for flag in ("root", "dataset")
        if (value := getattr(asked, flag)) is not None
    }
    try:
        files = new_task(asked.name, asked.kind, **given)
        write(files)
    except UserError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        sys.exit(2)
    print("Written: " + ", ".join(files))
    if asked.kind == "folder" and not os.path.isdir(asked.root or "photos"):
        print(f"Put pictures into {asked.root or 'photos'}/<class>/.")
    print(
        f"""Next:
    python -m framework.main --gin_file=gin/{asked.name}.gin --mode=show_batch
    python -m framework.main --gin_file=gin/{asked.name}.gin
    python -m pytest tests/test_{asked.name}.py"""
    )


if __name__ == "__main__":
    main()
