"""Runs that are killed again and again end as if nothing had happened."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

sys.path.insert(0, os.path.dirname(__file__))
import ledger

from framework.launch import free_ports, task_config

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOTAL = 500  # 40 epochs of 200 pictures at 16.


def command(*flags, workers=2, restarts=0):
    main = ["--gin_file=ledger.gin", "--workdir=run", *flags]
    if workers == 1:
        return [sys.executable, "-m", "framework.main", *main]
    return [
        sys.executable,
        "-m",
        "framework.launch",
        f"--workers={workers}",
        f"--restarts={restarts}",
        "--",
        *main,
    ]


class Job:
    """The ledger task in a directory of its own, as a process."""

    def __init__(self, folder, *flags, **how):
        folder.mkdir(exist_ok=True)
        (folder / "ledger.gin").write_text(ledger.GIN)
        self.folder = folder
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command(*flags, **how),
                cwd=folder,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
                stdout=log,
                stderr=log,
            )

    def wait_for_step(self, step, seconds=120):
        deadline = time.monotonic() + seconds
        while self.step < step:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.002)

    @property
    def step(self):
        try:
            return int((self.folder / "step").read_text())
        except FileNotFoundError:
            return 0

    def forget_step(self):
        (self.folder / "step").unlink(missing_ok=True)

    def workers(self):
        """Process numbers, by the index in their TF_CONFIG."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            try:
                parent = re.search(
                    r"PPid:\t(\d+)", (entry / "status").read_text()
                )
                if not parent or int(parent[1]) != self.process.pid:
                    continue
                environment = (entry / "environ").read_bytes()
            except (OSError, NotADirectoryError):
                continue
            config = re.search(rb"TF_CONFIG=([^\0]+)", environment)
            if config:
                index = json.loads(config[1])["task"]["index"]
                found[index] = int(entry.name)
        return found

    def finish(self, seconds=300):
        try:
            status = self.process.wait(timeout=seconds)
        finally:
            self.process.kill()
        assert status == 0, self.log.read_text()
        return json.loads((self.folder / "run" / "summary.json").read_text())


def check_ledger(job):
    """Every picture was trained on once an epoch, no more and no less."""
    custom = {"Ledger": ledger.Ledger}
    model = keras.saving.load_model(
        job.folder / "run" / "model.keras", custom, compile=False
    )
    (layer,) = (
        x for x in model._flatten_layers() if isinstance(x, ledger.Ledger)
    )
    np.testing.assert_array_equal(layer.get_weights()[0], 40)


def kill_and_compare(tmp_path, kills, seed=0):
    """Kills a run of two workers so often, and compares with one left alone."""
    undisturbed = Job(tmp_path / "undisturbed")
    expected = undisturbed.finish()
    check_ledger(undisturbed)

    random.seed(seed)
    # At random, and after a checkpoint more than the last time, so that every
    # kill costs steps that were done.
    steps = sorted(random.sample(range(15, TOTAL - 15), kills))
    job = Job(tmp_path / "killed", restarts=kills)
    killed = {0: 0, 1: 0}
    try:
        for number, step in enumerate(steps):
            job.wait_for_step(step)
            victim = number % 2
            os.kill(job.workers()[victim], signal.SIGKILL)
            killed[victim] += 1
            # Until they are up again, nobody writes the file.
            time.sleep(0.5)
            job.forget_step()
        summary = job.finish()
    finally:
        job.process.kill()
    text = job.log.read_text()
    assert len(re.findall("died of SIGKILL; starting all anew", text)) == kills
    assert 0 < summary["train"]["continued"] <= kills
    assert summary["weights_sha256"] == expected["weights_sha256"]
    check_ledger(job)
    metrics = [
        [
            json.loads(line)["train"]
            for line in (j.folder / "run" / "metrics.jsonl")
            .read_text()
            .splitlines()
        ]
        for j in (undisturbed, job)
    ]
    assert metrics[0] == metrics[1]
    return killed


