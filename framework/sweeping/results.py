"""Turns the trials of a sweep into a page, a table and the best one's gin file.

sweeps/<name>/
    sweep.html     the trials on one page
    sweep.csv      the same, a trial a line
    best.gin       the experiment with the best trial's values
    trial-0000/    the run directory of each trial
    logs/          what each trial printed
    locks/         who is at what
    sweep.db       Optuna's storage, unless --storage names another one
"""

import contextlib
import csv
import dataclasses
import io
import os
import shlex
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from markupsafe import Markup
from optuna.trial import FrozenTrial, TrialState

from framework.configuration import overriding
from framework.errors import UserError
from framework.evaluation import plots
from framework.pages import template
from framework.sweeping.ledger import (
    BEST_EPOCH,
    REASON,
    SECONDS,
    STARTS,
    Ledger,
)
from framework.sweeping.space import Search
from framework.sweeping.sweep import LOGS, Asked, Swept, place

PAGE, TABLE, BEST = "sweep.html", "sweep.csv", "best.gin"
_TEMPLATE = os.path.join(os.path.dirname(__file__), "sweep.html.j2")
# Trials that are complete, before it is said which parameters matter.
_ENOUGH = 6
# Of the plot of learning curves: the best ones.
_MOST_CURVES = 60
# The order of a table: what has a value first.
_STATES = ("complete", "given up", "under way", "interrupted", "failed")


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial, as the page shows it.

    Attributes:
        number: from 0.
        state: "complete", "given up", "under way", "interrupted" or "failed".
        value: what it is judged by; of one that was given up or is not
            finished, its last figure. None where there is none.
        values: by parameter, as gin files write it.
        figures: by epoch, from 1.
        best_epoch: whose weights were kept.
        seconds: spent on it.
        starts: how often it was begun, or taken up again.
        reason: why it failed.
        place: its run directory; None where there is none.
        log: what it printed, likewise.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, str]
    figures: Mapping[int, float]
    best_epoch: int | None
    seconds: float
    starts: int
    reason: str
    place: str | None
    log: str | None


def write(asked: Asked, ledger: Ledger) -> tuple[Swept, list[str]]:
    """Writes all three files; what it came to, and sentences on it.

    Raises:
        UserError: they can't be written.
    """
    trials = ledger.trials
    rows = [
        _row(asked, ledger, trial)
        for trial in trials
        if trial.state != TrialState.WAITING
    ]
    search = asked.search
    best = best_of(rows, search)
    waiting = len(trials) - len(rows)
    unfinished = waiting + sum(
        row.state in ("under way", "interrupted") for row in rows
    )
    by_rank = sorted(rows, key=lambda row: _rank(row, search))
    values = trials[best.number].params if best else {}
    command = asked.command(values) if best else []
    path = os.path.join(asked.directory, PAGE)
    _write(os.path.join(asked.directory, TABLE), _table(rows, search))
    if best:
        _write(
            os.path.join(asked.directory, BEST), _best_gin(asked, best, values)
        )
    _write(
        path,
        template(_TEMPLATE).render(
            name=os.path.basename(os.path.abspath(asked.directory)),
            gin_file=asked.gin_file,
            search=search,
            rows=by_rank,
            best=best,
            bindings=search.lines(values) if best else [],
            command=command,
            short=_short(asked) if best else None,
            counts=[
                (state, sum(row.state == state for row in rows))
                for state in _STATES
            ],
            waiting=waiting,
            trials=len(trials),
            plots=_plots(rows, search, best),
            importance=_importance(ledger.study, trials),
        ),
    )
    swept = Swept(
        asked.directory,
        path,
        best.number if best else None,
        best.value if best else None,
        tuple(search.bindings(values)) if best else (),
        unfinished,
    )
    lines = [f"Page: {path}"]
    if best:
        lines = [
            f"Best: trial {best.number}, {search.monitor} {best.value:.4f}: "
            f"{'; '.join(search.lines(values))}",
            *lines,
            "The best trial once more, with its report:",
            f"    {_short(asked)}",
            f"    {' '.join(command)}",
        ]
    return swept, lines


def _short(asked: Asked) -> str:
    path = os.path.join(asked.directory, BEST)
    return f"python -m framework.main --gin_file={shlex.quote(path)}"


def best_of(rows: Sequence[Row], search: Search) -> Row | None:
    """The best of the trials that are complete, the first of equals."""
    complete = [row for row in rows if row.state == "complete"]
    return min(complete, key=lambda row: _rank(row, search), default=None)


def _rank(row: Row, search: Search) -> tuple:
    sign = 1 if search.is_lower_better else -1
    value = 0.0 if row.value is None else sign * row.value
    return (_STATES.index(row.state), row.value is None, value, row.number)


