"""Training in phases: what each trains, what passes on, how it goes on."""

import json
import re
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import framework
import tasks.shapes  # noqa: F401
from framework.errors import UserError
from framework.model.backbones import tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.registry import CALLBACKS
from framework.training.distribution import Distribution
from framework.training.interruption import Interrupted
from framework.training.phases import Phase, fine_tune
from framework.training.progress import ProgressObserver
from framework.training.state import Plan
from framework.training.trainer import Trainer

SHAPES = [
    "shapes.examples = 100",
    "train.batch_size = 8",
    "train.epochs = None",
]
# 60 examples to train on: 8 steps in the first epoch, 7 in the second.
PHASES = [
    *SHAPES,
    "train.phases = [@head/Phase(), @tune/Phase()]",
    "head/Phase.epochs = 2",
    "head/Phase.freeze = 'all'",
    "tune/Phase.epochs = 2",
    "tune/Phase.freeze = 'relu1'",
    "tune/Phase.learning_rate = 0.0005",
    "tune/Phase.lowest_rate = 0.1",
    "softmax_head.dropout = 0.2",
]


def by_name(model: keras.Model) -> dict[str, np.ndarray]:
    return {"/".join(w.path.split("/")[-2:]): w.numpy() for w in model.weights}


@CALLBACKS.register()
class Watching(keras.callbacks.Callback):
    """Keeps the weights by name as each epoch begins, and the last ones."""

    seen: list[dict] = []  # noqa: RUF012

    def _keep(self):
        self.seen.append(by_name(self.model))

    def on_train_begin(self, logs=None):
        self._keep()

    def on_epoch_end(self, epoch, logs=None):
        self._keep()

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


def moved(before: dict, after: dict) -> set[str]:
    """The layers whose weights differ."""
    return {
        name.rpartition("/")[0]
        for name in before
        if not np.array_equal(before[name], after[name])
    }


def test_each_phase_trains_its_part_and_hands_on_the_best_weights(
    in_tmp, monkeypatch
):
    monkeypatch.setattr(Watching, "seen", [])
    result = framework.run(
        "gin/smoke.gin", [*PHASES, "train.callbacks = [@Watching()]"]
    )
    start, first, second, begun, third, fourth = Watching.seen
    assert moved(start, first) == {"head_dense_1", "logits"}
    epochs = result.history.epochs
    assert [e["phase"] for e in epochs] == [1, 1, 2, 2]
    assert [e["step"] for e in epochs] == [8, 15, 23, 30]
    losses = [e["validation"]["loss"] for e in epochs]
    best = first if losses[0] < losses[1] else second
    assert not moved(best, begun), "the second phase begins where the first"
    # Batch normalisation is trained, since nothing is pretrained here.
    assert moved(begun, third) == {"conv2", "bn2", "head_dense_1", "logits"}
    kept = [first, second, third, fourth][int(np.argmin(losses))]
    assert not moved(kept, by_name(result.model))
    lines = [
        json.loads(line)
        for line in (in_tmp / "runs/smoke/001/metrics.jsonl")
        .read_text()
        .splitlines()
    ]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(4, marks=pytest.mark.slow),
        # The last one of the first phase, the first one of the second.
        pytest.param(15, marks=pytest.mark.slow),
        pytest.param(16, marks=pytest.mark.slow),
        25,
        pytest.param(30, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_continued_exactly_in_any_phase(in_tmp, monkeypatch, step):
    on_step = ProgressObserver.on_step

    def interrupt(self, epoch, now, figures):
        on_step(self, epoch, now, figures)
        if now == step:
            signal.raise_signal(signal.SIGTERM)

    expected = framework.run("gin/smoke.gin", PHASES, workdir="undisturbed")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(ProgressObserver, "on_step", interrupt)
        framework.run("gin/smoke.gin", PHASES)
    result = framework.run("gin/smoke.gin", PHASES)
    assert result.history.continued == 1
    assert (
        result.summary["weights_sha256"] == expected.summary["weights_sha256"]
    )


def test_what_is_bound_in_its_scope_holds_for_one_phase_alone(in_tmp, capsys):
    """Progressive resizing, with more augmentation on the larger pictures."""
    framework.run(
        "gin/smoke.gin",
        [
            *PHASES,
            "classifier.image_size = 16",
            "tune/classifier.image_size = 24",
            "softmax_head.pooling = 'average'",
            "tune/classifier.augmentation = [@keras.RandomContrast()]",
            "keras.RandomContrast.factor = 0.1",
        ],
        dry_run=True,
    )
    first, second = capsys.readouterr().out.split("Phase 2, tune:")
    assert "16x16 px" in first and "24x24 px" in second
    assert "RandomFlip" in first and "RandomContrast" not in first
    assert "RandomContrast" in second and "RandomFlip" not in second


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["tune/Phase.freeze = 'rleu1'"], "Did you mean 'relu1'"),
        (["tune/Phase.freeze = 1.5"], "at least 0 and at most 1"),
        (["tune/Phase.epochs = 0"], "Phase.epochs is 0"),
        (["tune/Phase.lowest_rate = 0.0"], "above 0 and at most 1"),
        (["tune/Phase.learning_rate = 0.0"], "a number, above 0"),
        (["tune/classifier.image_size = 48"], "a head that pools"),
        (["tune/tiny_cnn.weights = 'nowhere'"], "no weights at nowhere"),
        (["tune/Phase.freeze = 0.1"], "can be cut nowhere so low"),
        (
            ["train.feature_views = 1", "tune/Phase.freeze = 'none'"],
            "augments nothing, but nothing",
        ),
        (
            [
                "tune/Phase.schedule = @one_cycle",
                "tune/keras.Adam.learning_rate = 0.01",
            ],
            "bound to 0.01, and there is a schedule",
        ),
        (["train.phases = [@tune/Phase]"], "with parentheses"),
        (["train.epochs = 3"], "train.epochs is bound and so is train.phases"),
        (
            [
                "train.schedule = @without_peak",
                "keras.Adam.learning_rate = None",
            ],
            "has no parameter `peak`",
        ),
    ],
)
def test_mistakes_in_later_phases_are_found_before_the_first(
    in_tmp, bindings, message
):
    with pytest.raises(UserError, match=message):
        framework.run("gin/smoke.gin", [*PHASES, *bindings])
    assert not (in_tmp / "runs").exists()


