"""docs/reference is what is registered now, and nothing is missing there."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

from framework import describing
from framework.registry import Registry

ROOT = pathlib.Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def committed():
    return {p.name: p.read_text("utf-8") for p in REFERENCE.glob("*.md")}


def test_the_pages_are_what_is_registered(committed, in_tmp):
    version = ".".join(keras.__version__.split(".")[:2])
    if f"as Keras {version} has it" not in committed["README.md"]:
        pytest.skip(f"written for another Keras than {version}")
    # Elsewhere, with a task of the user's, in a process without the tests'.
    (in_tmp / "tasks").mkdir()
    (in_tmp / "tasks" / "strange.py").write_text("1 / 0")
    done = subprocess.run(
        [sys.executable, "-m", "framework.reference", "made"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    made = {
        p.name: p.read_text("utf-8") for p in (in_tmp / "made").glob("*.md")
    }
    assert made.keys() == committed.keys(), "run make docs"
    for name, text in made.items():
        assert text == committed[name], f"{name} is stale: run make docs"


def test_every_name_occurs(committed):
    describing.import_all(only_shipped=True)
    for registry in Registry.instances:
        for name in registry:
            module = registry.thing(name).__module__
            if module.startswith(("framework.", "tasks.", "keras")):
                assert any(
                    f"\n## `{name}`\n" in text for text in committed.values()
                ), f"{name} is missing: run make docs"
                assert f"[`{name}`](" in committed["README.md"]


def test_links_lead_somewhere(committed):
    import re

    from framework.reference import _anchor

    for name, text in committed.items():
        for file, anchor in re.findall(r"\]\(([\w.-]*)#?([\w-]*)\)", text):
            page = committed[file or name]
            heads = re.findall(r"^## `(.*)`$", page, re.MULTILINE)
            assert not anchor or anchor in map(_anchor, heads)


def test_nothing_of_this_machine_stands_there(committed):
    for text in committed.values():
        assert " at 0x" not in text
        assert str(ROOT) not in text and str(pathlib.Path.home()) not in text
