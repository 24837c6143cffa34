import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from framework.data.pipeline import Pipeline, example_ids
from framework.errors import UserError
from framework.evaluation.predictions import Predictor
from framework.model.backbones import tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import sigmoid_head, softmax_head
from framework.training.distribution import Distribution
from framework.training.early_stopping import EarlyStopping
from framework.training.optimizers import make_optimizer
from framework.training.precision import precision
from framework.training.schedules import warmup_cosine
from framework.training.state import Plan
from framework.training.trainer import Observer, Trainer, validation

NEVER = EarlyStopping(patience=None)
ALONE = Distribution("one").make()


class Recorder(Observer):
    def __init__(self):
        self.steps, self.epochs = [], []

    def on_step(self, epoch, step, figures):
        self.steps.append((epoch, step))

    def on_epoch(self, figures):
        self.epochs.append(figures)


@pytest.fixture
def fit(arrays):
    train, held_out = arrays.splits["train"].cut(0.25, 0)  # 30 and 10.

    def run(
        head=softmax_head,
        optimizer=lambda: keras.optimizers.Adam(0.01),
        epochs=3,
        batch_size=8,
        early_stopping=NEVER,
        examples=train,
        seed=0,
        accumulation=1,
        dtype="float32",
        **arguments,
    ):
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        with precision(dtype):
            built = classifier(2, tiny_cnn, head)
            trainer = Trainer(built, optimizer(), ALONE, accumulation)
        pipeline = Pipeline()
        history = trainer.fit(
            Plan(len(examples), batch_size, epochs),
            lambda first, share: pipeline.training(
                examples, 32, batch_size, seed, first, share=share
            ),
            validation(
                Predictor(built, ALONE),
                pipeline.evaluation(held_out, 32, batch_size),
            ),
            early_stopping,
            names=lambda positions: example_ids(examples, positions, seed),
            **arguments,
        )
        return built, history

    run.held_out = held_out
    run.train = train
    return run


@pytest.mark.parametrize(
    "head",
    [
        softmax_head,
        lambda n: softmax_head(n, labels="one_hot", dropout=0.2),
        sigmoid_head,
    ],
)
def test_it_learns_what_is_easy(fit, head):
    _, history = fit(head, epochs=6)
    assert history.epochs[-1]["validation"]["accuracy"] == 1.0
    losses = [epoch["train"]["loss"] for epoch in history.epochs]
    assert losses[-1] < 0.5 * losses[0]


