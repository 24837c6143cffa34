import dataclasses
import gc
import signal
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import framework
from framework.data import rows
from framework.data.pipeline import Pipeline, Share
from framework.data.rows import Rows
from framework.errors import UserError
from framework.evaluation.predictions import Predictor
from framework.model.backbones import tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.task import Task
from framework.training.distribution import Distribution, World
from framework.training.early_stopping import EarlyStopping
from framework.training.features import Views, once
from framework.training.interruption import Interrupted
from framework.training.mixing import CutMix, MixUp
from framework.training.precision import precision
from framework.training.progress import ProgressObserver
from framework.training.state import Plan
from framework.training.trainer import Trainer, validation

ALONE = Distribution("one").make()
EPOCHS, BATCH = 4, 8


@pytest.fixture
def data(arrays):
    """28 to train on, 12 to judge by: epochs end within batches."""
    return Task(lambda: arrays, validation=0.3).load(lambda *_: None)


def build(freeze="all", flip=False, dropout=0.0, dtype="float32", **head):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    augmentation = [keras.layers.RandomTranslation(0.2, 0.2)] if flip else []
    with precision(dtype):
        return classifier(
            2,
            tiny_cnn,
            lambda n: softmax_head(n, dropout=dropout, **head),
            freeze=freeze,
            augmentation=augmentation,
        )


def plan_of(data, epochs=EPOCHS):
    return Plan(len(data.splits["train"]), BATCH, epochs)


def decide(
    asked,
    built,
    data,
    world=ALONE,
    pipeline=None,
    sampling="natural",
    mixes=False,
    **plan,
):
    plan = plan_of(data, **plan)
    pipeline = pipeline or Pipeline(cache="none")
    return once(asked, built, data, pipeline, world, plan, 0, sampling, mixes)


def train(
    asked,
    data,
    accumulation=1,
    steps_per_call=1,
    cache="none",
    mixing=(),
    sampling="natural",
    **how,
):
    """Returns (weights, epochs, what was kept)."""
    built = build(**how)
    pipeline, plan = Pipeline(cache=cache), plan_of(data)
    kept = decide(
        asked,
        built,
        data,
        pipeline=pipeline,
        sampling=sampling,
        mixes=bool(mixing),
    )
    trainer = Trainer(
        built,
        keras.optimizers.Adam(0.01),
        ALONE,
        accumulation,
        kept.views,
        kept.augments,
        mixing=mixing,
    )
    predictor = Predictor(built, ALONE)
    held_out = pipeline.evaluation(data.splits["validation"], 32, BATCH)
    for features in kept.evaluated.values():
        predictor.keep(held_out, features)
    history = trainer.fit(
        plan,
        lambda first, share: pipeline.training(
            data.splits["train"],
            32,
            BATCH,
            0,
            first,
            share=share,
            sampling=sampling,
        ),
        validation(predictor, held_out),
        EarlyStopping(patience=None),
        steps_per_call=steps_per_call,
    )
    epochs = [(e["train"], e["validation"]) for e in history.epochs]
    return built.model.get_weights(), epochs, kept


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        ("auto", {"flip": True}),
        pytest.param(
            EPOCHS,
            {
                "flip": True,
                "dropout": 0.5,
                "freeze": "relu1",
                "accumulation": 2,
                "steps_per_call": 3,
            },
            marks=pytest.mark.slow,
        ),
        (EPOCHS, {"pooling": "flatten"}),
    ],
)
def test_with_as_many_views_as_epochs_it_is_the_plain_way_bit_for_bit(
    data, asked, how
):
    weights, epochs, kept = train(None, data, **how)
    assert kept.views is None and not kept.evaluated
    others, their_epochs, kept = train(asked, data, **how)
    assert kept.evaluated
    assert their_epochs == epochs
    assert same(weights, others)


def test_views_are_what_the_first_epochs_saw(data):
    _, plain, _ = train(None, data, flip=True)
    _, epochs, kept = train(2, data, flip=True)
    assert kept.augments
    assert epochs[:2] == plain[:2]
    assert epochs[2:] != plain[2:]
    # Two different ones, each read again in the order of a later epoch.
    features = kept.views.kept.get(np.arange(2 * 28))
    assert not np.allclose(features[:28], features[28:])
    batches = iter(kept.views.batches(2 * 28, Share()))
    labels, seen = [], []
    for _ in range(7):
        batch = next(batches)
        labels += batch["label"].numpy().tolist()
        seen += batch["features"].numpy().tolist()
    order = iter(
        Pipeline().order(data.splits["train"], BATCH, 0, 2 * 28, Share())
    )
    assert (
        labels
        == np.concatenate([next(order)["label"] for _ in range(7)]).tolist()
    )

    def rows_of(values):
        return sorted(map(tuple, np.asarray(values, np.float32).tolist()))

    assert rows_of(seen[:28]) == rows_of(features[:28])
    assert rows_of(seen[28:]) == rows_of(features[28:])


