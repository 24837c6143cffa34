"""The same training on one device, several replicas and several processes."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from framework.errors import UserError
from framework.evaluation import metrics
from framework.launch import free_ports, task_config
from framework.training.distribution import (
    Distribution,
    _place_in,
    cluster_resolver,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(__file__).with_name("one_world.py")


def start(output, kind, replicas, **environment):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(output), kind, str(replicas)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes):
    """Waits for all; ends all when one takes too long."""
    try:
        for process in processes:
            text, _ = process.communicate(timeout=240)
            assert process.returncode == 0, text
    finally:
        for process in processes:
            process.kill()


class Worlds(dict):
    """What each world made of the same training, by its name, when asked."""

    def __init__(self, folder):
        super().__init__()
        self._folder = folder

    def __missing__(self, name):
        if name == "workers2":
            workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
            configs = [{"TF_CONFIG": task_config(workers, i)} for i in range(2)]
            self._run((name, "multi_worker", 1, config) for config in configs)
        elif name == "mirrored4":
            self._run([(name, "mirrored", 4, {})])
        else:
            self._run([("one", "one", 1, {}), ("mirrored2", "mirrored", 2, {})])
        return self[name]

    def _run(self, wanted):
        started = {}
        for number, (name, kind, replicas, environment) in enumerate(wanted):
            path = self._folder / f"{name}-{number}.npz"
            started[path] = name, start(path, kind, replicas, **environment)
        finish([process for _, process in started.values()])
        for path, (name, _) in started.items():
            if path.exists():  # The chief alone writes.
                self[name] = dict(np.load(path, allow_pickle=False))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    return Worlds(tmp_path_factory.mktemp("worlds"))


FOUR = pytest.param("mirrored4", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("world", "replicas", "workers"),
    [
        ("one", 1, 1),
        ("mirrored2", 2, 1),
        pytest.param("mirrored4", 4, 1, marks=pytest.mark.slow),
        ("workers2", 2, 2),
    ],
)
def test_there_are_as_many_replicas(worlds, world, replicas, workers):
    assert worlds[world]["replicas"] == replicas
    assert worlds[world]["workers"] == workers


@pytest.mark.parametrize(
    ("world", "run"),
    [
        *itertools.product(
            ("mirrored2", "workers2"), ("clipped", "averaged", "accumulated")
        ),
        pytest.param("mirrored4", "clipped", marks=pytest.mark.slow),
        pytest.param("mirrored4", "accumulated", marks=pytest.mark.slow),
    ],
)
def test_fifty_steps_are_those_of_one_device(worlds, world, run):
    """AdamW with decay and batch normalisation, clipped over the whole batch;
    a moving average, regularisers, several steps a call, classes weighted and
    sampled alike; accumulation."""
    expected = worlds["one"][run]
    np.testing.assert_allclose(worlds[world][run], expected, rtol=0, atol=1e-9)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("world", ["mirrored2", FOUR, "workers2"])
def test_first_gradients_are_those_of_one_device(worlds, world):
    def gradient(name):
        return worlds[name]["gradient_before"] - worlds[name]["gradient_after"]

    expected = gradient("one")
    assert np.linalg.norm(expected) > 0.1
    difference = np.linalg.norm(gradient(world) - expected)
    assert difference < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "run",
    [
        "clipped",
        "averaged",
        "accumulated",
        "gradient_after",
        "mixed",
        "random",
        "drawn",
        "predicted",
        "over_views",
    ],
)
def test_two_workers_are_bit_for_bit_two_replicas(worlds, run):
    np.testing.assert_array_equal(
        worlds["workers2"][run], worlds["mirrored2"][run]
    )


def test_views_are_the_same_on_all_replicas(worlds):
    np.testing.assert_allclose(
        worlds["mirrored2"]["over_views"],
        worlds["one"]["over_views"],
        rtol=0,
        atol=1e-6,
    )


def test_accumulation_changes_nothing(worlds):
    one = worlds["one"]
    np.testing.assert_allclose(
        one["accumulated"], one["whole"], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("world", ["mirrored2", "workers2"])
def test_mixed_precision_is_that_of_one_device_up_to_rounding(worlds, world):
    expected = worlds["one"]["mixed"]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(worlds[world]["mixed"], expected, atol=5e-3)


@pytest.mark.parametrize("world", ["mirrored2", FOUR])
def test_replicas_draw_apart_and_reproducibly(worlds, world):
    drawn = worlds[world]["drawn"]
    assert len(drawn) == int(world[-1])
    np.testing.assert_array_equal(drawn[0], worlds["one"]["drawn"][0])
    for a, b in itertools.combinations(drawn, 2):
        assert (a != b).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(drawn[:2], worlds["mirrored2"]["drawn"])
    assert (worlds["one"]["random"] != worlds["mirrored2"]["random"]).any()


@pytest.mark.parametrize("world", ["one", "mirrored2", FOUR, "workers2"])
def test_every_example_is_judged_once_in_every_world(worlds, world):
    ids = worlds[world]["ids"]
    assert len(set(ids)) == 37
    np.testing.assert_array_equal(ids, worlds["one"]["ids"])


@pytest.mark.parametrize("world", ["one", "mirrored2", FOUR, "workers2"])
def test_all_workers_have_the_figures_of_the_whole_split(worlds, world):
    result = worlds[world]
    labels = result["labels"]
    expected = [
        metrics.single(name, labels, result["predicted"])
        for name in ("accuracy", "macro_f1", "auc")
    ]
    assert len(result["figures"]) == result["workers"]
    for figures in result["figures"]:
        np.testing.assert_array_equal(figures[1:], expected)


@pytest.mark.gpu
def test_two_gpus_are_one_device(tmp_path):
    """Where there are GPUs, `Distribution` takes them for its replicas."""
    finish([start(tmp_path / "one.npz", "one", 1)])
    finish([start(tmp_path / "two.npz", "mirrored", 2)])
    one, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert two["replicas"] == 2
    for run in ("clipped", "averaged", "accumulated"):
        np.testing.assert_allclose(two[run], one[run], rtol=0, atol=1e-6)
    np.testing.assert_allclose(two["mixed"], one["mixed"], atol=5e-3)
    assert (two["drawn"][0] != two["drawn"][1]).any()
    np.testing.assert_array_equal(one["ids"], two["ids"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "both"}, "one, mirrored, multi_worker, tpu"),
        ({"replicas": 0}, "distribution.replicas is 0"),
        ({"strategy": "one", "replicas": 2}, "strategy 'mirrored'"),
    ],
)
def test_bad_distributions_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Distribution(**arguments)


def test_what_the_environment_lacks_is_said(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("TPU_NAME", "no-such-tpu")
    with pytest.raises(UserError, match=r"framework\.launch"):
        Distribution("multi_worker").make()
    tf.constant(0)  # Starts TensorFlow.
    with pytest.raises(UserError, match="can't be divided into 3"):
        Distribution("mirrored", 3).make()


@pytest.mark.parametrize(
    "text",
    [
        "{'cluster': 1}",
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": "a:1"},'
        ' "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]},'
        ' "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]},'
        ' "task": {"type": "ps", "index": 0}}',
    ],
)
def test_what_is_no_cluster_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="expected JSON of the form"):
        cluster_resolver()


def test_a_chief_is_the_first_of_the_workers(monkeypatch):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    for kind, index, place in (
        ("chief", 0, 0),
        ("worker", 0, 1),
        ("worker", 1, 2),
    ):
        task = {"type": kind, "index": index}
        monkeypatch.setenv(
            "TF_CONFIG", json.dumps({"cluster": cluster, "task": task})
        )
        assert _place_in(cluster_resolver()) == (3, place)


def test_the_environment_chooses(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("TPU_NAME", raising=False)
    assert Distribution()._kind() == "one"
    assert Distribution(replicas=2)._kind() == "mirrored"
    alone = {
        "cluster": {"worker": ["a:1"]},
        "task": {"type": "worker", "index": 0},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(alone))
    assert Distribution()._kind() == "one"
    alone["cluster"]["worker"].append("b:1")
    monkeypatch.setenv("TF_CONFIG", json.dumps(alone))
    assert Distribution()._kind() == "multi_worker"
    monkeypatch.delenv("TF_CONFIG")
    monkeypatch.setenv("TPU_NAME", "a-tpu")
    assert Distribution()._kind() == "tpu"
