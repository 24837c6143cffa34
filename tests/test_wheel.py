"""What a wheel holds, and that it works where there is no checkout."""

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # From a copy, since building leaves its traces beside the sources.
    copy = tmp_path_factory.mktemp("checkout")
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if not names:
        pytest.skip("not a git checkout")
    for name in names:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", str(out), str(copy)),
        ],
        check=True,
        timeout=120,
    )
    (path,) = out.glob("*.whl")
    return path


def test_it_holds_every_module_and_gin_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (
        ("framework", "framework"),
        ("tasks", "tasks"),
        ("gin", "framework/configs"),
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".gin", ".j2", ".json"):
                relative = path.relative_to(ROOT / folder).as_posix()
                assert f"{inside}/{relative}" in names
    assert not any(name.startswith(("gin/", "tests/")) for name in names)
    assert "tasks/__init__.py" not in names


@pytest.mark.slow
def test_a_new_task_trains_from_an_empty_directory(wheel, in_tmp):
    """The README's own example: one Python file and one gin file."""
    site = in_tmp / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--target", str(site), str(wheel)),
        ],
        check=True,
        timeout=120,
    )
    work = in_tmp / "work"
    work.mkdir()
    for path, block in readme_files().items():
        (work / path).parent.mkdir(exist_ok=True)
        (work / path).write_text(block)
    done = subprocess.run(
        [
            sys.executable,
            str(site / "bin" / "framework"),
            "--gin_file=digits.gin",
        ],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(
        (work / "runs" / "digits" / "001" / "summary.json").read_text()
    )
    assert summary["test"]["accuracy"] > 0.9


def readme_files() -> dict[str, str]:
    """The files that the README shows, by the name in their first line."""
    files = {}
    text = (ROOT / "README.md").read_text()
    for block in text.split("```")[1::2]:
        _, _, body = block.partition("\n")
        first, _, rest = body.partition("\n")
        if first.startswith("# ") and first.endswith((".py", ".gin")):
            files[first.removeprefix("# ")] = rest
    assert set(files) == {"tasks/digits.py", "digits.gin"}
    return files
