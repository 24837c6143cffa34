"""docs/migrating.md: each row's bindings are accepted, its names exist."""

import pathlib
import re

import pytest

from framework import describing
from framework.configuration import Configuration

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "migrating.md").read_text("utf-8")
# Of each row of a table: what corresponds, and the bindings that do.
ROWS = [
    (
        row.split("|")[1].strip(),
        re.findall(r"`([\w./]+ = [^`]*)`", row.split("|", 2)[2]),
    )
    for row in TEXT.splitlines()
    if row.startswith("|")
]
TASKS = [
    f"tasks.{name}"
    for name in ("cats_vs_dogs", "image_folder", "manifest", "prepared")
]


@pytest.mark.parametrize(("there", "bindings"), [row for row in ROWS if row[1]])
def test_its_bindings_are_accepted(there, bindings):
    imports = [m for m in TASKS if f"@{m[6:]}(" in " ".join(bindings)]
    Configuration("gin/smoke.gin", bindings, imports)


def test_most_rows_have_bindings():
    assert len([row for row in ROWS if row[1]]) > 60


def test_other_names_exist():
    from framework import main

    flags = main.flags.FLAGS
    for span in re.findall(r"`--mode=(\w+)`", TEXT):
        # Model Garden's own.
        assert (
            span == "train_and_eval" or span in flags["mode"].parser.enum_values
        )
    for name in re.findall(r"@([\w.]+)", TEXT):
        if name != "HEADS.register":
            describing.describe(name)
