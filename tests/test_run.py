"""Whole runs, from Python and from the command line."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import framework
import tasks.cats_vs_dogs
import tasks.rock_paper_scissors
import tasks.shapes  # noqa: F401
from framework.configuration import Configuration, find_gin_file
from framework.errors import UserError
from framework.evaluation import report
from framework.registry import CALLBACKS, TASKS
from framework.run_directory import RunDirectory
from framework.training.interruption import Interrupted
from framework.training.progress import ProgressObserver

ROOT = pathlib.Path(__file__).resolve().parent.parent
GIN_FILES = sorted(
    path.name for path in (ROOT / "gin").glob("*.gin") if path.stem != "base"
)
QUICK = ["train.epochs = 2", "shapes.examples = 90"]


def command(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "framework.main", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_run_leaves_what_it_promises(in_tmp):
    result = framework.run("gin/smoke.gin", QUICK)
    run = in_tmp / "runs" / "smoke" / "001"
    assert pathlib.Path(result.directory).resolve() == run
    assert (in_tmp / "runs" / "latest").resolve() == run
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "config.gin",
        "environment.json",
        "history.png",
        "metrics.jsonl",
        "model.keras",
        "operative.gin",
        "predictions.csv",
        "report.html",
        "splits.csv",
        "summary.json",
        "tensorboard",
    }
    summary = json.loads((run / "summary.json").read_text())
    assert summary == result.summary
    assert summary["data"]["source"] == "shapes"
    assert summary["data"]["stand_in"] is False
    assert summary["data"]["examples"] == {
        "train": 54,
        "validation": 18,
        "test": 18,
    }
    assert 0 <= summary["test"]["accuracy"] <= 1
    assert summary["test"]["label"] == "test"
    assert "label" not in summary["validation"]
    assert summary["train"]["images_per_second"] > 0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert list((run / "tensorboard" / "train").iterdir())
    # The saved model is the evaluated one, on raw pixels.
    model = keras.saving.load_model(run / "model.keras")
    data = TASKS["shapes"](examples=90).load()
    examples = data.splits["test"]
    images = np.stack([examples.read(row).numpy() for row in examples.rows])
    predicted = model.predict(images, verbose=0).argmax(-1)
    accuracy = (predicted == examples.labels).mean()
    assert accuracy == pytest.approx(summary["test"]["accuracy"])
    rows = (run / "predictions.csv").read_text().splitlines()
    assert rows[0] == (
        "id,label,predicted,loss,p(circle),p(square),p(triangle)"
    )
    assert len(rows) == 1 + 18


def test_two_runs_are_bit_identical_and_the_operative_file_repeats_them(in_tmp):
    first = framework.run("gin/smoke.gin", QUICK)
    second = framework.run("gin/smoke.gin", QUICK)
    assert second.directory.endswith("002")
    third = framework.run(os.path.join(first.directory, "operative.gin"))
    fingerprints = {
        result.summary["weights_sha256"] for result in (first, second, third)
    }
    assert len(fingerprints) == 1
    other = framework.run("gin/smoke.gin", [*QUICK, "train.seed = 1"])
    assert other.summary["weights_sha256"] not in fingerprints


@pytest.mark.slow
def test_two_processes_are_bit_identical(in_tmp):
    fingerprints = set()
    for number in "ab":
        done = command(
            "--gin_file=gin/smoke.gin",
            "--gin_param=train.epochs = 2",
            f"--workdir={number}",
            cwd=in_tmp,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        summary = json.loads((in_tmp / number / "summary.json").read_text())
        fingerprints.add(summary["weights_sha256"])
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing to run"),
        (["--gin_file=gin/smokes.gin"], "Did you mean 'gin/smoke.gin'"),
        (
            ["--gin_file=gin/smoke.gin", "--gin_param=train.epoch=1"],
            "Did you mean 'epochs'",
        ),
        (["--gin_file=gin/smoke.gin", "oops"], "Unexpected argument 'oops'"),
        (["--ginfile=gin/smoke.gin"], "Error: Unknown command line flag"),
    ],
)
def test_a_users_mistake_costs_no_stack_trace(in_tmp, arguments, message):
    done = command(*arguments, cwd=in_tmp)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(in_tmp.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("classifier.backbone = @tinycnn", "Did you mean 'tiny_cnn'"),
        ("clasifier.image_size = 32", "Did you mean 'classifier'"),
        ("train.epochs = 0", "train.epochs is 0"),
        ("train.task = @shapes", "with parentheses"),
        ("train.optimizer = @keras.Adam()", "without parentheses"),
        ("train.optimizer = 'adam'", "train.optimizer is 'adam' (str)"),
        ("train.schedule = @warmup_cosine", "overrides it"),
        ("classifier.head = @softmax_head()", "without"),
        ("classifier.head = @tiny_cnn", "makes a Backbone; expected"),
        ("classifier.backbone = 'tiny_cnn'", "classifier.backbone is"),
        ("classifier.image_size = '32'", "expected a whole number, at least 1"),
        ("classifier.image_size = -5", "classifier.image_size is -5"),
        ("classifier.num_classes = 7", "num_classes"),
        ("classifier.augmentation = @keras.RandomFlip()", "expected a list"),
        ("softmax_head.hidden = 64", "expected a list of whole numbers"),
        ("softmax_head.dropout = '0.2'", "expected a number"),
        ("train.seed = -1", "train.seed is -1"),
        ("train.seed = 1.5", "expected a whole number"),
        ("train.pipeline = @pipeline", "with parentheses"),
        ("train.early_stopping = @EarlyStopping", "with parentheses"),
        ("train.early_stopping = 5", "EarlyStopping"),
        ("train.callbacks = @keras.TerminateOnNaN()", "expected a list"),
        ("train.epochs = True", "train.epochs is True"),
        ("train.batch_size = 2000", "train.batch_size = 900"),
        ("train.open_run = 1", "open_run"),
        ("shapes.examples = 'a'", "shapes.examples is 'a' (str)"),
        ("EarlyStopping.patience = '5'", "EarlyStopping.patience is '5'"),
        ("EarlyStopping.monitor = 'validation.f1'", "validation.macro_f1"),
        ("EarlyStopping.monitor = 'validation.sensitivity'", "3 classes"),
        ("tiny_cnn.weights = 3", "expected a text in quotes or None"),
        ("classifier.head = @sigmoid_head", "@softmax_head"),
        ("pipeline.resize = 'fit'", "'squash' or 'crop' or 'pad'"),
        ("keras.RandomFlip.mode = 'up'", "keras.RandomFlip refuses"),
        ("keras.Adam.learning_rate = 'x'", "expected a number"),
    ],
)
def test_mistakes_are_found_before_any_work(in_tmp, binding, message):
    with pytest.raises(UserError, match=re.escape(message)):
        framework.run("gin/smoke.gin", [binding])
    assert not list(in_tmp.iterdir())


def test_any_figure_can_choose_the_epoch(in_tmp):
    result = framework.run(
        "gin/smoke.gin",
        [
            *("train.epochs = 4", "shapes.examples = 300"),
            "EarlyStopping.monitor = 'validation.auc'",
        ],
        workdir="here",
    )
    lines = (in_tmp / "here" / "metrics.jsonl").read_text().splitlines()
    judged = [json.loads(line)["validation"] for line in lines]
    assert [set(each) for each in judged] == [{"loss", "accuracy", "auc"}] * 4
    aucs = [each["auc"] for each in judged]
    assert result.history.best_epoch == int(np.argmax(aucs))
    # Of the same weights, by the figures of the end.
    assert result.summary["validation"]["auc"] == pytest.approx(max(aucs))


def test_what_is_left_open_is_named(in_tmp):
    with pytest.raises(UserError, match=r"leaves open: train\.task"):
        framework.run("gin/base.gin")


def test_what_a_scope_leaves_open_is_told_with_the_scope():
    phases = "train.phases = [@head/Phase(), @tune/Phase()]"
    with pytest.raises(UserError, match=r"leaves open: tune/Phase\.epochs"):
        framework.run(
            "gin/smoke.gin",
            ["train.epochs = None", phases, "head/Phase.epochs = 1"],
        )


def test_what_is_there_is_not_overwritten(in_tmp):
    first = framework.run("gin/smoke.gin", QUICK, workdir="here")
    left = {p.name: p.stat().st_mtime_ns for p in (in_tmp / "here").iterdir()}
    again = framework.run("gin/smoke.gin", QUICK, workdir="here")
    assert again.summary == first.summary
    assert again.history == first.history
    for a, b in zip(
        again.model.get_weights(), first.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert left == {
        p.name: p.stat().st_mtime_ns for p in (in_tmp / "here").iterdir()
    }
    with pytest.raises(UserError, match=r"train\.seed was 0, now 1\. Choose"):
        framework.run(
            "gin/smoke.gin", [*QUICK, "train.seed = 1"], workdir="here"
        )
    with pytest.raises(UserError, match="--new is given"):
        framework.run("gin/smoke.gin", QUICK, workdir="here", new=True)
    with pytest.raises(UserError, match="which is a file"):
        framework.run("gin/smoke.gin", workdir="here/history.png")
    (in_tmp / "photos").mkdir()
    (in_tmp / "photos" / "a.jpg").write_text("")
    with pytest.raises(UserError, match=r"something else than a run: a\.jpg"):
        framework.run("gin/smoke.gin", QUICK, workdir="photos")
    (in_tmp / "latest.gin").write_text("include 'gin/smoke.gin'")
    with pytest.raises(UserError, match="Rename it"):
        framework.run("latest.gin")


SAVED = [
    *QUICK,
    "train.epochs = 4",
    "Checkpoints.every_steps = 1",
    "train.callbacks = [@keras.CSVLogger(), @keras.ReduceLROnPlateau()]",
    "keras.CSVLogger.filename = 'log.csv'",
    "keras.ReduceLROnPlateau.patience = 1",
    "keras.ReduceLROnPlateau.min_delta = 10.0",
    "keras.ReduceLROnPlateau.monitor = 'val_loss'",
    "softmax_head.dropout = 0.2",
]


@pytest.fixture
def stop_after(monkeypatch):
    """Makes runs receive SIGTERM after so many updates; None for none."""
    on_step = ProgressObserver.on_step

    def stop(step):

        def interrupt(self, epoch, now, figures):
            on_step(self, epoch, now, figures)
            if now == step:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(ProgressObserver, "on_step", interrupt)

    return stop


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    in_tmp, stop_after, step
):
    """In an epoch, at its end, with callbacks that remember."""
    expected = framework.run("gin/smoke.gin", SAVED)
    log = (in_tmp / "log.csv").read_text()
    stop_after(step)
    with pytest.raises(Interrupted, match="Stopped by SIGTERM") as stopped:
        framework.run("gin/smoke.gin", SAVED)
    assert stopped.value.status == 143
    stop_after(None)
    result = framework.run("gin/smoke.gin", SAVED)
    assert result.directory.endswith("002"), "the same run"
    assert result.history.continued == 1
    for key in ("weights_sha256", "test", "validation"):
        assert result.summary[key] == expected.summary[key]
    assert [e["train"] for e in result.history.epochs] == [
        e["train"] for e in expected.history.epochs
    ]
    assert [e["learning_rate"] for e in result.history.epochs] == [
        e["learning_rate"] for e in expected.history.epochs
    ]
    assert (in_tmp / "log.csv").read_text() == log
    lines = (in_tmp / "runs/smoke/002/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_what_may_and_may_not_change_on_the_way(in_tmp, stop_after, capsys):
    stop_after(3)

    def again(*bindings, **how):
        framework.run("gin/smoke.gin", [*SAVED, *bindings], **how)

    with pytest.raises(Interrupted):
        again()
    # Another configuration, or --new, gets another number.
    for how in ({"bindings": ["train.seed = 1"]}, {"new": True}):
        with pytest.raises(Interrupted):
            again(*how.pop("bindings", ()), **how)
    assert len(list((in_tmp / "runs" / "smoke").iterdir())) == 3
    # How it is run may change.
    capsys.readouterr()
    again("Checkpoints.every_steps = 100", "train.steps_per_call = 2")
    text = capsys.readouterr().out
    assert "Run directory: runs/smoke/003" in text
    assert "Taken up again after step" in text


def test_other_data_is_not_trained_on_by_the_way(in_tmp, stop_after):
    images = {}
    for name in ("a", "b"):
        (in_tmp / "photos" / name).mkdir(parents=True)
        for number in range(20):
            image = np.full((40, 40, 3), 5 * number, np.uint8)
            images[name, number] = tf.io.encode_png(image).numpy()
            path = in_tmp / "photos" / name / f"{number}.png"
            path.write_bytes(images[name, number])
    bindings = [
        "train.task = @image_folder()",
        "ImageFolder.root = 'photos'",
        "Checkpoints.every_steps = 1",
        "train.batch_size = 8",
        "train.epochs = 2",
    ]

    def run():
        framework.run(
            "gin/smoke.gin",
            bindings,
            imports=["tasks.image_folder"],
            workdir="here",
        )

    stop_after(3)
    with pytest.raises(Interrupted):
        run()
    extra = in_tmp / "photos" / "a" / "extra.png"
    extra.write_bytes(images["a", 0])
    with pytest.raises(UserError, match="The data has changed since"):
        run()
    extra.unlink()
    run()


def test_a_damaged_checkpoint_is_passed_over_aloud(in_tmp, stop_after, capsys):
    expected = framework.run("gin/smoke.gin", SAVED)
    stop_after(4)
    with pytest.raises(Interrupted):
        framework.run("gin/smoke.gin", SAVED)
    places = sorted((in_tmp / "runs/smoke/002/checkpoints").iterdir())
    assert len(places) == 2
    with (places[1] / "arrays.npz").open("r+b") as file:
        file.truncate(1000)
    stop_after(None)
    capsys.readouterr()
    result = framework.run("gin/smoke.gin", SAVED)
    text = capsys.readouterr().out
    assert (
        f"WARNING: passed over runs/smoke/002/checkpoints/{places[1].name}"
        in (text)
    )
    step = int(places[0].name.partition("-")[0])
    assert f"Taken up again after step {step} of" in text
    assert (
        result.summary["weights_sha256"] == expected.summary["weights_sha256"]
    )


def test_a_full_disk_is_told_and_leaves_nothing_in_the_way(in_tmp, monkeypatch):
    """At the first file that a run writes, and at its last."""
    expected = framework.run("gin/smoke.gin", QUICK)
    write = RunDirectory.write

    def full(name):
        def write_but_for(self, other, content):
            if other != name:
                return write(self, other, content)
            write(self, other, content[: len(content) // 2])
            with self.writing():
                raise OSError(28, "No space left on device")

        return write_but_for

    for name in ("operative.gin", "summary.json"):
        monkeypatch.setattr(RunDirectory, "write", full(name))
        with pytest.raises(UserError, match="No space left on device"):
            framework.run("gin/smoke.gin", QUICK, workdir="here")
        assert not RunDirectory("here").is_finished
    monkeypatch.setattr(RunDirectory, "write", write)
    result = framework.run("gin/smoke.gin", QUICK, workdir="here")
    assert (
        result.summary["weights_sha256"] == expected.summary["weights_sha256"]
    )


def test_two_processes_do_not_share_a_directory(in_tmp):
    framework.run("gin/smoke.gin", QUICK, workdir="a")
    (in_tmp / "a" / "summary.json").unlink()
    with (in_tmp / "a" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another process is at the run"):
            framework.run("gin/smoke.gin", QUICK, workdir="a")
    framework.run("gin/smoke.gin", QUICK, workdir="a")


@pytest.mark.parametrize(
    "name",
    ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)],
)
def test_mixed_precision_is_that_of_one_run(in_tmp, name):
    bindings = [*QUICK, f"train.precision = '{name}'", "train.accumulation = 2"]
    model = framework.run("gin/smoke.gin", bindings).model
    assert model.get_layer("logits").dtype_policy.name == name
    assert model.get_layer("logits").kernel.dtype == "float32"
    assert model.output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(UserError, match="float32, mixed_bfloat16"):
        framework.run("gin/smoke.gin", ["train.precision = 'half'"])
    with pytest.raises(UserError, match="expected a divisor of 32"):
        framework.run("gin/smoke.gin", ["train.accumulation = 5"])


def test_callbacks_that_cannot_be_continued_are_named(in_tmp, capsys):
    class Moody(keras.callbacks.Callback):
        pass

    CALLBACKS.register()(Moody)
    framework.run("gin/smoke.gin", [*QUICK, "train.callbacks = [@Moody()]"])
    assert "Not exactly resumable: Moody has no get_state" in (
        capsys.readouterr().out
    )


def test_a_run_may_lie_on_another_file_system(in_tmp):
    """ram:// stands for gs:// and the like."""
    result = framework.run("gin/smoke.gin", QUICK, workdir="ram://bucket/run")
    names = set(tf.io.gfile.listdir("ram://bucket/run"))
    assert {"summary.json", "model.keras", "metrics.jsonl"} <= names
    again = framework.run("gin/smoke.gin", QUICK, workdir="ram://bucket/run")
    assert again.summary == result.summary
    assert not list(in_tmp.iterdir())


