"""python -m framework.new_task: what it writes works, and nothing is lost."""

import os
import pathlib
import subprocess
import sys

import pytest

from framework import new_task
from framework.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


def command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
    )


def names_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("arrays", []),
        pytest.param(
            "folder", ["--root=my 'own' photos"], marks=pytest.mark.slow
        ),
        pytest.param("tfds", ["--dataset=mnist:3.*.*"], marks=pytest.mark.slow),
    ],
)
def test_its_own_test_passes(kind, flags, in_tmp):
    done = command(
        "framework.new_task", "coins", f"--kind={kind}", *flags, cwd=in_tmp
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "gin/coins.gin" in done.stdout and "pytest" in done.stdout
    done = command("pytest", "-q", "tests/test_coins.py", cwd=in_tmp)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.slow
def test_what_it_writes_trains_and_is_listed(in_tmp):
    new_task.write(new_task.new_task("my_coins"))
    gin_file = "--gin_file=gin/my_coins.gin"
    done = command("framework.main", gin_file, "--dry_run", cwd=in_tmp)
    assert done.returncode == 0, done.stderr
    done = command("framework.main", "--describe=my_coins", cwd=in_tmp)
    assert "my_coins.examples = 600" in done.stdout
    assert "train.task = @my_coins()" in done.stdout


@pytest.mark.parametrize("kind", new_task.KINDS)
@pytest.mark.parametrize("name", ["x", "birds_of_the_south_west"])
def test_it_is_written_as_the_rest_is(kind, name, in_tmp):
    new_task.write(new_task.new_task(name, kind))
    for arguments in (["check"], ["format", "--diff"]):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "ruff", *arguments),
                f"--config={ROOT / 'pyproject.toml'}",
                "--no-cache",
                ".",
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("two words", "no name"),
        ("2coins", "no name"),
        ("../coins", "no name"),
        ("münzen", "no name"),
        ("__init__", "no name"),
        ("", "no name"),
        ("class", "a word of Python"),
        ("include", "a word of Python's or gin's"),
        ("shapes", "registered already"),
        ("softmax_head", "registered already"),
        ("Adam", "registered already"),
        ("macro", "registered already"),
        ("folder", "is shipped"),
        ("np", "would use"),
        ("range", None),
    ],
)
def test_names_that_are_none(name, told, in_tmp):
    if told is None:
        new_task.new_task(name)
        return
    with pytest.raises(UserError, match=told):
        new_task.new_task(name)
    assert not names_below(in_tmp)


@pytest.mark.parametrize(
    "there", ["tasks/coins.py", "gin/coins.gin", "tests/test_coins.py"]
)
def test_nothing_is_overwritten(there, in_tmp):
    path = in_tmp / there
    path.parent.mkdir()
    path.write_text("mine")
    before = names_below(in_tmp)
    with pytest.raises(UserError, match=there):
        new_task.write(new_task.new_task("coins"))
    assert names_below(in_tmp) == before and path.read_text() == "mine"


def test_nothing_is_left_of_what_fails(in_tmp):
    (in_tmp / "tests").write_text("a file where a folder is needed")
    with pytest.raises(UserError, match="nothing was written"):
        new_task.write(new_task.new_task("coins"))
    assert names_below(in_tmp) == ["tests"]


def test_what_hides_the_installed_is_refused(in_tmp):
    (in_tmp / "tasks").mkdir()
    (in_tmp / "tasks" / "__init__.py").touch()
    with pytest.raises(UserError, match=r"tasks/__init__.py"):
        new_task.write(new_task.new_task("coins"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["shapes"], "registered already"),
        (["coins", "--root=photos"], "--kind=folder"),
        (["coins", "--kind=tfds"], "--dataset=mnist"),
        (["coins", "--kind=tfds", "--dataset=a b"], "a name of TFDS"),
        (["coins", "--kind=films"], "arrays"),
        ([], "NAME"),
    ],
)
def test_mistakes_end_with_two(flags, told, in_tmp, capsys):
    with pytest.raises(SystemExit) as left:
        new_task.main(flags)
    assert left.value.code == 2 and told in capsys.readouterr().err
    assert not names_below(in_tmp)