def test_without_augmentation_one_view_is_enough(data):
    """The rows of a batch are others when features are made: rounding."""
    plain, epochs, _ = train(None, data, dropout=0.3)
    weights, their_epochs, kept = train(
        "auto", data, dropout=0.3, steps_per_call=3
    )
    assert kept.views.count == 1 and not kept.augments
    for mine, theirs in zip(epochs, their_epochs, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert b == pytest.approx(a, rel=1e-4)
    for a, b in zip(plain, weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_one_view_asked_for_is_the_clean_picture(data):
    _, _, kept = train(1, data, flip=True)
    assert "nothing is augmented" in kept.description[-1]
    examples = data.splits["train"]
    batches = Pipeline().evaluation(examples, 32, 7)
    images = np.concatenate([batch["image"] for batch in batches])
    clean = build(flip=True).features(images, training=False)
    np.testing.assert_allclose(
        kept.views.kept.get(np.arange(len(examples))), clean, atol=1e-5
    )


def test_the_whole_model_has_learned(data):
    """What is saved is the model from pixels on."""
    built_weights, epochs, _ = train(2, data, flip=True)
    built = build(flip=True)
    built.model.set_weights(built_weights)
    images = np.stack(
        [
            built_image["image"].numpy()[0]
            for built_image in Pipeline().evaluation(
                data.splits["validation"], 32, 1
            )
        ]
    )
    predicted = built.model.predict(images, verbose=0).argmax(-1)
    accuracy = (predicted == data.splits["validation"].labels).mean()
    best = max(epochs, key=lambda e: -e[1]["loss"])
    assert accuracy == best[1]["accuracy"]


def test_the_cut_lies_below_the_first_thing_that_is_trained():
    assert build("none").features is None
    assert build("all").features.output.shape == (None, 32)
    assert (
        build("all", pooling="flatten").features.output.shape[1] == 8 * 8 * 32
    )
    assert build("relu1").features.output.shape == (None, 16, 16, 16)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3))
    for freeze in ("all", "relu1"):
        built = build(freeze)
        np.testing.assert_allclose(
            built.model(pixels, training=False),
            built.from_features(
                built.features(pixels, training=False), training=False
            ),
            rtol=1e-5,
        )
        # The same in training, where nothing is random here.
        np.testing.assert_allclose(
            built.model(pixels, training=True),
            built.from_features(
                built.features(pixels, training=True), training=True
            ),
            rtol=1e-5,
        )
        assert not [
            layer
            for layer in built.features._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        # Nothing of the model was used twice: its layers have one output.
        for layer in built.model.layers:
            assert len(layer._inbound_nodes) == 1


def test_unreadable_examples_stay_out_in_all_epochs(data):
    examples = data.splits["train"]
    broken = int(examples.rows[3])
    read = examples.read

    def reads_all_but_one(row):
        check = tf.debugging.Assert(row != broken, ["broken"])
        with tf.control_dependencies([check] if check else []):
            return tf.identity(read(row))

    splits = {
        **data.splits,
        "train": dataclasses.replace(examples, read=reads_all_but_one),
    }
    torn = dataclasses.replace(data, splits=splits)
    _, epochs, _ = train(None, torn)
    _, their_epochs, kept = train(1, torn)
    assert (kept.views._weights == 0).sum() == 1
    assert their_epochs[-1][0]["loss"] == pytest.approx(
        epochs[-1][0]["loss"], rel=1e-4
    )


def test_half_precision_features_are_kept_as_they_are(data):
    _, epochs, kept = train("auto", data, dtype="mixed_bfloat16")
    assert kept.views.kept.dtype.name == "bfloat16"
    assert epochs[-1][0]["loss"] < epochs[0][0]["loss"]


def test_what_can_not_be_is_refused_or_done_without(data, monkeypatch):
    with pytest.raises(UserError, match="1, which augments nothing"):
        decide(1, build("none", flip=True), data)
    for wrong in (0, True, "all", 1.5):
        with pytest.raises(UserError, match=r"feature_views is .*expected"):
            decide(wrong, build(), data)
    assert decide("auto", build("none"), data).views is None
    kept = decide(2, build("none"), data)
    assert kept.views is None and not kept.evaluated
    assert "2 changes nothing: nothing of" in kept.description[-1]
    once_only = decide(1, build(flip=True), data, epochs=1)
    assert not once_only.evaluated and not once_only.augments

    class Two:
        workers, kind = 2, "multi_worker"

    served = Pipeline(service="grpc://127.0.0.1:1", cache="none")
    for reason, how in (
        ("2 workers would need", {"world": Two}),
        ("service may leave out", {"pipeline": served}),
    ):
        for asked in ("auto", 2):
            # Without augmentation one view is all that "auto" wants.
            kept = decide(asked, build(), data, **how)
            assert kept.views is None and kept.evaluated
            assert reason in kept.description[-1]
        kept = decide("auto", build(flip=True), data, **how)
        assert "feature_views = 2" not in " ".join(kept.description)
        assert not decide(1, build(flip=True), data, **how).augments
    monkeypatch.setattr(rows, "free_memory", lambda: 0)
    assert decide("auto", build(), data).views.kept.place == "disk"
    monkeypatch.setattr(rows, "free_disk", lambda: 0)
    kept = decide("auto", build(), data)
    assert kept.views is None and not kept.evaluated
    assert "find no room" in kept.description[-1]
    for cache in rows.PLACES:
        with pytest.raises(UserError, match="find no room there"):
            decide("auto", build("none"), data, pipeline=Pipeline(cache=cache))
    kept = decide("auto", build("none"), data, pipeline=Pipeline())
    assert kept.views is None and not kept.evaluated
    with pytest.raises(UserError, match=r"pipeline.cache is 'ram'; expected"):
        Pipeline(cache="ram")


@pytest.mark.parametrize(
    ("cache", "how"),
    [
        ("auto", {"freeze": "none", "flip": True, "dropout": 0.5}),
        pytest.param(
            "disk",
            {
                "flip": True,
                "accumulation": 2,
                "steps_per_call": 3,
                # What is kept is not mixed.
                "mixing": [MixUp(1.0), CutMix()],
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pictures_are_decoded_once_bit_for_bit(data, cache, how):
    weights, epochs, kept = train("auto", data, **how)
    assert kept.views is None
    reads = []
    counted = {
        name: dataclasses.replace(
            examples,
            read=lambda row, read=examples.read: tf.numpy_function(
                lambda image: (reads.append(1), image)[1],
                [read(row)],
                tf.uint8,
            ),
        )
        for name, examples in data.splits.items()
    }
    others, their_epochs, kept = train(
        "auto", dataclasses.replace(data, splits=counted), cache=cache, **how
    )
    assert kept.views.key == "image"
    assert kept.views.kept.place == {"auto": "memory"}.get(cache, cache)
    assert their_epochs == epochs and same(weights, others)
    # Once, but for what was read ahead in vain.
    assert 40 <= len(reads) < 3 * 40
    assert "Pictures are decoded once" in " ".join(kept.description)


def test_pictures_that_the_pipeline_augments_are_not_kept(data):
    built = build("none")
    layers = (keras.layers.RandomFlip(),)
    built = dataclasses.replace(built, augmentation_in_pipeline=layers)
    kept = decide("auto", built, data, pipeline=Pipeline())
    assert kept.views is None
    assert kept.evaluated["validation"].dtype == np.uint8
    with pytest.raises(UserError, match="the pipeline augments them"):
        decide("auto", built, data, pipeline=Pipeline(cache="memory"))


@pytest.fixture
def lopsided(data):
    """20 to train on, 14 dark and 6 bright."""
    train = data.splits["train"]
    dark, bright = (np.flatnonzero(train.labels == n) for n in (0, 1))
    few = train.select(np.sort(np.r_[dark, bright[:6]]))
    return dataclasses.replace(data, splits={**data.splits, "train": few})


@pytest.mark.parametrize(
    ("cache", "how", "key"),
    [
        pytest.param(
            "auto",
            {"freeze": "none", "flip": True},
            "image",
            marks=pytest.mark.slow,
        ),
        ("none", {}, "features"),
    ],
)
def test_with_rare_classes_repeated_all_is_there_when_it_is_read(
    lopsided, cache, how, key
):
    """10 of 14 dark ones come an epoch: after two all have come."""
    how = {**how, "sampling": "balanced"}
    weights, epochs, _ = train(None, lopsided, **how)
    others, their_epochs, kept = train("auto", lopsided, cache=cache, **how)
    assert kept.views.key == key
    assert kept.views.complete_after == 5 < 4 * 20 / BATCH
    assert kept.views.kept.are_complete
    for mine, theirs in zip(weights, others, strict=True):
        # Features are made of other rows together: rounding.
        atol = 0 if key == "image" else 1e-4
        np.testing.assert_allclose(mine, theirs, atol=atol)
    if key == "image":
        assert their_epochs == epochs
    else:
        # 40 that came in two epochs and 12, instead of 4 times 32.
        assert (
            "52 pictures pass the frozen part instead of 128"
            in (kept.description[0])
        )
    # Two views of the 14 take three epochs, four would take six of four.
    assert decide(
        2, build(flip=True), lopsided, sampling="balanced"
    ).views.complete_after == np.ceil(3 * 20 / BATCH)
    assert not decide(3, build(flip=True), lopsided, sampling="balanced").views


def test_what_is_mixed_anew_is_not_kept(data):
    kept = decide("auto", build(), data, mixes=True)
    assert kept.views is None and kept.evaluated
    assert "train.mixing makes the pictures of every" in kept.description[-1]
    kept = decide("auto", build(flip=True), data, mixes=True)
    assert "feature_views = 2" not in " ".join(kept.description)


def test_a_scratch_file_serves_as_well(data, monkeypatch):
    weights, epochs, _ = train(2, data, flip=True)
    monkeypatch.setattr(rows, "free_memory", lambda: 0)
    others, their_epochs, kept = train(2, data, flip=True)
    assert kept.views.kept.place == "disk"
    assert "scratch file" in kept.description[0]
    assert their_epochs == epochs and same(weights, others)


def test_what_is_saved_is_counted(data):
    kept = decide(2, build(flip=True), data)
    # 2 views of 28 and 12, instead of 4 times 40.
    assert (
        "68 pictures pass the frozen part instead of 160"
        in (kept.description[0])
    )
    kept = decide("auto", build(flip=True), data)
    assert "124 pictures pass" in kept.description[0]
    assert "save the frozen part 56 more" in kept.description[1]


@pytest.mark.parametrize("place", rows.PLACES)
def test_rows_are_there_when_they_were_put(place):
    kept = Rows(5, (2, 3), np.float32, place)
    values = np.arange(30, dtype=np.float32).reshape(5, 2, 3)
    assert not kept.has(np.arange(5)).any()
    kept.put(np.array([4, 1]), values[[4, 1]])
    assert kept.has(np.arange(5)).tolist() == [False, True, False, False, True]
    np.testing.assert_array_equal(kept.get(np.array([1, 4])), values[[1, 4]])
    assert not kept.are_complete
    kept.put(np.array([0, 2, 3]), values[[0, 2, 3]])
    assert kept.are_complete
    np.testing.assert_array_equal(kept.get(np.arange(5)), values)


def test_room_is_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr(rows, "free_memory", lambda: 400)
    monkeypatch.setattr(rows, "free_disk", lambda: 1000)
    assert [rows.place(n) for n in (100, 101, 500, 501)] == [
        "memory",
        "disk",
        "disk",
        None,
    ]
    assert rows.place(50, taken=51) == "disk"
    assert rows.size(3, (4, 5), np.float16) == 120


def test_a_container_limits_memory(monkeypatch):
    said = {"memory.max": "5000", "memory.current": "4000"}

    def read(path):
        return said[path.rpartition("/")[2]]

    monkeypatch.setattr(rows, "_read", lambda path: read(path))
    said |= {"memory.limit_in_bytes": "max", "memory.usage_in_bytes": "0"}
    assert rows.free_memory() == 1000
    said["memory.max"] = "max"
    assert rows.free_memory() > 1000


FROZEN = [
    "shapes.examples = 90",
    "train.epochs = 4",
    "classifier.freeze = 'all'",
    "softmax_head.dropout = 0.5",
    "train.feature_views = 2",
    "Checkpoints.every_steps = 1",
]


DECODED = [
    *FROZEN,
    "classifier.freeze = 'none'",
    "train.feature_views = 'auto'",
]


@pytest.mark.parametrize(
    ("bindings", "step"),
    [
        pytest.param(FROZEN, 3, marks=pytest.mark.slow),
        pytest.param(FROZEN, 6, marks=pytest.mark.slow),
        # Random layers draw for each part.
        pytest.param(
            [*FROZEN, "train.accumulation = 2"], 5, marks=pytest.mark.slow
        ),
        pytest.param(DECODED, 1, marks=pytest.mark.slow),
        (DECODED, 5),
    ],
)
def test_a_stopped_run_makes_its_views_again(
    in_tmp, monkeypatch, bindings, step
):
    """While views are made, and while they are read."""
    on_step = ProgressObserver.on_step

    def interrupt(self, epoch, now, figures):
        on_step(self, epoch, now, figures)
        if now == step:
            signal.raise_signal(signal.SIGTERM)

    expected = framework.run("gin/smoke.gin", bindings)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(ProgressObserver, "on_step", interrupt)
        framework.run("gin/smoke.gin", bindings)
    result = framework.run("gin/smoke.gin", bindings)
    assert result.history.continued == 1
    assert (
        result.summary["weights_sha256"] == (expected.summary["weights_sha256"])
    )


@pytest.mark.slow
def test_a_run_stopped_while_views_are_made_again_loses_nothing(
    in_tmp, monkeypatch
):
    on_step, put = ProgressObserver.on_step, Views.put

    def interrupt(self, epoch, now, figures):
        on_step(self, epoch, now, figures)
        if now == 6:
            signal.raise_signal(signal.SIGTERM)

    def interrupted(self, *what):
        put(self, *what)
        signal.raise_signal(signal.SIGTERM)

    expected = framework.run("gin/smoke.gin", FROZEN)
    for owner, name, instead in (
        (ProgressObserver, "on_step", interrupt),
        (Views, "put", interrupted),
    ):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(owner, name, instead)
            framework.run("gin/smoke.gin", FROZEN)
    result = framework.run("gin/smoke.gin", FROZEN)
    assert result.history.continued == 1, "the second start saved nothing"
    assert (
        result.summary["weights_sha256"] == (expected.summary["weights_sha256"])
    )


@pytest.mark.slow
def test_a_run_goes_on_with_the_frozen_weights_it_began_with(
    in_tmp, monkeypatch
):
    on_step = ProgressObserver.on_step

    def interrupt(self, epoch, now, figures):
        on_step(self, epoch, now, figures)
        signal.raise_signal(signal.SIGTERM)

    for name in ("a", "b"):
        keras.utils.set_random_seed(len(name) + ord(name))
        tiny_cnn().model.save_weights(in_tmp / f"{name}.weights.h5")
    given = in_tmp / "given.weights.h5"
    bindings = [*FROZEN, f"tiny_cnn.weights = '{given}'"]
    given.write_bytes((in_tmp / "a.weights.h5").read_bytes())
    expected = framework.run("gin/smoke.gin", bindings, workdir="undisturbed")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(ProgressObserver, "on_step", interrupt)
        framework.run("gin/smoke.gin", bindings)
    given.write_bytes((in_tmp / "b.weights.h5").read_bytes())
    result = framework.run("gin/smoke.gin", bindings)
    assert result.history.continued == 1
    assert (
        result.summary["weights_sha256"] == expected.summary["weights_sha256"]
    )


def test_what_was_kept_is_given_back(data):
    _, _, kept = train(2, data, flip=True)
    alive = weakref.ref(kept.views.kept)
    next(iter(kept.views.batches(2 * 28, Share())))
    del kept
    gc.collect()
    assert alive() is None


def test_updates_can_be_traced_for_a_tpu(data):
    """TPUStrategy makes tensors of all that a replica's function is given."""

    class Strategy:
        num_replicas_in_sync = 1

        def run(self, function, args):
            # As TPUStrategy, but for the replication.
            return tf.distribute.get_strategy().run(
                function, [tf.convert_to_tensor(x) for x in args]
            )

        def __getattr__(self, name):
            return getattr(tf.distribute.get_strategy(), name)

    world = World(Strategy(), "tpu")
    built = build(flip=True)
    kept = decide(2, built, data)
    trainer = Trainer(built, keras.optimizers.Adam(), world, views=kept.views)
    pipeline, plan = Pipeline(), plan_of(data)
    history = trainer.fit(
        plan,
        lambda first, share: pipeline.training(
            data.splits["train"], 32, BATCH, 0, first, share=share
        ),
        lambda: (
            Predictor(built, world)
            .predict(pipeline.evaluation(data.splits["validation"], 32, BATCH))
            .figures()
        ),
        None,
    )
    assert len(history.epochs) == EPOCHS
    assert history.input_wait == 0
    cached = decide("auto", build("none"), data, world, Pipeline())
    assert cached.views is None
