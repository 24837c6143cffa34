"""Turns predictions and a history into a table, a plot and a summary."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import sklearn.metrics
from matplotlib.figure import Figure
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from framework.console import say
from framework.evaluation.predictions import Predictions
from framework.task import Data


def stand_in_notice(name: str, reason: str) -> Panel:
    """A box that cannot be missed."""
    return Panel(
        Text(
            f"The task's own data can't be had here. This run uses {name} "
            "instead: every figure below is measured on it and says nothing "
            f"about the real data.\n\n{reason}"
        ),
        title="STAND-IN DATA",
        border_style="bold yellow",
    )


def describe(data: Data) -> str:
    """One line on a task's data: its name, classes and splits."""
    counts = ", ".join(f"{len(e):,} {name}" for name, e in data.splits.items())
    return (
        f"Data: {data.title}, {data.num_classes} classes "
        f"({', '.join(data.class_names[:12])}"
        f"{', ...' if data.num_classes > 12 else ''}), {counts} examples."
    )


def judged_split(splits: Mapping[str, Any]) -> tuple[str, str] | None:
    """The split that the final figures come from, and how to label it."""
    if "test" in splits:
        return "test", "test"
    if "validation" in splits:
        return "validation", "validation, used for selection"
    return None


def quality(
    predictions: Predictions, class_names: Sequence[str]
) -> dict[str, Any]:
    """Loss, accuracy, and precision, recall and F1 by class.

    Returns:
        JSON-able figures; "confusion" has a row a true class and a column a
        predicted one. A class without examples has None for its figures.
    """
    labels = range(len(class_names))
    precision, recall, f1, support = (
        sklearn.metrics.precision_recall_fscore_support(
            predictions.labels,
            predictions.predicted,
            labels=labels,
            zero_division=0,
        )
    )
    return {
        **predictions.figures(),
        "examples": len(predictions.labels),
        "classes": {
            name: {
                "precision": float(precision[i]) if support[i] else None,
                "recall": float(recall[i]) if support[i] else None,
                "f1": float(f1[i]) if support[i] else None,
                "examples": int(support[i]),
            }
            for i, name in enumerate(class_names)
        },
        "confusion": sklearn.metrics.confusion_matrix(
            predictions.labels, predictions.predicted, labels=labels
        ).tolist(),
    }


def print_quality(
    console: Console, figures: Mapping[str, Any], title: str
) -> None:
    """Prints what `quality` returned as a table, a class a row."""
    # Names are data: as Text they are never read as markup or emoji.
    table = Table(title=Text(title), title_justify="left")
    table.add_column("class")
    for column in ("examples", "precision", "recall", "F1"):
        table.add_column(column, justify="right")
    for name, row in figures["classes"].items():
        table.add_row(
            Text(name),
            str(row["examples"]),
            *(
                "-" if row[key] is None else f"{row[key]:.4f}"
                for key in ("precision", "recall", "f1")
            ),
        )
    console.print(table)
    say(
        console,
        f"{title}: accuracy {figures['accuracy']:.4f}, loss "
        f"{figures['loss']:.4f}, {figures['examples']} examples",
    )


def history_figure(
    epochs: Sequence[Mapping[str, Any]], best_epoch: int, title: str = ""
) -> Figure:
    """Draws training against validation, loss and accuracy by epoch.

    A thin line stands where a phase begins.

    Args:
        epochs: as in `History.epochs`.
        best_epoch: index of the epoch whose weights were kept.
        title: stands above.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    numbers = [e["epoch"] for e in epochs]
    for axes, name in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), strict=True
    ):
        for split, colour in (("train", "C0"), ("validation", "C1")):
            if split in epochs[0]:
                axes.plot(
                    numbers,
                    [e[split][name] for e in epochs],
                    "o-",
                    color=colour,
                    markersize=4,
                    label=split,
                )
        axes.axvline(
            epochs[best_epoch]["epoch"],
            color="grey",
            linestyle=":",
            label="weights kept",
        )
        for before, after in itertools.pairwise(epochs):
            if before.get("phase", 1) != after.get("phase", 1):
                axes.axvline(after["epoch"] - 0.5, color="grey", linewidth=0.8)
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
