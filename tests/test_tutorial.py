"""docs/tutorial.md: its files and commands work, in an empty folder."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from framework.configuration import Configuration

ROOT = pathlib.Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"


def blocks():
    """The fenced blocks, in order: (language, title or None, text)."""
    found = re.findall(
        r"^```(\w*)(?: title=(\S+))?\n(.*?)^```$",
        TUTORIAL.read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert found
    for language, title, _ in found:
        # Nothing that a reader would copy goes untried.
        assert (language == "bash") != bool(title), (language, title)
    return found


def write(folder, title, text):
    path = folder / title
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def run(command, folder):
    # `python` is the one that runs this.
    path = os.pathsep.join(
        [os.path.dirname(sys.executable), os.environ["PATH"]]
    )
    done = subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_all_of_it_runs(in_tmp):
    for language, title, text in blocks():
        if language == "bash":
            run(text, in_tmp)
        else:
            write(in_tmp, title, text)
    for name, least in (("small", 0.6), ("lite", 0.8)):
        directory = in_tmp / "runs" / name
        summary = json.loads((directory / "summary.json").read_text())
        assert summary["test"]["accuracy"] >= least, name
        assert (directory / "report.html").exists()
    assert len((in_tmp / "holed.csv").read_text().splitlines()) == 61
    shown = in_tmp / "runs" / "coins" / "show_batch" / "001"
    assert (shown / "show_batch.html").exists()


def test_its_files_are_accepted(in_tmp, monkeypatch):
    """The same without training, and in this process."""
    monkeypatch.syspath_prepend(in_tmp)
    for _, title, text in blocks():
        if title:
            write(in_tmp, title, text)
    run("python draw.py", in_tmp)
    commands = " ".join(text for lang, _, text in blocks() if lang == "bash")
    for gin_file, rest in re.findall(
        r"--gin_file=(\S+)((?: \\\n|[^\n])*)", commands
    ):
        bindings = re.findall(r'--gin_param="([^"]*)"', rest)
        data = Configuration(gin_file, bindings).task().load()
        assert data.class_names == ("copper", "holed", "silver")
        sizes = {split: len(part) for split, part in data.splits.items()}
        assert sizes == {"train": 108, "validation": 36, "test": 36}
