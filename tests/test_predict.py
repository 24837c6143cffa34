"""Answers for pictures: from Python, from the command line, gone on with."""

import csv
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tiny
from pictures import encoded, photo

import framework
from framework.errors import UserError
from framework.inference import inputs, results
from framework.modes.export import export
from framework.run_directory import read_predictions

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on files, exported."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", '<b>, "fox"')):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(15):
            pixels = rng.integers(0, 100, (40, 60, 3), dtype=np.uint8)
            (folder / "photos" / name / f"{number}.png").write_bytes(
                tf.io.encode_png(pixels + np.uint8(70 * label)).numpy()
            )
    tiny.run(
        folder / "photos",
        folder / "run",
        "train.epochs = 2",
        "pipeline.resize = 'pad'",
    )
    export(str(folder / "run"))
    return folder / "run"


@pytest.fixture
def photos(tmp_path):
    """Eight pictures and two files that are none, with awkward names."""
    folder = tmp_path / "given"
    (folder / "below").mkdir(parents=True)
    names = [
        "b.jpg",
        "a.jpg",
        "below/c.PNG",
        "one\ntwo.jpg",
        'it\'s "d", e.jpg',
    ]
    names += [f"below/{n}.jpg" for n in range(3)]
    for seed, name in enumerate(names):
        form = "PNG" if name.endswith("PNG") else "JPEG"
        (folder / name).write_bytes(encoded(photo(seed=seed), form))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (folder / "empty.png").write_bytes(b"")
    return folder


def rows(path):
    if str(path).endswith("csv"):
        with open(path, newline="", errors="surrogateescape") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in open(path)]


def test_answers_are_those_of_the_run(run):
    """Of the run, of its export and of a copy of that, in another place."""
    root = run.parent / "photos"
    names = tuple(
        json.loads((run / "summary.json").read_text())["data"]["classes"]
    )
    measured = read_predictions(str(run), names)
    files = [str(root / name) for name in measured.ids]
    copy = run.parent / "copied"
    shutil.copytree(run / "export" / "saved_model", copy, dirs_exist_ok=True)
    bare = run.parent / "bare"
    bare.mkdir(exist_ok=True)
    for name in ("model.keras", "summary.json", "operative.gin"):
        shutil.copy(run / name, bare)
    for place, is_artifact in ((run, True), (copy, True), (bare, False)):
        model = framework.load(place)
        assert ("metadata" not in model.path) and (
            ("saved_model" in model.path or "copied" in model.path)
            == is_artifact
        )
        assert model.class_names == names
        found = list(model.predict(files, batch_size=4))
        assert [answer.file for answer in found] == files
        scores = np.stack([answer.probabilities for answer in found])
        assert abs(scores - measured.probabilities).max() < 1e-4
        for answer, row in zip(found, scores, strict=True):
            assert answer.class_name == names[row.argmax()]
            assert answer.probability == pytest.approx(row.max())


def test_an_export_of_other_weights_is_not_taken(run, tmp_path):
    old = tmp_path / "run"
    shutil.copytree(run, old)
    summary = json.loads((old / "summary.json").read_text())
    assert "saved_model" in framework.load(old).path
    summary["weights_sha256"] = "other"
    text = json.dumps(summary, indent=2) + "\n"
    (old / "summary.json").write_text(text)
    assert framework.load(old).path == str(old)


