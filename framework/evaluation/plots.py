"""Turns figures of runs into plots, as SVG for pages and as PNG beside them.

Plots have the colours of the page that they stand on, be it light or dark, and
their text is text.
"""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import sklearn.calibration
import sklearn.metrics
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from framework.evaluation.metrics import BINS
from framework.pages import brief, visible

# As drawn, for a light ground; and the name that a page has for it. Blue and
# orange of Okabe and Ito, darkened: told apart by the colour-blind, too, and
# three times as dark as the ground.
_COLOURS = {
    "#1f1e1b": "ink",
    "#5d5a53": "soft",
    "#e2ddd3": "line",
    "#1a5c88": "series-1",
    "#b04a00": "series-2",
    "#0a7355": "series-3",
    "#94366f": "series-4",
    "#6b6100": "series-5",
    "#4b4a9e": "series-6",
}
INK, SOFT, LINE, *SERIES = _COLOURS
STYLES = ("-", "--", ":", "-.")
_SIZE = (5.6, 3.3)
_LOOK = {
    "svg.fonttype": "none",
    "svg.hashsalt": "framework",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}
# Of a curve with a point an example; more are no better to be seen.
_MOST_POINTS = 400


def panels(
    epochs: Sequence[Mapping[str, Any]], best_epoch: int
) -> dict[str, Figure]:
    """A history as a figure each of loss, accuracy and learning rate.

    A thin line stands where a phase begins, a dotted one at the weights kept.

    Args:
        epochs: as in `History.epochs`.
        best_epoch: index of the epoch whose weights were kept.
    """
    made = {}
    for name in ("loss", "accuracy", "learning rate"):
        with matplotlib.rc_context(_LOOK):
            figure, axes = _figure()
            _draw(axes, name, epochs, best_epoch)
        made[name] = figure
    return made


