"""Turns a finished run and pictures into a page on what it sees in them."""

import contextlib
import dataclasses
import datetime
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from framework.console import Bar, say, some
from framework.data.folder import EXTENSIONS, printable
from framework.data.images import decode_and_resize
from framework.errors import UserError
from framework.evaluation import seen
from framework.evaluation.chain import Chain
from framework.finished import Finished, load, resolved
from framework.noise import standard_error_without
from framework.pages import Room, template, visible
from framework.run_directory import RunDirectory

PAGE = "explain.html"
FIGURES = "explain.json"
# What is shown of explain.json, so that the page stays a page.
MOST_EXPLAINED = 24
MOST_WITH_MAPS = 3
MOST_ROWS = 200
_AT_ONCE = 12
_MOST_PICTURE_BYTES = 8_000_000
_TEMPLATE = os.path.join(os.path.dirname(seen.__file__), "explain.html.j2")
_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Explained:
    """What a run sees in pictures.

    Attributes:
        directory: where the page and its figures lie.
        page: path of the page.
        pictures: of each picture the "file", its "class", and by class the
            "probabilities", as in `explain.json`.
        skipped: of each file that does not decode the "file" and the "reason".
    """

    directory: str
    page: str
    pictures: tuple[dict[str, Any], ...]
    skipped: tuple[dict[str, str], ...]


def explain(
    run: str,
    pictures: Sequence[str],
    layers: Sequence[str] = (),
    *,
    workdir: str | None = None,
    console: Console | None = None,
) -> Explained:
    """Shows what a run's model takes pictures for, and why.

    Pictures are decoded and resized as in training. All are judged; the page
    explains the first 24, shows feature maps of the first 3, and maps the first
    300 by what the model finds alike.

    Args:
        run: the directory of a finished run ("runs/latest").
        pictures: files, folders (with all that is below) and patterns
            ("photos/*.jpg"), on this machine or anything else that
            `tf.io.gfile` knows.
        layers: whose feature maps to show; a choice of them by default.
        workdir: where to write; by default the next free number in `explain`
            in the run's directory.
        console: where to report; standard output by default.

    Raises:
        UserError: the run is not finished, there are no pictures, none of them
            decodes, or the model has no such layer. Nothing is written then.
    """
    console = console or Console()
    if not pictures:
        raise UserError(
            "There is nothing to explain. Expected pictures after the run: "
            "files, folders or patterns, such as photos/*.jpg. (A run's own "
            "examples are in its report.html.)"
        )
    run = resolved(run)
    place = _place(run, workdir)
    files = _files(pictures)
    asked = load(run)
    for layer in layers:  # Before the work.
        Chain(asked.model).stage(layer)
    with Bar(console) as bar:
        judged = _judge(asked, files, bar.show)
    html = _page(asked, judged, layers)
    figures = _figures(asked, judged, layers)
    _write(place, figures, html)
    for row in figures["pictures"]:
        chance = row["probabilities"][row["class"]]
        say(console, f"{visible(row['class'])} {chance:.4f}  {row['file']}")
    for row in figures["skipped"]:
        say(console, f"Skipped: {row['file']}: {row['reason']}")
    say(console, f"Page: {place.file(PAGE)}")
    return Explained(
        place.path,
        place.file(PAGE),
        tuple(figures["pictures"]),
        tuple(figures["skipped"]),
    )


# What it is asked about.


def _files(asked: Sequence[str]) -> list[str]:
    """The files that are meant, each once, in the order they are asked for."""
    found: dict[str, None] = {}
    for name in asked:
        files = list(_meant(name))
        if not files:
            kinds = ", ".join(EXTENSIONS)
            raise UserError(
                f"There is no picture {printable(name)!r}. Expected a file, a "
                f"folder with files that end in {kinds}, or a pattern that "
                "some match."
            )
        found.update(dict.fromkeys(files))
    return list(found)


def _meant(name: str) -> Iterator[str]:
    remote = "://" in name
    if (tf.io.gfile.isdir if remote else os.path.isdir)(name):
        walk = tf.io.gfile.walk if remote else os.walk
        for folder, _, names in sorted(walk(name)):
            yield from (
                os.path.join(folder, each)
                for each in sorted(names)
                if each.lower().endswith(EXTENSIONS)
            )
    # A file whose name looks like a pattern is meant itself.
    elif (tf.io.gfile.exists if remote else os.path.isfile)(name):
        yield name
    else:
        match = tf.io.gfile.glob if remote else glob.glob
        for path in sorted(match(name)):
            yield from _meant(path)


def _pixels(file: str, run: Finished) -> np.ndarray:
    """uint8 `[S, S, 3]`, as the pipeline would have made them in training.

    Raises:
        _Unreadable: the file does not decode.
    """
    try:
        # A file's name need not be valid in any encoding.
        encoded = tf.io.read_file(os.fsencode(file))
        return decode_and_resize(encoded, run.image_size, run.resize).numpy()
    except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError) as error:
        raise _Unreadable("it can't be opened") from error
    # The latter where TensorFlow's message quotes bytes of the file.
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise _Unreadable("no image that decodes") from error


