"""That the benchmarks run; what they find is for quiet machines."""

import json
import subprocess
import sys

import pytest

from benchmarks import accuracy
from benchmarks.compare import Section, against, in_turns
from benchmarks.settings import ROOT
from framework.errors import UserError
from tests.pictures import encoded, photo


def test_sides_take_turns_and_each_is_first_as_often():
    order = []

    def side(name, rate):
        return lambda: order.append(name) or rate

    rates = in_turns({"a": side("a", 3.0), "b": side("b", 2.0)}, 4)
    assert "".join(order) == "abbaabba"
    assert rates == {"a": [3.0] * 4, "b": [2.0] * 4}


def test_ratio_is_the_median_of_the_rounds_and_not_of_the_rates():
    row = against("x", [1.0, 20.0, 3.0], [2.0, 10.0, 4.0], goal=0.8)
    assert row.ratio == 0.75
    _what, *figures = row.cells
    assert figures == [
        "3 images/s",
        "4 images/s",
        "0.75",
        "0.50..2.00",
        "≥ 0.8: missed",
    ]
    limit = against("x", [1.0], [1.0], goal=1.1, at_most=True)
    assert limit.cells[-1] == "≤ 1.1: met"


def test_section_as_markdown():
    section = Section("Speed", [against("x", [1.0], [2.0])], ["A note."])
    assert section.markdown().splitlines() == [
        "## Speed",
        "",
        "| what | ours | theirs | ratio | min..max | goal |",
        "| --- | --- | --- | --- | --- | --- |",
        "| x | 1 images/s | 2 images/s | 0.50 | 0.50..0.50 |  |",
        "",
        "A note.",
    ]
    assert section.table().row_count == 1


def judged(accuracy, **others):
    return {"test": {"accuracy": accuracy, **others}}


def test_accuracy_is_told_with_its_spread():
    summaries = [judged(0.5), judged(0.7), judged(0.9)]
    assert accuracy.in_words((3, 0, 1), summaries) == (
        "test 0.700 ± 0.200 (seeds 3, 0, 1: 0.500, 0.700, 0.900)"
    )
    assert accuracy.in_words((2,), summaries[:1]) == "test (seed 2: 0.500)"
    views = {"test_time_augmentation": {"views": 2, "accuracy": 0.75}}
    assert accuracy.in_words((0, 1), [judged(0.5, **views)] * 2).endswith(
        "; of 2 views 0.750 ± 0.000 (seeds 0, 1: 0.750, 0.750)"
    )
    folds = {
        "folds": [],
        "pooled": {"label": "pooled over 3 folds", "accuracy": 0.5},
    }
    assert accuracy.in_words((0,), [folds]).startswith("pooled over 3 folds")
    with pytest.raises(UserError, match="validation or a test split"):
        accuracy.in_words((0,), [{"train": {}}])


@pytest.mark.slow
def test_accuracy_of_a_gin_file(tmp_path, capfd):
    command = [
        *("gin/smoke.gin", "--seeds", "4", "7"),
        *("--workdir", str(tmp_path)),
        *("--gin_param=train.epochs = 1", "--gin_param=shapes.examples = 60"),
    ]
    accuracy.main(command)
    line = capfd.readouterr().out.splitlines()[-1]
    assert line.startswith("smoke, shapes: test 0.")
    assert "(seeds 4, 7: " in line
    hashes = set()
    for seed in (4, 7):
        summary = (tmp_path / str(seed) / "summary.json").read_text()
        hashes.add(json.loads(summary)["weights_sha256"])
    assert len(hashes) == 2
    with pytest.raises(SystemExit) as end:
        accuracy.main([*command, "--gin_param=train.epoch = 1"])
    assert end.value.code == 2


@pytest.mark.slow
def test_report_of_a_folder(tmp_path):
    for name in ("round", "square"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(20):
            picture = encoded(photo(200, 160, seed=number), "JPEG")
            (folder / f"{number}.jpg").write_bytes(picture)
    output = tmp_path / "results.md"
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--quick"),
            "--sections=input,end-to-end,growth",
            f"--folder={tmp_path / 'pictures'}",
            f"--output={output}",
        ],
        check=True,
        cwd=ROOT,
    )
    written = output.read_text()
    for title in ("Input alone", "End to end", "Growth"):
        assert f"## {title}" in written
    assert str(tmp_path) not in written
