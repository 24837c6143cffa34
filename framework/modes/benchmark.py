"""Turns a gin file into figures of what its pipeline and its model can do."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from rich.console import Console
from rich.table import Table

from framework.console import say
from framework.data.images import decode
from framework.data.pipeline import Pipeline
from framework.data.source import Examples, IndexedExamples
from framework.errors import UserError
from framework.evaluation import report
from framework.model.classifier import Classifier
from framework.modes.loading import load_data
from framework.modes.recipe import Recipe, Setup, with_recipe
from framework.registry import MODES
from framework.run_directory import RunDirectory
from framework.task import Task
from framework.training.distribution import Distribution
from framework.training.state import Plan, TrainState
from framework.training.throughput import NOTICED

_ALL_DEVICES = Distribution()
_FIGURES = "benchmark.json"
# How often the three are measured, in turns, so that what else the machine does
# hits all of them alike.
_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What was measured; rates in images a second.

    Attributes:
        input: of the pipeline alone, without a model.
        updates: of training on one batch in memory, without a pipeline.
        training: of both together, as a run has them.
        input_wait: the share of time that training waited for pictures.
        input_parts, update_parts: seconds an image, by what they are spent
            on; of the input, all processors together at work.
        directory: where it is written.
    """

    input: float
    updates: float
    training: float
    input_wait: float
    input_parts: dict[str, float]
    update_parts: dict[str, float]
    directory: str

    @property
    def verdict(self) -> str:
        """What bounds training, and what to try."""
        times = self.input / self.updates
        shares = (
            f"The input alone makes {times:.1f} times as many images a second "
            f"as the updates alone take, and together they come to "
            f"{self.training / min(self.input, self.updates):.0%} of the "
            "slower one."
        )
        if times < 1.1 or self.input_wait >= NOTICED:
            dearest = max(self.input_parts, key=self.input_parts.get)
            advice = {
                "reading": "Faster disks or fewer, larger files help: "
                "--mode=prepare.",
                "decoding": "Smaller files help: --mode=prepare with "
                "prepare.max_side.",
            }.get(dearest, "Fewer augmentations in the pipeline help.")
            return (
                f"Input-bound, mostly by {dearest}. {shares} {advice} More "
                "processors always do, or other machines that decode "
                "(pipeline.service)."
            )
        dearest = max(self.update_parts, key=self.update_parts.get)
        advice = {
            "augmentation": "Layers that classifier.fuse puts together help.",
            "the frozen part": "Keeping its features does away with it: "
            "train.feature_views.",
        }.get(
            dearest,
            "Smaller pictures (classifier.image_size), more of the backbone "
            "frozen, or another device help.",
        )
        return f"Compute-bound, mostly by {dearest}. {shares} {advice}"


@MODES.register(given=["locate", "console"])
@with_recipe
def benchmark(
    locate: Callable[[], RunDirectory],
    task: Task,
    recipe: Recipe,
    distribution: Distribution = _ALL_DEVICES,
    seconds: float = 5.0,
    console: Console | None = None,
) -> Benchmark:
    """Measures the pipeline alone, the updates alone, and both.

    What is bound of `train` holds here, too.

    Args:
        locate: finds the directory to write to.
        task: what the data is.
        recipe: of training. Of several phases, the last one is measured.
        distribution: which devices train together.
        seconds: how long to measure each, in each of three rounds.
        console: where to write.

    Raises:
        UserError: the data can't be had, or the parts don't fit together.
    """
    console = console or Console()
    if seconds <= 0:
        raise UserError(
            f"benchmark.seconds is {seconds}; expected more than 0."
        )
    world = distribution.make()
    data = load_data(task, console)
    say(console, report.describe(data))
    run = locate()
    state = TrainState(phase=recipe.last_phase)
    with recipe.of_one_epoch().on(data, world, state) as setup:
        for line in (*setup.description, *setup.surroundings):
            say(console, line)
        say(
            console,
            "What a first epoch does is measured: no features and no pictures "
            "are kept.",
        )
        say(console, f"Measuring, for about {9 * seconds:.0f} s or more.")
        measured = _measure(
            setup,
            data.splits["train"],
            recipe.pipeline,
            recipe.batch_size,
            seconds,
        )
    run.create()
    found = Benchmark(**measured, directory=run.path)
    _tell(console, found)
    figures = dataclasses.asdict(found) | {"verdict": found.verdict}
    del figures["directory"]
    run.write(_FIGURES, json.dumps(figures, indent=2) + "\n")
    run.finish({"data": {"source": data.source}, **figures})
    return found


