"""Turns a classifier and endless batches into trained weights and a history.

The loop is short and our own, around Keras models, optimizers, losses and
callbacks: Keras's `fit` neither works on several workers nor continues
exactly where it was stopped.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from framework.console import some
from framework.data.pipeline import Share
from framework.errors import UserError
from framework.evaluation.predictions import Predictor
from framework.model.classifier import Classifier
from framework.training.checkpoints import Checkpoints, CheckpointStore
from framework.training.distribution import World
from framework.training.early_stopping import EarlyStopping
from framework.training.features import Views
from framework.training.interruption import (
    Interrupted,
    Interruption,
    interruption,
)
from framework.training.mixing import CutMix, MixUp, drawing, mix
from framework.training.optimizers import rate_by_variable, unwrapped
from framework.training.state import Plan, TrainState
from framework.training.throughput import throughput

# What a replica reports of a step, summed over all replicas; and how many
# seconds this worker waited for the batch.
_LOSS, _LOSSES, _CORRECT, _EXAMPLES, _LEAVE, _SAVE, _WAITED = range(7)


class _Way(NamedTuple):
    """One way to make an update; see `features.Views`.

    Attributes:
        given: what it starts from, a key of the batch: "image", "features".
        kept: what it returns, to be kept: one of the same, or None.
    """

    given: str = "image"
    kept: str | None = None


_PLAIN = _Way()


@dataclasses.dataclass
class History:
    """What happened, epoch by epoch.

    Attributes:
        epochs: an entry an epoch: `{"epoch": 1, "phase": 1, "step": ...,
            "train": {"loss": ..., "accuracy": ...}, "validation": {...},
            "learning_rate": ..., "images_per_second": ..., "input_wait": ...,
            "seconds": ...}`.
            "train" is measured while training, with augmentation and
            dropout; "validation" without, and there is, beside these two,
            what `EarlyStopping` monitors.
        best_epoch: index of the epoch whose weights the model holds in the
            end.
        stopped_early: whether training ended before the last epoch.
        unreadable: ids of training examples that did not decode.
        seconds: spent in all, validation included.
        images_per_second: in training alone: without the first update of each
            start, which builds and compiles, without validation and
            checkpoints.
        input_wait: the share of that time spent waiting for pictures; 0 on a
            TPU, where it is not measured.
        continued: how often the run was taken up again after a stop.
    """

    epochs: list[dict]
    best_epoch: int
    stopped_early: bool
    unreadable: tuple[str, ...]
    seconds: float
    images_per_second: float
    input_wait: float
    continued: int = 0


class Trainer:
    """Updates a classifier's weights. Make it inside the strategy's scope.

    Args:
        classifier: what to train.
        optimizer: a Keras optimizer made in the same scope.
        world: the replicas that train together.
        accumulation: in how many parts, one after another, a replica works
            through its rows of a batch. Memory is needed for one part only;
            the update is the same, but for batch normalisation, whose
            statistics are those of a part.
        views: where the classifier's frozen part makes its features once; None
            has it make them in every update.
        augmented: whether a frozen part sees augmented pictures.
        compiled: whether XLA compiles an update. (On a TPU it does anyway.)
        lowest_rate: as in `framework.training.phases.Phase`.
        mixing: how the rows of a batch are mixed, if they are.
        seed: of what is drawn for mixing.
        class_weights: what an example's loss is multiplied by, a number a
            class; None for 1. The mean is over the number of examples, as
            Keras has it, and not over the sum of their weights.

    Raises:
        UserError: the optimizer does by itself what is done here.
    """

    def __init__(
        self,
        classifier: Classifier,
        optimizer: keras.optimizers.Optimizer,
        world: World,
        accumulation: int = 1,
        views: Views | None = None,
        augmented: bool = True,
        compiled: bool = False,
        lowest_rate: float = 1.0,
        mixing: Sequence[MixUp | CutMix] = (),
        seed: int = 0,
        class_weights: Sequence[float] | None = None,
    ):
        self.classifier = classifier
        self.model = classifier.model
        self.optimizer = optimizer
        self.world = world
        self.strategy = world.strategy
        self._accumulation = accumulation
        head = classifier.head
        self._loss = (head.training_loss or head.loss)()
        self._class_weights = class_weights
        self._draw = drawing(mixing, seed) if mixing else None
        inner = unwrapped(optimizer)
        _refuse_what_is_done_here(inner)
        self.description = _spare_norms_and_biases(
            inner, self.model.trainable_variables
        )
        optimizer.build(self.model.trainable_variables)
        if lowest_rate < 1:
            shares = [lowest_rate ** (1 - d) for d in classifier.depths()]
            rate_by_variable(inner, shares)
        # Gradients come to the optimizer summed over all replicas, so that it
        # clips what one device would clip (Keras clips before it sums).
        inner._all_reduce_sum_gradients = lambda gradients: gradients
        # Keras's callbacks look for the optimizer on the model.
        self.model.compile(
            optimizer=optimizer, loss=head.loss(), auto_scale_loss=False
        )
        _draw_apart(self.model)
        self.views = views
        self._augmented = augmented
        self._compiled = compiled
        self._functions: dict[_Way, tuple] = {}
        # What the frozen part's random layers draw from, as training begins.
        self._seeds = {
            id(generator): (generator.state, generator.state.numpy())
            for layer in (self.model._flatten_layers() if views else ())
            for generator in layer._seed_generators
        }.values()

    def stream(
        self,
        batches: Callable[[int, Share], tf.data.Dataset],
        plan: Plan,
        step: int = 0,
    ) -> Iterator:
        """Batches for `fit`, as they come after the update number `step`.

        Args:
            batches: from (first position, share of each batch) to a
                replica's batches: `Pipeline.training` with its other
                arguments bound.
            plan: where its phase begins, and the batch size.
            step: updates done, those of the phases before among them.
        """

        return self._iterator(lambda share: batches(plan.position(step), share))

    def _iterator(
        self, of_share: Callable[[Share], tf.data.Dataset]
    ) -> Iterator:
        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            share = Share(
                context.num_input_pipelines,
                context.input_pipeline_id,
                context.num_replicas_in_sync // context.num_input_pipelines,
            )
            # Names stay on the host: accelerators know no texts.
            dataset = of_share(share).map(
                tf.autograph.experimental.do_not_convert(
                    lambda batch: {k: v for k, v in batch.items() if k != "id"}
                )
            )
            if self._draw is not None:
                dataset = dataset.map(self._draw)
            # The step must find its batch ready.
            return dataset.prefetch(2)

        return iter(self.strategy.distribute_datasets_from_function(of_worker))

    def trace(self, stream: Iterator, step: int = 0) -> None:
        """Builds the training step without running it.

        Parts that don't fit together show here, before anything is written,
        and the first step is as quick as the others.
        """
        if not self._reads_views(step):
            with self._replicated():
                one, _ = self._calls(self._way(step))
                one.get_concrete_function(stream, tf.zeros(2))

    def _reads_views(self, step: int) -> bool:
        """Whether the update after `step` others reads what was kept."""
        return self.views is not None and step >= self.views.complete_after

    def _way(self, step: int) -> _Way:
        """How the update after `step` others is made."""
        if self.views is None:
            return _PLAIN
        if self._reads_views(step):
            return _Way(given=self.views.key)
        return _Way(kept=self.views.key)

    def _calls(self, way: _Way) -> tuple[Callable, Callable]:
        """One update from (stream, asks); many from (stream, count, asks).

        Both give what `_run_step` does, with an axis for the updates before.
        """
        if way not in self._functions:
            # Bound beforehand: a TPU would make a tensor of it.
            update = functools.partial(self._replica_step, way=way)
            if self._compiled:
                update = tf.function(update, jit_compile=True, autograph=False)
            dtypes = [tf.float32, tf.int64, tf.float32]
            if way.kept:
                dtypes.append(self.views.kept.dtype)
            # Keras's layers need no AutoGraph, which takes as long as the rest.
            step = tf.autograph.experimental.do_not_convert(
                functools.partial(self._run_step, update)
            )

            # A loop of one costs a millisecond more.
            def one(stream, asks):
                return tuple(value[None] for value in step(stream, asks))

            def many(stream, count, asks):
                results = tuple(tf.TensorArray(d, count) for d in dtypes)
                for i in tf.range(count):
                    tf.autograph.experimental.set_loop_options(
                        parallel_iterations=1
                    )
                    made = step(stream, asks)
                    results = tuple(
                        result.write(i, value)
                        for result, value in zip(results, made, strict=True)
                    )
                return tuple(result.stack() for result in results)

            self._functions[way] = (
                tf.function(one, reduce_retracing=True, autograph=False),
                tf.function(many, reduce_retracing=True),
            )
        return self._functions[way]

    def _make_views_again(
        self,
        batches: Callable[[int, Share], tf.data.Dataset],
        plan: Plan,
        step: int,
        asked: Interruption,
    ) -> None:
        """What the updates up to `step` kept, as it was made then.

        They are not in checkpoints, which would grow with the data.
        """
        stream = self.stream(batches, plan, plan.first_step)
        run = tf.function(self._run_views, autograph=False)
        now = [state.numpy() for state, _ in self._seeds]
        for state, first in self._seeds:
            state.assign(first)
        until = min(step, self.views.complete_after)
        for _ in range(until - plan.first_step):
            if asked.signal_number:
                return
            self.views.put(*(rows.numpy() for rows in run(stream)))
        for (state, _), value in zip(self._seeds, now, strict=True):
            state.assign(value)

    def _run_views(self, stream):
        """Of a batch: positions and weights [rows], what is kept."""
        batch = next(stream)
        of_features = self.views.key == "features"

        def make(images, weights):
            images = _readable(images, weights)
            if not of_features:
                return images
            # Part by part, as updates do: random layers draw for each.
            parts = tf.split(images, self._accumulation)
            return tf.concat([self._features(part) for part in parts], 0)

        kept = self.strategy.run(make, args=(batch["image"], batch["weight"]))
        return [
            tf.concat(self._local(rows), 0)
            for rows in (batch["position"], batch["weight"], kept)
        ]

    @contextlib.contextmanager
    def _replicated(self) -> Iterator[None]:
        """Makes batch normalisation see the whole batch, not a replica's.

        Only while training is traced: the model that is saved says nothing
        of it.
        """
        norms = [
            layer
            for layer in self.model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        before = [norm.synchronized for norm in norms]
        if self.world.replicas > 1:
            for norm in norms:
                norm.synchronized = True
        try:
            yield
        finally:
            for norm, value in zip(norms, before, strict=True):
                norm.synchronized = value

    def _run_step(self, update, stream, asks):
        """One update; what it reports [7], and of this worker's rows their
        positions and weights [rows] and what is to be kept, if anything.
        """
        began = self._now()
        with tf.control_dependencies([began]):
            batch = next(stream)
        with tf.control_dependencies(self._local(batch["position"])):
            waited = tf.cast(self._now() - began, tf.float32)
        inputs = batch["features" if "features" in batch else "image"]
        arguments = [inputs, batch["label"], batch["weight"], asks]
        if "mixing" in batch:
            arguments.append(batch["mixing"])
        report, *kept = self.strategy.run(update, args=tuple(arguments))
        return (
            tf.concat([self._local(report)[0], [waited]], 0),
            *(
                tf.concat(self._local(rows), 0)
                for rows in (batch["position"], batch["weight"], *kept)
            ),
        )

    def _now(self):
        """Seconds. (tf.timestamp refuses to work deterministically.)"""
        if self.world.kind == "tpu":  # Knows no Python.
            return tf.zeros([], tf.float64)
        return tf.numpy_function(time.monotonic, [], tf.float64)

    def _local(self, values) -> tuple[tf.Tensor, ...]:
        return self.strategy.experimental_local_results(values)

    def _replica_step(
        self, inputs, labels, weights, asks, mixing=None, way=_PLAIN
    ):
        """One replica's part of an update.

        Returns what all report, [6], and what is to be kept, if anything.
        `asks` [2] is what this worker wants: to leave, to save. `mixing` is
        what `mix` takes.
        """
        context = tf.distribute.get_replica_context()
        sum_up = tf.distribute.ReduceOp.SUM
        inputs = unmixed = _readable(inputs, weights)
        # A row's labels, and how much each of them counts.
        counts = [(labels, tf.ones_like(weights))]
        if mixing is not None:
            inputs, share = mix(inputs, weights, mixing)
            counts = [
                (labels, share),
                (tf.reverse(labels, [0]), 1 - share),
            ]
        # The mean is over the whole batch, whichever replica holds a row.
        total_weight = context.all_reduce(sum_up, tf.reduce_sum(weights))

        gradients, report, kept = None, None, []
        parts = zip(
            *(
                tf.split(value, self._accumulation)
                for value in (inputs, weights, *itertools.chain(*counts))
            ),
            strict=True,
        )
        for part in parts:
            # One part after another, or all would need memory at once.
            with tf.control_dependencies(gradients or ()):
                part = [tf.identity(value) for value in part]
            part_gradients, part_report, part_kept = self._part(
                *part[:2],
                [*zip(part[2::2], part[3::2], strict=True)],
                total_weight,
                way,
            )
            kept.append(part_kept)
            if gradients is None:
                gradients, report = part_gradients, part_report
            else:
                gradients = [
                    a + b
                    for a, b in zip(gradients, part_gradients, strict=True)
                ]
                report += part_report
        gradients = context.all_reduce(sum_up, gradients)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        report = context.all_reduce(sum_up, tf.concat([report, asks], 0))
        if way.kept is None:
            return (report,)
        if way.kept == "image":
            return report, unmixed
        return report, tf.concat(kept, 0)

    def _part(self, inputs, weights, counts, total_weight, way):
        """Gradients of some rows, what to report of them, their features."""
        if self.classifier.features is not None and way.given == "image":
            # Outside of the tape: nothing there has a gradient.
            inputs = self._features(inputs)
        with tf.GradientTape() as tape:
            outputs = self.classifier.from_features(inputs, training=True)
            losses = self._losses(counts, outputs)
            weights = tf.cast(weights, losses.dtype)
            loss = tf.math.divide_no_nan(
                tf.reduce_sum(losses * weights),
                tf.cast(total_weight, losses.dtype),
            )
            regularisers = [
                each
                for layer in self.classifier.trained
                for each in layer.losses
            ]
            if regularisers:  # Once over all replicas.
                loss += tf.cast(tf.add_n(regularisers), loss.dtype) / (
                    self.world.replicas * self._accumulation
                )
            scaled = loss
            if unwrapped(self.optimizer) is not self.optimizer:
                scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.model.trainable_variables)
        # Of a mixture: the label with the larger share.
        (labels, share), *others = counts
        for other, _ in others:
            labels = tf.where(share < 0.5, other, labels)
        head = self.classifier.head
        correct = head.correct(head.encode(labels), outputs)
        sums = (
            loss,
            tf.reduce_sum(losses * weights),
            tf.reduce_sum(tf.cast(correct, weights.dtype) * weights),
            tf.reduce_sum(weights),
        )
        report = tf.stack([tf.cast(s, tf.float32) for s in sums])
        return gradients, report, inputs

    def _losses(self, counts, outputs):
        """Of rows whose labels count for so much, [rows].

        A cross-entropy is linear in its target: this is that of mixed targets.
        """
        total = 0.0
        for labels, share in counts:
            losses = self._loss(self.classifier.head.encode(labels), outputs)
            factor = tf.cast(share, losses.dtype)
            if self._class_weights is not None:
                of_class = tf.constant(self._class_weights, losses.dtype)
                factor *= tf.gather(of_class, labels)
            total += factor * losses
        return total

    def _features(self, images):
        return self.classifier.features(images, training=self._augmented)

    def fit(
        self,
        plan: Plan,
        batches: Callable[[int, Share], tf.data.Dataset],
        validate: Callable[[], dict[str, float]] | None,
        early_stopping: EarlyStopping | None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        observers: Sequence["Observer"] = (),
        max_unreadable: float = 1.0,
        names: Callable[[np.ndarray], list[str]] = lambda p: list(map(str, p)),
        state: TrainState | None = None,
        callback_states: Sequence[object] = (),
        checkpoints: CheckpointStore | None = None,
        facts: dict | None = None,
        stream: Iterator | None = None,
        steps_per_call: int = 1,
    ) -> History:
        """Trains; in the end the model holds the best epoch's weights.

        Of several phases' epochs, the best of all that were.

        Args:
            plan: how long: a run's only phase, or one of several.
            batches: as for `stream`.
            validate: returns the figures of the validation split, or None
                where there is no such split.
            early_stopping: tells the best epoch and when to stop; None
                trains all epochs and keeps the last one's weights.
            callbacks: Keras callbacks.
            observers: told of every step and epoch (progress, logs).
            max_unreadable: the share of an epoch's examples that may fail to
                decode.
            names: maps positions of the training order to the examples' ids.
            state: where to continue; model and optimizer hold their values.
            callback_states: what the callbacks remembered then.
            checkpoints: where to save; nowhere if None.
            facts: written into every checkpoint, for who continues.
            stream: from `stream` at `state.step`, if it is made already.
            steps_per_call: updates between two looks of the host. More is
                faster where steps are short.

        Raises:
            UserError: the loss is not finite, or too many examples do not
                decode.
            Interrupted: asked to stop; the run is saved.
        """
        state = state or TrainState()
        checkpoints = checkpoints or CheckpointStore(None, Checkpoints())
        stream = stream or self.stream(batches, plan, state.step)
        run = _Run(plan, state, max_unreadable, names, self.world, self.views)
        remembered = list(callback_states) or [None] * len(callbacks)
        mine = [
            (callback, memory)
            for callback, memory in zip(callbacks, remembered, strict=True)
            if self.world.is_chief or not getattr(callback, "chief_only", False)
        ]
        callbacks = [callback for callback, _ in mine]
        keras_callbacks = keras.callbacks.CallbackList(
            callbacks,
            model=self.model,
            epochs=plan.last_epoch,
            steps=plan.last_step(plan.first_epoch) - plan.first_step,
            verbose=0,
        )
        started = time.monotonic()
        seconds_before = state.seconds

        since, is_warm = started, False

        def lap() -> None:
            """Adds what was spent training since the last time."""
            nonlocal since
            now = time.monotonic()
            state.epoch_seconds += now - since
            state.timed_seconds += is_warm * (now - since)
            since = now

        def save() -> None:
            state.seconds = seconds_before + time.monotonic() - started
            if self.world.is_chief:
                arrays, rest = state.pack(self.model, self.optimizer, callbacks)
                checkpoints.save(state.step, arrays, {**(facts or {}), **rest})

        self.model.stop_training = False
        keras_callbacks.on_train_begin()
        for callback, memory in mine:
            if memory is not None:
                callback.set_state(memory)

        with (
            contextlib.ExitStack() as closing,
            interruption() as asked,
            self._replicated(),
        ):
            for observer in observers:
                closing.callback(observer.close)
            is_over = len(state.epochs) == plan.last_epoch or state.stop
            if self.views and state.step > plan.first_step and not is_over:
                self._make_views_again(batches, plan, state.step, asked)
                if asked.signal_number:
                    # Not all is there; the checkpoint is.
                    self._leave(asked, state, checkpoints)
            one = many = None
            is_reading = False
            while len(state.epochs) < plan.last_epoch and not state.stop:
                epoch = len(state.epochs)
                first, last = plan.last_step(epoch - 1), plan.last_step(epoch)
                if state.step == first:
                    keras_callbacks.on_epoch_begin(epoch)
                    state.begin_epoch()
                reads_views = self._reads_views(state.step)
                if reads_views and not is_reading:
                    stream = self._iterator(
                        functools.partial(
                            self.views.batches, plan.position(state.step)
                        )
                    )
                if one is None or reads_views != is_reading:
                    one, many = self._calls(self._way(state.step))
                    # Once, and not anew for every call of the function.
                    one = one.get_concrete_function(stream, tf.zeros(2))
                    is_reading, is_warm = reads_views, False
                since = time.monotonic()
                while state.step < last:
                    count = min(steps_per_call, last - state.step)
                    if callbacks:
                        keras_callbacks.on_train_batch_begin(state.step - first)
                    # What is asked for now is known to all workers when they
                    # look at this call's report: after the next one.
                    asks = tf.constant(
                        [
                            float(asked.signal_number > 0),
                            float(
                                checkpoints.is_due(
                                    state.step + 2 * count, count
                                )
                            ),
                        ]
                    )
                    if count == 1:
                        report = one(stream, asks)
                    else:
                        report = many(stream, tf.constant(count), asks)
                    state.step += count
                    run.check(epoch, state.step, report, is_warm)
                    if is_warm:
                        state.timed_steps += count
                    else:
                        # What the first one takes says nothing of the others.
                        report[0].numpy()
                    lap()
                    is_warm = True
                    for observer in observers:
                        observer.on_step(
                            epoch,
                            state.step,
                            lambda: {
                                **state.figures,
                                **state.pace(plan.batch_size),
                            },
                        )
                    if callbacks:
                        keras_callbacks.on_train_batch_end(
                            state.step - first - 1,
                            {"loss": report[0][-1, _LOSS]},
                        )
                    if run.leave or run.save:
                        run.flush()
                        lap()
                        run.save = False
                        save()
                        if run.leave:
                            self._leave(asked, state, checkpoints)
                        since = time.monotonic()
                run.flush()
                lap()
                self._end_epoch(
                    plan, state, validate, early_stopping, observers
                )
                keras_callbacks.on_epoch_end(
                    epoch, _keras_logs(state.epochs[-1])
                )
                stop = self.model.stop_training or (
                    early_stopping is not None
                    and early_stopping.should_stop(
                        state.epochs, plan.first_epoch
                    )
                )
                # A callback may have judged by what only one worker sees, and
                # only one may have been asked to leave.
                stops, leaves = zip(
                    *self.world.exchange((stop, asked.signal_number > 0)),
                    strict=True,
                )
                state.stop = any(stops) and len(state.epochs) < plan.last_epoch
                state.stopped_early = state.stopped_early or state.stop
                if run.leave or any(leaves):
                    save()
                    self._leave(asked, state, checkpoints)
            # Judging the model may fail, and must not cost the training.
            save()
        checkpoints.wait()
        self.classifier.set_weights(state.best_weights)
        keras_callbacks.on_train_end(
            _keras_logs(state.epochs[state.best_epoch])
        )
        return History(
            epochs=state.epochs,
            best_epoch=state.best_epoch,
            stopped_early=state.stopped_early,
            unreadable=tuple(state.unreadable),
            seconds=seconds_before + time.monotonic() - started,
            **throughput(state.epochs),
            continued=state.continued,
        )

    def _end_epoch(
        self,
        plan: Plan,
        state: TrainState,
        validate: Callable[[], dict[str, float]] | None,
        early_stopping: EarlyStopping | None,
        observers: Sequence["Observer"],
    ) -> None:
        epoch = len(state.epochs)
        figures = {
            "epoch": epoch + 1,
            "phase": state.phase + 1,
            "step": state.step,
            "train": state.figures,
            "learning_rate": float(
                keras.ops.convert_to_numpy(self.optimizer.learning_rate)
            ),
            **state.pace(plan.batch_size),
            "seconds": state.epoch_seconds,
        }
        with self._averaged_weights():
            if validate is not None:
                figures["validation"] = validate()
            state.epochs.append(figures)
            if (
                early_stopping is None
                or early_stopping.best_epoch(state.epochs) == epoch
            ):
                state.best_epoch = epoch
                state.best_weights = self.classifier.get_weights()
        for observer in observers:
            observer.on_epoch(figures)

    @contextlib.contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Where the optimizer keeps a moving average, the model holds it.

        It is what is judged and kept; training goes on with the weights
        themselves. (Keras itself uses the average at the very end only.)
        """
        inner = unwrapped(self.optimizer)
        if not inner.use_ema:
            yield
            return
        weights = [v.numpy() for v in self.model.trainable_variables]
        inner.finalize_variable_values(self.model.trainable_variables)
        try:
            yield
        finally:
            for variable, value in zip(
                self.model.trainable_variables, weights, strict=True
            ):
                variable.assign(value)

    def _leave(
        self,
        asked: Interruption,
        state: TrainState,
        checkpoints: CheckpointStore,
    ) -> None:
        checkpoints.wait()
        # Nobody leaves before all is written, or it breaks its peers.
        self.world.part()
        # Where another worker was asked: as if this one had been.
        number = asked.signal_number or signal.SIGTERM
        name = signal.Signals(number).name
        raise Interrupted(
            f"Stopped by {name} after step {state.step}, and saved. The same "
            "command continues from here."
            if checkpoints.directory
            else f"Stopped by {name}.",
            number,
        )


