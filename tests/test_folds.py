"""Cross-validation: each example is judged once, by who has not seen it."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics

import framework
from framework.errors import UserError
from framework.training.interruption import Interrupted
from framework.training.progress import ProgressObserver

QUICK = [
    "shapes.examples = 90",
    "train.epochs = 2",
    "train.folds = 2",
    "Checkpoints.every_steps = 1",
]


def rows(directory, name) -> list[dict]:
    with open(pathlib.Path(directory) / name, newline="") as file:
        return list(csv.DictReader(file))


def test_every_example_is_judged_once_by_who_has_not_seen_it(in_tmp):
    asked = [*QUICK, "train.test_time_augmentation = @TestTimeAugmentation()"]
    result = framework.run("gin/smoke.gin", asked)
    assert result.directory == "runs/smoke/001"
    predictions = rows(result.directory, "predictions.csv")
    assert len({row["id"] for row in predictions}) == len(predictions) == 90
    for number in (1, 2):
        fold = f"{result.directory}/fold-{number}"
        sides = {row["id"]: row["split"] for row in rows(fold, "splits.csv")}
        judged = {row["id"] for row in rows(fold, "predictions.csv")}
        assert judged == {i for i, s in sides.items() if s == "test"}
        assert len(sides) == 90 and len(judged) == 45
        # The epoch is chosen on neither.
        assert list(sides.values()).count("validation") == 9
    summary = json.loads(
        (in_tmp / result.directory / "summary.json").read_text()
    )
    assert summary == result.summary
    accuracy = sklearn.metrics.accuracy_score(
        [row["label"] for row in predictions],
        [row["predicted"] for row in predictions],
    )
    assert summary["pooled"]["accuracy"] == pytest.approx(accuracy)
    losses = [float(row["loss"]) for row in predictions]
    assert summary["pooled"]["loss"] == pytest.approx(np.mean(losses))
    by_fold = [fold["test"] for fold in summary["folds"]]
    assert summary["mean_accuracy"] == pytest.approx(np.mean(by_fold))
    assert summary["standard_deviation"] == pytest.approx(
        np.std(by_fold, ddof=1)
    )
    assert len({fold["weights_sha256"] for fold in summary["folds"]}) == 2
    assert (in_tmp / "runs/latest").resolve().name == "001"
    augmented = [
        json.loads((in_tmp / result.directory / name).read_text())["test"][
            "test_time_augmentation"
        ]
        for name in ("fold-1/summary.json", "fold-2/summary.json")
    ]
    accuracies = [figures["accuracy"] for figures in augmented]
    assert summary["test_time_augmentation"] == {
        "views": 2,
        "accuracy": accuracies,
        "mean_accuracy": pytest.approx(np.mean(accuracies)),
        "standard_deviation": pytest.approx(np.std(accuracies, ddof=1)),
    }
    again = framework.run("gin/smoke.gin", asked, workdir=result.directory)
    assert again.summary == summary


@pytest.mark.slow
def test_it_goes_on_in_the_fold_in_which_it_was_stopped(in_tmp, monkeypatch):
    expected = framework.run("gin/smoke.gin", QUICK)
    on_step, seen = ProgressObserver.on_step, []

    def interrupt(self, epoch, now, figures):
        on_step(self, epoch, now, figures)
        seen.append(now)
        if len(seen) == 4:  # The second update of the second fold.
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(ProgressObserver, "on_step", interrupt)
        with pytest.raises(Interrupted):
            framework.run("gin/smoke.gin", QUICK)
    assert (in_tmp / "runs/smoke/002/fold-1/summary.json").exists()
    assert not (in_tmp / "runs/smoke/002/fold-2/summary.json").exists()
    result = framework.run("gin/smoke.gin", QUICK)
    assert result.directory == "runs/smoke/002"
    assert [f["weights_sha256"] for f in result.summary["folds"]] == [
        f["weights_sha256"] for f in expected.summary["folds"]
    ]
    assert result.summary["pooled"] == expected.summary["pooled"]


@pytest.mark.slow
def test_two_workers_cross_validate_together(in_tmp):
    flags = [f"--gin_param={binding}" for binding in QUICK[:3]]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "framework.launch", "--workers=2", "--"),
            *("--gin_file=gin/smoke.gin", "--workdir=together", *flags),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    for place in ("together", "together/fold-1", "together/fold-3"):
        assert os.path.exists(f"{place}/report.html")
        assert not os.path.exists(f"{place}/report_problems.txt")
    predictions = rows("together", "predictions.csv")
    assert len({row["id"] for row in predictions}) == len(predictions) == 90


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("train.folds = 1", "at least 2"),
        ("train.folds = 40", "expected at least one a fold"),
    ],
)
def test_folds_that_make_no_sense(in_tmp, binding, message):
    with pytest.raises(UserError, match=message):
        framework.run("gin/smoke.gin", [*QUICK, binding])
    assert not (in_tmp / "runs").exists()
