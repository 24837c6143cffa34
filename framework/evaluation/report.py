"""Turns predictions into a table and a summary."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from framework.console import say
from framework.evaluation import metrics
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
    predictions: Predictions,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """All figures of a split: the mean loss, and those of `metrics.measure`.

    Args:
        predictions: of the split.
        class_names: in the order of the labels.
        groups: `[N]` strings, from `Predictions.groups_in`, or None.

    Returns:
        JSON-able figures. What is not defined, as is all of a class without
        examples, is None.
    """
    return {
        **predictions.figures(),
        **metrics.measure(
            predictions.labels, predictions.probabilities, class_names, groups
        ),
    }


def print_quality(
    console: Console, figures: Mapping[str, Any], title: str
) -> None:
    """Prints what `quality` returned: a table, a class a row, and the rest."""
    # Names are data: as Text they are never read as markup or emoji.
    table = Table(title=Text(title), title_justify="left")
    table.add_column("class")
    columns = {
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "auc": "AUC",
    }
    for column in ("examples", *columns.values()):
        table.add_column(column, justify="right")
    for name, row in figures["classes"].items():
        table.add_row(
            Text(name),
            str(row["examples"]),
            *(
                "-" if row[key] is None else f"{row[key]:.4f}"
                for key in columns
            ),
        )
    console.print(table)
    say_quality(console, figures, title)


def say_quality(
    console: Console, figures: Mapping[str, Any], title: str
) -> None:
    """Says what `quality` returned about the whole split, in two lines."""
    made = figures["intervals"]
    of_groups = (
        f" in {made['units']} groups, which intervals count"
        if made["resampled"] == "groups"
        else ""
    )
    accuracy = _in_words(figures, "accuracy", of_what=" % interval")
    say(
        console,
        f"{title}: {accuracy}, loss {figures['loss']:.4f}, "
        f"{figures['examples']} examples{of_groups}",
    )
    others = [_in_words(figures, name) for name in _SAID]
    say(console, f"  {', '.join(filter(None, others))}")


# In this order, after accuracy and loss.
_SAID = {
    "top_5_accuracy": "top-5 accuracy",
    "macro_f1": "macro F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "auc": "AUC",
    "average_precision": "average precision",
    "brier_score": "Brier score",
    "expected_calibration_error": "calibration error",
}


def _in_words(
    figures: Mapping[str, Any], name: str, of_what: str = " %"
) -> str | None:
    """A figure with its interval; None where it has no value."""
    if figures.get(name) is None:
        return None
    text = f"{_SAID.get(name, name)} {figures[name]:.4f}"
    interval = figures.get(f"{name}_interval")
    if interval is not None:
        low, high = interval
        share = f"{100 * figures['intervals']['confidence']:.0f}"
        text += f" ({share}{of_what} {low:.3f}..{high:.3f})"
    return text
