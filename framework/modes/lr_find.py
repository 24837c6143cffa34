"""Turns a gin file into a learning rate to train it with, and a plot of why.

The range test of Smith 2017, https://arxiv.org/abs/1506.01186, section 3.3: the
rate rises geometrically from one update to the next until the loss explodes.
Where the loss is least the rate is too high already; a tenth of it trains fast
and safely.
"""

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from framework.console import say
from framework.errors import UserError
from framework.evaluation import report
from framework.modes.loading import load_data
from framework.modes.recipe import Recipe, with_recipe
from framework.registry import MODES
from framework.run_directory import RunDirectory
from framework.task import Task
from framework.training.distribution import Distribution
from framework.training.state import Plan, TrainState

_ALL_DEVICES = Distribution()
_FIGURES = "lr_find.json"
_PLOT = "lr_find.png"
# The loss has exploded at so many times the least one.
_EXPLODED = 4.0
# What one update's loss counts in the smoothed one.
_NEW = 0.1


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """What the range test found.

    Attributes:
        rates: of each update, rising.
        losses: of each update's batch.
        smoothed: these losses, each with those before it.
        suggestion: a tenth of the rate of the least smoothed loss.
        steepest: the rate at which the smoothed loss falls fastest.
        directory: where it is written.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float
    steepest: float
    directory: str


@MODES.register(given=["locate", "console"])
@with_recipe
def lr_find(
    locate: Callable[[], RunDirectory],
    task: Task,
    recipe: Recipe,
    distribution: Distribution = _ALL_DEVICES,
    phase: int = 1,
    doctor: str | None = None,
    lowest: float = 1e-6,
    highest: float = 1.0,
    updates: int = 150,
    console: Console | None = None,
) -> LearningRates:
    """Trains at rising rates; suggests one.

    What is bound of `train` holds here, too.

    Args:
        locate: finds the directory to write to.
        task: what the data is.
        recipe: of training.
        distribution: which devices train together.
        phase: whose rate to find, from 1; those before it are trained first,
            to their last epochs.
        doctor: as in `train`.
        lowest: the first rate.
        highest: the last rate, unless the loss explodes before.
        updates: how many to make, at most.
        console: where to write.

    Raises:
        UserError: the data can't be had, the parts don't fit together, or the
            loss never fell.
    """
    console = console or Console()
    _check(lowest, highest, updates)
    recipe.check_phase("lr_find.phase", phase)
    # The loss of each update is looked at, and no epoch comes twice.
    recipe = dataclasses.replace(recipe, steps_per_call=1, feature_views=None)
    world = distribution.make()
    data = load_data(task, console, doctor)
    say(console, report.describe(data))
    state = TrainState()
    for _ in range(phase - 1):
        with recipe.on(data, world, state) as setup:
            say(console, f"{setup.title}, is trained first.")
            setup.trainer.fit(
                setup.plan, setup.batches, None, None, state=state
            )
            state.begin_phase()

    def rising(steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
        return keras.optimizers.schedules.ExponentialDecay(
            lowest, updates - 1, highest / lowest
        )

    tested = recipe.of_one_epoch()
    tested = dataclasses.replace(
        tested,
        schedule=rising,
        phases=[
            dataclasses.replace(p, learning_rate=None, schedule=None)
            for p in tested.phases
        ],
    )
    recorder = _Recorder()
    with tested.on(data, world, state) as setup:
        run = locate()
        for line in setup.built.description:
            say(console, line)
        say(
            console,
            f"Raising the learning rate from {lowest:g} to {highest:g} in "
            f"{updates} updates.",
        )
        with contextlib.suppress(_Exploded):
            setup.trainer.fit(
                Plan(updates * recipe.batch_size, recipe.batch_size, 1),
                setup.batches,
                None,
                None,
                [recorder],
            )
    found = _conclude(recorder.losses, lowest, highest, updates)
    run.create()
    found = dataclasses.replace(found, directory=run.path)
    figures = dataclasses.asdict(found)
    del figures["directory"]
    run.write(_FIGURES, json.dumps(figures, indent=2) + "\n")
    picture = io.BytesIO()
    _figure(found, data.title).savefig(picture, dpi=110)
    run.write(_PLOT, picture.getvalue())
    run.finish({"data": {"source": data.source}, "lr_find": figures})
    say(
        console,
        f"Suggested learning rate: {found.suggestion:.2g}, a tenth of where "
        f"the loss was least; it fell fastest at {found.steepest:.2g}. Bind "
        "it where this configuration has its rate: the optimizer's "
        "learning_rate, the schedule's peak, or the phase's learning_rate. "
        f"Plot: {run.file(_PLOT)}",
    )
    return found


def _check(lowest: float, highest: float, updates: int) -> None:
    if not 0 < lowest < highest:
        raise UserError(
            f"lr_find.lowest is {lowest} and lr_find.highest {highest}; "
            "expected 0 < lowest < highest."
        )
    if updates < 20:
        raise UserError(f"lr_find.updates is {updates}; expected at least 20.")


class _Exploded(Exception):
    """The loss is past hope, and the test over."""


class _Recorder(keras.callbacks.Callback):
    """Keeps the losses; ends training when they have exploded."""

    def __init__(self):
        super().__init__()
        self.losses: list[float] = []
        self._least = math.inf

    def on_train_batch_end(self, batch, logs=None):
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise _Exploded
        self.losses.append(loss)
        smoothed = _smoothed(self.losses)[-1]
        self._least = min(self._least, smoothed)
        if smoothed > _EXPLODED * self._least:
            raise _Exploded


def _smoothed(losses: Sequence[float]) -> np.ndarray:
    """Exponential means; the first ones don't lean towards 0."""
    mean, means = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean += _NEW * (loss - mean)
        means.append(mean / (1 - (1 - _NEW) ** count))
    return np.array(means)