def history(
    epochs: Sequence[Mapping[str, Any]], best_epoch: int, title: str = ""
) -> bytes:
    """A PNG of loss and accuracy, training against validation.

    Args:
        epochs: as in `History.epochs`.
        best_epoch: index of the epoch whose weights were kept.
        title: stands above.
    """
    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        # A dollar sign is one.
        figure.suptitle(visible(brief(title)), parse_math=False)
        for axes, name in zip(
            figure.subplots(1, 2), ("loss", "accuracy"), strict=True
        ):
            _draw(axes, name, epochs, best_epoch)
            axes.set_title(name)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def overlaid(
    histories: Sequence[Sequence[Mapping[str, Any]]],
    names: Sequence[str],
    figure_of: str,
) -> Figure:
    """Several runs' "loss" or "accuracy" in validation, by epoch.

    Where a run had nothing to validate on, that of training is drawn, and the
    legend says so.

    Args:
        histories: of each run, as in `History.epochs`.
        names: of each run, for the legend.
        figure_of: "loss" or "accuracy".
    """
    with matplotlib.rc_context(_LOOK):
        figure, axes = _figure()
        for number, (epochs, name) in enumerate(
            zip(histories, names, strict=True)
        ):
            split = "validation" if "validation" in epochs[0] else "train"
            axes.plot(
                [e["epoch"] for e in epochs],
                [e[split][figure_of] for e in epochs],
                marker="o",
                color=SERIES[number % len(SERIES)],
                linestyle=STYLES[number // len(SERIES) % len(STYLES)],
                label=name + (" (training)" if split == "train" else ""),
            )
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(axes)
    return figure


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Accuracy by confidence, in the bins of the calibration error.

    Args:
        labels: int64 `[N]`.
        probabilities: `[N, num_classes]`.
    """
    confidence = probabilities.max(-1).astype(np.float64)
    right = probabilities.argmax(-1) == labels
    accuracy, mean = sklearn.calibration.calibration_curve(
        right, np.clip(confidence, 0, 1), n_bins=BINS
    )
    counts, edges = np.histogram(confidence, BINS, (0, 1))
    with matplotlib.rc_context(_LOOK):
        figure, axes = _figure()
        axes.plot([0, 1], [0, 1], color=SOFT, linestyle=":", label="calibrated")
        axes.bar(
            edges[:-1],
            counts / len(labels),
            np.diff(edges),
            align="edge",
            color=LINE,
            label="share of examples",
        )
        axes.plot(mean, accuracy, "o-", color=SERIES[0], label="this model")
        axes.set_xlabel("confidence: the highest probability")
        axes.set_ylabel("accuracy")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        _legend(axes)
    return figure


def thresholds(
    labels: np.ndarray, positive: np.ndarray
) -> tuple[Figure, float]:
    """Precision, recall and F1 of the positive class by threshold.

    Args:
        labels: int64 `[N]`, 0 and 1, both of them.
        positive: `[N]`, the probabilities of class 1.

    Returns:
        the plot, and the middle of the thresholds with the highest F1.
    """
    precision, recall, at = sklearn.metrics.precision_recall_curve(
        labels, positive
    )
    # The last point belongs to no threshold.
    precision, recall = precision[:-1], recall[:-1]
    total = precision + recall
    f1 = 2 * precision * recall / np.where(total > 0, total, 1)
    # Any threshold above the next lower score does as well.
    place = int(f1.argmax())
    best = float((at[place] + (at[place - 1] if place else 0.0)) / 2)
    shown = np.unique(
        np.linspace(0, len(at) - 1, min(len(at), _MOST_POINTS)).astype(int)
    )
    with matplotlib.rc_context(_LOOK):
        figure, axes = _figure()
        for values, name, colour, style in zip(
            (precision, recall, f1),
            ("precision", "recall", "F1"),
            SERIES,
            STYLES,
            strict=False,
        ):
            axes.step(
                at[shown],
                values[shown],
                where="pre",
                color=colour,
                linestyle=style,
                label=name,
            )
        axes.axvline(0.5, color=SOFT, linewidth=1, label="0.5, as judged")
        axes.set_xlabel("threshold on the probability")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        _legend(axes)
    return figure, best


def trials(
    numbers: Sequence[int],
    values: Sequence[float],
    complete: Sequence[bool],
    is_lower_better: bool,
    name: str,
) -> Figure:
    """A sweep's trials by number, and the best so far of those complete.

    Args:
        numbers: of each trial, ascending.
        values: of each trial.
        complete: whether it was trained to its end.
        is_lower_better: of the values.
        name: of the values.
    """
    best = np.minimum if is_lower_better else np.maximum
    ended = [
        (n, v) for n, v, c in zip(numbers, values, complete, strict=True) if c
    ]
    with matplotlib.rc_context(_LOOK):
        figure, axes = _figure()
        _points(axes, numbers, values, complete)
        if ended:
            at, found = zip(*ended, strict=True)
            axes.step(
                [*at, max(numbers)],
                [*best.accumulate(found), best.reduce(found)],
                where="post",
                color=SERIES[1],
                label="best so far",
            )
        axes.set_xlabel("trial")
        axes.set_ylabel(name, parse_math=False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(axes)
    return figure


def against(
    parameter: Sequence[float] | Sequence[str],
    values: Sequence[float],
    complete: Sequence[bool],
    best: int | None,
    name: str,
    *,
    is_log: bool = False,
    options: Sequence[str] = (),
) -> Figure:
    """A sweep's trials against one parameter, the best one large.

    Args:
        parameter: what each trial has of it: numbers, or some of `options`.
        values: of each trial.
        complete: whether it was trained to its end.
        best: index of the best one.
        name: of the values.
        is_log: whether the parameter's axis is logarithmic.
        options: all that there are, where the parameter is no number.
    """
    with matplotlib.rc_context(_LOOK):
        figure, axes = _figure()
        places = [options.index(p) if options else p for p in parameter]
        _points(axes, places, values, complete)
        if best is not None:
            axes.plot(
                [places[best]],
                [values[best]],
                "o",
                color=SERIES[1],
                markersize=8,
            )
        if options:
            axes.set_xticks(
                range(len(options)),
                [_clipped(option) for option in options],
                parse_math=False,
            )
            axes.set_xlim(-0.5, len(options) - 0.5)
            if len(options) > 4:
                axes.tick_params(axis="x", labelrotation=30)
        elif is_log:
            axes.set_xscale("log")
        axes.set_ylabel(name, parse_math=False)
    return figure


def curves(
    histories: Sequence[Mapping[int, float]],
    complete: Sequence[bool],
    best: int | None,
    name: str,
) -> Figure:
    """A sweep's trials by epoch, the best one in front.

    Args:
        histories: of each trial a figure by epoch, from 1.
        complete: whether it was trained to its end.
        best: index of the best one.
        name: of the figure.
    """
    with matplotlib.rc_context(_LOOK):
        figure, axes = _figure()
        kinds = {
            "complete": dict(color=SERIES[0], alpha=0.55, linewidth=1.1),
            "not complete": dict(color=SOFT, linestyle="--", linewidth=1.1),
            "best": dict(color=SERIES[1], linewidth=2.6, zorder=3),
        }
        seen = set()
        for place, (history, ended) in enumerate(
            zip(histories, complete, strict=True)
        ):
            kind = "complete" if ended else "not complete"
            kind = "best" if place == best else kind
            axes.plot(
                list(history),
                list(history.values()),
                marker="o" if len(history) == 1 else None,
                label=None if kind in seen else kind,
                **kinds[kind],
            )
            seen.add(kind)
        axes.set_xlabel("epoch")
        axes.set_ylabel(name, parse_math=False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(axes)
    return figure


def bars(shares: Mapping[str, float], name: str) -> Figure:
    """Shares as bars, the largest on top.

    Args:
        shares: by name.
        name: of what they are shares of.
    """
    names = sorted(shares, key=shares.__getitem__)
    with matplotlib.rc_context(_LOOK):
        figure, axes = _figure()
        axes.barh(
            range(len(names)), [shares[n] for n in names], color=SERIES[0]
        )
        axes.set_yticks(
            range(len(names)), [_clipped(n) for n in names], parse_math=False
        )
        axes.set_xlabel(name)
        axes.set_xlim(0, 1)
        axes.grid(False, axis="y")
    return figure


def _points(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[float],
    complete: Sequence[bool],
) -> None:
    """Full points of what is complete, hollow ones of what is not."""
    for wanted, fill, label in (
        (True, SERIES[0], "complete"),
        (False, "none", "given up"),
    ):
        chosen = [i for i, c in enumerate(complete) if c == wanted]
        if chosen:
            axes.plot(
                [places[i] for i in chosen],
                [values[i] for i in chosen],
                "o",
                color=SERIES[0],
                markerfacecolor=fill,
                markersize=5,
                label=label,
            )


def _clipped(text: str, most: int = 24) -> str:
    """A name for an axis: its end says more than its beginning."""
    text = visible(text)
    return text if len(text) <= most else f"…{text[1 - most :]}"


def svg(figure: Figure, description: str, prefix: str) -> Markup:
    """A figure as SVG to stand in a page.

    Args:
        figure: one of this module's.
        description: what a screen reader says in its place.
        prefix: a name that no other figure on the page has: ids must differ.
    """
    file = io.StringIO()
    with matplotlib.rc_context(_LOOK):
        figure.savefig(
            file, format="svg", transparent=True, metadata={"Date": None}
        )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # It would hold for the whole page.
    text = re.sub(r"<defs>\s*<style.*?</defs>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(
        r' id="([^"]+)"',
        lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "",
        text,
    )
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for colour, name in _COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    # Its own fonts and size are for printing.
    text = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "var(--sans)", text)
    text = re.sub(
        r'<svg ([^>]*?)width="[^"]*"([^>]*?)height="[^"]*"',
        r"<svg \1\2",
        text,
        count=1,
    )
    text = re.sub(
        r"<svg ([^>]*)>",
        lambda m: (
            f'<svg {m[1]} role="img" '
            f'aria-label="{escape(visible(description))}">'
        ),
        text,
        count=1,
    )
    return Markup(re.sub(r"\n\s*", "\n", text))


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    return figure, figure.subplots()


def _legend(axes: Axes) -> None:
    legend = axes.legend()
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw(
    axes: Axes,
    name: str,
    epochs: Sequence[Mapping[str, Any]],
    best_epoch: int,
) -> None:
    numbers = [e["epoch"] for e in epochs]
    if name == "learning rate":
        axes.plot(
            numbers,
            [e["learning_rate"] for e in epochs],
            "o-",
            color=SERIES[0],
            label="at the end of the epoch",
        )
        axes.set_ylim(bottom=0)
    else:
        for split, colour, style in (
            ("train", SERIES[0], "o-"),
            ("validation", SERIES[1], "s--"),
        ):
            if split in epochs[0]:
                axes.plot(
                    numbers,
                    [e[split][name] for e in epochs],
                    style,
                    color=colour,
                    label="training" if split == "train" else split,
                )
    axes.axvline(
        numbers[best_epoch], color=SOFT, linestyle=":", label="weights kept"
    )
    for before, after in itertools.pairwise(epochs):
        if before.get("phase", 1) != after.get("phase", 1):
            axes.axvline(after["epoch"] - 0.5, color=SOFT, linewidth=0.8)
            axes.annotate(
                f"phase {after['phase']}",
                (after["epoch"] - 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -10),
                textcoords="offset points",
                color=SOFT,
                fontsize=8,
            )
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes)
