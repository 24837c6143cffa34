"""`--mode=compare`: from Python and from the command line."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics

import framework
from framework.errors import UserError
from framework.evaluation import paired
from framework.run_directory import read_predictions


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three finished runs: a seed, another one, and one without training."""
    base = tmp_path_factory.mktemp("runs")
    asked = {
        "one": ["train.epochs = 4"],
        "other": ["train.epochs = 4", "train.seed = 1"],
        "idle": ["train.epochs = 1", "keras.Adam.learning_rate = 1e-7"],
    }
    return {
        name: framework.run(
            "gin/smoke.gin",
            [*bindings, "train.report_page = False"],
            workdir=str(base / name),
        )
        for name, bindings in asked.items()
    }


def test_runs_are_compared(runs):
    directories = [run.directory for run in runs.values()]
    found = framework.compare(directories)
    place = pathlib.Path(found.directory)
    assert place == pathlib.Path(directories[0], "compare", "001")
    assert found.settings["train.seed"] == ("0", "1", "0")
    assert found.settings["train.epochs"] == ("4", "4", "1")
    assert found.settings["Adam.learning_rate"] == ("0.002", "0.002", "1e-07")
    assert set(found.settings) == {
        "train.seed",
        "train.epochs",
        "Adam.learning_rate",
    }

    one, other, idle = (
        read_predictions(run.directory, run.class_names)
        for run in runs.values()
    )
    seeds, work = found.against
    right = [p.predicted == p.labels for p in (one, other, idle)]
    table = sklearn.metrics.confusion_matrix(right[0], right[2])
    assert [
        [work.paired.neither, work.paired.second],
        [work.paired.first, work.paired.both],
    ] == table.tolist()
    assert work.paired == paired.compare(one, idle)
    # Of two tests the smaller chance counts twice.
    assert work.p == pytest.approx(2 * work.paired.p) and work.p < 1e-6
    assert work.verdict.startswith("A is better than C")
    assert seeds.p == pytest.approx(max(seeds.paired.p, work.p))

    figures = json.loads((place / "compare.json").read_text())
    for row, run in zip(figures["runs"], runs.values(), strict=True):
        accuracy = run.summary["test"]["accuracy"]
        assert row["figures"]["accuracy"] == accuracy
    text = (place / "compare.html").read_text()
    for run in runs.values():
        assert f"{run.summary['test']['accuracy']:.4f}" in text
    assert work.verdict in text

    again = framework.compare(directories[1:])
    assert again.directory == str(
        pathlib.Path(directories[1], "compare", "001")
    )


@pytest.mark.slow
def test_other_classes_can_be_compared_by_figures_only(
    runs, some_pictures, tmp_path
):
    pictures = framework.run(
        "gin/folder.gin",
        [
            f"ImageFolder.root = {str(some_pictures)!r}",
            "classifier.backbone = @tiny_cnn",
            "classifier.image_size = 32",
            "classifier.freeze = 'none'",
            "train.feature_views = None",
            "train.epochs = 1",
            "train.batch_size = 8",
        ],
        workdir=str(tmp_path / "run"),
    )
    found = framework.compare(
        [runs["one"].directory, pictures.directory],
        workdir=str(tmp_path / "compared"),
    )
    assert found.against[0].paired is None
    assert found.against[0].reason == "They tell other classes apart."
    text = (tmp_path / "compared" / "compare.html").read_text()
    assert "The data differs" in text
    # The same classes, other pictures of the same names.
    drawn = framework.run(
        "gin/smoke.gin",
        ["train.epochs = 1", "shapes.seed = 5"],
        workdir=str(tmp_path / "drawn"),
    )
    found = framework.compare(
        [runs["one"].directory, drawn.directory],
        workdir=str(tmp_path / "drawn-compared"),
    )
    assert found.against[0].paired is None
    assert "(shapes.seed)" in found.against[0].reason
    assert "The split that they are judged on differs" in text


def test_classes_in_another_order_are_the_same(runs, tmp_path):
    """The same run, but for the order in which its classes are numbered."""
    one = pathlib.Path(runs["one"].directory)
    turned = tmp_path / "turned"
    turned.mkdir()
    for name in ("operative.gin", "metrics.jsonl", "splits.csv"):
        (turned / name).write_text((one / name).read_text())
    summary = json.loads((one / "summary.json").read_text())
    names = summary["data"]["classes"]
    order = [2, 0, 1]
    summary["data"]["classes"] = [names[place] for place in order]
    (turned / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    lines = (one / "predictions.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines]
    with open(turned / "predictions.csv", "w") as file:
        for row in rows:
            scores = [row[4 + place] for place in order]
            file.write(",".join([*row[:4], *scores]) + "\n")
    found = framework.compare([str(one), str(turned)])
    assert found.against[0].paired.difference == 0.0
    assert found.against[0].verdict == "A and B have the same examples right."
    assert found.settings == {}


@pytest.mark.parametrize(
    "asked, message",
    [
        ([], "0 different runs to compare"),
        (["{one}"], "1 different runs to compare"),
        (["{one}", "{one}"], "1 different runs to compare"),
        (["{one}", "{one}/../one/"], "1 different runs to compare"),
        (["{one}", "{one}/checkpoints"], "holds no run"),
    ],
)
def test_what_can_not_be_compared_is_refused(runs, asked, message):
    one = runs["one"].directory
    before = sorted(pathlib.Path(one).rglob("*"))
    with pytest.raises(UserError, match=message):
        framework.compare([each.format(one=one) for each in asked])
    assert sorted(pathlib.Path(one).rglob("*")) == before


@pytest.mark.slow
def test_the_command_line(runs, tmp_path):
    directories = [runs[name].directory for name in ("one", "idle")]

    def command(*flags):
        return subprocess.run(
            [
                *(sys.executable, "-m", "framework.main", "--mode=compare"),
                *(*directories, *flags),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )

    done = command(f"--workdir={tmp_path / 'there'}")
    assert done.returncode == 0, done.stderr
    assert "A is better than B" in done.stdout
    assert (tmp_path / "there" / "compare.html").exists()
    done = command("--gin_file=gin/smoke.gin")
    assert done.returncode == 2
    assert "--gin_file is given with --mode=compare" in done.stderr
    assert np.size(list(tmp_path.iterdir())) == 1
