"""Turns what names pictures into the paths of files."""

import csv
import glob
import io
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

import tensorflow as tf

from framework.data.folder import EXTENSIONS, images_below, printable
from framework.data.limits import MAX_BYTES
from framework.errors import UserError

STANDARD_INPUT = "-"
TABLES = {".csv": ",", ".tsv": "\t"}
_COLUMN = "path"

Asked = str | os.PathLike | Sequence[str | os.PathLike]


def as_list(asked: Asked) -> list[str]:
    """One path or several, as texts."""
    if isinstance(asked, str | os.PathLike):
        asked = [asked]
    return [os.fspath(each) for each in asked]


def find(asked: Sequence[str], standard_input: TextIO | None = None):
    """The files that are meant, each once, in the order they are asked for.

    Tables and standard input are read as they are needed.

    Args:
        asked: files; folders (with all that is below, as in training: nothing
            hidden, no links to folders); patterns ("photos/*.jpg"); tables
            (".csv", ".tsv") with a column "path", relative to the table;
            "-" for standard input, a path a line. On this machine, or anything
            else that `tf.io.gfile` knows.
        standard_input: to read in place of the process's own.

    Returns:
        an iterator of paths.

    Raises:
        UserError: a name means nothing, or a table has no such column. What is
            not a table is found before the first path is returned.
    """
    named = [_named(name, standard_input) for name in asked]

    def each() -> Iterator[str]:
        # A hash is enough: millions of paths are remembered.
        seen: set[int] = set()
        for paths in named:
            for path in paths:
                key = hash(path)
                if key not in seen:
                    seen.add(key)
                    yield path

    return each()


def _named(name: str, standard_input: TextIO | None):
    if name == STANDARD_INPUT:
        if standard_input is None:
            # Names need not be valid in any encoding.
            sys.stdin.reconfigure(errors="surrogateescape")
        return _lines(standard_input or sys.stdin)
    try:
        found = _meant(name)
    except tf.errors.OpError as error:
        raise UserError(
            f"{printable(name)} can't be read: {error.message}."
        ) from error
    if isinstance(found, list) and not found:
        kinds = ", ".join(EXTENSIONS)
        raise UserError(
            f"There is no picture {printable(name)!r}. Expected a file, a "
            f"folder with files that end in {kinds}, a pattern that some "
            "match, a .csv with a column path, or - for standard input."
        )
    return found


def _meant(name: str) -> list[str] | Iterator[str]:
    remote = "://" in name
    if (tf.io.gfile.isdir if remote else os.path.isdir)(name):
        return images_below(name)
    elif (tf.io.gfile.exists if remote else os.path.exists)(name):
        # A file whose name looks like a pattern is meant itself.
        if os.path.splitext(name)[1].lower() in TABLES:
            return _rows(name)
        return [name]
    match = tf.io.gfile.glob if remote else glob.glob
    return [path for each in sorted(match(name)) for path in _meant(each)]


def _lines(file: TextIO) -> Iterator[str]:
    for line in file:
        if path := line.rstrip("\r\n"):
            yield path


def _rows(table: str) -> Iterator[str]:
    file = _text(table)
    # Cells may hold line ends of their own.
    rows = csv.reader(
        file, delimiter=TABLES[os.path.splitext(table)[1].lower()]
    )
    head = next(rows, [])
    if _COLUMN not in head:
        file.close()
        raise UserError(
            f"{printable(table)} has the columns "
            f"{', '.join(map(printable, head)) or 'none'}; "
            f"expected one called {_COLUMN}, of the pictures' paths."
        )
    return _cells(file, rows, head.index(_COLUMN), os.path.dirname(table))


def _text(table: str) -> TextIO:
    # As spreadsheets write it, with a mark at the beginning, or without.
    encoding = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
    if "://" not in table:
        return open(table, newline="", **encoding)
    with tf.io.gfile.GFile(table, "rb") as file:
        text = file.read().decode(*encoding.values())
    return io.StringIO(text, newline="")


def _cells(
    file: TextIO, rows: Iterator[list[str]], column: int, folder: str
) -> Iterator[str]:
    with file:
        try:
            for row in rows:
                if len(row) > column and row[column]:
                    yield os.path.join(folder, row[column])
        except csv.Error as error:
            raise UserError(
                f"A table of pictures can't be read on: {error}. Expected "
                "comma-separated values, as RFC 4180 has them."
            ) from error


def why_not(path: str) -> str:
    """Why a file is not even to be opened; "" where it may be."""
    if "://" in path:
        return ""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return "there is no such file, or it may not be read"
    # Opened for reading, a pipe without a writer blocks for ever.
    if not stat.S_ISREG(status.st_mode):
        return "it is no file"
    if status.st_size > MAX_BYTES:
        return f"it has more than {MAX_BYTES >> 20} MiB"
    return ""
