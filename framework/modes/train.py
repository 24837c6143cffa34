"""Turns a task and the parts that a gin file chose into a trained model."""

import contextlib
import copy
import dataclasses
import functools
import json
import os
import statistics
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from rich.console import Console

from framework.console import say, some
from framework.data.doctor.diagnosis import Diagnosis
from framework.data.pipeline import Pipeline, example_ids
from framework.data.source import StreamedExamples
from framework.errors import UserError
from framework.evaluation import page, plots, report
from framework.evaluation.predictions import Predictions
from framework.modes import export as exporting
from framework.modes.export import Export
from framework.modes.recipe import Recipe, Setup, with_recipe
from framework.modes.rehearsal import rehearse
from framework.registry import MODES
from framework.run_directory import (
    SUMMARY,
    LogObserver,
    RunDirectory,
    read_predictions,
    weights_sha256,
)
from framework.task import Data, Task
from framework.training import resuming
from framework.training.checkpoints import Checkpoints, CheckpointStore
from framework.training.distribution import Distribution, World
from framework.training.early_stopping import EarlyStopping
from framework.training.profiling import Profiler
from framework.training.progress import ProgressObserver
from framework.training.state import TrainState
from framework.training.throughput import verdict
from framework.training.trainer import History, Observer, validation

_ALL_DEVICES = Distribution()
_NOW_AND_THEN = Checkpoints()
# Of summary.json: beside the figures without.
_AUGMENTED = "test_time_augmentation"


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a training run leaves.

    Attributes:
        model: the trained Keras model; uint8 `[B, S, S, 3]`, pixels 0..255.
        history: what happened, epoch by epoch.
        summary: the end in figures, as in `summary.json`.
        directory: where everything lies.
        class_names: the classes in the order of the model's labels.
    """

    model: keras.Model
    history: History
    summary: dict[str, Any]
    directory: str
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Training:
    """What of a run is the same whatever data it is trained on; see `train`."""

    recipe: Recipe
    world: World
    console: Console
    checkpoints: Checkpoints
    early_stopping: EarlyStopping | None
    callbacks: Sequence[keras.callbacks.Callback]
    profile: bool
    with_page: bool
    export: Export | None
    started: float | None
    fingerprint: Callable[[], str]
    observers: Sequence[Observer]

    def rehearse(self, data: Data) -> None:
        """Builds each phase for `data`; says what it would train, and take."""
        state = None
        for _ in range(self.recipe.last_phase + 1):
            with self.recipe.on(data, self.world, state) as setup:
                if state is None:
                    state = TrainState()
                    for line in setup.surroundings:
                        say(self.console, line)
                for line in setup.opening:
                    say(self.console, line)
                say(self.console, setup.learning_rates())
                for line in rehearse(setup, data).description:
                    say(self.console, line)
                state.step = setup.plan.total_steps
                state.epochs += [{}] * setup.plan.epochs
            state.begin_phase()
        say(
            self.console,
            "A dry run: what some updates have learned is thrown away, and "
            "nothing is written.",
        )

    def on(self, data: Data, locate: Callable[[], RunDirectory]) -> Result:
        """Trains on `data`, phase by phase; judges and saves."""
        with contextlib.ExitStack() as closing:
            run = _Run(self, data, locate, closing)
            state = None  # Not known before something is built.
            while True:
                with self.recipe.on(data, self.world, state) as setup:
                    if state is None:
                        state = run.find(setup)
                        if state.phase > 0:
                            continue  # Build that phase.
                    if run.directory.is_finished:
                        return run.as_it_was_left(setup)
                    history = run.train(setup, state)
                    is_last = state.phase == self.recipe.last_phase
                    best = history.epochs[history.best_epoch]["phase"] - 1
                    if is_last and best == state.phase:
                        return run.end(setup, history)
                del setup  # Or there would be two at a time.
                if is_last:
                    break
                state.begin_phase()
            # The model that the best weights were judged with: a later phase
            # may look at pictures of another size.
            state.phase = best
            with self.recipe.on(data, self.world, state) as setup:
                return run.end(setup, history)


class _Run:
    """One run on some data: what `_Training.on` does, in its order."""

    def __init__(
        self,
        training: _Training,
        data: Data,
        locate: Callable[[], RunDirectory],
        closing: contextlib.ExitStack,
    ):
        self._training = training
        self._world, self._console = training.world, training.console
        self._data = data
        self._locate = locate
        self._closing = closing
        self._said: list[str] = []
        self._early_stopping = early_stopping = training.early_stopping
        if early_stopping and early_stopping.split not in data.splits:
            self._say(
                f"No {early_stopping.split} split: EarlyStopping is not used, "
                "all epochs are trained and the last one's weights kept.",
            )
            self._early_stopping = None
        self._found: resuming.Found | None = None
        self._remarks: list[str] = []
        self._logs: LogObserver | None = None
        self._is_created = False
        self._seconds_to_first_update: float | None = None

    def _say(self, *lines: str) -> None:
        self._said += lines
        for line in lines:
            say(self._console, line)

    def find(self, setup: Setup) -> TrainState:
        """The run's directory, and where training stands.

        Args:
            setup: of the first phase.
        """
        training = self._training
        self._say(*setup.surroundings)
        self._facts = resuming.facts(self._data, training.fingerprint())
        self._world.check_alike(self._facts)
        store = CheckpointStore(None, training.checkpoints)

        def look() -> tuple[RunDirectory, Any, list[str]]:
            nonlocal store
            run = self._locate()
            if run.is_finished:
                return run, run.results(), []
            store = CheckpointStore(run.checkpoints, training.checkpoints)
            try:
                found, remarks = resuming.load(
                    store,
                    self._facts,
                    setup.built.model,
                    setup.trainer.optimizer,
                )
            except UserError:
                run.close()
                raise
            return run, found, remarks

        self.directory, found, self._remarks = self._world.chief_does(look)
        self._store = store
        if self.directory.is_finished:
            self._results = found
            _, epochs, summary = found
            best = epochs[summary["train"]["best_epoch"] - 1]
            return TrainState(phase=best["phase"] - 1)
        self._closing.enter_context(contextlib.closing(self.directory))
        self._closing.enter_context(contextlib.closing(store))
        if found is None:
            return TrainState()
        self._found = found
        return TrainState.unpack(*found)

    def train(self, setup: Setup, state: TrainState) -> History:
        """One phase: batches -> trained weights."""
        training, data, plan = self._training, self._data, setup.plan
        trainer, pipeline = setup.trainer, training.recipe.pipeline
        self._say(*setup.opening)
        memories = ()
        if self._found is not None:
            memories = resuming.restore(
                self._found, setup.built, trainer.optimizer
            )
        stream = trainer.stream(setup.batches, plan, state.step)
        trainer.trace(stream, state.step)
        observers = []
        if not self._is_created:
            self._create(setup, state)
            if self._world.is_chief and training.profile:
                place = self.directory.file("tensorboard")
                observers.append(Profiler(self._console, place, state.step))
        if self._logs is not None:
            observers.append(self._logs)
        is_first = self._seconds_to_first_update is None
        progress = ProgressObserver(
            self._console,
            plan,
            state.step,
            training.started if is_first else None,
        )

        def validate() -> dict[str, float]:
            # Its batches are made when they are asked for.
            return validation(
                setup.predictor,
                setup.evaluation("validation"),
                pipeline.max_unreadable,
                self._early_stopping.figures if self._early_stopping else (),
            )()

        history = trainer.fit(
            plan,
            setup.batches,
            validate if "validation" in data.splits else None,
            self._early_stopping,
            training.callbacks,
            # Others last: what is told them is written down by then.
            [progress, *observers, *training.observers],
            max_unreadable=pipeline.max_unreadable,
            names=lambda positions: example_ids(
                data.splits["train"],
                positions,
                setup.seed,
                training.recipe.sampling,
            ),
            state=state,
            callback_states=memories,
            checkpoints=self._store,
            facts=self._facts,
            stream=stream,
            steps_per_call=setup.steps_per_call,
        )
        self._found = None
        if is_first:
            self._seconds_to_first_update = progress.seconds_to_first_update
        return history

    def _create(self, setup: Setup, state: TrainState) -> None:
        """Makes the directory, and says what is to be known of the run."""
        run, training = self.directory, self._training
        self._is_created = True
        run.path = self._world.chief_does(run.create)
        if self._world.is_chief:
            self._store.directory = run.checkpoints
            run.write_splits(self._data.splits)
            self._logs = LogObserver(run, state.epochs)
        self._say(
            *self._remarks,
            *resuming.inexact(training.callbacks),
            f"Run directory: {run.path}",
        )
        if run.is_begun:
            self._say(
                f"Taken up again after step {state.step} of "
                f"{setup.plan.total_steps}"
                + (f", in {setup.title}." if setup.title else ".")
                + " What was kept of the steps before is made again."
                * (
                    setup.trainer.views is not None
                    and state.step > setup.plan.first_step
                ),
            )

    def end(self, setup: Setup, history: History) -> Result:
        """Trained weights -> figures, pictures and the saved model."""
        world, run, data = self._world, self.directory, self._data
        pipeline, built = self._training.recipe.pipeline, setup.built
        _say_how_it_ended(self._console, history)
        held_up = "" if world.kind == "tpu" else verdict(history.input_wait)
        self._say(*filter(None, [held_up]))
        summary, predictions = _judge(
            self._console, world, run, data, setup, pipeline
        )
        summary["unreadable"][:0] = history.unreadable
        _report_unreadable(self._console, summary["unreadable"])
        summary["train"] = {
            **history.epochs[history.best_epoch]["train"],
            "epochs": len(history.epochs),
            "best_epoch": history.best_epoch + 1,
            "stopped_early": history.stopped_early,
            "images_per_second": history.images_per_second,
            "input_wait": history.input_wait,
            "seconds": history.seconds,
            "seconds_to_first_update": self._seconds_to_first_update,
            "continued": history.continued,
            "workers": world.workers,
            "replicas": world.replicas,
        }
        summary["weights_sha256"] = weights_sha256(built.model)
        if world.is_chief:
            run.write(
                "history.png",
                plots.history(history.epochs, history.best_epoch, data.title),
            )
            run.write_model(built.model)
            if self._training.with_page:
                self._write_page(setup, history, summary, predictions, held_up)
            # Last: a run with a summary is complete.
            run.finish(summary)
            if wanted := self._training.export:
                exporting.export(
                    run.path,
                    wanted.formats,
                    proof=wanted.proof,
                    data=data,
                    console=self._console,
                )
        return self._result(setup, history, summary)

    def _write_page(
        self,
        setup: Setup,
        history: History,
        summary: dict[str, Any],
        predictions: Predictions | None,
        held_up: str,
    ) -> None:
        """Writes report.html."""
        run, recipe = self.directory, self._training.recipe
        head = setup.built.head
        _write_page(
            self._console,
            run,
            page.Ran(
                run.path,
                self._data,
                summary,
                report.judged_split(self._data.splits),
                predictions,
                epochs=history.epochs,
                comparable=head.training_loss is None
                and not recipe.mixing
                and recipe.class_weights is None,
                resize=recipe.pipeline.resize,
                remarks=self._said,
                settings={
                    "Seed": recipe.seed,
                    "Precision": recipe.precision,
                },
                load=run.model,
                probabilities=head.probabilities,
                throughput=held_up,
                feed=lambda: recipe.feed(setup, self._data),
            ),
        )

    def as_it_was_left(self, setup: Setup) -> Result:
        """The result of a run that is finished already."""
        run = self.directory
        self._say(f"{run.path} holds this run, finished already.")
        weights, epochs, summary = self._results
        setup.built.model.set_weights(weights)
        train = summary["train"]
        history = History(
            epochs=epochs,
            best_epoch=train["best_epoch"] - 1,
            stopped_early=train["stopped_early"],
            unreadable=tuple(summary["unreadable"]),
            seconds=train["seconds"],
            images_per_second=train["images_per_second"],
            input_wait=train.get("input_wait", 0.0),
            continued=train["continued"],
        )
        return self._result(setup, history, summary)

    def _result(
        self, setup: Setup, history: History, summary: dict[str, Any]
    ) -> Result:
        return Result(
            setup.built.model,
            history,
            summary,
            self.directory.path,
            tuple(self._data.class_names),
        )


@MODES.register(
    given=[
        "locate",
        "fingerprint",
        "console",
        "at_hand",
        "profile",
        "dry_run",
        "started",
        "observers",
    ]
)
@with_recipe
def train(
    locate: Callable[[], RunDirectory],
    fingerprint: Callable[[], str],
    task: Task,
    recipe: Recipe,
    distribution: Distribution = _ALL_DEVICES,
    checkpoints: Checkpoints = _NOW_AND_THEN,
    early_stopping: EarlyStopping | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    doctor: str | None = None,
    folds: int | None = None,
    report_page: bool = True,
    export: Export | None = None,
    at_hand: Callable[[], Diagnosis | None] = lambda: None,
    profile: bool = False,
    dry_run: bool = False,
    started: float | None = None,
    console: Console | None = None,
    observers: Sequence[Observer] = (),
) -> Result | None:
    """Trains, evaluates, reports, exports.

    Args:
        locate: finds the run's directory; called when all else is known to
            be in order, so that a mistake leaves nothing behind.
        fingerprint: of the configuration, when all of it is known.
        task: what the data is; `@rock_paper_scissors()`.
        recipe: what decides the model's weights.
        distribution: which devices train together; `@distribution()`.
        checkpoints: how often to save; `@Checkpoints()`.
        early_stopping: which epoch is best, when to stop (the phase, where
            there are several); None trains all epochs and keeps the last
            one's weights.
        callbacks: Keras callbacks.
        doctor: a run directory of `--mode=doctor`: what is in its quarantine
            is left out, duplicates stay on one side of a cut.
        folds: cross-validation: the training split is dealt out into so many
            parts, each of which a model that has not seen it is tested on.
            None trains one model.
        report_page: whether to write `report.html`, which takes some seconds.
        export: what to export at the end, `@Export()`. A proof that fails
            leaves the run complete, and nothing exported.
        at_hand: finds what a doctor said earlier, to report leaks where
            `doctor` is None; it changes nothing.
        profile: write a trace of ten updates, for TensorBoard.
        dry_run: say what would be trained and at which learning rates, and
            train nothing. Returns None.
        started: when the command was given, in seconds since 1970.
        console: where to write.
        observers: told of every step and epoch, in all folds.

    Raises:
        UserError: the data can't be had, the parts don't fit together, or
            the loss is not finite.
        Interrupted: asked to stop; the run is saved.
        WorkerLost: another worker is gone.
    """
    if folds is not None and folds < 2:
        raise UserError(
            f"train.folds is {folds}; expected a whole number, at least 2, or "
            "None."
        )
    # Devices -> replicas. First of all: workers can't be joined later.
    world = distribution.make()
    console = console or Console()
    if not world.is_chief:
        console = Console(quiet=True)
    training = _Training(
        recipe=recipe,
        world=world,
        console=console,
        checkpoints=checkpoints,
        early_stopping=early_stopping,
        callbacks=callbacks,
        profile=profile,
        with_page=report_page,
        export=export,
        started=started,
        fingerprint=fingerprint,
        observers=observers,
    )
    with world.together():
        # Task -> source -> splits.
        diagnosis = known = None
        if doctor is not None:
            known = diagnosis = world.chief_does(lambda: Diagnosis.read(doctor))
        elif world.is_chief:
            known = at_hand()

        def announce(name: str, reason: str) -> None:
            console.print(report.stand_in_notice(name, reason))

        # The chief first: what it fetches or renders, others on its machine
        # find there.
        parts = world.chief_first(
            lambda: (
                [task.load(announce, diagnosis)]
                if folds is None
                else task.folds(folds, announce, diagnosis)
            )
        )
        if known and not diagnosis and not known.is_of(parts[0].splits):
            known = None
        parts = [_with_leaks(data, known, diagnosis) for data in parts]
        if export and export.proof and not report.judged_split(parts[0].splits):
            raise UserError(
                "train.export is to be proved, and there is neither a "
                "validation nor a test split to prove it by. Expected one, or "
                "Export.proof = False."
            )
        for data in parts if early_stopping else ():
            early_stopping.check(data)
        if dry_run:
            if folds is not None:
                say(
                    console,
                    f"The first of {folds} folds; the others are alike.",
                )
            _announce(console, parts[0])
            training.rehearse(parts[0])
            result = None
        elif folds is None:
            (data,) = parts
            _announce(console, data)
            result = training.on(data, locate)
        else:
            result = _cross_validate(training, parts, locate)
        # Nobody leaves before the chief is done, or it breaks its peers.
        world.part()
    return result


def _with_leaks(
    data: Data, known: Diagnosis | None, honoured: Diagnosis | None
) -> Data:
    """The data, with notes on duplicates that its splits part."""
    notes = known.leak_remarks(data.splits) if known else ()
    if known and not honoured and (notes or known.quarantine):
        notes += (
            f"{known.directory} holds a doctor's findings on this data; "
            f"train.doctor = {known.directory!r} honours them.",
        )
    return dataclasses.replace(data, notes=data.notes + notes)


def _cross_validate(
    training: _Training,
    parts: Sequence[Data],
    locate: Callable[[], RunDirectory],
) -> Result:
    """Trains once for each fold; judges all of them by what none had seen."""
    console = training.console
    whole: RunDirectory | None = None

    def locate_fold(name: str) -> RunDirectory:
        nonlocal whole
        whole = whole or locate()
        return whole.part(name)

    results = []
    try:
        for number, data in enumerate(parts, 1):
            say(console, f"Fold {number} of {len(parts)}.")
            _announce(console, data)
            # Each fold begins with callbacks that remember nothing.
            try:
                callbacks = copy.deepcopy(training.callbacks)
            except TypeError as error:
                raise UserError(
                    f"train.folds is bound, and of train.callbacks no copy can "
                    f"be made for each fold: {error}. Expected callbacks that "
                    "hold no files and locks before training begins."
                ) from error
            fold = dataclasses.replace(
                training,
                callbacks=callbacks,
                started=None if results else training.started,
            )
            place = functools.partial(locate_fold, f"fold-{number}")
            results.append(fold.on(data, place))
        summary = training.world.chief_does(
            lambda: _pool(console, whole, results, parts, training)
        )
    finally:
        if whole is not None:
            whole.close()
    last = results[-1]
    return dataclasses.replace(
        last, summary=summary, directory=os.path.dirname(last.directory)
    )


def _pool(
    console: Console,
    run: RunDirectory,
    results: Sequence[Result],
    parts: Sequence[Data],
    training: "_Training",
) -> dict[str, Any]:
    """The figures of all folds together, from what each has left."""
    first = results[0]
    by_fold = [read_predictions(r.directory, r.class_names) for r in results]
    predictions = Predictions.concatenated(by_fold)
    groups = [
        fold.groups_in(data.splits["test"])
        for fold, data in zip(by_fold, parts, strict=True)
    ]
    figures = report.quality(
        predictions,
        first.class_names,
        None if groups[0] is None else np.concatenate(groups),
    )
    figures["label"] = f"pooled over {len(results)} folds"
    accuracies = [r.summary["test"]["accuracy"] for r in results]
    data = first.summary["data"]
    summary = {
        "data": {k: v for k, v in data.items() if k != "examples"}
        | {"examples": {"train": figures["examples"]}},
        "unreadable": sorted(
            {u for r in results for u in r.summary["unreadable"]}
        ),
        "folds": [
            {
                "directory": os.path.basename(r.directory),
                "best_epoch": r.summary["train"]["best_epoch"],
                "seconds": r.summary["train"]["seconds"],
                "weights_sha256": r.summary["weights_sha256"],
                **{
                    name: r.summary[name]["accuracy"]
                    for name in ("validation", "test")
                    if name in r.summary
                },
            }
            for r in results
        ],
        "mean_accuracy": statistics.mean(accuracies),
        "standard_deviation": statistics.stdev(accuracies),
        "pooled": figures,
    }
    title = f"{figures['label']}, {data['source']}"
    report.print_quality(console, figures, title)
    say(
        console,
        f"Accuracy by fold: {', '.join(f'{a:.4f}' for a in accuracies)}; "
        f"mean {summary['mean_accuracy']:.4f}, standard deviation "
        f"{summary['standard_deviation']:.4f}.",
    )
    augmented = [r.summary["test"].get(_AUGMENTED) for r in results]
    if all(augmented):
        # The folds keep no predictions of theirs to be pooled.
        accuracies = [each["accuracy"] for each in augmented]
        summary[_AUGMENTED] = {
            "views": augmented[0]["views"],
            "accuracy": accuracies,
            "mean_accuracy": statistics.mean(accuracies),
            "standard_deviation": statistics.stdev(accuracies),
        }
        say(
            console,
            f"With test-time augmentation ({augmented[0]['views']} views): "
            f"mean {statistics.mean(accuracies):.4f}, standard deviation "
            f"{statistics.stdev(accuracies):.4f}.",
        )
    run.write_predictions(predictions, first.class_names)
    if training.with_page:
        whole = (
            parts[0]
            .splits["test"]
            .concatenated([data.splits["test"] for data in parts[1:]])
        )
        _write_page(
            console,
            run,
            page.Ran(
                run.path,
                dataclasses.replace(parts[0], splits={"pooled": whole}),
                summary,
                ("pooled", figures["label"]),
                predictions,
                settings={"Seed": training.recipe.seed},
                folds=summary["folds"],
            ),
        )
    run.finish(summary)
    return summary


def _judge(
    console: Console,
    world: World,
    run: RunDirectory,
    data: Data,
    setup: Setup,
    pipeline: Pipeline,
) -> tuple[dict[str, Any], Predictions | None]:
    """Trained weights -> figures by split, the judged one's predictions."""
    judgement = None
    summary: dict[str, Any] = {
        "data": {
            "source": data.source,
            "stand_in": data.stand_in,
            "classes": list(data.class_names),
            "examples": {n: len(e) for n, e in data.splits.items()},
            "notes": list(data.notes),
        },
        "unreadable": [],
    }
    judged = report.judged_split(data.splits)
    for name in data.splits:
        if name == "train":
            continue
        batches, views, seen = setup.evaluation(name), setup.views, None
        if views is None:
            predictions = setup.predictor.predict(
                batches, pipeline.max_unreadable
            )
        else:
            predictions, seen = setup.predictor.predict_views(
                batches, views, pipeline.max_unreadable
            )
        summary["unreadable"] += predictions.unreadable
        groups = predictions.groups_in(data.splits[name])
        figures = report.quality(predictions, data.class_names, groups)
        if seen is not None:
            figures[_AUGMENTED] = {
                "views": views.count,
                "label": views.description,
                **report.quality(seen, data.class_names, groups),
            }
        if judged and name == judged[0]:
            figures["label"] = judged[1]
            judgement = predictions
            if world.is_chief:
                run.write_predictions(predictions, data.class_names)
            report.print_quality(console, figures, f"{judged[1]}, {data.title}")
            if seen is not None:
                report.say_quality(
                    console,
                    figures[_AUGMENTED],
                    f"{judged[1]}, {views.description}",
                )
        summary[name] = figures
    return summary, judgement