@pytest.mark.slow
def test_the_link_points_at_complete_runs_only(in_tmp, monkeypatch):
    first = framework.run("gin/smoke.gin", QUICK)

    def fail(*unused):
        raise UserError("after training")

    monkeypatch.setattr(report, "quality", fail)
    with pytest.raises(UserError, match="after training"):
        framework.run("gin/smoke.gin", QUICK)
    latest = (in_tmp / "runs" / "latest").resolve()
    assert latest == pathlib.Path(first.directory).resolve()


def test_without_validation_the_last_epoch_is_kept(in_tmp):
    (in_tmp / "unjudged.py").write_text(
        "from framework import TASKS, Task\n"
        "from tasks.shapes import draw\n"
        "@TASKS.register()\n"
        "def unjudged():\n"
        "    return Task(lambda: draw(60, 32, 0), validation=0.0)\n"
    )
    done = command(
        "--gin_file=gin/smoke.gin",
        "--import=unjudged",
        "--gin_param=train.task = @unjudged()",
        "--gin_param=train.epochs = 3",
        "--workdir=run",
        cwd=in_tmp,
    )
    assert done.returncode == 0, done.stderr
    assert "No validation split: EarlyStopping is not used" in done.stdout
    summary = json.loads((in_tmp / "run" / "summary.json").read_text())
    assert summary["train"]["best_epoch"] == 3
    assert "validation" not in summary


