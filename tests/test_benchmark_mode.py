"""Runs that measure: --mode=benchmark and --profile."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
import tensorflow as tf

import framework
from framework.errors import UserError
from framework.modes.benchmark import Benchmark
from framework.training.interruption import Interrupted
from framework.training.precision import choose_precision
from framework.training.trainer import Observer, Trainer

ROOT = pathlib.Path(__file__).resolve().parent.parent

QUICK = ["shapes.examples = 200", "benchmark.seconds = 0.2"]


def test_it_measures_input_updates_and_both(in_tmp, capsys):
    found = framework.run("gin/smoke.gin", QUICK, mode="benchmark")
    assert min(found.input, found.updates, found.training) > 0
    assert 0 <= found.input_wait <= 1
    assert list(found.update_parts) == [
        "augmentation",
        "the trained part, forth and back",
    ]
    # The parts add up to the whole, or more where they are measured apart.
    assert sum(found.update_parts.values()) >= 0.99 / found.updates
    text = " ".join(capsys.readouterr().out.split())
    assert found.verdict in text
    assert found.directory.endswith("runs/smoke/benchmark/001")
    written = json.loads(
        (in_tmp / "runs/smoke/benchmark/001/benchmark.json").read_text()
    )
    assert written["verdict"] == found.verdict
    assert written["training"] == found.training
    # Nothing that training would take up.
    assert not (in_tmp / "runs/smoke/001").exists()


@pytest.mark.slow
def test_it_tells_what_a_frozen_backbone_takes(in_tmp, some_pictures):
    found = framework.run(
        "gin/folder.gin",
        [
            f"ImageFolder.root = '{some_pictures}'",
            "classifier.image_size = 64",
            "train.batch_size = 8",
            "benchmark.seconds = 0.2",
        ],
        mode="benchmark",
    )
    assert "the frozen part" in found.update_parts
    assert list(found.input_parts) == [
        "reading",
        "decoding",
        "resizing and batching",
    ]


def measured(**figures):
    whole = {
        "input": 100.0,
        "updates": 50.0,
        "training": 45.0,
        "input_wait": 0.0,
        "input_parts": {"reading": 0.001, "decoding": 0.009},
        "update_parts": {"augmentation": 0.015, "the trained part": 0.005},
        "directory": "here",
    }
    return Benchmark(**{**whole, **figures})


def test_the_verdict_names_what_is_dearest():
    found = measured()
    assert found.verdict.startswith("Compute-bound, mostly by augmentation.")
    assert "2.0 times as many" in found.verdict
    assert "90% of the slower" in found.verdict
    found = measured(input=50.0)
    assert found.verdict.startswith("Input-bound, mostly by decoding.")
    assert "prepare.max_side" in found.verdict
    # Both share the processors: it is waiting that tells.
    assert measured(input_wait=0.3).verdict.startswith("Input-bound")
    found = measured(update_parts={"the frozen part": 1.0})
    assert "train.feature_views" in found.verdict


def test_seconds_must_be_some(in_tmp):
    with pytest.raises(UserError, match=r"benchmark\.seconds is 0\.0"):
        framework.run(
            "gin/smoke.gin", ["benchmark.seconds = 0.0"], mode="benchmark"
        )
    assert not (in_tmp / "runs").exists()


def test_a_profile_is_written_where_there_are_updates(in_tmp, capsys):
    few = ["shapes.examples = 200", "train.batch_size = 8"]
    framework.run("gin/smoke.gin", [*few, "train.epochs = 1"], profile=True)
    assert "no trace" not in capsys.readouterr().out
    framework.run(
        "gin/smoke.gin",
        [*few, "train.epochs = 2", "train.steps_per_call = 16"],
        profile=True,
    )
    for number in ("001", "002"):
        (trace,) = in_tmp.glob(
            f"runs/smoke/{number}/tensorboard/plugins/profile/*/*.pb"
        )
        assert trace.stat().st_size > 1000
    framework.run(
        "gin/smoke.gin",
        ["shapes.examples = 90", "train.epochs = 1"],
        profile=True,
    )
    assert "--profile: no trace" in capsys.readouterr().out


def test_xla_on_several_replicas_is_refused(in_tmp):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "framework.main"),
            "--gin_file=gin/smoke.gin",
            "--gin_param=train.xla = True",
            "--gin_param=distribution.replicas = 2",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2, done.stderr
    assert "train.xla is True with 2 replicas" in done.stderr
    assert not (in_tmp / "runs").exists()


def test_an_interrupted_benchmark_leaves_nothing(in_tmp, monkeypatch):
    fit = Trainer.fit

    def interrupt(self, *arguments, **how):
        class Stop(Observer):
            def on_step(self, epoch, step, figures):
                signal.raise_signal(signal.SIGTERM)

        return fit(self, *arguments, observers=[Stop()], **how)

    monkeypatch.setattr(Trainer, "fit", interrupt)
    with pytest.raises(Interrupted, match=r"^Stopped by SIGTERM\.(?!.*saved)"):
        framework.run("gin/smoke.gin", QUICK, mode="benchmark")
    assert not list(in_tmp.glob("runs/smoke/benchmark/*"))


def test_choices_that_make_no_sense_are_refused(in_tmp):
    for binding, reason in (
        ("train.xla = 'yes'", "expected True or False or 'auto'"),
        ("train.steps_per_call = 'all'", "steps_per_call is 'all'"),
        ("train.steps_per_call = 0", "steps_per_call is 0"),
        ("train.precision = 'half'", "expected 'auto' or one of"),
        ("pipeline.cache = 'ram'", "pipeline.cache is 'ram'"),
        ("train.feature_views = 0", "feature_views is 0"),
    ):
        with pytest.raises(UserError, match=reason):
            framework.run("gin/smoke.gin", [binding])
    assert not (in_tmp / "runs").exists()


def test_auto_precision_is_that_of_the_devices(monkeypatch):
    def devices(kind=None, *capabilities):
        monkeypatch.setattr(
            tf.config,
            "list_physical_devices",
            lambda asked: list(capabilities) or [1] if asked == kind else [],
        )
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda gpu: {"compute_capability": gpu} if gpu else {},
        )
        return choose_precision("auto")

    assert devices() == "float32"
    assert devices("TPU") == "mixed_bfloat16"
    assert devices("GPU", (8, 6)) == "mixed_bfloat16"
    assert devices("GPU", (8, 6), (7, 5)) == "mixed_float16"
    assert devices("GPU", (6, 1)) == "float32"
    assert devices("GPU", None) == "float32"
