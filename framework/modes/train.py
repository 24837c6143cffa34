"""Turns a task and the parts that a gin file chose into a trained model."""

import contextlib
import copy
import dataclasses
import functools
import io
import os
import secrets
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from framework.console import say, some
from framework.data.doctor.diagnosis import Diagnosis
from framework.data.pipeline import Pipeline, Share, example_ids
from framework.data.source import StreamedExamples
from framework.errors import UserError
from framework.evaluation import report
from framework.evaluation.predictions import Predictions, Predictor
from framework.model.classifier import Classifier
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
from framework.training.features import once
from framework.training.optimizers import make_optimizer
from framework.training.precision import check_precision
from framework.training.precision import precision as use_precision
from framework.training.progress import ProgressObserver
from framework.training.state import Plan
from framework.training.trainer import History, Trainer, validation

_ALL_DEVICES = Distribution()
_NOW_AND_THEN = Checkpoints()


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

    classifier: Callable[..., Classifier]
    optimizer: Callable[..., keras.optimizers.Optimizer]
    pipeline: Pipeline
    checkpoints: Checkpoints
    early_stopping: EarlyStopping | None
    schedule: Callable[[int], Any] | None
    epochs: int
    batch_size: int
    accumulation: int
    steps_per_call: int
    feature_views: int | str | None
    precision: str
    seed: int
    callbacks: Sequence[keras.callbacks.Callback]
    deterministic: bool

    def on(
        self,
        data: Data,
        world: World,
        console: Console,
        locate: Callable[[], RunDirectory],
        fingerprint: Callable[[], str],
    ) -> Result:
        """Trains on `data`, judges and saves."""
        keras.utils.clear_session()  # Forgets the precision, too.
        with use_precision(self.precision):
            return self._on(data, world, console, locate, fingerprint)

    def _on(
        self,
        data: Data,
        world: World,
        console: Console,
        locate: Callable[[], RunDirectory],
        fingerprint: Callable[[], str],
    ) -> Result:
        seed, pipeline = self.seed, self.pipeline
        keras.utils.set_random_seed(seed)
        # TPUs are deterministic anyway, and XLA refuses max pooling with it.
        if self.deterministic and world.kind != "tpu":
            tf.config.experimental.enable_op_determinism()
        plan = Plan(len(data.splits["train"]), self.batch_size, self.epochs)
        rows = world.share.rows(self.batch_size)
        if rows % self.accumulation:
            raise UserError(
                f"train.accumulation is {self.accumulation}, and each replica "
                f"has {rows} rows of a batch; expected a divisor of {rows}."
            )
        early_stopping = self.early_stopping
        if early_stopping and early_stopping.split not in data.splits:
            say(
                console,
                f"No {early_stopping.split} split: EarlyStopping is not used, "
                "all epochs are trained and the last one's weights kept.",
            )
            early_stopping = None

        # Backbone, head and preprocessing -> classifier.
        with world.strategy.scope():
            built = self.classifier(
                data.num_classes, compiled=world.kind == "tpu"
            )
            kept = once(
                self.feature_views, built, data, pipeline, world, plan, seed
            )
            trainer = Trainer(
                built,
                make_optimizer(self.optimizer, self.schedule, plan.total_steps),
                world,
                self.accumulation,
                kept.views,
            )
            predictor = Predictor(built, world)
        for line in built.description:
            say(console, line)
        _say_what_is_trained(console, built, plan)
        for line in (world.description, *kept.description):
            say(console, line)

        # Splits -> batches.
        for line in pipeline.description:
            say(console, line)
        # On a data service: the same for all workers, another at each start.
        job = world.from_chief(secrets.token_hex(8))

        def batches(first_position: int, share: Share) -> tf.data.Dataset:
            return pipeline.training(
                data.splits["train"],
                built.image_size,
                self.batch_size,
                seed,
                first_position,
                ()
                if kept.views and not kept.views.augmented
                else built.augmentation_in_pipeline,
                share,
                job,
            )

        evaluated = {
            name: pipeline.evaluation(
                examples, built.image_size, self.batch_size, world.share
            )
            for name, examples in data.splits.items()
            if name != "train"
        }

        for name, features in kept.evaluated.items():
            predictor.keep(evaluated[name], features)

        # Run directory -> where to begin.
        facts = resuming.facts(data, fingerprint())
        world.check_alike(facts)
        store = CheckpointStore(None, self.checkpoints)

        def find() -> tuple[RunDirectory, Any, list[str]]:
            nonlocal store
            run = locate()
            if run.is_finished:
                return run, run.results(), []
            store = CheckpointStore(run.checkpoints, self.checkpoints)
            try:
                found, remarks = resuming.load(
                    store, facts, built.model, trainer.optimizer
                )
            except UserError:
                run.close()
                raise
            return run, found, remarks

        run, found, remarks = world.chief_does(find)
        if run.is_finished:
            say(console, f"{run.path} holds this run, finished already.")
            return _as_it_was_left(run, built.model, *found)
        with contextlib.closing(run), contextlib.closing(store):
            state, memories = resuming.restore(
                found, built.model, trainer.optimizer, self.callbacks
            )
            stream = trainer.stream(batches, plan, state.step)
            trainer.trace(stream, state.step)
            run.path = world.chief_does(run.create)
            if world.is_chief:
                store.directory = run.checkpoints
                run.write_splits(data.splits)
            for line in (
                *remarks,
                *resuming.inexact(self.callbacks),
                f"Run directory: {run.path}",
            ):
                say(console, line)
            if run.is_begun:
                say(
                    console,
                    f"Taken up again after step {state.step} of "
                    f"{plan.total_steps}."
                    + " The features of the steps before are made again."
                    * (kept.views is not None and state.step > 0),
                )

            # Batches -> trained weights.
            observers = [ProgressObserver(console, plan, state.step)]
            if world.is_chief:
                observers.append(LogObserver(run, state.epochs))
            history = trainer.fit(
                plan,
                batches,
                validation(
                    predictor, evaluated["validation"], pipeline.max_unreadable
                )
                if "validation" in evaluated
                else None,
                early_stopping,
                self.callbacks,
                observers,
                max_unreadable=pipeline.max_unreadable,
                names=lambda positions: example_ids(
                    data.splits["train"], positions, seed
                ),
                state=state,
                callback_states=memories,
                checkpoints=store,
                facts=facts,
                stream=stream,
                steps_per_call=self.steps_per_call,
            )
            _say_how_it_ended(console, history, plan)
            summary = _judge(
                console, world, run, data, predictor, evaluated, pipeline
            )
            summary["unreadable"][:0] = history.unreadable
            _report_unreadable(console, summary["unreadable"])
            summary["train"] = {
                **history.epochs[history.best_epoch]["train"],
                "epochs": len(history.epochs),
                "best_epoch": history.best_epoch + 1,
                "stopped_early": history.stopped_early,
                "images_per_second": history.images_per_second,
                "seconds": history.seconds,
                "continued": history.continued,
                "workers": world.workers,
                "replicas": world.replicas,
            }
            summary["weights_sha256"] = weights_sha256(built.model)
            if world.is_chief:
                picture = io.BytesIO()
                report.history_figure(
                    history.epochs, history.best_epoch, data.title
                ).savefig(picture, dpi=110)
                run.write("history.png", picture.getvalue())
                run.write_model(built.model)
                # Last: a run with a summary is complete.
                run.finish(summary)
        return Result(
            built.model, history, summary, run.path, tuple(data.class_names)
        )


