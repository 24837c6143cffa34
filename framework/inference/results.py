"""Turns answers into lines of a file that can be gone on with.

JSONL, a line a file:

    {"file": "a.jpg", "class": "cat", "probability": 0.98,
     "top": [["cat", 0.98], ["dog", 0.02]]}
    {"file": "b.jpg", "error": "no JPEG, PNG, ... image that decodes"}

CSV has the columns file, class, probability, class_2, probability_2, ...,
error, and rows that end with CR LF, as RFC 4180 has it.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from framework.data.folder import printable
from framework.errors import UserError
from framework.inference.loaded import Answer

KINDS = (".jsonl", ".csv")


def kind_of(path: str) -> str:
    """The ending, ".jsonl" or ".csv".

    Raises:
        UserError: it is another.
    """
    kind = os.path.splitext(path)[1].lower()
    if kind not in KINDS:
        raise UserError(
            f"--output is {printable(path)}; expected a file that ends in "
            f"{' or '.join(KINDS)}."
        )
    return kind


class Lines:
    """Writes answers to an open text file.

    Args:
        file: where to; of CSV opened with `newline=""`.
        kind: ".jsonl" or ".csv".
        class_names: in the order of the probabilities.
        top: how many classes to name.
        begun: whether the head stands there already.
    """

    def __init__(
        self,
        file: TextIO,
        kind: str,
        class_names: Sequence[str],
        top: int,
        begun: bool = False,
    ):
        self._file = file
        self._names = class_names
        self._top = min(top, len(class_names))
        self._table = csv.writer(file) if kind == ".csv" else None
        if self._table and not begun:
            self._table.writerow(head(self._top))

    def write(self, answer: Answer) -> None:
        """Adds what was said of one file."""
        top = []
        if answer.probabilities is not None:
            order = np.argsort(-answer.probabilities, kind="stable")
            top = [
                (self._names[place], float(answer.probabilities[place]))
                for place in order[: self._top]
            ]
        if self._table:
            cells = [cell for name, p in top for cell in (name, f"{p:.9g}")]
            cells += [""] * (2 * self._top - len(cells))
            self._table.writerow([answer.file, *cells, answer.error])
            return
        row: dict[str, Any] = {"file": answer.file}
        if answer.error:
            row["error"] = answer.error
        else:
            row |= {
                "class": answer.class_name,
                "probability": answer.probability,
                "top": top,
            }
        self._file.write(json.dumps(row) + "\n")


def head(top: int) -> list[str]:
    """The columns of a CSV."""
    named = [
        name
        for number in range(1, top + 1)
        for name in (
            ("class", "probability")
            if number == 1
            else (f"class_{number}", f"probability_{number}")
        )
    ]
    return ["file", *named, "error"]


@contextlib.contextmanager
def continued(
    path: str, class_names: Sequence[str], top: int, of: Mapping[str, Any]
) -> Iterator[tuple[Lines, set[int], TextIO]]:
    """Opens a file to write to, or to go on with after a stop.

    Beside it lies `<path>.json`, which says of what model it is.

    Args:
        path: of the file.
        class_names: in the order of the probabilities.
        top: how many classes to name.
        of: what must be the same to go on: of which model the answers are.

    Yields:
        what to write with, the hashes of the files that are done, and the open
        file.

    Raises:
        UserError: it is of another model or has another form, or it can't be
            written.
    """
    kind = kind_of(path)
    stamp = f"{path}.json"
    of = {**of, "top": top, "classes": list(class_names)}
    with contextlib.ExitStack() as closing:
        try:
            begun = os.path.exists(path)
            if begun:
                _check_same(path, stamp, of)
                done = _mend(path, kind)
            else:
                done = set()
                with open(stamp, "w") as file:
                    file.write(json.dumps(of, indent=2) + "\n")
            # File names need not be valid in any encoding.
            encoding = {"encoding": "utf-8", "errors": "surrogateescape"}
            file = closing.enter_context(
                open(path, "a", newline="", **encoding)
            )
        except OSError as error:
            raise UserError(
                f"{printable(path)} can't be written: {error.strerror}. "
                "Expected a file in a directory that is there and has room."
            ) from error
        has_head = begun and os.path.getsize(path) > 0
        yield Lines(file, kind, class_names, top, has_head), done, file


def _check_same(path: str, stamp: str, of: Mapping[str, Any]) -> None:
    was = None
    if os.path.exists(stamp):
        with contextlib.suppress(ValueError), open(stamp) as file:
            was = json.load(file)
    if was != of:
        raise UserError(
            f"{printable(path)} is there already, and "
            + (
                "nothing tells of what model it is"
                if was is None
                else "of another model, or with another --top"
            )
            + ". Expected a new file, or what the same command had begun; "
            "choose another --output, or remove it and "
            f"{printable(os.path.basename(stamp))}."
        )


def _mend(path: str, kind: str) -> set[int]:
    """Cuts off what was half written; the hashes of the files that are done."""
    end = b"\r\n" if kind == ".csv" else b"\n"
    with open(path, "rb+") as file:
        text = file.read()
        whole = text[: text.rfind(end) + len(end)] if end in text else b""
        file.truncate(len(whole))
    lines = io.StringIO(whole.decode("utf-8", "surrogateescape"), newline="")
    if kind == ".csv":
        return {hash(row[0]) for row in list(csv.reader(lines))[1:] if row}
    return {hash(json.loads(line)["file"]) for line in lines}