def test_one_step_equals_keras(fit):
    """An update is what train_on_batch makes of the same batch."""
    ours, _ = fit(epochs=1, batch_size=30, optimizer=keras.optimizers.SGD)
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    theirs = classifier(2, tiny_cnn, softmax_head).model
    theirs.compile(
        keras.optimizers.SGD(), loss="sparse_categorical_crossentropy"
    )
    batch = next(iter(Pipeline().training(fit.train, 32, 30, 0)))
    theirs.train_on_batch(batch["image"], batch["label"])
    for a, b in zip(
        ours.model.get_weights(), theirs.get_weights(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_same_seed_same_weights(fit):
    def weights(seed):
        return fit(seed=seed)[0].model.get_weights()

    first, second, other = weights(0), weights(0), weights(1)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_what_is_judged_by_is_plain_cross_entropy(fit):
    """However training goes about it."""
    built, history = fit(
        lambda n: softmax_head(n, label_smoothing=0.4), early_stopping=None
    )
    predictions = Predictor(built, ALONE).predict(
        Pipeline().evaluation(fit.held_out, 32, 8)
    )
    of_true = predictions.probabilities[np.arange(10), predictions.labels]
    loss = history.epochs[-1]["validation"]["loss"]
    assert loss == pytest.approx(-np.log(of_true).mean(), rel=1e-4)
    # Not below what smoothing leaves: the entropy of 0.8 and 0.2 is 0.5.
    assert history.epochs[-1]["train"]["loss"] > 0.5


def test_epochs_end_where_every_example_was_seen(fit):
    recorder = Recorder()
    _, history = fit(epochs=3, batch_size=8, observers=[recorder])
    # 30 examples at 8: after 4, 8 and 12 steps 30, 60, 90 were seen.
    assert [e["step"] for e in history.epochs] == [4, 8, 12]
    assert recorder.epochs == history.epochs
    assert recorder.steps[3:5] == [(0, 4), (1, 5)]
    assert Plan(10, 4, 2).last_step(0) == 3
    assert Plan(10, 4, 2).total_steps == 5


def test_the_best_epoch_is_restored(fit):
    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                for variable in self.model.trainable_variables:
                    variable.assign(tf.zeros_like(variable))

    built, history = fit(
        epochs=3,
        optimizer=lambda: keras.optimizers.SGD(0.001),
        early_stopping=EarlyStopping("validation.loss", patience=None),
        callbacks=[Spoil()],
    )
    assert history.best_epoch != 2
    figures = (
        Predictor(built, ALONE)
        .predict(Pipeline().evaluation(fit.held_out, 32, 8))
        .figures()
    )
    best = history.epochs[history.best_epoch]["validation"]
    assert figures == pytest.approx(best)
    assert not history.stopped_early


def test_it_stops_early(fit):
    class Freeze(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.optimizer.learning_rate = 0.0

    _, history = fit(
        epochs=20,
        optimizer=keras.optimizers.SGD,
        early_stopping=EarlyStopping("train.accuracy", 2, min_delta=2.0),
        callbacks=[Freeze()],
    )
    assert history.stopped_early
    assert len(history.epochs) == 3


def test_keras_callbacks_see_what_they_expect(fit, tmp_path):
    log = tmp_path / "log.csv"
    calls = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            calls.append(batch)
            if len(calls) == 6:
                self.model.stop_training = True

    _, history = fit(callbacks=[keras.callbacks.CSVLogger(log), Watch()])
    header, *rows = log.read_text().splitlines()
    assert header == "epoch,accuracy,loss,val_accuracy,val_loss"
    assert len(rows) == 2 == len(history.epochs)
    assert calls == [0, 1, 2, 3] * 2, "the epoch is finished first"
    assert history.stopped_early


def test_a_loss_that_is_not_finite_stops_and_tells_where(fit):
    with pytest.raises(UserError) as error:
        fit(optimizer=lambda: keras.optimizers.SGD(1e30), epochs=5)
    message = error.value.message
    assert "at step" in message
    assert "learning rate ten times lower" in message
    assert sum(i in message for i in fit.train.ids) >= 8


def broken(examples, rows):
    encoded = [
        b"broken" if row in rows else tf.io.encode_png(examples.read(r)).numpy()
        for row, r in enumerate(examples.rows)
    ]
    encoded = tf.constant(encoded)
    return dataclasses.replace(
        examples,
        rows=np.arange(len(examples)),
        read=lambda row: tf.gather(encoded, row),
    )


def test_unreadable_examples_count_nowhere(fit):
    examples = broken(fit.train, {3, 7})
    built, history = fit(examples=examples, epochs=2)
    assert set(history.unreadable) == {fit.train.ids[3], fit.train.ids[7]}
    assert np.isfinite(built.model.get_weights()[0]).all()


def test_unreadable_examples_do_not_move_batch_norm(fit):
    """They count as a readable picture of the batch, not as a black one."""
    batch = next(iter(Pipeline().training(fit.train, 32, 8, 0)))
    built = classifier(2, tiny_cnn, softmax_head)
    trainer = Trainer(built, keras.optimizers.SGD(0.0), ALONE)
    images, weights = batch["image"].numpy(), batch["weight"].numpy()
    images[3], weights[3] = 0, 0
    start = built.model.get_weights()
    step = tf.function(trainer._replica_step)
    asks = tf.zeros(2)
    step(images, batch["label"], tf.constant(weights), asks)
    with_a_hole = built.model.get_weights()
    built.model.set_weights(start)
    images[3] = images[0]
    step(images, batch["label"], tf.ones(8), asks)
    for a, b in zip(with_a_hole, built.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert any((a != b).any() for a, b in zip(start, with_a_hole, strict=True))


def test_too_many_unreadable_examples_stop_it(fit):
    examples = broken(fit.train, {3, 7})
    with pytest.raises(UserError, match=r"of 30 .* do not decode"):
        fit(examples=examples, max_unreadable=0.04)
    fit(examples=examples, epochs=1, max_unreadable=0.07)


def test_clipping_sees_gradients_without_the_loss_scale(fit):
    """Another scale, the same weights; without clipping, others."""

    def weights(scale, clip=0.01):
        def optimizer():
            inner = keras.optimizers.SGD(0.1, global_clipnorm=clip)
            return keras.optimizers.LossScaleOptimizer(
                inner, initial_scale=scale
            )

        built, _ = fit(epochs=1, optimizer=optimizer, dtype="mixed_float16")
        assert built.model.get_layer("logits").compute_dtype == "float16"
        return np.concatenate([w.ravel() for w in built.model.get_weights()])

    expected = weights(2.0**4)
    np.testing.assert_allclose(weights(2.0**10), expected, atol=1e-4)
    assert np.abs(weights(2.0**4, clip=None) - expected).max() > 1e-2


def test_an_overflow_skips_the_update_and_lowers_the_scale(fit):
    made = []

    def optimizer():
        inner = keras.optimizers.SGD(0.1)
        made.append(
            keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**40)
        )
        return made[0]

    built, history = fit(epochs=1, optimizer=optimizer, dtype="mixed_float16")
    assert float(made[0].dynamic_scale) < 2.0**40
    assert np.isfinite(built.model.get_weights()[0]).all()
    assert np.isfinite(history.epochs[0]["train"]["loss"])


@pytest.mark.parametrize(
    "steps_per_call", [3, pytest.param(100, marks=pytest.mark.slow)]
)
def test_several_steps_a_call_change_nothing(fit, steps_per_call):
    recorder = Recorder()
    one, first = fit()
    several, second = fit(steps_per_call=steps_per_call, observers=[recorder])
    for a, b in zip(
        one.model.get_weights(), several.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(first.epochs, second.epochs, strict=True):
        assert a["train"] == b["train"]
    # Calls end with epochs, of four steps.
    assert [step for _, step in recorder.steps][-1] == 12
    assert len(recorder.steps) == (6 if steps_per_call == 3 else 3)


def test_the_moving_average_is_what_is_judged_and_kept(fit):
    def optimizer():
        return keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9)

    plain, _ = fit(
        optimizer=lambda: keras.optimizers.SGD(0.05), early_stopping=None
    )
    averaged, history = fit(optimizer=optimizer, early_stopping=None)
    figures = (
        Predictor(averaged, ALONE)
        .predict(Pipeline().evaluation(fit.held_out, 32, 8))
        .figures()
    )
    assert figures == pytest.approx(history.epochs[-1]["validation"])
    assert any(
        (a != b).any()
        for a, b in zip(
            plain.model.get_weights(), averaged.model.get_weights(), strict=True
        )
    )


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_weight_decay_is_for_kernels_alone(fit, dtype):
    """A rate of 0.1 and decay of 0.5 leave 0.95 of what has no gradient."""

    def optimizer():
        return make_optimizer(
            lambda: keras.optimizers.AdamW(0.1, weight_decay=0.5), None, 1
        )

    keras.utils.set_random_seed(0)
    with precision(dtype):
        built = classifier(2, tiny_cnn, softmax_head)
        variables = built.model.trainable_variables
        for variable in variables:
            variable.assign(tf.ones(variable.shape))
        trainer = Trainer(built, optimizer(), ALONE)
    (sentence,) = trainer.description
    kernels = [len(v.shape) > 1 for v in variables]
    assert f"for {sum(kernels)} kernels, not for" in sentence
    trainer.optimizer.apply([tf.zeros(v.shape) for v in variables])
    assert 0 < sum(kernels) < len(variables)
    for variable, is_kernel in zip(variables, kernels, strict=True):
        np.testing.assert_allclose(
            variable, 0.95 if is_kernel else 1.0, rtol=1e-6
        )
    # Where there is none there is nothing to say.
    built = classifier(2, tiny_cnn, softmax_head)
    assert not Trainer(built, keras.optimizers.SGD(), ALONE).description


def test_who_has_chosen_what_decays_is_listened_to():
    def optimizer():
        made = keras.optimizers.AdamW(0.1, weight_decay=0.5)
        made.exclude_from_weight_decay(var_names=["kernel"])
        return made

    built = classifier(2, tiny_cnn, softmax_head)
    trainer = Trainer(built, optimizer(), ALONE)
    bias = built.model.get_layer("logits").bias
    bias.assign(tf.ones(bias.shape))
    variables = built.model.trainable_variables
    trainer.optimizer.apply([tf.zeros(v.shape) for v in variables])
    np.testing.assert_allclose(bias, 0.95, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "train.accumulation"),
        ({"use_ema": True, "ema_overwrite_frequency": 5}, "use_ema alone"),
    ],
)
def test_what_the_trainer_does_is_refused_of_the_optimizer(
    fit, arguments, message
):
    with pytest.raises(UserError, match=message):
        fit(optimizer=lambda: keras.optimizers.SGD(0.1, **arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "train.epochs is 0"),
        ({"batch_size": 2.5}, "train.batch_size is 2.5"),
        ({"batch_size": 11}, "train.batch_size = 10"),
        ({"epochs": True}, "train.epochs is True"),
    ],
)
def test_bad_plans_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Plan(**{"examples": 10, "batch_size": 2, "epochs": 1, **arguments})


def test_the_schedule_rises_and_falls():
    schedule = warmup_cosine(100, peak=0.5, warmup=0.1, end=0.02)
    rates = [float(schedule(step)) for step in range(101)]
    assert np.argmax(rates) == 10
    assert rates[10] == pytest.approx(0.5)
    assert rates[0] < 0.01
    assert rates[100] == pytest.approx(0.01)
    assert (np.diff(rates[10:]) <= 0).all()
    assert float(warmup_cosine(10, peak=0.5, warmup=0)(0)) == 0.5
    with pytest.raises(UserError, match="share of the phase"):
        warmup_cosine(10, warmup=2)


def test_optimizers_are_made_in_the_scope():
    made = make_optimizer(
        lambda learning_rate: keras.optimizers.Adam(learning_rate),
        warmup_cosine,
        100,
    )
    assert float(made.learning_rate) < 1e-4