def _row(asked: Asked, ledger: Ledger, trial: FrozenTrial) -> Row:
    state = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "given up",
        TrialState.FAIL: "failed",
    }.get(trial.state)
    if state is None:
        held = ledger.is_in_hand(trial.number)
        state = "under way" if held else "interrupted"
    figures = dict(sorted(trial.intermediate_values.items()))
    value = trial.value if state == "complete" else None
    if value is None and figures and state != "failed":
        value = list(figures.values())[-1]
    told = trial.user_attrs
    log = f"{LOGS}/{place(trial.number)}.log"
    return Row(
        number=trial.number,
        state=state,
        value=value,
        values={
            name: what.written(trial.params[name])
            for name, what in asked.search.space.items()
            if name in trial.params
        },
        figures=figures,
        best_epoch=told.get(BEST_EPOCH),
        seconds=told.get(SECONDS, 0.0),
        starts=told.get(STARTS, 1),
        reason=told.get(REASON, ""),
        place=(
            place(trial.number)
            if os.path.isdir(asked.place(trial.number))
            else None
        ),
        log=log if os.path.exists(f"{asked.directory}/{log}") else None,
    )


def _table(rows: Sequence[Row], search: Search) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("trial", "state", search.monitor, *search.space),
            *("epochs", "best_epoch", "seconds", "starts", "reason"),
        ]
    )
    for row in rows:
        writer.writerow(
            [
                row.number,
                row.state,
                "" if row.value is None else repr(row.value),
                *(row.values.get(name, "") for name in search.space),
                len(row.figures),
                row.best_epoch or "",
                f"{row.seconds:.1f}",
                row.starts,
                row.reason,
            ]
        )
    return text.getvalue()


def _best_gin(asked: Asked, best: Row, values: Mapping[str, Any]) -> str:
    lines = asked.search.bindings(values)
    return (
        f"# Trial {best.number} of the sweep around {asked.gin_file}, "
        f"{asked.search.monitor} {best.value:.4f}.\n"
        "# Below is that file as it was, and at the end what the trial binds.\n"
        f"\n{asked.text}\n" + overriding(lines)
    )


def _plots(
    rows: Sequence[Row], search: Search, best: Row | None
) -> dict[str, list[tuple[str, Markup]]]:
    """By heading, each plot with its caption."""
    there = [r for r in rows if r.state in ("complete", "given up")]
    there = [r for r in there if r.value is not None]
    if not there:
        return {}
    values = [row.value for row in there]
    complete = [row.state == "complete" for row in there]
    made = {
        "How it went": [
            (
                "By trial, and the best so far",
                plots.svg(
                    plots.trials(
                        [row.number for row in there],
                        values,
                        complete,
                        search.is_lower_better,
                        search.monitor,
                    ),
                    f"{search.monitor} of each trial, and the best so far",
                    "trials",
                ),
            )
        ],
        "By parameter": [],
    }
    shown = sorted(
        (r for r in rows if r.figures), key=lambda row: _rank(row, search)
    )[:_MOST_CURVES]
    made["How it went"].append(
        (
            "By epoch, a line a trial",
            plots.svg(
                plots.curves(
                    [row.figures for row in shown],
                    [row.state == "complete" for row in shown],
                    shown.index(best) if best in shown else None,
                    search.monitor,
                ),
                f"{search.monitor} by epoch, a line a trial",
                "curves",
            ),
        )
    )
    for number, (name, what) in enumerate(search.space.items()):
        written = [row.values[name] for row in there]
        figure = plots.against(
            written if what.options else list(map(float, written)),
            values,
            complete,
            there.index(best) if best in there else None,
            search.monitor,
            is_log=what.is_log,
            options=what.options,
        )
        description = f"{search.monitor} of each trial against {name}"
        made["By parameter"].append(
            (name, plots.svg(figure, description, f"parameter-{number}"))
        )
    return made


def _importance(
    study: optuna.Study, trials: Sequence[FrozenTrial]
) -> tuple[int, Markup] | None:
    """Of how many trials, and the plot; None where there are too few."""
    count = sum(trial.state == TrialState.COMPLETE for trial in trials)
    if count < _ENOUGH:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shares = optuna.importance.get_param_importances(
                study, evaluator=evaluator
            )
        except (RuntimeError, ValueError):  # All values are the same.
            return None
    figure = plots.bars(shares, "share of the variance")
    return count, plots.svg(
        figure, "importance of each parameter", "importance"
    )


def _write(path: str, text: str) -> None:
    """Writes a file at once: others may read it meanwhile."""
    folder, name = os.path.split(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=folder or ".", prefix=f".{name}-", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise UserError(
            f"{path} can't be written: {error}. Make room; the same command "
            "goes on with the sweep."
        ) from error
