"""Writing shards as its users do: by a mode, for another gin file to read."""

import subprocess
import sys

import pytest

import framework
from framework.configuration import Configuration
from framework.errors import UserError
from framework.registry import MODES, TASKS

GIN = """
include 'gin/base.gin'
import tasks.image_folder
train.task = @image_folder()
ImageFolder.root = 'photos'
"""


def test_what_is_prepared_is_what_would_have_been_trained_on(
    in_tmp, some_pictures, capsys
):
    (in_tmp / "own.gin").write_text(GIN)
    (some_pictures / "cat/broken.png").write_bytes(b"")
    found = framework.run(
        "own.gin", ["doctor.check_labels = False"], mode="doctor"
    )
    expected = TASKS["image_folder"]().load(diagnosis=found)
    done = framework.run(
        "own.gin",
        [
            "prepare.directory = 'shards'",
            "prepare.doctor = 'runs/own/doctor/001'",
        ],
        mode="prepare",
    )
    assert done.examples == {"train": 24, "validation": 8}
    said = capsys.readouterr().out
    assert "Prepared.directory = 'shards'" in said
    Configuration("gin/prepared.gin", ["Prepared.directory = 'shards'"])
    data = TASKS["prepared"]().load()
    for name, examples in data.splits.items():
        by_id = dict(zip(examples.ids, examples.rows, strict=True))
        assert set(by_id) == set(expected.splits[name].ids)
        for example_id in by_id:
            assert (
                examples.read(by_id[example_id]).numpy()
                == (some_pictures / example_id).read_bytes()
            )


def test_where_to_must_be_said(in_tmp, some_pictures):
    (in_tmp / "own.gin").write_text(GIN)
    with pytest.raises(UserError, match=r"prepare\.directory is not bound"):
        framework.run("own.gin", mode="prepare")


def test_the_flag_offers_all_modes_and_no_others():
    Configuration("gin/smoke.gin")
    done = subprocess.run(
        [sys.executable, "-m", "framework.main", "--helpfull"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    offered = done.stdout.split("--mode:")[1].split(">")[0].split("<")[1]
    offered = "".join(offered.split())  # Long lists are wrapped anywhere.
    # What takes finished runs is no gin name.
    assert sorted(offered.split("|")) == sorted(
        [*MODES, "explain", "export", "compare", "predict", "evaluate", "serve"]
    )
