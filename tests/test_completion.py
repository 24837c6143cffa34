"""--completion: bash's own function completes; it starts no Python."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def printed(shell):
    done = subprocess.run(
        [sys.executable, "-m", "framework.main", f"--completion={shell}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    if not shutil.which("bash"):
        pytest.skip("no bash here")
    script = tmp_path_factory.mktemp("completion") / "framework.bash"
    script.write_text(printed("bash"))
    return script


def completed(script, *words):
    """What bash offers for the last of the words, split as bash does it."""
    lines = f"""
        source {script}
        COMP_WORDS=(framework "$@")
        COMP_CWORD=$#
        _framework framework "${{@: -1}}" ""
        printf '%s\\n' "${{COMPREPLY[@]}}"
        complete -p framework >&2
    """
    done = subprocess.run(
        ["bash", "-c", lines, "bash", *words],
        capture_output=True,
        text=True,
        # Nothing but sort is started.
        env={"PATH": "/usr/bin:/bin"},
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "-F _framework framework" in done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--gin_p"], ["--gin_param="]),
        (["--dr"], ["--dry_run"]),
        (["--nopr"], ["--noproof"]),
        (["--mode", "=", "pre"], ["predict", "prepare"]),
        (["--mode=sh"], ["--mode=show_batch"]),
        (["--completion", "=", ""], ["bash", "zsh"]),
        (["--describe", "=", "softmax"], ["softmax_head"]),
        (["--describe", "=", "keras.SG"], ["keras.SGD"]),
        (["--describe", "=", "expl"], ["explain"]),
        (["--gin_file", "=", "gin/smo"], ["gin/smoke.gin"]),
        (["--gin_file", "=", "gin/rps_s"], ["gin/rps_softmax.gin"]),
    ],
)
def test_bash_completes(bash, in_tmp, words, expected):
    assert completed(bash, *words) == expected


def test_ones_own_gin_files_are_completed(bash, in_tmp):
    (in_tmp / "gin").mkdir()
    for name in ("gin/my birds.gin", "gin/my.txt", "mine.gin"):
        (in_tmp / name).touch()
    assert completed(bash, "--gin_file", "=", "gin/my") == ["gin/my birds.gin"]
    assert completed(bash, "--gin_file", "=", "mi") == ["mine.gin"]
    assert "gin/" in completed(bash, "--gin_file", "=")


def test_flags_are_those_of_the_command(bash):
    from framework import main

    offered = {word.rstrip("=") for word in completed(bash, "--")}
    for name in (*main._USES, "mode", "gin_file", "list", "describe"):
        assert {f"--{name}", f"--no{name}"} & offered
    started = time.monotonic()
    completed(bash, "--mode", "=", "")
    assert time.monotonic() - started < 1


def test_zsh_is_given_the_same():
    text = printed("zsh")
    assert text.startswith("#compdef framework")
    assert " --dry_run " in text and "softmax_head" in text
    assert "gin/smoke.gin" in text and "'*--gin_param=:" in text
    if zsh := shutil.which("zsh"):
        subprocess.run([zsh, "-n"], input=text, text=True, check=True)


def test_another_shell_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "framework.main", "--completion=fish"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "bash|zsh" in done.stderr