@framework.registry.SCHEDULES.register(given=["total_steps"])
def without_peak(total_steps: int, rate: float = 0.1) -> float:
    return rate


def test_a_dry_run_shows_every_phase_and_writes_nothing(in_tmp, capsys):
    bindings = [
        *PHASES,
        "train.schedule = @one_cycle",
        "keras.Adam.learning_rate = None",
    ]
    assert framework.run("gin/smoke.gin", bindings, dry_run=True) is None
    text = " ".join(capsys.readouterr().out.split())
    assert "Learning rate over 15 updates: ▁" in text
    assert "0.0005 at most" in text
    assert "the lowest layer at 0.1 of the rate" in text
    # Both phases, by some updates of each.
    assert len(re.findall(r"image uint8 \[\d+, 32, 32, 3\], label", text)) == 2
    assert re.search(r"2 of 6 layers .* trained\. 1\.1 M floating", text), text
    assert len(re.findall(r"Memory: weights [\d.]+ kB, optimizer", text)) == 2
    assert "is thrown away, and nothing is written" in text
    assert not list(in_tmp.iterdir())


def test_lower_layers_learn_at_lower_rates():
    """And decay at them; SGD moves by rate times gradient."""

    def step(lowest_rate: float) -> dict[str, np.ndarray]:
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        built = classifier(2, tiny_cnn, softmax_head)
        before = built.get_weights()
        optimizer = keras.optimizers.SGD(0.5, weight_decay=0.1)
        trainer = Trainer(
            built,
            optimizer,
            Distribution("one").make(),
            lowest_rate=lowest_rate,
        )
        trainer.fit(Plan(8, 8, 1), one_batch, None, None)
        return {
            weight.path: after - was
            for weight, after, was in zip(
                built.weights, built.get_weights(), before, strict=True
            )
            if weight.trainable
        }

    def one_batch(first_position, share):
        return tf.data.Dataset.from_tensors(
            {
                "image": np.random.default_rng(0)
                .integers(0, 256, (8, 32, 32, 3))
                .astype(np.uint8),
                "label": np.arange(8) % 2,
                "position": np.arange(8),
                "weight": np.ones(8, np.float32),
            }
        )

    plain, lowered = step(1.0), step(0.01)
    # Of tiny_cnn's six layers above the input conv2 is the fourth.
    for layer, share in (
        ("conv1", 0.01),
        ("conv2", 0.01 ** (1 - 3 / 6)),
        ("logits", 1.0),
    ):
        (path,) = (p for p in plain if p.endswith(f"{layer}/kernel"))
        assert np.abs(plain[path]).max() > 0
        np.testing.assert_allclose(
            lowered[path], share * plain[path], rtol=2e-3, atol=1e-7
        )


def test_fine_tune_is_the_head_and_then_the_upper_part():
    head, tune = fine_tune(head_epochs=1, epochs=4, freeze="block4c_add")
    assert (head.freeze, tune.freeze) == ("all", "block4c_add")
    assert head.learning_rate > tune.learning_rate
    assert tune.lowest_rate < 1
    assert [phase.title for phase in (head, tune)] == ["head", "tune"]


