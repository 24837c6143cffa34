"""Turns a configuration into finished work: one function a mode."""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from framework.console import say, some
from framework.data.pipeline import Pipeline
from framework.data.source import StreamedExamples
from framework.errors import UserError
from framework.evaluation import report
from framework.evaluation.predictions import Predictor
from framework.model.classifier import Classifier
from framework.registry import MODES
from framework.run_directory import (
    SUMMARY,
    LogObserver,
    RunDirectory,
    weights_sha256,
)
from framework.task import Data, Task
from framework.training import distribution
from framework.training.early_stopping import EarlyStopping
from framework.training.optimizers import make_optimizer
from framework.training.progress import ProgressObserver
from framework.training.trainer import History, Plan, Trainer, validation


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


@MODES.register(given=["open_run", "console"])
def train(
    open_run: Callable[[], RunDirectory],
    task: Task,
    classifier: Callable[..., Classifier],
    optimizer: Callable[..., keras.optimizers.Optimizer],
    pipeline: Pipeline,
    early_stopping: EarlyStopping | None = None,
    schedule: Callable[[int], Any] | None = None,
    epochs: int = 10,
    batch_size: int = 32,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    deterministic: bool = True,
    console: Console | None = None,
) -> Result:
    """Trains, evaluates, reports, exports.

    Args:
        open_run: makes the run's directory; called when all else is known to
            be in order, so that a mistake leaves nothing behind.
        task: what the data is; `@rock_paper_scissors()`.
        classifier: builds the model; `@classifier`.
        optimizer: `@keras.Adam`, without parentheses.
        pipeline: how pictures become batches; `@pipeline()`.
        early_stopping: which epoch is best, when to stop; None trains all
            epochs and keeps the last one's weights.
        schedule: maps the number of updates to the optimizer's learning
            rate; `@warmup_cosine`, without parentheses.
        epochs: passes over the training split, at most.
        batch_size: examples an update, over all replicas.
        seed: of weights, order, augmentation and dropout.
        callbacks: Keras callbacks.
        deterministic: same seed, same machine: same weights. Some operations
            are slower for it on a GPU.
        console: where to write.

    Raises:
        UserError: the data can't be had, the parts don't fit together, or
            the loss is not finite.
    """
    if not 0 <= seed < 2**32:
        raise UserError(
            f"train.seed is {seed}; expected a whole number, 0 or more and "
            "less than 2**32."
        )
    console = console or Console()
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()

    # Task -> source -> splits.
    data = task.load(
        lambda name, reason: console.print(report.stand_in_notice(name, reason))
    )
    _announce(console, data)
    plan = Plan(len(data.splits["train"]), batch_size, epochs)
    if early_stopping and early_stopping.split not in data.splits:
        say(
            console,
            f"No {early_stopping.split} split: EarlyStopping is not used, all "
            "epochs are trained and the last one's weights kept.",
        )
        early_stopping = None

    # Backbone, head and preprocessing -> classifier.
    strategy = distribution.make_strategy()
    with strategy.scope():
        built = classifier(data.num_classes)
        trainer = Trainer(
            built,
            make_optimizer(optimizer, schedule, plan.total_steps),
            strategy,
        )
        predictor = Predictor(built)
    for line in built.description:
        say(console, line)
    counts = [
        sum(v.shape.num_elements() for v in variables)
        for variables in (built.model.trainable_variables, built.model.weights)
    ]
    say(
        console,
        f"{counts[0]:,} of {counts[1]:,} parameters are trained, for "
        f"{plan.epochs} epochs of {plan.last_step(0)} steps at batch "
        f"{batch_size}.",
    )

    # Splits -> batches.
    evaluated = {
        name: pipeline.evaluation(examples, built.image_size, batch_size)
        for name, examples in data.splits.items()
        if name != "train"
    }
    batches = pipeline.training(
        data.splits["train"],
        built.image_size,
        batch_size,
        seed,
        augmentation=built.augmentation_in_pipeline,
    )
    trainer.trace(batches)

    # Batches -> trained weights.
    run = open_run()
    say(console, f"Run directory: {run.path}")
    progress = ProgressObserver(console, plan)
    with contextlib.closing(progress):
        history = trainer.fit(
            plan,
            batches,
            validation(
                predictor, evaluated["validation"], pipeline.max_unreadable
            )
            if "validation" in evaluated
            else None,
            early_stopping,
            callbacks,
            (progress, LogObserver(run)),
            pipeline.max_unreadable,
        )
    _say_how_it_ended(console, history, plan)

    # Trained weights -> figures, pictures, files.
    summary: dict[str, Any] = {
        "data": {
            "source": data.source,
            "stand_in": data.stand_in,
            "classes": list(data.class_names),
            "examples": {n: len(e) for n, e in data.splits.items()},
        }
    }
    unreadable = list(history.unreadable)
    judged = report.judged_split(data.splits)
    for name, split_batches in evaluated.items():
        predictions = predictor.predict(split_batches, pipeline.max_unreadable)
        unreadable += predictions.unreadable
        figures = report.quality(predictions, data.class_names)
        if judged and name == judged[0]:
            figures["label"] = judged[1]
            run.write_predictions(predictions, data.class_names)
            report.print_quality(console, figures, f"{judged[1]}, {data.title}")
        summary[name] = figures
    summary["unreadable"] = unreadable
    _report_unreadable(console, unreadable)
    summary["train"] = {
        **history.epochs[history.best_epoch]["train"],
        "epochs": len(history.epochs),
        "best_epoch": history.best_epoch + 1,
        "stopped_early": history.stopped_early,
        "images_per_second": history.images_per_second,
        "seconds": history.seconds,
    }
    summary["weights_sha256"] = weights_sha256(built.model)
    picture = io.BytesIO()
    report.history_figure(
        history.epochs,
        history.best_epoch,
        data.title,
    ).savefig(picture, dpi=110)
    run.write("history.png", picture.getvalue())
    run.write_model(built.model)
    # Last: a run with a summary is complete.
    run.finish(summary)
    return Result(
        built.model, history, summary, run.path, tuple(data.class_names)
    )


def _announce(console: Console, data: Data) -> None:
    counts = ", ".join(f"{len(e):,} {name}" for name, e in data.splits.items())
    say(
        console,
        f"Data: {data.title}, {data.num_classes} classes "
        f"({', '.join(data.class_names[:12])}"
        f"{', ...' if data.num_classes > 12 else ''}), {counts} examples.",
    )
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