def _write_page(console: Console, run: RunDirectory, ran: page.Ran) -> None:
    """Writes report.html; a run is not lost for want of it."""
    made = None
    try:
        made = page.render(
            dataclasses.replace(
                ran,
                operative=run.read("operative.gin"),
                environment=json.loads(run.read("environment.json")),
            )
        )
        _keep(run, ran, made)
        problems = [*made.problems]
        say(console, f"Report: {run.file(page.NAME)}")
    except Exception:
        problems = [traceback.format_exc()]
    if problems:
        with contextlib.suppress(UserError):
            run.write(page.PROBLEMS, "\n".join(problems))
        say(
            console,
            "The report, or a part of it, can't be made; the run is complete "
            f"without. Why: {run.file(page.PROBLEMS)}",
        )


def _keep(run: RunDirectory, ran: page.Ran, made: page.Page) -> None:
    """Writes a page, and what TensorBoard is to show of it."""
    run.write(page.NAME, made.html)
    if ran.epochs:
        best = ran.epochs[ran.summary["train"]["best_epoch"] - 1]
        run.write_tensorboard(
            best["step"],
            {
                name: ran.summary[name]
                for name in ran.data.splits
                if name in ran.summary and name != "train"
            },
            made.pictures,
        )


def _announce(console: Console, data: Data) -> None:
    say(console, report.describe(data))
    for examples in data.splits.values():
        if isinstance(examples, StreamedExamples):
            say(
                console,
                "Too large to index: the training order is one of shuffled "
                f"shards, mixed within {examples.window:,} examples.",
            )
            break
    for note in data.notes:
        say(console, f"Note: {note}")


def _say_how_it_ended(console: Console, history: History) -> None:
    stopped = " and stopped early" if history.stopped_early else ""
    say(
        console,
        f"Trained for {len(history.epochs)} epochs{stopped} in "
        f"{history.seconds:.0f} s, {history.images_per_second:.0f} images/s; "
        f"the weights kept are those of epoch {history.best_epoch + 1}.",
    )


def _report_unreadable(console: Console, unreadable: list[str]) -> None:
    if not unreadable:
        return
    say(
        console,
        f"{len(unreadable)} examples did not decode and were left out: "
        f"{some(unreadable)} (all in {SUMMARY}).",
    )
