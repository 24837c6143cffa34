"""Turns what a gin file chose and a task's data into a model ready to train."""

import contextlib
import dataclasses
import functools
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from framework.data.pipeline import Pipeline, Share
from framework.errors import UserError
from framework.evaluation.predictions import Predictor
from framework.model.classifier import Classifier
from framework.task import Data
from framework.training.distribution import World
from framework.training.features import once
from framework.training.optimizers import make_optimizer
from framework.training.precision import choose_precision, precision
from framework.training.state import Plan
from framework.training.trainer import Trainer

# Updates between two looks of the host, where it is far from the device.
_STEPS_PER_CALL_ON_TPU = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """A classifier, its trainer and the batches it is trained and judged on.

    Attributes:
        plan: how long to train.
        built: the classifier.
        trainer: updates it.
        predictor: judges it.
        batches: as `Trainer.stream` takes them.
        evaluation: from the name of another split to its batches, made when
            they are asked for first: training is to begin soon.
        steps_per_call: updates between two looks of the host.
        description: sentences for the start-up text.
    """

    plan: Plan
    built: Classifier
    trainer: Trainer
    predictor: Predictor
    batches: Callable[[int, Share], tf.data.Dataset]
    evaluation: Callable[[str], tf.data.Dataset]
    steps_per_call: int
    description: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What decides a model's weights, but for the data; see `train`.

    Raises:
        UserError: a value makes no sense.
    """

    classifier: Callable[..., Classifier]
    optimizer: Callable[..., keras.optimizers.Optimizer]
    pipeline: Pipeline
    schedule: Callable[[int], Any] | None
    epochs: int
    batch_size: int
    accumulation: int
    steps_per_call: int | str
    feature_views: int | str | None
    precision: str
    xla: bool | str
    seed: int
    deterministic: bool

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise UserError(
                f"train.seed is {self.seed}; expected a whole number, 0 or "
                "more and less than 2**32."
            )
        for name in ("accumulation", "steps_per_call"):
            value = getattr(self, name)
            if name == "steps_per_call" and value == "auto":
                continue
            if isinstance(value, str) or value < 1:
                raise UserError(
                    f"train.{name} is {value!r}; expected a whole number, at "
                    "least 1"
                    f"{', or auto' if name == 'steps_per_call' else ''}."
                )
        if self.xla not in (True, False, "auto"):
            raise UserError(
                f"train.xla is {self.xla!r}; expected True, False or 'auto'."
            )
        choose_precision(self.precision)

    @contextlib.contextmanager
    def on(self, data: Data, world: World) -> Iterator[Setup]:
        """Builds for `data`; inside, Keras computes in the precision chosen.

        Raises:
            UserError: the parts and the data don't fit together.
        """
        keras.utils.clear_session()  # Forgets the precision, too.
        chosen = choose_precision(self.precision)
        with precision(chosen):
            yield self._setup(data, world, chosen)

    def _setup(self, data: Data, world: World, chosen: str) -> Setup:
        seed, pipeline = self.seed, self.pipeline
        keras.utils.set_random_seed(seed)
        is_tpu = world.kind == "tpu"
        # Elsewhere it was seen to pay nowhere yet; on processors it is slower.
        compiled = is_tpu or self.xla is True
        if self.xla is True and world.replicas > 1 and not is_tpu:
            raise UserError(
                f"train.xla is True with {world.replicas} replicas; expected "
                "one device, or train.xla = 'auto': XLA compiles no update "
                "whose gradients are summed over devices."
            )
        # TPUs are deterministic anyway, and XLA refuses max pooling with it.
        if self.deterministic and not compiled:
            tf.config.experimental.enable_op_determinism()
        plan = Plan(len(data.splits["train"]), self.batch_size, self.epochs)
        rows = world.share.rows(self.batch_size)
        if rows % self.accumulation:
            raise UserError(
                f"train.accumulation is {self.accumulation}, and each replica "
                f"has {rows} rows of a batch; expected a divisor of {rows}."
            )

        # Backbone, head and preprocessing -> classifier.
        with world.strategy.scope():
            built = self.classifier(data.num_classes, compiled=compiled)
            kept = once(
                self.feature_views, built, data, pipeline, world, plan, seed
            )
            trainer = Trainer(
                built,
                make_optimizer(self.optimizer, self.schedule, plan.total_steps),
                world,
                self.accumulation,
                kept.views,
                kept.augments,
                compiled and not is_tpu,
            )
            predictor = Predictor(built, world)

        # Splits -> batches.
        in_pipeline = built.augmentation_in_pipeline if kept.augments else ()
        # On a data service: the same for all workers, another at each start.
        job = world.from_chief(secrets.token_hex(8))

        def batches(first_position: int, share: Share) -> tf.data.Dataset:
            return pipeline.training(
                data.splits["train"],
                built.image_size,
                self.batch_size,
                seed,
                first_position,
                in_pipeline,
                share,
                job,
            )

        @functools.cache
        def evaluation(name: str) -> tf.data.Dataset:
            made = pipeline.evaluation(
                data.splits[name],
                built.image_size,
                self.batch_size,
                world.share,
            )
            if name in kept.evaluated:
                predictor.keep(made, kept.evaluated[name])
            return made

        steps_per_call = self.steps_per_call
        if steps_per_call == "auto":
            steps_per_call = _STEPS_PER_CALL_ON_TPU if is_tpu else 1
        return Setup(
            plan,
            built,
            trainer,
            predictor,
            batches,
            evaluation,
            steps_per_call,
            (
                *built.description,
                _what_is_trained(built, plan),
                *(
                    [f"Precision: {chosen}."]
                    if self.precision == "auto"
                    else []
                ),
                *(
                    ["XLA compiles the update: bits are not promised."]
                    if compiled and not is_tpu
                    else []
                ),
                world.description,
                *kept.description,
                *pipeline.description,
            ),
        )


def _what_is_trained(built: Classifier, plan: Plan) -> str:
    counts = [
        sum(v.shape.num_elements() for v in variables)
        for variables in (built.model.trainable_variables, built.model.weights)
    ]
    return (
        f"{counts[0]:,} of {counts[1]:,} parameters are trained, for "
        f"{plan.epochs} epochs of {plan.last_step(0)} steps at batch "
        f"{plan.batch_size}."
    )