def _measure(
    setup: Setup,
    examples: Examples,
    pipeline: Pipeline,
    batch_size: int,
    seconds: float,
) -> dict[str, Any]:
    world = setup.trainer.world
    batch = next(iter(setup.batches(0, world.share)))

    def in_memory(first_position, share):
        return tf.data.Dataset.from_tensors(batch).repeat()

    def update(batches, steps):
        plan = Plan(steps * batch_size, batch_size, 1)
        return setup.trainer.fit(
            plan, batches, None, None, steps_per_call=setup.steps_per_call
        )

    def steps_in(rate: float) -> int:
        # The first is not counted.
        return 2 + int(rate * seconds / batch_size)

    # How fast, roughly: so many updates take about so long.
    rate = update(in_memory, 4 * setup.steps_per_call).images_per_second
    inputs, updates, both, waits = [], [], [], []
    for _ in range(_ROUNDS):
        # A worker makes its share of each batch.
        inputs.append(_rate(_batches(setup, world), seconds) * world.workers)
        history = update(in_memory, steps_in(rate))
        updates.append(history.images_per_second)
        history = update(setup.batches, steps_in(min(rate, inputs[-1])))
        both.append(history.images_per_second)
        waits.append(history.input_wait)
    return {
        "input": statistics.median(inputs),
        "updates": statistics.median(updates),
        "training": statistics.median(both),
        "input_wait": statistics.median(waits),
        "input_parts": _input_parts(
            setup, examples, pipeline, batch_size, seconds / 3
        ),
        "update_parts": _update_parts(
            setup.built,
            batch["image"],
            statistics.median(updates),
            world.replicas,
        ),
    }


def _batches(setup: Setup, world) -> Iterator[int]:
    """The sizes of the batches that this worker makes, as they come."""
    for batch in setup.batches(0, world.share):
        yield len(batch["label"])


def _rate(sizes: Iterator[int], seconds: float) -> float:
    """Of what comes: how much a second, without the first."""
    next(sizes)
    began, total = time.monotonic(), 0
    while (spent := time.monotonic() - began) < seconds or not total:
        total += next(sizes)
    return total / spent


def _input_parts(
    setup: Setup,
    examples: Examples,
    pipeline: Pipeline,
    batch_size: int,
    seconds: float,
) -> dict[str, float]:
    """Seconds an image, by what is done with it.

    Each is measured with all that comes before it; the differences are told.
    """
    if not isinstance(examples, IndexedExamples) or pipeline.service:
        return {"all": 1 / _rate(_batches(setup, setup.trainer.world), seconds)}
    rows = tf.data.Dataset.from_tensor_slices(examples.rows)
    rows = rows.shuffle(len(examples), seed=0).repeat()
    read = rows.map(examples.read, tf.data.AUTOTUNE)
    without = pipeline.training(examples, setup.built.image_size, batch_size, 0)
    whole = setup.batches(0, setup.trainer.world.share)
    ways = [("reading", read.ignore_errors(), None)]
    if read.element_spec.dtype == tf.string:
        decoded = read.map(decode, tf.data.AUTOTUNE).ignore_errors()
        ways.append(("decoding", decoded, None))
    ways.append(("resizing and batching", without, "label"))
    if setup.built.augmentation_in_pipeline:
        ways.append(("augmentation in the pipeline", whole, "label"))
    parts, before = {}, 0.0
    for name, dataset, key in ways:
        sizes = (1 if key is None else len(each[key]) for each in dataset)
        spent = 1 / _rate(sizes, seconds)
        parts[name] = max(0.0, spent - before)
        before = max(before, spent)
    return parts


def _update_parts(
    built: Classifier, images: tf.Tensor, rate: float, replicas: int
) -> dict[str, float]:
    """Seconds an image, by what of the model works on it.

    All replicas work at the same time; the parts are measured on one.
    """

    def augment(x):
        x = tf.cast(x, tf.float32)
        for layer in built.augmentation_in_model:
            x = layer(x, training=True)
        return x

    whole = 1 / rate
    spent = {}
    if built.augmentation_in_model:
        spent["augmentation"] = _seconds(augment, images) / replicas
    if built.features is not None:
        below = _seconds(lambda x: built.features(x, training=True), images)
        below /= replicas
        spent["the frozen part"] = max(
            0.0, below - spent.get("augmentation", 0.0)
        )
    rest = max(0.0, whole - sum(spent.values()))
    return spent | {"the trained part, forth and back": rest}


def _seconds(
    function: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor
) -> float:
    """Seconds an image, the median of some calls."""
    call = tf.function(function)
    call(images)
    times = []
    for _ in range(7):
        began = time.monotonic()
        tf.nest.map_structure(lambda x: x.numpy(), call(images))
        times.append(time.monotonic() - began)
    return statistics.median(times) / len(images)


def _tell(console: Console, found: Benchmark) -> None:
    table = Table(title="Images a second", title_justify="left")
    table.add_column("what")
    table.add_column("images/s", justify="right")
    for name, value in (
        ("the pipeline alone", found.input),
        ("updates alone, on one batch", found.updates),
        ("both: training", found.training),
    ):
        table.add_row(name, f"{value:,.0f}")
    console.print(table)
    table = Table(title="Where the time goes", title_justify="left")
    table.add_column("what")
    table.add_column("ms an image", justify="right")
    table.add_column("share", justify="right")
    for parts in (found.input_parts, found.update_parts):
        total = sum(parts.values()) or 1.0
        for name, value in parts.items():
            table.add_row(name, f"{1000 * value:.2f}", f"{value / total:.0%}")
        table.add_section()
    console.print(table)
    say(console, found.verdict)
    say(
        console,
        f"While training, {found.input_wait:.0%} of the time was spent "
        f"waiting for pictures. Figures: {found.directory}/{_FIGURES}",
    )
