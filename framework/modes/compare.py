"""Turns finished runs into a page on how they differ, and if it matters."""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import tensorflow as tf
from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from framework.configuration import bindings
from framework.console import say, some
from framework.errors import UserError
from framework.evaluation import paired, plots
from framework.evaluation.page import FIGURES
from framework.evaluation.paired import Paired
from framework.evaluation.predictions import Predictions
from framework.finished import directory, imported, resolved
from framework.modes.place import beside
from framework.pages import template, visible
from framework.registry import SOURCES, TASKS
from framework.run_directory import (
    SUMMARY,
    RunDirectory,
    read_predictions,
)

PAGE = "compare.html"
DATA = "compare.json"
_TEMPLATE = os.path.join(os.path.dirname(paired.__file__), "compare.html.j2")
_SPLITS = ("pooled", "test", "validation")
_MOST_IDS = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What of a finished run is compared.

    Attributes:
        path: its directory.
        letter: short for it: A, B, ...
        settings: what its operative configuration binds.
        summary: as `summary.json` has it.
        epochs: as in `History.epochs`; none of a cross-validation.
        split: which one the final figures are of; None where there is none.
        predictions: of that split.
        groups: of these examples; None where nothing is known of groups.
    """

    path: str
    letter: str
    settings: Mapping[str, str]
    summary: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    split: str | None
    predictions: Predictions | None
    groups: np.ndarray | None

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.summary["data"]["classes"])

    @property
    def figures(self) -> Mapping[str, Any]:
        """Of the judged split; empty where there is none."""
        return self.summary[self.split] if self.split else {}


@dataclasses.dataclass(frozen=True)
class Against:
    """A run against the first one.

    Attributes:
        letter: of the run.
        paired: what the examples that both have judged say; None where there
            are none, or `reason` says why not.
        p: of the test, adjusted for how many runs there are.
        verdict: a sentence.
        reason: why there is no test; "" where there is one.
    """

    letter: str
    paired: Paired | None
    p: float | None
    verdict: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Compared:
    """What came of a comparison.

    Attributes:
        directory: where the page and its figures lie.
        page: path of the page.
        settings: by name of what is bound differently its values, one a run,
            None where it is not bound.
        against: the other runs against the first one, in order.
    """

    directory: str
    page: str
    settings: Mapping[str, tuple[str | None, ...]]
    against: tuple[Against, ...]


def compare(
    runs: Sequence[str],
    *,
    workdir: str | None = None,
    console: Console | None = None,
) -> Compared:
    """Compares finished runs: settings, histories, figures, examples.

    Every run is tested against the first one, on the examples that both have
    judged.

    Args:
        runs: directories, at least two.
        workdir: where to write; by default the next free number in `compare`
            in the first run's directory.
        console: where to report; standard output by default.

    Raises:
        UserError: a run is not finished, or there are not two of them.
            Nothing is written then.
    """
    console = console or Console()
    paths = [resolved(os.fspath(run).rstrip("/")) for run in runs]
    real = [p if "://" in p else os.path.realpath(p) for p in paths]
    if len(set(real)) < max(2, len(paths)):
        raise UserError(
            f"There are {len(set(real))} different runs to compare: "
            f"{', '.join(paths) or 'none'}. Expected the directories of two or "
            "more: --mode=compare runs/rps_softmax/001 runs/rps_softmax/002."
        )
    found = [_read(path, number) for number, path in enumerate(paths)]
    settings = _settings(found)
    against = _against(found)
    with beside(paths[0], "compare", workdir) as place:
        place.write_json(DATA, _figures(found, settings, against))
        place.write(PAGE, _page(found, settings, against))
    _tell(console, found, against)
    say(console, f"Page: {place.file(PAGE)}")
    return Compared(place.path, place.file(PAGE), settings, against)


def _read(path: str, number: int) -> Run:
    run = directory(path)
    imported(run)
    summary = json.loads(run.read(SUMMARY))
    split = next((s for s in _SPLITS if s in summary), None)
    if "classes" not in summary["data"]:
        raise UserError(
            f"{path} trained no model. Expected runs of --mode=train."
        )
    epochs = ()
    if tf.io.gfile.exists(run.file("metrics.jsonl")):
        lines = run.read("metrics.jsonl").splitlines()
        epochs = tuple(map(json.loads, lines))
    predictions = groups = None
    if split:
        if not tf.io.gfile.exists(run.file("predictions.csv")):
            raise UserError(
                f"{path} has no predictions.csv. Expected a run's directory as "
                "a whole."
            )
        predictions = read_predictions(path, tuple(summary["data"]["classes"]))
        groups = _groups(run, predictions)
    return Run(
        path,
        f"run {number + 1}" if number >= 26 else ascii_uppercase[number],
        bindings(run.read("operative.gin")),
        summary,
        epochs,
        split,
        predictions,
        groups,
    )


def _groups(run: RunDirectory, predictions: Predictions) -> np.ndarray | None:
    if not tf.io.gfile.exists(run.file("splits.csv")):
        return None
    text = io.StringIO(run.read("splits.csv"), newline="")
    groups = {row["id"]: row["group"] for row in csv.DictReader(text)}
    found = np.array([groups.get(i, "") for i in predictions.ids], object)
    return found if found.any() else None


def _settings(
    runs: Sequence[Run],
) -> dict[str, tuple[str | None, ...]]:
    names = sorted({name for run in runs for name in run.settings})
    values = {
        name: tuple(run.settings.get(name) for run in runs) for name in names
    }
    # Not bound is as good as None.
    return {
        name: value
        for name, value in values.items()
        if len({"None" if each is None else each for each in value}) > 1
    }


def _against(runs: Sequence[Run]) -> tuple[Against, ...]:
    first = runs[0]
    tests = [_tested(first, run) for run in runs[1:]]
    chances = [t.p for t in tests if isinstance(t, Paired)]
    corrected = iter(paired.adjusted(chances))
    made = []
    for run, test in zip(runs[1:], tests, strict=True):
        if isinstance(test, str):
            made.append(
                Against(
                    run.letter,
                    None,
                    None,
                    f"{first.letter} and {run.letter} can't be compared "
                    "example by example.",
                    test,
                )
            )
        else:
            p = next(corrected)
            verdict = _verdict(first, run, test, p)
            made.append(Against(run.letter, test, p, verdict))
    return tuple(made)


def _tested(first: Run, other: Run) -> Paired | str:
    """The test, or why there is none."""
    if first.predictions is None or other.predictions is None:
        return "One of them was judged by nothing that was held back."
    if set(first.class_names) != set(other.class_names):
        return "They tell other classes apart."
    others = _of_other_data(first, other)
    if others:
        return (
            f"Their data differs ({some(others)}), and pictures of one name "
            "need not be the same. Judge both on the same data."
        )
    # Labels are numbers in the order of each run's own classes.
    place = np.array([first.class_names.index(n) for n in other.class_names])
    theirs = dataclasses.replace(
        other.predictions,
        labels=place[other.predictions.labels],
        probabilities=other.predictions.probabilities[:, np.argsort(place)],
    )
    try:
        found = paired.compare(first.predictions, theirs, first.groups)
    except ValueError:
        return "The same examples have other labels in the one than the other."
    return found or "No example was judged by both."


def _of_other_data(first: Run, other: Run) -> list[str]:
    """What is bound of tasks and sources in one way here, in another there."""
    made = {*TASKS, *SOURCES}
    differing = [
        name
        for name in _settings([first, other])
        if name.rpartition("/")[2].split(".")[-2] in made
    ]
    sources = [run.summary["data"]["source"] for run in (first, other)]
    return differing or ([] if sources[0] == sources[1] else sources)


def _verdict(first: Run, other: Run, test: Paired, p: float) -> str:
    if not test.first + test.second:
        return (
            f"{first.letter} and {other.letter} have the same examples right."
        )
    more = other.letter if test.difference > 0 else first.letter
    points = 100 * abs(test.difference)
    if p < paired.SIGNIFICANT:
        return (
            f"{more} is better than "
            f"{first.letter if more == other.letter else other.letter}: by "
            f"{points:.1f} points of accuracy, hardly by chance on these "
            f"examples (p = {p:.2g}). Another seed may tell otherwise."
        )
    if not test.difference:
        return (
            f"{first.letter} and {other.letter} are right equally often, on "
            "other examples."
        )
    return (
        f"{first.letter} and {other.letter} can't be told apart: {more} has "
        f"{points:.1f} points more accuracy, which may be chance "
        f"(p = {p:.2g})."
    )


def _figures(
    runs: Sequence[Run],
    settings: Mapping[str, Sequence[str | None]],
    against: Sequence[Against],
) -> dict[str, Any]:
    """What `compare.json` holds."""
    return {
        "runs": [
            {
                "letter": run.letter,
                "directory": run.path,
                "split": run.split,
                "figures": {
                    k: v
                    for k, v in run.figures.items()
                    if k not in ("classes", "confusion")
                },
            }
            for run in runs
        ],
        "settings": {k: list(v) for k, v in settings.items()},
        "against": [dataclasses.asdict(each) for each in against],
    }


def _page(
    runs: Sequence[Run],
    settings: Mapping[str, Sequence[str | None]],
    against: Sequence[Against],
) -> str:
    return template(_TEMPLATE).render(
        runs=runs,
        settings=settings,
        against=against,
        remarks=_remarks(runs),
        meanings={
            name: title
            for name, (title, _) in FIGURES.items()
            if any(run.figures.get(name) is not None for run in runs)
        },
        history=_history(runs),
        most_ids=_MOST_IDS,
    )


def _remarks(runs: Sequence[Run]) -> list[str]:
    """What makes figures of runs no like-for-like."""
    made = []
    for what, values in (
        ("data", [run.summary["data"]["source"] for run in runs]),
        ("split that they are judged on", [run.split for run in runs]),
    ):
        if len(set(values)) > 1:
            named = ", ".join(
                f"{run.letter} {visible(value) if value else 'none'}"
                for run, value in zip(runs, values, strict=True)
            )
            made.append(f"The {what} differs: {named}.")
    stand_ins = [r.letter for r in runs if r.summary["data"]["stand_in"]]
    if stand_ins:
        made.append(
            f"Trained and judged on stand-in data: {', '.join(stand_ins)}. "
            "These figures say nothing about the real data."
        )
    return made


def _history(runs: Sequence[Run]) -> dict[str, Markup]:
    there = [run for run in runs if run.epochs]
    return {
        name: plots.svg(
            plots.overlaid(
                [run.epochs for run in there],
                [run.letter for run in there],
                name,
            ),
            f"{name} in validation by epoch, a line a run",
            f"overlaid-{name}",
        )
        for name in ("loss", "accuracy")
        if there
    }


def _tell(
    console: Console, runs: Sequence[Run], against: Sequence[Against]
) -> None:
    table = Table()
    table.add_column("")
    table.add_column("run")
    for title in ("split", "examples", "accuracy", "95 % interval", "loss"):
        table.add_column(title, justify="right")
    for run in runs:
        figures = run.figures
        interval = figures.get("accuracy_interval")
        table.add_row(
            run.letter,
            Text(run.path),
            Text(run.split or "-"),
            *(
                (
                    str(figures["examples"]),
                    f"{figures['accuracy']:.4f}",
                    f"{interval[0]:.3f}..{interval[1]:.3f}"
                    if interval
                    else "-",
                    f"{figures['loss']:.4f}",
                )
                if figures
                else "----"
            ),
        )
    console.print(table)
    for each in against:
        say(console, f"{each.verdict}{each.reason and ' ' + each.reason}")
