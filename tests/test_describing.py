"""--list and --describe: everything registered can be found and read."""

import os
import pathlib
import subprocess
import sys

import pytest

from framework import describing
from framework.configuration import Configuration
from framework.errors import UserError
from framework.model.backbones import facts
from framework.registry import BACKBONES, Registry, all_names

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_everything_registered_is_listed():
    lines = describing.listing().splitlines()
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    assert listed == set(all_names()) | set(describing.OF_RUNS)
    assert {r.kind for r in Registry.instances if len(r)} == {
        line.rstrip("s").lower() for line in lines if line and line[0].isupper()
    }
    assert max(map(len, lines)) <= 80
    # The tasks that ship, too, which a gin file would import.
    assert {"shapes", "rock_paper_scissors", "image_folder"} <= listed


@pytest.mark.parametrize("name", all_names())
def test_each_can_be_described(name):
    text = describing.describe(name)
    assert text.startswith(f"{name}: ")
    if not name.startswith(("keras", "keras_cv")):
        assert len(text.splitlines()) > 2, f"{name} has no docstring"


@pytest.mark.parametrize("name", describing.OF_RUNS)
def test_modes_of_finished_runs_are_described(name):
    assert f"--mode={name} RUN" in describing.describe(name)


def test_those_modes_are_the_command_lines():
    from framework import main

    assert set(main._OF_RUNS) == set(describing.OF_RUNS)


def test_backbones_tell_what_they_take():
    lines = describing.listing().splitlines()
    (line,) = (each for each in lines if "keras.VGG16 " in each)
    assert line.split() == [
        *("keras.VGG16", "224", "px", "14.7", "M", "ImageNet"),
        *("BGR", "less", "ImageNet's", "mean"),
    ]
    text = describing.describe("keras.MobileNetV2")
    assert "Pixels inside, made of 0..255: -1..1" in text
    assert "Parameters, without a head: 2,257,984" in text
    assert "classifier.backbone = @keras.MobileNetV2" in text
    # Of what only figures of the user's decide, nothing is said.
    assert "Parameters" not in describing.describe("keras_cv.ResNetBackbone")


@pytest.mark.parametrize("name", ["tiny_cnn", "course_cnn"])
def test_what_is_known_of_small_backbones_is_true(name):
    assert facts.measure(name) == facts.facts(name)


@pytest.mark.slow
def test_what_is_known_of_all_backbones_is_true():
    measured = {name: facts.measure(name) for name in BACKBONES}
    assert measured == {name: facts.facts(name) for name in BACKBONES}, (
        "run python -m framework.model.backbones.facts"
    )


# What has to be bound besides.
_NEEDED = {
    "Phase": ["head/Phase.epochs = 1", "tune/Phase.epochs = 1"],
    "image_folder": ["ImageFolder.root = 'photos'"],
}


@pytest.mark.parametrize("name", all_names())
def test_each_example_is_accepted(name):
    """Of a source or a mode there is none that stands for itself."""
    found = describing.description(name)
    if not found.asked or "--mode" in found.asked or found.kind == "source":
        return
    lines = [*found.asked.splitlines(), *_NEEDED.get(name, [])]
    if any(line.startswith("train.phases") for line in lines):
        lines.append("train.epochs = None")
    imports = []
    if found.kind == "task":
        imports = [found.origin.rpartition(".")[0]]
    Configuration("gin/smoke.gin", lines, imports)


def test_what_cannot_be_imported_is_told(in_tmp, monkeypatch):
    (in_tmp / "tasks").mkdir()
    (in_tmp / "tasks" / "broken_for_a_test.py").write_text("1 / 0")
    done = subprocess.run(
        [sys.executable, "-m", "framework.main", "--list"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "tasks.broken_for_a_test, which can't be imported" in done.stdout
    assert "ZeroDivisionError" in done.stdout and "  shapes" in done.stdout


def test_what_it_tells_of_one():
    text = describing.describe("@EarlyStopping()")
    assert "EarlyStopping: part" in text
    assert "EarlyStopping.patience = " in text
    assert "Attributes:" in text or "Args:" in text
    text = describing.describe("efficientnet_lite0")
    assert "has to be bound" not in text
    with pytest.raises(UserError, match="Did you mean 'tiny_cnn'"):
        describing.describe("tiny_cn")


def command(flag):
    return subprocess.run(
        [sys.executable, "-m", "framework.main", flag],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_one_is_described_on_the_command_line():
    done = command("--describe=softmax_head")
    assert "softmax_head.dropout = " in done.stdout


def test_the_command_line():
    done = command("--list")
    assert done.returncode == 0, done.stderr
    assert "efficientnet_lite0" in done.stdout and not done.stderr
    done = command("--describe=softmax_hed")
    assert done.returncode == 2 and "softmax_head" in done.stderr