class Observer:
    """Is told what happens; changes nothing.

    What it raises ends training: nothing more is saved, and a checkpoint from
    before stays. With several workers all must raise alike.
    """

    def on_step(
        self, epoch: int, step: int, figures: Callable[[], dict[str, float]]
    ) -> None:
        """After every call of the device, of one or more updates.

        Args:
            epoch: from 0.
            step: updates so far.
            figures: gives the epoch's loss and accuracy up to the call
                before, "images_per_second" and "input_wait".
        """

    def on_epoch(self, figures: dict) -> None:
        """After every epoch, with its entry of `History.epochs`."""

    def close(self) -> None:
        """When training ends, also when it fails."""


class _Run:
    """Takes in what steps report; stops a run that is lost.

    It looks at a report when the next step is under way, so that an
    accelerator need not wait for the host. All workers look at the same reports
    at the same steps, and so decide alike: what only one of them knows must
    come by a report.
    """

    def __init__(
        self,
        plan: Plan,
        state: TrainState,
        max_unreadable: float,
        names: Callable[[np.ndarray], list[str]],
        world: World,
        views: Views | None,
    ):
        self._plan = plan
        self._state = state
        self._max_unreadable = max_unreadable
        self._names = names
        self._world = world
        self._views = views
        self._pending = collections.deque()
        # What some worker has asked for.
        self.leave = False
        self.save = False

    def check(self, epoch: int, step: int, report, is_timed: bool) -> None:
        self._pending.append((epoch, step, report, is_timed))
        if len(self._pending) > 1:
            self._look(*self._pending.popleft())

    def flush(self) -> None:
        while self._pending:
            self._look(*self._pending.popleft())

    def _look(self, epoch: int, step: int, report, is_timed: bool) -> None:
        sums, positions, weights, *features = (
            np.asarray(value) for value in report
        )
        state = self._state
        if is_timed:
            state.waited += float(sums[:, _WAITED].sum(dtype=np.float64))
        state.loss += float(sums[:, _LOSSES].sum(dtype=np.float64))
        state.correct += float(sums[:, _CORRECT].sum(dtype=np.float64))
        state.examples += float(sums[:, _EXAMPLES].sum(dtype=np.float64))
        self.leave = self.leave or bool(sums[:, _LEAVE].any())
        self.save = self.save or bool(sums[:, _SAVE].any())
        if (sums[:, _EXAMPLES] < self._plan.batch_size).any():
            self._note_unreadable(positions[weights == 0])
        finite = np.isfinite(sums[:, _LOSS])
        if not finite.all():
            bad = int(np.argmin(finite))
            rows = np.concatenate(self._world.exchange(positions[bad]))
            raise UserError(
                f"The loss is {float(sums[bad, _LOSS])} at step "
                f"{step - len(sums) + bad + 1} (epoch {epoch + 1}). The batch "
                f"held {some(self._names(rows), 64)}. What "
                "usually helps: a learning rate ten times lower, a warm-up "
                "(train.schedule = @warmup_cosine), clipping "
                "(keras.Adam.global_clipnorm = 1.0). If it happens at the "
                "very first step, look at these images and at the "
                "augmentation."
            )
        for made in features:
            self._views.put(
                positions.ravel(),
                weights.ravel(),
                made.reshape(-1, *made.shape[2:]),
            )

    def _note_unreadable(self, positions: np.ndarray) -> None:
        everywhere = np.concatenate(self._world.exchange(positions))
        unreadable = self._state.unreadable
        unreadable.update(dict.fromkeys(self._names(np.sort(everywhere))))
        if len(unreadable) > self._max_unreadable * self._plan.examples:
            raise UserError(
                f"{len(unreadable)} of {self._plan.examples} training "
                "examples do not decode so far, more than "
                f"pipeline.max_unreadable = {self._max_unreadable}: "
                f"{some(unreadable)}. Mend or remove them, leave them out "
                "(--mode=doctor finds them all), or allow more."
            )