def _conclude(
    losses: Sequence[float], lowest: float, highest: float, updates: int
) -> LearningRates:
    if len(losses) < 10:
        raise UserError(
            f"The loss exploded after {len(losses)} updates at rates from "
            f"{lowest:g}; expected a lower lr_find.lowest, or look at the data "
            "(--mode=doctor)."
        )
    rates = lowest * (highest / lowest) ** (
        np.arange(len(losses)) / (updates - 1)
    )
    smoothed = _smoothed(losses)
    least = int(smoothed.argmin())
    if least == updates - 1:
        raise UserError(
            f"The loss still falls at the highest rate, {highest:g}; expected "
            "a higher lr_find.highest."
        )
    if least == 0:
        raise UserError(
            f"The loss rose from the first update on, at {lowest:g}; expected "
            "a lower lr_find.lowest."
        )
    # Over several updates: from one to the next it is noise.
    wide = np.convolve(smoothed, np.full(9, 1 / 9), mode="same")[4:-4]
    slopes = np.gradient(wide, np.log(rates[4:-4]))
    return LearningRates(
        rates=tuple(rates.tolist()),
        losses=tuple(losses),
        smoothed=tuple(smoothed.tolist()),
        suggestion=float(rates[least] / 10),
        steepest=float(rates[4 + slopes[: max(least - 3, 1)].argmin()]),
        directory="",
    )


def _figure(found: LearningRates, title: str) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(
        found.rates, found.losses, color="C0", alpha=0.3, label="loss"
    )
    axes.semilogx(found.rates, found.smoothed, color="C0", label="smoothed")
    axes.axvline(
        found.suggestion,
        color="C1",
        label=f"suggested: {found.suggestion:.2g}",
    )
    axes.axvline(
        found.steepest,
        color="grey",
        linestyle=":",
        label=f"falls fastest: {found.steepest:.2g}",
    )
    smoothed = np.array(found.smoothed)
    top = max(smoothed[0], smoothed.min() * 1.1)
    axes.set_ylim(min(smoothed.min(), min(found.losses)), 1.5 * top)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