def test_a_place_that_cannot_be_written_is_named(in_tmp):
    (in_tmp / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        RunDirectory.locate("x", "", "", str(in_tmp / "file" / "run")).create()
    (in_tmp / "runs").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        RunDirectory.locate("x", "", "").create()


@pytest.mark.slow  # As tests/test_wheel.py does.
def test_a_task_of_ones_own_is_found_in_the_working_directory(in_tmp):
    """One Python file and one gin file, as the README has it."""
    (in_tmp / "tasks").mkdir()  # Beside ours, not in place of them.
    (in_tmp / "tasks" / "stripes.py").write_text(
        "import numpy as np\n"
        "from framework import TASKS, Task, array_source\n"
        "@TASKS.register()\n"
        "def stripes_of_my_own():\n"
        "    images = np.zeros((40, 16, 16, 3), np.uint8)\n"
        "    images[::2, ::2] = 255\n"
        "    images[1::2, :, ::2] = 255\n"
        "    labels = np.arange(40) % 2\n"
        "    names = ('across', 'down')\n"
        "    return Task(lambda: array_source(images, labels, names))\n"
    )
    (in_tmp / "mine.gin").write_text(
        "include 'gin/base.gin'\n"
        "import tasks.stripes\n"
        "import tasks.shapes\n"
        "train.task = @stripes_of_my_own()\n"
        "train.epochs = 2\n"
        "classifier.backbone = @tiny_cnn\n"
        "classifier.head = @sigmoid_head\n"
    )
    done = command("--gin_file=mine.gin", cwd=in_tmp)
    assert done.returncode == 0, done.stderr
    summary = json.loads(
        (in_tmp / "runs" / "mine" / "001" / "summary.json").read_text()
    )
    assert summary["data"]["classes"] == ["across", "down"]
    assert summary["validation"]["label"] == "validation, used for selection"


@pytest.mark.slow
def test_a_task_of_an_installed_package_is_found(in_tmp):
    """By an entry point, without a word in the gin file."""
    (in_tmp / "site" / "pets-1.0.dist-info").mkdir(parents=True)
    (in_tmp / "site" / "pets-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: pets\nVersion: 1.0\n"
    )
    (in_tmp / "site" / "pets-1.0.dist-info" / "entry_points.txt").write_text(
        "[framework.tasks]\npets = pets_of_a_package\n"
    )
    (in_tmp / "site" / "pets_of_a_package.py").write_text(
        "from framework import TASKS\n"
        "from tasks.shapes import draw\n"
        "from framework import Task\n"
        "@TASKS.register()\n"
        "def pets_of_a_package():\n"
        "    return Task(lambda: draw(60, 32, 0))\n"
    )
    path = os.pathsep.join([str(ROOT), str(in_tmp / "site")])
    done = command(
        "--gin_file=gin/smoke.gin",
        "--gin_param=train.task = @pets_of_a_package()",
        "--gin_param=train.epochs = 1",
        "--workdir=run",
        cwd=in_tmp,
        PYTHONPATH=path,
    )
    assert done.returncode == 0, done.stderr
    text = (in_tmp / "run" / "operative.gin").read_text()
    assert "import pets_of_a_package" in text


@pytest.mark.slow
def test_a_module_named_by_a_flag_is_imported_and_written_down(
    in_tmp, monkeypatch
):
    (in_tmp / "plugin_of_a_flag.py").write_text(
        "from framework import HEADS\n"
        "from framework.model.heads import softmax_head\n"
        "@HEADS.register()\n"
        "def head_of_a_flag(num_classes):\n"
        "    return softmax_head(num_classes, pooling='flatten')\n"
    )
    monkeypatch.syspath_prepend(in_tmp)
    framework.run(
        "gin/smoke.gin",
        ["train.epochs = 1", "classifier.head = @head_of_a_flag"],
        imports=["plugin_of_a_flag"],
        workdir="run",
    )
    again = command(
        "--gin_file=run/operative.gin", "--workdir=again", cwd=in_tmp
    )
    assert again.returncode == 0, again.stderr
    with pytest.raises(UserError, match=r"--import names .* 'no\.such'"):
        Configuration("gin/smoke.gin", imports=["no.such"])


def test_help_does_not_wait_for_tensorflow():
    code = (
        "import sys; sys.argv = ['framework', '--help']\n"
        "from framework.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown = set(re.findall(r"^ *--(?:\[no\])?(\w+)", done.stdout, re.M))
    assert {
        "gin_file",
        "gin_param",
        "import",
        "mode",
        "new",
        "workdir",
    } <= shown
    assert not {"verbosity", "logtostderr"} & shown


def test_gin_files_are_found_from_anywhere(in_tmp):
    expected = ROOT / "gin" / "smoke.gin"
    for name in ("gin/smoke.gin", "./gin/smoke.gin", "smoke.gin"):
        assert pathlib.Path(find_gin_file(name)) == expected
    (in_tmp / "smoke.gin").write_text("")
    assert find_gin_file("smoke.gin") == "smoke.gin", "one's own comes first"


@pytest.mark.parametrize("name", GIN_FILES)
def test_every_gin_file_tells_its_command_and_its_result(name):
    text = (ROOT / "gin" / name).read_text()
    head = text[: text.index("include")]
    assert f"python -m framework.main --gin_file=gin/{name}" in head
    assert re.search(r"Measured: [^.]*\d", head)


def tiny_run(name: str, pictures: pathlib.Path) -> list[framework.Result]:
    """A step of a shipped file, and of the operative.gin that it left."""
    bindings = [
        "train.epochs = 1",
        "train.batch_size = 8",
        "classifier.image_size = 64",
    ]
    text = (ROOT / "gin" / name).read_text()
    if name == "smoke.gin":
        bindings = QUICK
    if "train.phases" in text:
        bindings[0] = "fine_tune.head_epochs = 1"
        bindings.append("fine_tune.epochs = 1")
    root = f"ImageFolder.root = '{pictures}'"
    if name in ("folder.gin", "rps_photos.gin", "rps_photos_rendered.gin"):
        bindings.append(root)
    if name == "manifest.gin":
        rows = [f"{p},{p.parent.name}" for p in pictures.rglob("*.png")]
        pathlib.Path("rows.csv").write_text("\n".join(["path,label", *rows]))
        bindings.append("Manifest.path = 'rows.csv'")
    if name == "rps_photos_rendered.gin":
        shutil.copytree(pictures / "dog", pictures / "scissors")
        for animal, hand in (("cat", "rock"), ("dog", "paper")):
            (pictures / animal).rename(pictures / hand)
    if name == "prepared.gin":
        written = ["prepare.directory = 'shards'", root]
        framework.run("gin/folder.gin", written, mode="prepare")
        bindings.append("Prepared.directory = 'shards'")
    # TFDS's mock would take the place of what was really written, too.
    mocked = tfds.testing.mock_data(num_examples=16)
    with contextlib.nullcontext() if name == "prepared.gin" else mocked:
        result = framework.run(f"gin/{name}", bindings)
        shutil.copy(f"{result.directory}/operative.gin", "alone.gin")
        return [result, framework.run("alone.gin")]


SLOW = {
    # test_no_skew trains it.
    "folder.gin",
    # As folder.gin or rps_rendered.gin, but for the source.
    "manifest.gin",
    "prepared.gin",
    "rps_photos.gin",
    "rps_photos_rendered.gin",
    "rps_rendered.gin",
    "rps_finetune.gin",
    "rps_softmax.gin",
    "rps_cnn.gin",
    # In phases, as test_phases has them.
    "cats_vs_dogs_finetune.gin",
    # As cats_vs_dogs_finetune.gin's first phase.
    "cats_vs_dogs_sigmoid.gin",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in GIN_FILES
    ],
)
def test_every_gin_file_builds_and_runs(in_tmp, some_pictures, name):
    """A step of each, on TFDS's mocked data; the saved model loads.

    What the run wrote down, alone and in another place, gives the same bits.
    """
    result, again = tiny_run(name, some_pictures)
    assert again.directory.startswith("runs/alone")
    assert again.summary["weights_sha256"] == result.summary["weights_sha256"]
    assert not result.summary["data"]["stand_in"]
    assert len(result.history.epochs) <= 2
    model = keras.saving.load_model(
        os.path.join(result.directory, "model.keras")
    )
    images = np.zeros((2, *model.input_shape[1:]), np.uint8)
    np.testing.assert_allclose(
        model.predict(images, verbose=0),
        result.model.predict(images, verbose=0),
        atol=1e-5,
    )


def test_without_data_and_network_it_ends_at_once_and_cleanly(in_tmp):
    started = time.monotonic()
    done = command(
        "--gin_file=gin/cats_vs_dogs_sigmoid.gin",
        cwd=in_tmp,
        TFDS_DATA_DIR=str(in_tmp / "tfds"),
        # A closed port of this machine in place of the network.
        https_proxy="http://127.0.0.1:9",
    )
    assert time.monotonic() - started < 20
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for way_out in ("TFDS_DATA_DIR", "downloads/manual", "gin/folder.gin"):
        assert way_out in done.stderr
    assert not list(in_tmp.iterdir())


def test_a_stand_in_cannot_be_missed(in_tmp):
    (in_tmp / "drawn_stand_in.py").write_text(
        "from framework import SOURCES\n"
        "from tasks.shapes import draw\n"
        "@SOURCES.register()\n"
        "def drawn_stand_in():\n"
        "    return draw(60, 32, 0)\n"
    )
    done = command(
        "--gin_file=gin/rps_softmax.gin",
        "--import=drawn_stand_in",
        "--gin_param=rock_paper_scissors.stand_in = @drawn_stand_in",
        "--gin_param=classifier.backbone = @tiny_cnn",
        "--gin_param=classifier.freeze = 'none'",
        "--gin_param=train.epochs = 1",
        "--gin_param=classifier.image_size = 32",
        "--workdir=run",
        cwd=in_tmp,
        TFDS_DATA_DIR=str(in_tmp / "tfds"),
        https_proxy="http://127.0.0.1:9",
    )
    assert done.returncode == 0, done.stderr
    assert "STAND-IN DATA" in done.stdout
    assert "This run uses drawn_stand_in instead" in done.stdout
    assert "In call to configurable" not in done.stdout
    summary = json.loads((in_tmp / "run" / "summary.json").read_text())
    assert summary["data"]["stand_in"] is True


def test_the_tfds_tasks_know_their_labels(in_tmp):
    with tfds.testing.mock_data(num_examples=40):
        hands = TASKS["rock_paper_scissors"]().load()
        pets = TASKS["cats_vs_dogs"]().load()
    # These are not the known images, and whose hands they show is not known.
    assert any("groups are not known" in note for note in hands.notes)
    assert hands.class_names == ("rock", "paper", "scissors")
    assert list(hands.splits) == ["train", "validation", "test"]
    assert pets.class_names == ("cat", "dog")
    assert list(pets.splits) == ["train", "validation"]
    assert len(pets.splits["train"]) > 2 * len(pets.splits["validation"])
