"""Turns a trained model and labelled pictures into how good it is on them."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from framework.configuration import Configuration
from framework.console import Bar, say, some
from framework.data.folder import printable
from framework.data.images import to_square
from framework.data.source import Examples, IndexedExamples
from framework.errors import UserError
from framework.evaluation import report
from framework.evaluation.predictions import (
    Predictions,
    cross_entropy,
    readable_ids,
)
from framework.inference.inputs import TABLES
from framework.inference.loaded import BATCH, Loaded, load
from framework.modes.loading import load_data
from framework.modes.place import beside
from framework.noise import standard_error_without
from framework.registry import SOURCES
from framework.run_directory import RunDirectory

FIGURES = "evaluation.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
    """How good a model is on some pictures.

    Attributes:
        figures: as `report.quality` has them.
        predictions: of every example that decodes, labels being numbers in
            the order of the model's classes.
        title: what they are.
    """

    figures: dict[str, Any]
    predictions: Predictions
    title: str


def evaluate(
    model: str | os.PathLike,
    data: str | os.PathLike | None = None,
    *,
    gin_file: str | None = None,
    bindings: Sequence[str] = (),
    imports: Sequence[str] = (),
    split: str | None = None,
    max_unreadable: float = 0.01,
    workdir: str | None = None,
    console: Console | None = None,
) -> Evaluated:
    """Judges a model on labelled pictures, each once, in inference mode.

    Classes are matched by their names; some of the model's may be missing, and
    there have to be two.

    Args:
        model: a run's directory or an artifact, see `framework.load`.
        data: a directory of class folders, as `ImageFolder` reads it, or a
            table with labels, as `Manifest` does.
        gin_file: in place of `data`: its task has the pictures.
        bindings: gin lines that override it.
        imports: modules that register tasks.
        split: of the data; by default the test split where there is one, else
            the validation split of a task, and all pictures of a directory or
            table.
        max_unreadable: the share of pictures that may fail to decode, as in
            training: figures of what is left could be of another kind.
        workdir: where to write `evaluation.json` and `predictions.csv`, an
            empty or a new directory; nowhere by default.
        console: where to report; standard output by default.

    Raises:
        UserError: the data can't be had, has classes that the model does not
            know or no such split, or none of it decodes.
    """
    console = console or Console()
    if (data is None) == (gin_file is None):
        raise UserError(
            "Expected what to evaluate on after the model: either a directory "
            "of class folders or a table, or --gin_file, whose task has it."
        )
    loaded = load(model)
    if gin_file is not None:
        title, names, splits = _of_task(gin_file, bindings, imports, console)
        default = report.judged_split(splits)
        chosen = split or (default and default[0])
    else:
        title, names, splits = _of_path(os.fspath(data))
        chosen = split or ("test" if "test" in splits else None)
    parts = [*splits.values()] if chosen is None else [splits.get(chosen)]
    if None in parts:
        raise UserError(
            f"{title} has the splits {', '.join(splits)}; expected one called "
            f"{chosen}."
        )
    unknown = [name for name in names if name not in loaded.class_names]
    if unknown:
        raise UserError(
            f"{title} has classes that {loaded.path} does not know: "
            f"{some(unknown)}. It knows {some(loaded.class_names)}."
        )
    # Their numbers are those of the model.
    place = np.array([loaded.class_names.index(name) for name in names])
    total = sum(len(part) for part in parts)
    with contextlib.ExitStack() as closing:
        run = None
        if workdir:
            run = closing.enter_context(beside("", "", workdir))
        with Bar(console) as bar:
            predictions = _predictions(loaded, parts, place, total, bar)
        broken = predictions.unreadable
        if len(broken) > max_unreadable * total:
            raise UserError(
                f"{len(broken):,} of {total:,} pictures do not decode, more "
                f"than a share of {max_unreadable:g}: {some(broken)}. Mend or "
                "remove them, or allow more (--max_unreadable)."
            )
        figures = report.quality(
            predictions,
            loaded.class_names,
            _groups(predictions, parts),
        )
        figures["unreadable"] = list(predictions.unreadable)
        label = f"{chosen}, {title}" if chosen else title
        if run is not None:
            _write(run, loaded, label, figures, predictions)
    report.print_quality(console, figures, label)
    if predictions.unreadable:
        say(
            console,
            f"{len(predictions.unreadable):,} examples did not decode: "
            f"{some(predictions.unreadable)}.",
        )
    return Evaluated(figures, predictions, label)


Splits = Mapping[str, Examples]


def _of_task(
    gin_file: str,
    bindings: Sequence[str],
    imports: Sequence[str],
    console: Console,
) -> tuple[str, Sequence[str], Splits]:
    task = Configuration(gin_file, bindings, imports).task()
    data = load_data(task, console)
    return data.title, data.class_names, data.splits


def _of_path(path: str) -> tuple[str, Sequence[str], Splits]:
    ending = os.path.splitext(path)[1].lower()
    is_table = ending in (*TABLES, ".parquet")
    source = SOURCES["Manifest" if is_table else "ImageFolder"](path)
    return source.name, source.class_names, source.splits


def _predictions(
    loaded: Loaded,
    parts: Sequence[Examples],
    place: np.ndarray,
    total: int,
    bar: Bar,
) -> Predictions:
    ids, labels, scores, numbers = [], [], [], []
    # Of what is damaged libjpeg complains beside.
    with standard_error_without([b""]):
        for batch in _batches(loaded, parts):
            label = batch["label"].numpy()
            if label.min() < 0 or label.max() >= len(place):
                raise UserError(
                    f"An example has the label {label.min()} or {label.max()}; "
                    f"expected 0 to {len(place) - 1}, as there are classes."
                )
            ids += readable_ids(batch["id"].numpy())
            numbers += batch["number"].numpy().tolist()
            labels.append(place[label])
            scores.append(loaded.probabilities(batch["image"]))
            bar.show("Pictures", len(ids), total)
    if not ids:
        raise UserError(
            f"None of {total:,} pictures decodes. Expected JPEG, PNG, GIF, BMP "
            "or WebP images."
        )
    probabilities, label = np.concatenate(scores), np.concatenate(labels)
    missing = sorted(set(range(total)) - set(numbers))
    return Predictions(
        ids=np.array(ids, object),
        labels=label,
        probabilities=probabilities,
        losses=cross_entropy(probabilities, label).astype(np.float32),
        unreadable=tuple(_named(parts, number) for number in missing),
    )


def _named(parts: Sequence[Examples], number: int) -> str:
    """What to call the example of this number."""
    for part in parts:
        if number < len(part):
            if isinstance(part, IndexedExamples):
                return printable(part.ids[number])
            return f"the example at position {number}"
        number -= len(part)
    raise IndexError(number)


def _batches(
    loaded: Loaded, parts: Sequence[Examples]
) -> Iterator[dict[str, tf.Tensor]]:
    """Full batches of what decodes, numbered as they stand in all parts."""
    whole = None
    first = 0
    for part in parts:
        if isinstance(part, IndexedExamples):
            described = tf.data.Dataset.from_tensor_slices(
                {
                    "id": tf.constant([printable(i) for i in part.ids]),
                    "label": part.labels,
                    "row": part.rows,
                }
            )

            def read(row, part=part):
                return part.read(row["row"])
        else:
            described = part.stream(tf.constant(-1, tf.int64))

            def read(row):
                return row["image"]

        def squared(number, row, read=read, first=first):
            return {
                "number": number + first,
                "id": row["id"],
                "label": tf.cast(row["label"], tf.int64),
                "image": to_square(read(row), loaded.image_size, loaded.resize),
            }

        found = described.enumerate().map(
            squared, tf.data.AUTOTUNE, deterministic=True
        )
        found = found.ignore_errors()
        first += len(part)
        whole = found if whole is None else whole.concatenate(found)
    yield from whole.batch(BATCH).prefetch(2)


def _groups(
    predictions: Predictions, parts: Sequence[Examples]
) -> np.ndarray | None:
    if any(
        not isinstance(part, IndexedExamples) or part.groups is None
        for part in parts
    ):
        return None
    groups = {
        printable(name): group
        for part in parts
        for name, group in zip(part.ids, part.groups, strict=True)
    }
    return np.array([groups[name] for name in predictions.ids], object)


def _write(
    run: RunDirectory,
    loaded: Loaded,
    title: str,
    figures: Mapping[str, Any],
    predictions: Predictions,
) -> None:
    run.write_predictions(predictions, loaded.class_names)
    run.write_json(
        FIGURES,
        {
            "model": loaded.path,
            "weights_sha256": loaded.facts.get("weights_sha256"),
            "data": title,
            **figures,
        },
    )
