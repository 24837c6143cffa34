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
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TextIO

import numpy as np

from framework.data.folder import printable
from framework.errors import UserError
from framework.inference.loaded import Answer

KINDS = (".jsonl", ".csv")
# File names need not be valid in any encoding.
_ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}


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
            # For reading, too; made where it is missing.
            raw = closing.enter_context(open(path, "ab+"))
            _lock(raw, path)
            done = set()
            begun = os.path.getsize(path) > 0 or os.path.exists(stamp)
            if begun:
                _check_same(path, stamp, of)
                raw.seek(0)
                done = _mend(raw, kind, len(head(min(top, len(class_names)))))
            else:
                with open(stamp, "w") as file:
                    file.write(json.dumps(of, indent=2) + "\n")
            file = closing.enter_context(
                open(path, "a", newline="", **_ENCODING)
            )
        except OSError as error:
            raise UserError(
                f"{printable(path)} can't be written: {error.strerror}. "
                "Expected a file in a directory that is there and has room."
            ) from error
        has_head = os.path.getsize(path) > 0
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


def _mend(file: BinaryIO, kind: str, columns: int) -> set[int]:
    """Cuts off what was half written; the hashes of the files that are done."""
    done: set[int] = set()
    whole = at = 0
    line = b""

    def lines() -> Iterator[str]:
        nonlocal at, line
        for line in file:
            at += len(line)
            yield line.decode(**_ENCODING)

    if kind == ".csv":
        # Cells may hold line ends of their own: whole is a row of full length.
        for number, row in enumerate(csv.reader(lines())):
            if len(row) != columns or not line.endswith(b"\r\n"):
                break
            whole = at
            if number:
                done.add(hash(row[0]))
    else:
        for text in lines():
            try:
                name = json.loads(text)["file"]
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            whole = at
            done.add(hash(name))
    file.truncate(whole)
    return done


def _lock(file: BinaryIO, path: str) -> None:
    """Keeps other processes from the file for as long as it is open."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"Another process writes {printable(path)}. Wait for it, or choose "
            "another --output."
        ) from error
    except OSError:
        pass  # Some network file systems have no locks.
