"""`--mode=evaluate`: any labelled pictures against any artifact."""

import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
import tiny

import framework
from framework.errors import UserError
from framework.modes.export import export
from framework.run_directory import read_predictions

NAMES = ("cat", "dog", "fox")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on a folder that has a test split, exported."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 8)):
        for label, name in enumerate(NAMES):
            place = folder / "photos" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 130, (40, 30, 3), dtype=np.uint8)
                (place / f"{number}.png").write_bytes(
                    tf.io.encode_png(pixels + np.uint8(60 * label)).numpy()
                )
    tiny.run(
        folder / "photos",
        folder / "run",
        "train.epochs = 2",
    )
    export(str(folder / "run"), ["saved_model", "litert"])
    return folder / "run"


@pytest.mark.parametrize(
    "artifact", ["", "export/saved_model", "export/litert/model.tflite"]
)
def test_it_is_as_good_as_its_run_found_it(run, artifact):
    found = framework.evaluate(run / artifact, run.parent / "photos")
    summary = json.loads((run / "summary.json").read_text())["test"]
    measured = read_predictions(str(run), NAMES)
    assert list(found.predictions.ids) == list(measured.ids)
    difference = found.predictions.probabilities - measured.probabilities
    assert abs(difference).max() < 1e-4
    for name in ("accuracy", "macro_f1", "examples", "confusion"):
        assert found.figures[name] == summary[name], name
    assert found.figures["loss"] == pytest.approx(summary["loss"], abs=1e-4)


def test_another_folder_with_fewer_classes_in_another_order(run, tmp_path):
    rng = np.random.default_rng(1)
    for name, count in (("fox", 5), ("dog", 4)):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (33, 44, 3), dtype=np.uint8)
            (tmp_path / "own" / name / f"{number}.png").write_bytes(
                tf.io.encode_png(pixels).numpy()
            )
    (tmp_path / "own" / "dog" / "broken.jpg").write_bytes(b"nothing")
    found = framework.evaluate(
        run,
        tmp_path / "own",
        workdir=str(tmp_path / "there"),
        max_unreadable=0.2,
    )
    assert found.predictions.unreadable == ("dog/broken.jpg",)
    assert list(found.predictions.labels) == [1] * 4 + [2] * 5
    with pytest.raises(UserError, match="1 of 10 pictures do not decode"):
        framework.evaluate(run, tmp_path / "own")
    with open(tmp_path / "there" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["dog"] * 4 + ["fox"] * 5
    figures = json.loads((tmp_path / "there" / "evaluation.json").read_text())
    assert figures["accuracy"] == sklearn.metrics.accuracy_score(
        [row["label"] for row in rows], [row["predicted"] for row in rows]
    )
    assert figures["unreadable"] == ["dog/broken.jpg"]


def test_a_table_and_a_task(run, tmp_path):
    photos = run.parent / "photos"
    table = tmp_path / "list.csv"
    rows = [
        f"{photos / 'test' / name / f'{number}.png'},{name}"
        for name in NAMES
        for number in range(8)
    ]
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    by_table = framework.evaluate(run, table)
    by_task = framework.evaluate(
        run,
        gin_file="gin/folder.gin",
        bindings=[f"ImageFolder.root = {str(photos)!r}"],
    )
    summary = json.loads((run / "summary.json").read_text())["test"]
    assert by_table.figures["confusion"] == summary["confusion"]
    assert by_task.figures["confusion"] == summary["confusion"]
    trained = framework.evaluate(run, photos, split="train")
    assert trained.figures["examples"] == 36


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ([], {}, "Expected what to evaluate on"),
        (["photos"], {"gin_file": "gin/smoke.gin"}, "Expected what to"),
        (["photos"], {"split": "last"}, "expected one called last"),
        (["others"], {}, "does not know: bird"),
        (["nowhere"], {}, "does not exist"),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, arguments, options, message):
    for name in ("cat", "bird"):
        (tmp_path / "others" / name).mkdir(parents=True)
        (tmp_path / "others" / name / "0.png").write_bytes(b"x")
    (tmp_path / "photos").symlink_to(run.parent / "photos")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        framework.evaluate(run, *arguments, workdir="there", **options)
    assert not (tmp_path / "there").exists()


@pytest.mark.slow
def test_the_command_line(run):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "framework.main", "--mode=evaluate"),
            *(str(run), str(run.parent / "photos"), "--split=test"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    accuracy = json.loads((run / "summary.json").read_text())["test"][
        "accuracy"
    ]
    assert f"accuracy {accuracy:.4f}" in done.stdout
    assert pathlib.Path(run).exists()
