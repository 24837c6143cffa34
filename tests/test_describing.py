"""--list and --describe: everything registered can be found and read."""

import subprocess
import sys

import pytest

from framework import describing
from framework.errors import UserError
from framework.registry import Registry, all_names


def test_everything_registered_is_listed():
    lines = describing.listing().splitlines()
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    assert listed == set(all_names())
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


def test_what_it_tells_of_one():
    text = describing.describe("@EarlyStopping()")
    assert "EarlyStopping: part" in text
    assert "EarlyStopping.patience = " in text
    assert "Attributes:" in text or "Args:" in text
    text = describing.describe("efficientnet_lite0")
    assert "has to be bound" not in text
    with pytest.raises(UserError, match="Did you mean 'tiny_cnn'"):
        describing.describe("tiny_cn")


def test_the_command_line():
    def command(flag):
        return subprocess.run(
            [sys.executable, "-m", "framework.main", flag],
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = command("--list")
    assert done.returncode == 0, done.stderr
    assert "efficientnet_lite0" in done.stdout and not done.stderr
    done = command("--describe=softmax_head")
    assert "softmax_head.dropout = " in done.stdout
    done = command("--describe=softmax_hed")
    assert done.returncode == 2 and "softmax_head" in done.stderr
