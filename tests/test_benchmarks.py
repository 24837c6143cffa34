"""That the benchmarks run; what they find is for quiet machines."""

import subprocess
import sys

import pytest

from benchmarks.compare import Section, against, in_turns
from benchmarks.settings import ROOT
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