@MODES.register(given=["locate", "fingerprint", "console", "at_hand"])
def train(
    locate: Callable[[], RunDirectory],
    fingerprint: Callable[[], str],
    task: Task,
    classifier: Callable[..., Classifier],
    optimizer: Callable[..., keras.optimizers.Optimizer],
    pipeline: Pipeline,
    distribution: Distribution = _ALL_DEVICES,
    checkpoints: Checkpoints = _NOW_AND_THEN,
    early_stopping: EarlyStopping | None = None,
    schedule: Callable[[int], Any] | None = None,
    epochs: int = 10,
    batch_size: int = 32,
    accumulation: int = 1,
    steps_per_call: int = 1,
    feature_views: int | str | None = "auto",
    precision: str = "float32",
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    deterministic: bool = True,
    doctor: str | None = None,
    folds: int | None = None,
    at_hand: Callable[[], Diagnosis | None] = lambda: None,
    console: Console | None = None,
) -> Result:
    """Trains, evaluates, reports, exports.

    Args:
        locate: finds the run's directory; called when all else is known to
            be in order, so that a mistake leaves nothing behind.
        fingerprint: of the configuration, when all of it is known.
        task: what the data is; `@rock_paper_scissors()`.
        classifier: builds the model; `@classifier`.
        optimizer: `@keras.Adam`, without parentheses.
        pipeline: how pictures become batches; `@pipeline()`.
        distribution: which devices train together; `@distribution()`.
        checkpoints: how often to save; `@Checkpoints()`.
        early_stopping: which epoch is best, when to stop; None trains all
            epochs and keeps the last one's weights.
        schedule: maps the number of updates to the optimizer's learning
            rate; `@warmup_cosine`, without parentheses.
        epochs: passes over the training split, at most.
        batch_size: examples an update, over all replicas.
        accumulation: in how many parts a replica works through its rows of a
            batch, to save memory.
        steps_per_call: updates between two looks of the host.
        feature_views: how many views of a picture a frozen part of the
            backbone works on, once, whatever the number of epochs; "auto": one
            where nothing is augmented, else one an epoch, as it is without
            this; 1 switches augmentation off. None has it work in every epoch,
            on the validation split too. See `framework.training.features`.
        precision: "float32", "mixed_bfloat16", "mixed_float16" or "float64".
        seed: of weights, order, augmentation and dropout.
        callbacks: Keras callbacks.
        deterministic: same seed, same machine: same weights. Some operations
            are slower for it on a GPU.
        doctor: a run directory of `--mode=doctor`: what is in its quarantine
            is left out, duplicates stay on one side of a cut.
        folds: cross-validation: the training split is dealt out into so many
            parts, each of which a model that has not seen it is tested on.
            None trains one model.
        at_hand: finds what a doctor said earlier, to report leaks where
            `doctor` is None; it changes nothing.
        console: where to write.

    Raises:
        UserError: the data can't be had, the parts don't fit together, or
            the loss is not finite.
        Interrupted: asked to stop; the run is saved.
        WorkerLost: another worker is gone.
    """
    if not 0 <= seed < 2**32:
        raise UserError(
            f"train.seed is {seed}; expected a whole number, 0 or more and "
            "less than 2**32."
        )
    for name, value, least in (
        ("accumulation", accumulation, 1),
        ("steps_per_call", steps_per_call, 1),
        ("folds", 2 if folds is None else folds, 2),
    ):
        if value < least:
            raise UserError(
                f"train.{name} is {value}; expected a whole number, at least "
                f"{least}."
            )
    check_precision(precision)
    # Devices -> replicas. First of all: workers can't be joined later.
    world = distribution.make()
    console = console or Console()
    if not world.is_chief:
        console = Console(quiet=True)
    training = _Training(
        classifier=classifier,
        optimizer=optimizer,
        pipeline=pipeline,
        checkpoints=checkpoints,
        early_stopping=early_stopping,
        schedule=schedule,
        epochs=epochs,
        batch_size=batch_size,
        accumulation=accumulation,
        steps_per_call=steps_per_call,
        feature_views=feature_views,
        precision=precision,
        seed=seed,
        callbacks=callbacks,
        deterministic=deterministic,
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
        if folds is None:
            (data,) = parts
            _announce(console, data)
            result = training.on(data, world, console, locate, fingerprint)
        else:
            result = _cross_validate(
                training, parts, world, console, locate, fingerprint
            )
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
    world: World,
    console: Console,
    locate: Callable[[], RunDirectory],
    fingerprint: Callable[[], str],
) -> Result:
    """Trains once for each fold; judges all of them by what none had seen."""
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
            fold = dataclasses.replace(training, callbacks=callbacks)
            place = functools.partial(locate_fold, f"fold-{number}")
            results.append(fold.on(data, world, console, place, fingerprint))
        summary = world.chief_does(lambda: _pool(console, whole, results))
    finally:
        if whole is not None:
            whole.close()
    last = results[-1]
    return dataclasses.replace(
        last, summary=summary, directory=os.path.dirname(last.directory)
    )