class _Unreadable(Exception):
    """Why a file is no picture."""


# What it says.


@dataclasses.dataclass
class _Judged:
    """The readable files, in order, and what the model takes them for.

    Attributes:
        names: of the files, printable.
        scores: probabilities, float32 `[N, num_classes]`.
        pixels: of the first `seen.MOST_ON_MAP` of them, uint8 `[M, S, S, 3]`.
        skipped: the files that do not decode, and why.
    """

    names: list[str]
    scores: np.ndarray
    pixels: np.ndarray
    skipped: list[dict[str, str]]


def _judge(
    run: Finished, files: Sequence[str], show: Callable[[str, int, int], None]
) -> _Judged:
    names, scores, pixels, skipped = [], [], [], []
    read = seen.reader(run.model)
    for start in range(0, len(files), _BATCH):
        batch = []
        # Of what is damaged libjpeg complains beside.
        with standard_error_without([b""]):
            for file in files[start : start + _BATCH]:
                try:
                    batch.append(_pixels(file, run))
                    names.append(printable(file))
                except _Unreadable as error:
                    row = {"file": printable(file), "reason": str(error)}
                    skipped.append(row)
        if batch:
            outputs = run.model(np.stack(batch), training=False)
            scores.append(read(outputs.numpy()))
            pixels += batch[: seen.MOST_ON_MAP - len(pixels)]
        show("Pictures", min(start + _BATCH, len(files)), len(files))
    if not names:
        which = some(f"{row['file']} ({row['reason']})" for row in skipped)
        raise UserError(
            f"None of the pictures decodes: {which}. Expected JPEG, PNG, GIF, "
            "BMP or WebP images."
        )
    return _Judged(names, np.concatenate(scores), np.stack(pixels), skipped)


def _figures(
    run: Finished, judged: _Judged, layers: Sequence[str]
) -> dict[str, Any]:
    """What `explain.json` holds."""
    return {
        "run": run.path,
        "classes": list(run.class_names),
        "image_size": run.image_size,
        "resize": run.resize,
        "layers": list(layers),
        "pictures": [
            {
                "file": name,
                "class": run.class_names[row.argmax()],
                "probabilities": dict(
                    zip(run.class_names, map(float, row), strict=True)
                ),
            }
            for name, row in zip(judged.names, judged.scores, strict=True)
        ],
        "skipped": judged.skipped,
    }


def _page(run: Finished, judged: _Judged, layers: Sequence[str]) -> str:
    shown = judged.pixels[:MOST_EXPLAINED]
    found = seen.look(
        run.model,
        seen.reader(run.model),
        run.class_names,
        shown,
        [seen.UNKNOWN] * len(shown),
        judged.names[: len(shown)],
        layers=layers,
        with_maps=MOST_WITH_MAPS,
        many=(judged.pixels, [seen.UNKNOWN] * len(judged.pixels)),
    )
    predicted = judged.scores.argmax(-1)
    counts = np.bincount(predicted, minlength=len(run.class_names))
    return template(_TEMPLATE).render(
        run=run,
        judged=judged,
        seen=found,
        room=Room(_MOST_PICTURE_BYTES),
        rows=[
            (name, run.class_names[place], float(row[place]))
            for name, place, row in zip(
                judged.names[:MOST_ROWS], predicted, judged.scores, strict=False
            )
        ],
        counts=[
            (run.class_names[place], int(counts[place]))
            for place in np.argsort(-counts, kind="stable")
            if counts[place]
        ],
        at_once=_AT_ONCE,
        most_rows=MOST_ROWS,
        now=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    )


# Where it is kept.


def _place(run: str, workdir: str | None) -> RunDirectory:
    """Where to write; nothing is, yet."""
    if not workdir:
        base = os.path.join(run, "explain")
        held = tf.io.gfile.listdir(base) if tf.io.gfile.isdir(base) else []
        # Folders of object stores end with a slash.
        numbers = [int(n) for n in (h.rstrip("/") for h in held) if n.isdigit()]
        workdir = os.path.join(base, f"{max(numbers, default=0) + 1:03}")
    elif tf.io.gfile.exists(workdir) and (
        not tf.io.gfile.isdir(workdir) or tf.io.gfile.listdir(workdir)
    ):
        raise UserError(
            f"--workdir is {workdir}, which is a file or holds something "
            "already. Expected an empty or a new directory."
        )
    return RunDirectory(workdir)


def _write(place: RunDirectory, figures: dict[str, Any], html: str) -> None:
    was_there = tf.io.gfile.exists(place.path)
    try:
        with place.writing():
            tf.io.gfile.makedirs(place.path)
        place.write_json(FIGURES, figures)
        place.write(PAGE, html)
    except UserError:
        if not was_there:
            with contextlib.suppress(tf.errors.OpError):
                tf.io.gfile.rmtree(place.path)
        raise