def test_broken_files_take_no_place_in_a_batch(run, photos):
    model = framework.load(run)
    sizes = []
    whole = model.probabilities
    counting = framework.load(run)
    object.__setattr__(
        counting,
        "probabilities",
        lambda images: sizes.append(len(images)) or whole(images),
    )
    os.mkfifo(photos / "pipe.jpg")
    asked = [*sorted(map(str, photos.glob("*.*"))), str(photos)]
    found = {
        os.path.basename(answer.file): answer
        for answer in counting.predict(asked, batch_size=3)
    }
    assert sizes == [3, 3, 2]
    errors = {name: a.error for name, a in found.items() if a.error}
    assert set(errors) == {"broken.jpg", "empty.png", "pipe.jpg"}
    assert errors["pipe.jpg"] == "it is no file"
    assert "decodes" in errors["broken.jpg"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_of_answers(run, photos, tmp_path, kind):
    output = str(tmp_path / f"out.{kind}")
    found = framework.predict(run, photos, output=output, top=2)
    assert (found.answered, found.broken, found.before) == (8, 2, 0)
    written = rows(output)
    files = [row["file"] for row in written]
    assert files == list(inputs.find([str(photos)]))
    model = framework.load(run)
    for row, answer in zip(written, model.predict(photos), strict=True):
        if answer.error:
            assert row["error"] == answer.error
            assert not row.get("class")
            continue
        second = np.argsort(-answer.probabilities)[1]
        if kind == "csv":
            top = [
                (row["class"], float(row["probability"])),
                (row["class_2"], float(row["probability_2"])),
            ]
        else:
            assert row["class"] == answer.class_name
            top = [tuple(pair) for pair in row["top"]]
        assert top == [
            (answer.class_name, pytest.approx(answer.probability)),
            (
                model.class_names[second],
                pytest.approx(float(answer.probabilities[second])),
            ),
        ]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("kept", [1, 700])
def test_what_was_begun_is_gone_on_with(run, photos, tmp_path, kind, kept):
    """Cut off anywhere, it ends as if it had not been."""
    output = tmp_path / f"out.{kind}"
    framework.predict(run, photos, output=str(output))
    whole = output.read_bytes()
    output.write_bytes(whole[:kept])
    found = framework.predict(run, photos, output=str(output))
    assert output.read_bytes() == whole
    assert found.answered + found.broken + found.before == 10


def test_names_with_line_ends_are_gone_on_with(run, tmp_path):
    """Cut off within a name that has line ends like those of rows."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for number in range(4):
        name = f"{number} a\r\nb,c.jpg"
        (folder / name).write_bytes(encoded(photo(seed=number), "JPEG"))
    output = tmp_path / "out.csv"
    framework.predict(run, folder, output=str(output))
    whole = output.read_bytes()
    at = whole.rindex(b"a\r\nb")
    for kept in (at + 1, at + 3, at + 5):
        output.write_bytes(whole[:kept])
        framework.predict(run, folder, output=str(output))
        assert output.read_bytes() == whole


def test_a_damaged_line_is_cut_off(run, photos, tmp_path):
    output = tmp_path / "out.jsonl"
    framework.predict(run, photos, output=str(output))
    whole = output.read_bytes()
    output.write_bytes(whole[:700] + b"\0" * 50 + b"\n" + whole[800:])
    framework.predict(run, photos, output=str(output))
    assert output.read_bytes() == whole


def test_two_at_once_are_refused(run, photos, tmp_path):
    output = str(tmp_path / "out.jsonl")
    stamp = {"model": framework.load(run).fingerprint}
    names = framework.load(run).class_names
    with (
        results.continued(output, names, 5, stamp),
        pytest.raises(UserError, match="Another process writes"),
    ):
        framework.predict(run, photos, output=output)
    assert framework.predict(run, photos, output=output).answered == 8


def test_what_goes_wrong_with_the_input_is_told(run, photos, tmp_path):
    """What was answered before it stays, and nothing is passed over."""
    table = photos / "list.csv"
    table.write_bytes(
        b"\xef\xbb\xbfpath,n\r\na.jpg,1\r\n"
        + b"x" * 200_000
        + b",2\r\nb.jpg,3\r\n"
    )
    output = str(tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="can't be read on"):
        framework.predict(run, table, output=output)
    assert [row["file"] for row in rows(output)] == [str(photos / "a.jpg")]

    def failing():
        yield str(photos / "a.jpg")
        raise RuntimeError("the list has gone")

    with pytest.raises(RuntimeError, match="the list has gone"):
        list(framework.load(run).answers(failing()))
    # Names that are valid in no encoding.
    odd = os.fsencode(str(photos)) + b"/\xff.jpg"
    with open(odd, "wb") as file:
        file.write((photos / "a.jpg").read_bytes())
    table.write_bytes(b"path\n\xff.jpg\n")
    (answer,) = framework.load(run).predict(table)
    assert os.fsencode(answer.file) == odd and answer.class_name


def test_who_reads_may_have_enough(run, photos):
    done = subprocess.run(
        f"{sys.executable} -m framework.main --mode=predict {run} {photos} "
        "> /dev/full",
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Standard output can't be written: No space" in done.stderr


@pytest.mark.slow
def test_waiting_for_input_it_can_be_stopped(run, photos):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "framework.main",
            "--mode=predict",
            str(run),
            "-",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        time.sleep(12)
        process.terminate()
        assert process.wait(timeout=20) == 143
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def test_of_another_model_nothing_is_gone_on_with(run, photos, tmp_path):
    output = tmp_path / "out.jsonl"
    framework.predict(run, photos, output=str(output))
    before = output.read_bytes()
    with pytest.raises(UserError, match="with another --top"):
        framework.predict(run, photos, output=str(output), top=1)
    (tmp_path / "out.jsonl.json").unlink()
    with pytest.raises(UserError, match="nothing tells of what model"):
        framework.predict(run, photos, output=str(output))
    assert output.read_bytes() == before


def test_tables_patterns_and_standard_input(run, photos, tmp_path):
    table = photos / "list.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["n", "path"], [1, "one\ntwo.jpg"], [2, "a.jpg"], [3, "a.jpg"]]
        )
    assert list(inputs.find([str(table)])) == [
        str(photos / "one\ntwo.jpg"),
        str(photos / "a.jpg"),
    ]
    given = io.StringIO(f"{photos / 'b.jpg'}\n\n{photos / 'a.jpg'}\r\n")
    assert list(inputs.find(["-"], given)) == [
        str(photos / "b.jpg"),
        str(photos / "a.jpg"),
    ]
    assert list(inputs.find([str(photos / "?.jpg")])) == [
        str(photos / "a.jpg"),
        str(photos / "b.jpg"),
    ]
    # A file that looks like a pattern is meant itself.
    (photos / "[ab].jpg").write_bytes((photos / "a.jpg").read_bytes())
    odd = str(photos / "[ab].jpg")
    assert list(inputs.find([odd])) == [odd]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((["nowhere.jpg"],), "no picture 'nowhere.jpg'"),
        (([],), "nothing to predict"),
        ((["list.csv"],), "expected one called path"),
        ((["a.jpg"], {"output": "out.txt"}), ".jsonl or .csv"),
        ((["a.jpg"], {"top": 0}), "at least 1"),
        ((["a.jpg"], {"output": "nowhere/out.csv"}), "can't be written"),
    ],
)
def test_mistakes(run, photos, monkeypatch, arguments, message):
    monkeypatch.chdir(photos)
    pathlib.Path("list.csv").write_text("file,n\na.jpg,1\n")
    before = sorted(os.listdir())
    pictures, *options = arguments
    with pytest.raises(UserError, match=message):
        framework.predict(run, pictures, **(options[0] if options else {}))
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("place", ["nowhere", "photos", "."])
def test_what_is_no_model_is_refused(run, photos, monkeypatch, place):
    monkeypatch.chdir(run.parent)
    with pytest.raises(UserError, match="holds no run"):
        framework.load(place)


def command(*flags, **options):
    return subprocess.run(
        [sys.executable, "-m", "framework.main", "--mode=predict", *flags],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_the_command_line(run, photos):
    listed = "\n".join(str(photos / n) for n in ("a.jpg", "broken.jpg"))
    done = command(str(run), "-", "--top=1", input=listed)
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["file"].endswith("a.jpg") and len(first["top"]) == 1
    assert second["error"]
    assert done.stderr.strip() == ("1 picture answered, 1 broken file skipped")
    done = command(str(run), str(photos), "--gin_file=gin/smoke.gin")
    assert done.returncode == 2
    assert "has no use for it" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("count", [400, 20_000])
def test_killed_half_way_each_file_is_answered_once(run, tmp_path, count):
    (tmp_path / "many").mkdir()
    # Many names of few files: what is decoded does not matter here.
    originals = []
    for number in range(20):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(encoded(photo(seed=number), "JPEG"))
        originals.append(path)
    for number in range(count):
        os.link(originals[number % 20], tmp_path / "many" / f"{number:06}.jpg")
    output = tmp_path / "out.jsonl"
    flags = [str(run), str(tmp_path / "many"), f"--output={output}"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "framework.main", "--mode=predict"),
            *flags,
            "--batch_size=4",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(3000):
            if output.exists() and output.stat().st_size > 100 * count // 2:
                break
            if process.poll() is not None:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait()
    was_done = output.read_bytes().count(b"\n")
    assert was_done > 0
    done = command(*flags)
    assert done.returncode == 0, done.stderr
    files = [row["file"] for row in rows(output)]
    assert len(files) == count == len(set(files))