def _pool(
    console: Console, run: RunDirectory, results: Sequence[Result]
) -> dict[str, Any]:
    """The figures of all folds together, from what each has left."""
    first = results[0]
    predictions = Predictions.concatenated(
        [read_predictions(r.directory, r.class_names) for r in results]
    )
    figures = report.quality(predictions, first.class_names)
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
    run.write_predictions(predictions, first.class_names)
    run.finish(summary)
    return summary


def _judge(
    console: Console,
    world: World,
    run: RunDirectory,
    data: Data,
    predictor: Predictor,
    evaluated: dict[str, tf.data.Dataset],
    pipeline: Pipeline,
) -> dict[str, Any]:
    """Trained weights -> figures and predictions, by split."""
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
    for name, batches in evaluated.items():
        predictions = predictor.predict(batches, pipeline.max_unreadable)
        summary["unreadable"] += predictions.unreadable
        figures = report.quality(predictions, data.class_names)
        if judged and name == judged[0]:
            figures["label"] = judged[1]
            if world.is_chief:
                run.write_predictions(predictions, data.class_names)
            report.print_quality(console, figures, f"{judged[1]}, {data.title}")
        summary[name] = figures
    return summary


def _as_it_was_left(
    run: RunDirectory,
    model: keras.Model,
    weights: list[np.ndarray],
    epochs: list[dict],
    summary: dict[str, Any],
) -> Result:
    """The result of a run that is finished."""
    model.set_weights(weights)
    train = summary["train"]
    history = History(
        epochs=epochs,
        best_epoch=train["best_epoch"] - 1,
        stopped_early=train["stopped_early"],
        unreadable=tuple(summary["unreadable"]),
        seconds=train["seconds"],
        images_per_second=train["images_per_second"],
        continued=train["continued"],
    )
    classes = tuple(summary["data"]["classes"])
    return Result(model, history, summary, run.path, classes)


def _say_what_is_trained(
    console: Console, built: Classifier, plan: Plan
) -> None:
    counts = [
        sum(v.shape.num_elements() for v in variables)
        for variables in (built.model.trainable_variables, built.model.weights)
    ]
    say(
        console,
        f"{counts[0]:,} of {counts[1]:,} parameters are trained, for "
        f"{plan.epochs} epochs of {plan.last_step(0)} steps at batch "
        f"{plan.batch_size}.",
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


def _say_how_it_ended(console: Console, history: History, plan: Plan) -> None:
    if history.stopped_early:
        text = f"Stopped early after epoch {len(history.epochs)}"
    else:
        text = f"Trained for {plan.epochs} epochs"
    say(
        console,
        f"{text} in {history.seconds:.0f} s, "
        f"{history.images_per_second:.0f} images/s; the weights kept are those "
        f"of epoch {history.best_epoch + 1}.",
    )


def _report_unreadable(console: Console, unreadable: list[str]) -> None:
    if not unreadable:
        return
    say(
        console,
        f"{len(unreadable)} examples did not decode and were left out: "
        f"{some(unreadable)} (all in {SUMMARY}).",
    )
