"""What training makes of what a doctor has found."""

import dataclasses
import json

import numpy as np
import pytest

from framework.data.doctor.diagnosis import Diagnosis
from framework.data.doctor.examine import digest
from framework.data.doctor.findings import (
    Cluster,
    Finding,
    Findings,
    Member,
    dumps,
    quarantine_csv,
    quarantined,
)
from framework.data.doctor.survey import read_encoded
from framework.data.source import StreamedExamples
from framework.errors import UserError
from framework.task import Task


def cluster(*ids, kind="near_duplicate", labels=None, splits=None):
    labels = labels or [int(i.split("/")[1]) % 2 for i in ids]
    splits = splits or ["train"] * len(ids)
    return Cluster(kind, tuple(map(Member, splits, ids, labels)))


def findings(*clusters, found=()):
    return Findings(
        source="toy",
        class_names=("dark", "bright"),
        counts={"train": [20, 20]},
        formats={"PNG": 40},
        modes={"RGB": 40},
        sizes={"width": [20] * 7},
        findings=tuple(found),
        clusters=clusters,
        remarks=("a remark",),
        seconds={"decoding": 1.5},
    )


CLASSES = ("dark", "bright")
LOST = Finding("unreadable", "train", "train/4", 0, 'empty, "so to say"\n')


@pytest.fixture
def directory(tmp_path):
    found = findings(
        cluster("train/0", "train/2"),
        cluster("train/2", "train/6", kind="exact_duplicate"),
        cluster("train/1", "train/3", "train/5"),
        found=[LOST],
    )
    (tmp_path / "findings.json").write_text(dumps(found))
    (tmp_path / "quarantine.csv").write_text(quarantine_csv(found.findings))
    (tmp_path / "summary.json").write_text("{}")
    return tmp_path


def test_findings_survive_json(directory):
    read = Diagnosis.read(str(directory))
    assert dumps(read.findings) == (directory / "findings.json").read_text()
    assert read.findings.of("unreadable") == [LOST]
    assert read.quarantine == {"train/4": 'empty, "so to say"\n'}


def test_the_quarantine_is_left_out_and_duplicates_stay_together(
    arrays, directory
):
    diagnosis = Diagnosis.read(str(directory))
    for seed in range(12):
        task = Task(lambda: arrays, validation=0.4, test=0.2, seed=seed)
        data = task.load(diagnosis=diagnosis)
        ids = {name: set(e.ids) for name, e in data.splits.items()}
        assert sum(map(len, ids.values())) == 39
        assert not any("train/4" in found for found in ids.values())
        for group in (
            {"train/0", "train/2", "train/6"},
            {"train/1", "train/3", "train/5"},
        ):
            assert any(group <= found for found in ids.values()), seed
        assert diagnosis.leak_remarks(data.splits) == ()
    assert "1 examples are quarantined" in data.notes[0]


def test_groups_of_the_source_and_of_duplicates_become_one(arrays, directory):
    train = arrays.splits["train"]
    groups = np.full(40, "", object)
    groups[[6, 8, 10]] = "patient"
    source = dataclasses.replace(
        arrays, splits={"train": dataclasses.replace(train, groups=groups)}
    )
    splits, _ = Diagnosis.read(str(directory)).apply(source.splits, CLASSES)
    found = dict(zip(splits["train"].ids, splits["train"].groups, strict=True))
    chain = ["train/0", "train/2", "train/6", "train/8", "train/10"]
    assert len({found[i] for i in chain}) == 1
    assert found["train/0"] != found["train/1"] != ""
    assert found["train/12"] == ""


def test_leaks_are_counted_by_where_they_are(arrays, directory):
    train = arrays.splits["train"]
    splits = {
        "train": train.select(np.arange(3, 40)),
        "test": train.select(np.arange(3)),
    }
    diagnosis = Diagnosis.read(str(directory))
    assert len(diagnosis.leaks(splits)) == 2
    (remark,) = diagnosis.leak_remarks(splits)
    assert "2 pictures are on more than one side (2 in train and test)" in (
        remark
    )