def _refuse_what_is_done_here(optimizer: keras.optimizers.Optimizer) -> None:
    for name, instead in (
        ("gradient_accumulation_steps", "train.accumulation"),
        ("ema_overwrite_frequency", "use_ema alone"),
    ):
        if getattr(optimizer, name, None):
            raise UserError(
                f"The optimizer's {name} is {getattr(optimizer, name)}; "
                f"expected None, and {instead} in its place: it counts "
                "updates and works on several devices."
            )


def _spare_norms_and_biases(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> tuple[str, ...]:
    """Keeps weight decay from vectors; says so, where there is any.

    Decay makes functions simpler by smaller kernels. The scales of
    normalisations and biases are no part of that (He et al. 2019, section 3.1,
    https://arxiv.org/abs/1812.01187). To be called before the optimizer is
    built.
    """
    if not optimizer.weight_decay:
        return ()
    if hasattr(optimizer, "_exclude_from_weight_decay"):
        # Whoever made it has chosen by `exclude_from_weight_decay`.
        return ()
    vectors = [v for v in variables if len(v.shape) <= 1]
    optimizer.exclude_from_weight_decay(var_list=vectors)
    return (
        f"Weight decay {optimizer.weight_decay:g} is for "
        f"{len(variables) - len(vectors)} kernels, not for {len(vectors)} "
        "biases and scales of normalisations.",
    )


def _readable(inputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Puts the batch's first readable row in place of those of weight 0.

    What did not decode is black and has weight 0, which keeps it out of the
    loss. Batch normalisation knows no weights. (By a gather: tf.where over all
    pixels takes a tenth of a small model's step.)
    """
    rows = tf.range(tf.size(weights, tf.int64))
    return tf.gather(inputs, tf.where(weights > 0, rows, tf.argmax(weights)))


def _draw_apart(model: keras.Model) -> None:
    """Makes random layers draw other numbers on every replica.

    Keras mirrors the state of its seed generators, so that all replicas would
    drop the same units and turn their pictures alike. The state is left as it
    is, the same everywhere; the first replica draws what one device would.
    """
    generators = {
        id(generator): generator
        for layer in model._flatten_layers()
        for generator in layer._seed_generators
    }
    for generator in generators.values():
        if hasattr(generator, "_draws_apart"):
            continue
        generator._draws_apart = True
        generator.next = _drawing_apart(generator.next)


def _drawing_apart(draw: Callable) -> Callable:
    def draw_apart(ordered: bool = True):
        seed = draw(ordered)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return seed
        # Weyl's constant for 2**32 keeps the sequences far apart.
        offset = tf.cast(context.replica_id_in_sync_group, tf.uint32)
        offset *= tf.constant(0x9E3779B9, tf.uint32)
        apart = tf.cast(seed[0], tf.uint32) + offset
        return tf.stack([tf.cast(apart, seed.dtype), seed[1]])

    return draw_apart


def _keras_logs(figures: dict) -> dict[str, float]:
    logs = dict(figures["train"])
    for key, value in figures.get("validation", {}).items():
        logs[f"val_{key}"] = value
    return logs


def validation(
    predictor: Predictor,
    batches: tf.data.Dataset,
    max_unreadable: float = 1.0,
    figures: Sequence[str] = (),
) -> Callable[[], dict[str, float]]:
    """A function that judges the model as it is on the same batches.

    All workers get the figures of the whole split.

    Args:
        predictor: of the model.
        batches: of the validation split.
        max_unreadable: as for `Predictor.predict`.
        figures: beside loss and accuracy, of the same predictions: of
            `metrics.names_for`.
    """

    def validate() -> dict[str, float]:
        return predictor.predict(batches, max_unreadable).figures(figures)

    return validate