@pytest.mark.slow
def test_unfreezing_at_a_ruinous_rate_does_not_cost_what_was_reached(in_tmp):
    pretrained = framework.run(
        "gin/smoke.gin", ["train.epochs = 5", "shapes.examples = 400"]
    )
    ruinous = [
        *SHAPES,
        "train.batch_size = 4",
        f"tiny_cnn.weights = '{pretrained.directory}'",
        "train.phases = @fine_tune()",
        "fine_tune.head_epochs = 3",
        "fine_tune.epochs = 2",
        "fine_tune.freeze = 'none'",
        "fine_tune.head_rate = 0.01",
        "fine_tune.rate = 3.0",
        "fine_tune.lowest_rate = 1.0",
        "EarlyStopping.monitor = 'validation.accuracy'",
    ]
    result = framework.run("gin/smoke.gin", ruinous)
    reached = [e["validation"]["accuracy"] for e in result.history.epochs]
    assert max(reached[3:]) < max(reached[:3]) - 0.1, "nothing was ruined"
    assert result.summary["validation"]["accuracy"] == max(reached[:3])


def test_a_phase_is_known_by_its_scope_or_its_name():
    with framework.registry.in_scope("runs/tune"):
        assert Phase(1).title == "tune"
        assert Phase(1, name="all").title == "all"
    assert Phase(1).title is None


@pytest.mark.slow
def test_the_usual_way_to_unfreeze_collapses_and_ours_does_not(in_tmp):
    """Few pictures, small batches, a pretrained backbone.

    The usual way trains batch normalisation and everything else at the rate
    that suited the head, and keeps what comes out.
    """
    common = [
        "shapes.examples = 200",
        "train.batch_size = 8",
        "train.epochs = None",
        "classifier.backbone = @efficientnet_lite0",
        "classifier.image_size = 64",
        "softmax_head.pooling = 'average'",
        "softmax_head.hidden = []",
    ]
    usual = framework.run(
        "gin/smoke.gin",
        [
            *common,
            "train.early_stopping = None",
            "train.phases = [@head/Phase(), @all/Phase()]",
            "head/Phase.epochs = 5",
            "head/Phase.freeze = 'all'",
            "head/Phase.learning_rate = 0.01",
            "all/Phase.epochs = 2",
            "all/Phase.freeze = 'none'",
            "all/Phase.learning_rate = 0.01",
            "all/classifier.batch_norm = 'trained'",
        ],
    )
    ours = framework.run(
        "gin/smoke.gin",
        [
            *common,
            "train.phases = @fine_tune()",
            "fine_tune.head_epochs = 5",
            "fine_tune.head_rate = 0.01",
            "fine_tune.epochs = 2",
        ],
    )

    def by_epoch(result):
        epochs = result.history.epochs
        return [e["validation"]["accuracy"] for e in epochs]

    print(by_epoch(usual), by_epoch(ours))
    reached = max(by_epoch(usual)[:5])
    assert by_epoch(usual)[-1] < reached - 0.15
    assert min(by_epoch(ours)[5:]) > reached - 0.15
    assert ours.summary["validation"]["accuracy"] >= max(by_epoch(ours)[:5])


def test_the_model_that_is_judged_is_the_one_that_was_best(in_tmp):
    """Where a later phase, at another size, only made it worse."""
    bindings = [
        *PHASES,
        "softmax_head.pooling = 'average'",
        "tune/classifier.image_size = 48",
        "tune/Phase.learning_rate = 30.0",
        "tune/Phase.lowest_rate = 1.0",
        "train.callbacks = [@keras.CSVLogger()]",
        "keras.CSVLogger.filename = 'epochs.csv'",
    ]
    result = framework.run("gin/smoke.gin", bindings)
    epochs = result.history.epochs
    best = epochs[result.history.best_epoch]
    assert best["phase"] == 1
    assert result.model.input_shape == (None, 32, 32, 3)
    for name, value in best["validation"].items():
        assert result.summary["validation"][name] == pytest.approx(value)
    again = framework.run("gin/smoke.gin", bindings, workdir=result.directory)
    for a, b in zip(
        again.model.get_weights(), result.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    # Keras's logger begins anew whenever training does.
    assert len((in_tmp / "epochs.csv").read_text().splitlines()) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["train.folds = 2"],
        ["train.feature_views = 1", "tune/classifier.augmentation = []"],
    ],
)
def test_phases_go_with_what_else_there_is(in_tmp, monkeypatch, more):
    on_step = ProgressObserver.on_step

    def interrupt(self, epoch, now, figures):
        on_step(self, epoch, now, figures)
        if now == 17:
            signal.raise_signal(signal.SIGTERM)

    bindings = [*PHASES, *more]
    expected = framework.run("gin/smoke.gin", bindings, workdir="undisturbed")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(ProgressObserver, "on_step", interrupt)
        framework.run("gin/smoke.gin", bindings)
    framework.run("gin/smoke.gin", bindings)
    read = "fold-1/summary.json" if "folds" in more[0] else "summary.json"
    ours, theirs = (
        json.loads((in_tmp / place / read).read_text())["weights_sha256"]
        for place in ("undisturbed", "runs/smoke/001")
    )
    assert ours == theirs
    assert expected.history.epochs[-1]["phase"] == 2