def test_folds_honour_it_too(arrays, directory):
    diagnosis = Diagnosis.read(str(directory))
    task = Task(lambda: arrays, validation=0.2)
    folds = task.folds(4, diagnosis=diagnosis)
    tested = sorted(i for data in folds for i in data.splits["test"].ids)
    assert len(tested) == len(set(tested)) == 39
    for data in folds:
        assert list(data.splits) == ["train", "validation", "test"]
        assert sum(map(len, data.splits.values())) == 39
        assert diagnosis.leak_remarks(data.splits) == ()


def test_a_source_s_own_test_split_is_left_alone_by_folds(arrays):
    train = arrays.splits["train"]
    source = dataclasses.replace(
        arrays,
        splits={
            "train": train.select(np.arange(30)),
            "test": train.select(np.arange(30, 40)),
        },
    )
    folds = Task(lambda: source, validation=0).folds(3)
    assert sum(len(data.splits["test"]) for data in folds) == 30
    assert "left alone" in folds[0].notes[-1]


def test_what_can_not_be_honoured_is_refused(arrays, directory, tmp_path):
    with pytest.raises(UserError, match="finished --mode=doctor"):
        Diagnosis.read(str(tmp_path / "nowhere"))
    diagnosis = Diagnosis.read(str(directory))
    stream = StreamedExamples(5, None, None, 1)
    with pytest.raises(UserError, match="test split is streamed"):
        diagnosis.apply({**arrays.splits, "test": stream}, CLASSES)
    all_of_them = dataclasses.replace(
        diagnosis, quarantine={i: "" for i in arrays.splits["train"].ids}
    )
    with pytest.raises(UserError, match="All 40 examples"):
        all_of_them.apply(arrays.splits, CLASSES)
    (directory / "quarantine.csv").write_text("file\nx\n")
    with pytest.raises(UserError, match="columns file; expected path and"):
        Diagnosis.read(str(directory))
    content = json.loads((directory / "findings.json").read_text())
    (directory / "findings.json").write_text(
        json.dumps({**content, "version": 0})
    )
    with pytest.raises(UserError, match="Run it again"):
        Diagnosis.read(str(directory))


def test_findings_on_other_data_are_refused(arrays, directory):
    train = arrays.splits["train"]
    diagnosis = Diagnosis.read(str(directory))
    contents = list(read_encoded(train))
    sample = {
        str(train.ids[at]): digest(contents[at]).hex() for at in range(0, 40, 4)
    }
    knowing = dataclasses.replace(
        diagnosis,
        findings=dataclasses.replace(diagnosis.findings, sample=sample),
    )
    assert knowing.is_of(arrays.splits)
    # Some may have gone, or been mended.
    assert knowing.is_of({"train": train.select(np.arange(30))})
    other = dataclasses.replace(train, rows=train.rows[::-1])
    assert not knowing.is_of({"train": other})
    with pytest.raises(UserError, match="findings on other data"):
        knowing.apply({"train": other}, CLASSES)
    renamed = dataclasses.replace(train, ids=train.ids + ".png")
    assert not knowing.is_of({"train": renamed})
    with pytest.raises(UserError, match="with the classes dark, bright"):
        diagnosis.apply(arrays.splits, ("bright", "dark"))


def test_an_unfinished_examination_is_none(directory):
    (directory / "summary.json").unlink()
    with pytest.raises(UserError, match="finished --mode=doctor"):
        Diagnosis.read(str(directory))


def test_a_spreadsheet_s_mark_is_no_column(directory):
    path = directory / "quarantine.csv"
    path.write_text("\ufeff" + path.read_text())
    assert "train/4" in Diagnosis.read(str(directory)).quarantine


def test_the_newest_that_can_be_read_is_at_hand(directory, tmp_path):
    places = [str(directory), str(tmp_path / "unfinished")]
    assert Diagnosis.newest(places).directory == str(directory)
    assert Diagnosis.newest(places[1:]) is None


def test_of_duplicates_one_is_kept_unless_they_contradict_each_other():
    agree = cluster(
        "a", "b", "c", labels=[0, 0, 0], splits=["train", "train", "test"]
    )
    differ = cluster("d", "e", labels=[0, 1], splits=["train", "train"])
    listed = quarantined(findings(agree, differ), "near_duplicate")
    assert [f.id for f in listed] == ["a", "b", "d", "e"]
    assert listed[0].reason == "near duplicate of c"
    assert listed[2].reason == "near duplicate of another class"