@pytest.mark.slow
def test_killing_the_chief_changes_nothing(tmp_path):
    """The short twin of the next; a worker is stopped further below."""
    assert kill_and_compare(tmp_path, kills=1) == {0: 1, 1: 0}


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    """`make soak`."""
    killed = kill_and_compare(tmp_path, kills=20, seed=int(time.time()))
    print(f"killed the chief {killed[0]} times, the worker {killed[1]} times")
    assert sum(killed.values()) == 20


@pytest.mark.slow
def test_from_two_workers_to_one_and_back(tmp_path):
    """What one world has saved, another continues.

    With a checkpoint due at every step, of which only the chief knows, and a
    picture that does not decode: all workers must act on all of it alike.
    """
    always = (
        "--gin_param=Checkpoints.every_steps = 1",
        "--gin_param=ledger.broken = 1",
    )
    job = Job(tmp_path / "a", *always)
    job.wait_for_step(100)
    os.kill(job.workers()[1], signal.SIGTERM)
    assert job.process.wait(timeout=60) == 143, job.log.read_text()
    saved = max(
        int(p.name.partition("-")[0])
        for p in (job.folder / "run/checkpoints").iterdir()
    )
    assert saved >= 100
    job.forget_step()
    job = Job(tmp_path / "a", *always, workers=1)
    job.wait_for_step(saved + 50)
    job.process.send_signal(signal.SIGINT)
    assert job.process.wait(timeout=60) == 130, job.log.read_text()
    assert f"Taken up again after step {saved}" in job.log.read_text()
    job.forget_step()
    job = Job(tmp_path / "a", *always[1:])
    summary = job.finish()
    assert summary["train"]["continued"] == 2
    assert summary["train"]["workers"] == 2
    assert summary["unreadable"] == ["train/0"]
    assert (
        len((job.folder / "run/metrics.jsonl").read_text().splitlines()) == 40
    )


def test_workers_that_were_told_different_things(tmp_path):
    """Each would be right by itself; together they would lose examples."""
    (tmp_path / "ledger.gin").write_text(ledger.GIN)
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = [
        subprocess.Popen(
            command(f"--gin_param=train.seed = {index}", workers=1),
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
                "TF_CONFIG": task_config(workers, index),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            text, _ = process.communicate(timeout=120)
            assert process.returncode == 2, text
            assert "The configuration of worker 1 and of worker 0" in text
            assert "Traceback" not in text
    finally:
        for process in processes:
            process.kill()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_waits_for_its_data_can_be_ended(tmp_path):
    """Python's handlers don't run while TensorFlow waits."""
    (tmp_path / "ledger.gin").write_text(ledger.GIN)
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "import tensorflow as tf\n"
        "import ledger\n"
        "whole = ledger.source().splits['train']\n"
        "ledger.source = None\n"
        "from framework import TASKS, Source, Task, array_source\n"
        "import dataclasses\n"
        "def read(row):\n"
        "    def wait(row):\n"
        "        time.sleep(300)\n"
        "        return row\n"
        "    row = tf.py_function(wait, [row], tf.int64)\n"
        "    return whole.read(tf.reshape(row, []))\n"
        "@TASKS.register()\n"
        "def slow():\n"
        "    train = dataclasses.replace(whole, read=read)\n"
        "    return Task(lambda: Source('slow', ('a', 'b'), {'train': train}),"
        " validation=0.0)\n"
    )
    job = Job(
        tmp_path,
        "--import=slow",
        "--gin_param=train.task = @slow()",
        workers=1,
    )
    deadline = time.monotonic() + 60
    while "Run directory" not in job.log.read_text():
        assert time.monotonic() < deadline, job.log.read_text()
        time.sleep(0.1)
    time.sleep(1)
    job.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert job.process.poll() is None, "it waits for its step to end"
    job.process.send_signal(signal.SIGTERM)
    assert job.process.wait(timeout=20) == 143
