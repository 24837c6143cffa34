"""Turns a finished run and pictures into a page on what it sees in them."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from framework.console import Bar, say, some
from framework.data.folder import printable
from framework.data.images import decode_and_resize
from framework.errors import UserError
from framework.evaluation import seen
from framework.evaluation.chain import Chain
from framework.finished import Finished, load, resolved
from framework.inference import inputs
from framework.modes.place import beside
from framework.noise import standard_error_without
from framework.pages import Room, template, visible

PAGE = "explain.html"
FIGURES = "explain.json"
# What is shown of explain.json, so that the page stays a page.
MOST_EXPLAINED = 24
MOST_WITH_MAPS = 3
MOST_ROWS = 200
_AT_ONCE = 12
_MOST_LINES = 40
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
    run: str | os.PathLike,
    pictures: inputs.Asked,
    layers: str | Sequence[str] = (),
    *,
    workdir: str | None = None,
    console: Console | None = None,
) -> Explained:
    """Shows what a run's model takes pictures for, and why.

    Pictures are decoded and resized as in training. All are judged. Of more
    than 24 the page explains some of each class that they are taken for; it
    shows feature maps of 3, and maps 150, chosen at random, by what the model
    finds alike.

    Args:
        run: the directory of a finished run ("runs/latest").
        pictures: files, folders, patterns ("photos/*.jpg"), tables, "-" for
            standard input: see `framework.inference.inputs.find`; one or
            several.
        layers: whose feature maps to show; a choice of them by default.
            `explain.json` lists all that there are.
        workdir: where to write; by default the next free number in `explain`
            in the run's directory.
        console: where to report; standard output by default.

    Raises:
        UserError: the run is not finished, there are no pictures, none of them
            decodes, or the model has no such layer. Nothing is written then.
    """
    console = console or Console()
    pictures = inputs.as_list(pictures)
    layers = [layers] if isinstance(layers, str) else layers
    if not pictures:
        raise UserError(
            "There is nothing to explain. Expected pictures after the run: "
            "files, folders or patterns, such as photos/*.jpg. (A run's own "
            "examples are in its report.html.)"
        )
    run = resolved(os.fspath(run))
    files = list(inputs.find(pictures))
    asked = load(run)
    chain = Chain(asked.model)
    for layer in layers:  # Before the work.
        chain.stage(layer)
    with beside(run, "explain", workdir) as place:
        with Bar(console) as bar:
            judged = _judge(asked, files, bar.show)
        html = _page(asked, judged, layers)
        figures = _figures(asked, judged, layers, chain)
        place.write_json(FIGURES, figures)
        place.write(PAGE, html)
    _tell(console, figures)
    say(console, f"Page: {place.file(PAGE)}")
    return Explained(
        place.path,
        place.file(PAGE),
        tuple(figures["pictures"]),
        tuple(figures["skipped"]),
    )


def _tell(console: Console, figures: dict[str, Any]) -> None:
    lines = []
    for row in figures["pictures"]:
        chance = row["probabilities"][row["class"]]
        lines.append(f"{visible(row['class'])} {chance:.4f}  {row['file']}")
    for row in figures["skipped"]:
        lines.append(f"Skipped: {row['file']}: {row['reason']}")
    for line in lines[:_MOST_LINES]:
        say(console, line)
    if len(lines) > _MOST_LINES:
        rest = len(lines) - _MOST_LINES
        say(console, f"and {rest:,} more in {FIGURES}.")


# What it is asked about.


def _pixels(file: str, run: Finished) -> np.ndarray:
    """uint8 `[S, S, 3]`, as the pipeline would have made them in training.

    Raises:
        _Unreadable: the file does not decode.
    """
    if error := inputs.why_not(file):
        raise _Unreadable(error)
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
        files: N paths.
        scores: probabilities, float32 `[N, num_classes]`.
        skipped: the files that do not decode, and why.
    """

    files: list[str]
    scores: np.ndarray
    skipped: list[dict[str, str]]

    @property
    def names(self) -> list[str]:
        """Of the files, printable."""
        return [printable(file) for file in self.files]


def _judge(
    run: Finished, files: Sequence[str], show: Callable[[str, int, int], None]
) -> _Judged:
    readable, scores, skipped = [], [], []
    read = seen.reader(run.model)
    for start in range(0, len(files), _BATCH):
        batch = []
        # Of what is damaged libjpeg complains beside.
        with standard_error_without([b""]):
            for file in files[start : start + _BATCH]:
                try:
                    batch.append(_pixels(file, run))
                    readable.append(file)
                except _Unreadable as error:
                    row = {"file": printable(file), "reason": str(error)}
                    skipped.append(row)
        if batch:
            outputs = run.model(np.stack(batch), training=False)
            scores.append(read(outputs.numpy()))
        show("Pictures", min(start + _BATCH, len(files)), len(files))
    if not readable:
        which = some(f"{row['file']} ({row['reason']})" for row in skipped)
        raise UserError(
            f"None of the pictures decodes: {which}. Expected JPEG, PNG, GIF, "
            "BMP or WebP images."
        )
    return _Judged(readable, np.concatenate(scores), skipped)


def _figures(
    run: Finished,
    judged: _Judged,
    layers: Sequence[str],
    chain: Chain,
) -> dict[str, Any]:
    """What `explain.json` holds."""
    return {
        "run": run.path,
        "classes": list(run.class_names),
        "image_size": run.image_size,
        "resize": run.resize,
        "layers": list(layers),
        "all_layers": [stage.name for stage in chain.stages()],
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
    predicted = judged.scores.argmax(-1)
    # Few are shown in the order in which they were named.
    shown = np.sort(seen.spread(predicted, MOST_EXPLAINED))
    many = np.random.default_rng(0).permutation(len(predicted))
    many = many[: seen.MOST_ON_MAP]

    def pixels(places: np.ndarray) -> np.ndarray:
        return np.stack([_pixels(judged.files[at], run) for at in places])

    found = seen.look(
        run.model,
        seen.reader(run.model),
        run.class_names,
        pixels(shown),
        [seen.UNKNOWN] * len(shown),
        [judged.names[at] for at in shown],
        layers=layers,
        with_maps=MOST_WITH_MAPS,
        many=(pixels(many), [seen.UNKNOWN] * len(many)),
    )
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
    )
