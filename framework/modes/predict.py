"""Turns a trained model and pictures into a file of answers."""

import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console

from framework.console import Bar, say
from framework.data.folder import printable
from framework.errors import UserError
from framework.inference import inputs, results
from framework.inference.inputs import Asked
from framework.inference.loaded import BATCH, Answer, load
from framework.noise import standard_error_without
from framework.pages import times

TOP = 5


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What came of it.

    Attributes:
        answered: how many files have an answer now.
        broken: how many do not decode.
        before: how many of all were done before.
    """

    answered: int
    broken: int
    before: int


def predict(
    model: str | os.PathLike,
    pictures: Asked,
    *,
    output: str | None = None,
    top: int = TOP,
    batch_size: int = BATCH,
    standard_input: TextIO | None = None,
    console: Console | None = None,
) -> Predicted:
    """Writes what a model takes pictures for, a line each.

    Where `output` was begun by the same command it is gone on with: each file
    stands in it once.

    Args:
        model: a run's directory or an artifact, see `framework.load`.
        pictures: files, folders, patterns, tables with a column "path", or
            "-" for a path a line of standard input; one or several.
        output: ".jsonl" or ".csv"; None writes JSONL to standard output.
        top: how many classes to name of each picture, at most.
        batch_size: pictures at a time.
        standard_input: to read in place of the process's own.
        console: where to report; standard error by default.

    Raises:
        UserError: there is no such model, a name means nothing, or `output`
            is of another model.
    """
    if top < 1 or batch_size < 1:
        raise UserError(
            f"--top is {top} and --batch_size {batch_size}; expected whole "
            "numbers, at least 1."
        )
    asked = inputs.as_list(pictures)
    if not asked:
        raise UserError(
            "There is nothing to predict. Expected pictures after the model: "
            "files, folders, patterns, a .csv with a column path, or - for "
            "standard input."
        )
    if output is not None:
        results.kind_of(output)
    files = inputs.find(asked, standard_input)
    loaded = load(model)
    # What libraries write to standard error is held back: not this.
    own = os.fdopen(os.dup(2), "w")
    console = console or Console(file=own)
    with own, standard_error_without([b""]):
        if output is None:
            where = "Standard output"
            lines = results.Lines(sys.stdout, ".jsonl", loaded.class_names, top)
            answers = loaded.answers(files, batch_size)
            found = _write(answers, lines, sys.stdout, console, 0, where)
        else:
            stamp = {"model": loaded.fingerprint}
            with results.continued(output, loaded.class_names, top, stamp) as (
                lines,
                done,
                file,
            ):
                rest = (path for path in files if hash(path) not in done)
                answers = loaded.answers(rest, batch_size)
                found = _write(
                    *(answers, lines, file, console, len(done)),
                    printable(output),
                )
        _tell(console, found, output)
    return found


def _write(
    answers: Iterator[Answer],
    lines: results.Lines,
    file: TextIO,
    console: Console,
    before: int,
    where: str,
) -> Predicted:
    counts = {True: 0, False: 0}
    with Bar(console) as bar:
        for number in itertools.count(1):
            answer = next(answers, None)
            try:
                if answer is not None:
                    lines.write(answer)
                if answer is None or number % BATCH == 0:
                    file.flush()
            except BrokenPipeError:
                raise  # Who reads has had enough.
            except OSError as error:
                raise UserError(
                    f"{where} can't be written: {error.strerror}. Make room: "
                    "the same command goes on with what is whole in a file."
                ) from error
            if answer is None:
                break
            counts[bool(answer.error)] += 1
            if number % BATCH == 0:
                bar.show("Pictures", number, number)
    return Predicted(counts[False], counts[True], before)


def _tell(console: Console, found: Predicted, output: str | None) -> None:
    parts = [f"{times(found.answered, 'picture')} answered"]
    if found.broken:
        parts.append(f"{times(found.broken, 'broken file')} skipped")
    if found.before:
        parts.append(f"{found.before:,} were done before")
    where = "" if output is None else f": {printable(output)}"
    say(console, f"{', '.join(parts)}{where}")
