"""Turns what a gin file chose and a task's data into a model ready to train."""

import contextlib
import dataclasses
import functools
import inspect
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from framework.data.pipeline import Pipeline, Share
from framework.errors import UserError
from framework.evaluation import fed
from framework.evaluation.at_test_time import (
    TestTimeAugmentation,
    TestTimeViews,
)
from framework.evaluation.fed import Fed
from framework.evaluation.predictions import Predictor
from framework.model.classifier import Classifier
from framework.ranges import Count, NotNegative, Seed
from framework.task import Data
from framework.training import balance, mixing
from framework.training.distribution import World
from framework.training.features import once
from framework.training.mixing import CutMix, MixUp
from framework.training.optimizers import (
    learning_rates,
    make_optimizer,
    refuse_rate,
)
from framework.training.phases import Phase
from framework.training.precision import choose_precision, precision
from framework.training.state import Plan, TrainState
from framework.training.trainer import Trainer

# Where nobody says how many.
_EPOCHS = 10
# Updates between two looks of the host, where it is far from the device.
_STEPS_PER_CALL_ON_TPU = 32
# Of the plot of learning rates.
_COLUMNS = 60
_BARS = "▁▂▃▄▅▆▇█"


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """A classifier, its trainer and the batches it is trained and judged on.

    Attributes:
        title: of the phase, where there are several.
        plan: how long to train.
        seed: of the training order.
        built: the classifier.
        trainer: updates it.
        predictor: judges it.
        batches: as `Trainer.stream` takes them.
        evaluation: from the name of another split to its batches, made when
            they are asked for first: training is to begin soon.
        steps_per_call: updates between two looks of the host.
        description: sentences on what this phase trains.
        surroundings: sentences on what is the same in all phases.
        rows: of a batch for each replica.
        augments: whether anything is augmented, where anything could be.
        views: to average over in the final judgement; None asks for none, or
            this is not the last phase.
    """

    title: str | None
    plan: Plan
    seed: int
    built: Classifier
    trainer: Trainer
    predictor: Predictor
    batches: Callable[[int, Share], tf.data.Dataset]
    evaluation: Callable[[str], tf.data.Dataset]
    steps_per_call: int
    description: tuple[str, ...]
    surroundings: tuple[str, ...]
    rows: int
    augments: bool
    views: TestTimeViews | None = None

    @property
    def opening(self) -> list[str]:
        """What to say when the phase begins."""
        named = [f"{self.title}:"] if self.title else []
        return [*named, *self.description]

    def learning_rates(self) -> str:
        """The learning rates of the phase's updates, as a plot of one line."""
        steps = self.plan.steps
        at = np.unique(np.linspace(0, steps - 1, _COLUMNS).round())
        rates = learning_rates(self.trainer.optimizer, at)
        shares = rates / (rates.max() or 1.0)
        bars = "".join(
            _BARS[round(share * (len(_BARS) - 1))] for share in shares
        )
        return (
            f"Learning rate over {steps:,} updates: {bars}  {rates[0]:.2g} at "
            f"first, {rates.max():.2g} at most, {rates[-1]:.2g} at last."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What decides a model's weights, but for the data.

    And by what views it is judged in the end, beside the plain one. A mode
    that is made `with_recipe` has the attributes as parameters of its own, so
    that a gin file binds `train.batch_size`.

    Attributes:
        classifier: builds the model; `@classifier`.
        optimizer: `@keras.Adam`, without parentheses.
        pipeline: how pictures become batches; `@pipeline()`.
        schedule: maps the number of updates to the optimizer's learning
            rate; `@warmup_cosine`, without parentheses.
        epochs: passes over the training split, at most; 10 by default.
        phases: in place of `epochs`, one phase after another, each with its
            epochs: `@fine_tune()`, or a list of `@head/Phase()`,
            `@tune/Phase()`. See `framework.training.phases`.
        batch_size: examples an update, over all replicas.
        accumulation: in how many parts a replica works through its rows of a
            batch, to save memory.
        steps_per_call: updates between two looks of the host; "auto": 32 on a
            TPU, else 1.
        feature_views: how many views of a picture a frozen part of the
            backbone works on, once, whatever the number of epochs; "auto": one
            where nothing is augmented, else one an epoch, as it is without
            this; 1 switches augmentation off. None has it work in every epoch,
            on the validation split too. See `framework.training.features`.
        precision: "float32", "mixed_bfloat16", "mixed_float16" or "float64";
            "auto": 16 bits where the devices are made for it.
        xla: whether XLA compiles an update; "auto": on a TPU only.
        seed: of weights, order, augmentation and dropout.
        deterministic: same seed, same machine: same weights. Some operations
            are slower for it on a GPU.
        test_time_augmentation: whether the final figures are given for the
            mean over several views of each picture, too;
            `@TestTimeAugmentation()`. They stand beside the others, in
            `summary.json` under "test_time_augmentation" of each split, and
            choose nothing.
        mixing: training pictures are mixed with each other;
            `[@MixUp(), @CutMix()]`: each picture by one of them.
        class_weights: what a training example's loss is multiplied by, by the
            name of its class, {"cat": 2.0}; others count 1. "balanced": by
            as much as the class is rarer than the average one.
        sampling: "natural": an epoch shows each example once; "balanced": as
            many examples, but each class as often as any other. See
            `framework.data.pipeline.Order`.

    Raises:
        UserError: a value makes no sense.
    """

    classifier: Callable[..., Classifier]
    optimizer: Callable[..., keras.optimizers.Optimizer]
    pipeline: Pipeline
    schedule: Callable[[int], Any] | None = None
    epochs: Count | None = None
    phases: Sequence[Phase] = ()
    batch_size: Count = 32
    accumulation: Count = 1
    steps_per_call: Count | Literal["auto"] = "auto"
    feature_views: Count | Literal["auto"] | None = "auto"
    precision: str = "float32"
    xla: bool | Literal["auto"] = "auto"
    seed: Seed = 0
    deterministic: bool = True
    test_time_augmentation: TestTimeAugmentation | None = None
    mixing: Sequence[MixUp | CutMix] = ()
    class_weights: Mapping[str, NotNegative] | Literal["balanced"] | None = None
    sampling: Literal["natural", "balanced"] = "natural"

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise UserError(
                f"train.seed is {self.seed}; expected a whole number, 0 or "
                "more and less than 2**32."
            )
        for name in ("epochs", "accumulation", "steps_per_call"):
            value = getattr(self, name)
            if (name, value) in (("steps_per_call", "auto"), ("epochs", None)):
                continue
            if isinstance(value, str) or value < 1:
                raise UserError(
                    f"train.{name} is {value!r}; expected a whole number, at "
                    "least 1"
                    f"{', or auto' if name == 'steps_per_call' else ''}."
                )
        if self.class_weights == "balanced" and self.sampling == "balanced":
            raise UserError(
                "train.class_weights and train.sampling are both 'balanced', "
                "which would correct twice; expected one of them."
            )
        if self.xla not in (True, False, "auto"):
            raise UserError(
                f"train.xla is {self.xla!r}; expected True, False or 'auto'."
            )
        choose_precision(self.precision)

    @property
    def _stages(self) -> Sequence[Phase]:
        return self.phases or (Phase(self.epochs or _EPOCHS),)

    @property
    def last_phase(self) -> int:
        """Index of the last phase; 0 where there is only one."""
        return len(self._stages) - 1

    def check_phase(self, name: str, phase: int) -> None:
        """Raises a UserError if there is no phase of that number, from 1."""
        phases = self.last_phase + 1
        if not 1 <= phase <= phases:
            raise UserError(
                f"{name} is {phase}; expected 1 to {phases}, as there are "
                "phases."
            )

    @contextlib.contextmanager
    def on(
        self, data: Data, world: World, state: TrainState | None = None
    ) -> Iterator[Setup]:
        """Builds for `data`; inside, Keras computes in the precision chosen.

        Args:
            data: all splits.
            world: the replicas.
            state: tells the phase, and has the weights that it begins with; by
                default the first one, before which the others are built and
                forgotten, to find what doesn't fit now and not in hours.

        Raises:
            UserError: the parts and the data don't fit together.
        """
        chosen = choose_precision(self.precision)
        later = {}
        if state is None:
            self._refuse_two_rates()
            for number in range(1, len(self._stages)):
                with self.on(data, world, TrainState(phase=number)) as setup:
                    later[setup.title] = _shapes(setup.built)
                del setup  # It may hold room for what is kept.
            state = TrainState()
        keras.utils.clear_session()  # Forgets the precision, too.
        with precision(chosen):
            setup = self._setup(data, world, chosen, state)
            for title, found in later.items():
                _refuse_others(_shapes(setup.built), title, found)
            yield setup

    def _refuse_two_rates(self) -> None:
        for phase in self._stages:
            if phase.schedule or self.schedule:
                with phase.building():
                    refuse_rate()

    def of_one_epoch(self) -> "Recipe":
        """The same, but that nothing is kept for later epochs."""
        return dataclasses.replace(
            self,
            epochs=1,
            feature_views=None,
            phases=[dataclasses.replace(p, epochs=1) for p in self.phases],
        )

    def feed(self, setup: Setup, data: Data, most: int = 8) -> Fed:
        """The first training pictures, before and after augmentation.

        Args:
            setup: of a phase.
            data: it was built for.
            most: pictures to show.
        """

        def mix(images, weights, positions):
            draw = mixing.drawing(self.mixing, setup.seed)
            drawn = draw({"position": positions})["mixing"]
            return mixing.mix(images, weights, drawn)

        views = setup.trainer.views
        return fed.look(
            setup.built,
            self.pipeline,
            data.splits["train"],
            data.class_names,
            batch_size=setup.rows,
            seed=setup.seed,
            sampling=self.sampling,
            mixing=(mixing.named(self.mixing), mix) if self.mixing else None,
            augments=setup.augments,
            most=most,
            draws=min(
                fed.DRAWS,
                setup.plan.epochs,
                # A frozen part looks at so many views of each.
                views.count if views and views.key == "features" else fed.DRAWS,
            ),
        )

    def _compiled(self, world: World) -> bool:
        # Elsewhere it was seen to pay nowhere yet; on processors it is slower.
        return world.kind == "tpu" or self.xla is True

    def _build(
        self, phase: Phase, data: Data, world: World, steps: int
    ) -> tuple[Classifier, keras.optimizers.Optimizer]:
        """Classifier and optimizer of a phase, in the strategy's scope."""
        freeze = {} if phase.freeze is None else {"freeze": phase.freeze}
        schedule = phase.schedule or self.schedule
        with phase.building():
            return (
                self.classifier(
                    data.num_classes, compiled=self._compiled(world), **freeze
                ),
                make_optimizer(
                    self.optimizer, schedule, steps, phase.learning_rate
                ),
            )

    def _setup(
        self, data: Data, world: World, chosen: str, state: TrainState
    ) -> Setup:
        phase, pipeline = self._stages[state.phase], self.pipeline
        # Another order in each phase; 2**32 over the golden ratio is far off.
        seed = (self.seed + state.phase * 0x9E3779B9) % 2**32
        keras.utils.set_random_seed(seed)
        is_tpu = world.kind == "tpu"
        compiled = self._compiled(world)
        if self.xla is True and world.replicas > 1 and not is_tpu:
            raise UserError(
                f"train.xla is True with {world.replicas} replicas; expected "
                "one device, or train.xla = 'auto': XLA compiles no update "
                "whose gradients are summed over devices."
            )
        # TPUs are deterministic anyway, and XLA refuses max pooling with it.
        if self.deterministic and not compiled:
            tf.config.experimental.enable_op_determinism()
        plan = Plan(
            len(data.splits["train"]),
            self.batch_size,
            phase.epochs,
            state.first_epoch,
            state.first_step,
        )
        rows = world.share.rows(self.batch_size)
        if rows % self.accumulation:
            raise UserError(
                f"train.accumulation is {self.accumulation}, and each replica "
                f"has {rows} rows of a batch; expected a divisor of {rows}."
            )

        mixing.check(self.mixing, rows)
        weights, of_weights = balance.class_weights(self.class_weights, data)
        of_order = balance.describe_order(data, seed, self.sampling)

        # Backbone, head and preprocessing -> classifier.
        with world.strategy.scope():
            built, optimizer = self._build(phase, data, world, plan.steps)
            if state.best_weights is not None:
                built.set_weights(state.best_weights)
            kept = once(
                self.feature_views,
                built,
                data,
                pipeline,
                world,
                plan,
                seed,
                self.sampling,
                bool(self.mixing),
            )
            trainer = Trainer(
                built,
                optimizer,
                world,
                self.accumulation,
                kept.views,
                kept.augments,
                compiled and not is_tpu,
                phase.lowest_rate,
                self.mixing,
                seed,
                weights,
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
                self.sampling,
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
        title = f"Phase {state.phase + 1}"
        if phase.title:
            title += f", {phase.title}"
        views = self.test_time_augmentation
        return Setup(
            title if self.phases else None,
            plan,
            seed,
            built,
            trainer,
            predictor,
            batches,
            evaluation,
            steps_per_call,
            (
                *built.description,
                _what_is_trained(built, plan, phase),
                *trainer.description,
                *kept.description,
            ),
            (
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
                *(
                    [mixing.describe(self.mixing, world.replicas)]
                    if self.mixing
                    else []
                ),
                *of_weights,
                *of_order,
                world.description,
                *pipeline.description,
            ),
            rows,
            kept.augments,
            views.of(built) if views else None,
        )


def with_recipe(mode: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a mode the attributes of a `Recipe` in place of its `recipe`."""
    own = inspect.signature(mode).parameters
    parts = inspect.signature(Recipe).parameters
    others = {name: own[name] for name in own if name != "recipe"}

    @functools.wraps(mode)
    def call(**arguments):
        call.__signature__.bind(**arguments)  # Nothing unknown is dropped.
        made = Recipe(**{k: v for k, v in arguments.items() if k in parts})
        rest = {k: v for k, v in arguments.items() if k in others}
        return mode(recipe=made, **rest)

    # Those without a default come first, or it is no signature.
    parameters = sorted(
        (*others.values(), *parts.values()),
        key=lambda parameter: parameter.default is not parameter.empty,
    )
    call.__signature__ = inspect.Signature(parameters)
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    del call.__wrapped__  # Where gin would look for parameters.
    return call


def _shapes(built: Classifier) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in built.weights]


def _refuse_others(
    expected: list[tuple[int, ...]], title: str, shapes: list[tuple[int, ...]]
) -> None:
    """Refuses a later phase whose model can't take over the weights."""
    if shapes == expected:
        return
    different = next(
        (
            f"{found} in place of {ours}"
            for found, ours in zip(shapes, expected, strict=False)
            if found != ours
        ),
        f"{len(shapes)} weights in place of {len(expected)}",
    )
    raise UserError(
        f"{title}, builds a model with other weights than the first one "
        f"({different}). Expected the same backbone and "
        "head; with another image_size, a head that pools ('average' or "
        "'max')."
    )


def _what_is_trained(built: Classifier, plan: Plan, phase: Phase) -> str:
    counts = [
        sum(v.shape.num_elements() for v in variables)
        for variables in (built.model.trainable_variables, built.model.weights)
    ]
    return (
        f"{counts[0]:,} of {counts[1]:,} parameters are trained, for "
        f"{plan.epochs} {'epoch' if plan.epochs == 1 else 'epochs'} of "
        f"{plan.last_step(plan.first_epoch) - plan.first_step} steps at batch "
        f"{plan.batch_size}"
        + (
            f", the lowest layer at {phase.lowest_rate:g} of the rate."
            if phase.lowest_rate < 1
            else "."
        )
    )
