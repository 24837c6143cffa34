"""`--mode=explain`: from Python and from the command line."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from pictures import encoded, photo

import framework
from framework.data.images import decode_and_resize
from framework.errors import UserError
from framework.modes.explain import MOST_EXPLAINED
from framework.modes.place import beside

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A slash would be a folder's.
NASTY = "<script>alert(1)<'\"\n>.jpg"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two classes, one with a hostile name."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("<b>'\" & co", "dog")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 100, (40, 60, 3), dtype=np.uint8)
            (folder / "photos" / name / f"{number}.png").write_bytes(
                tf.io.encode_png(pixels + np.uint8(150 * label)).numpy()
            )
    tiny.run(
        folder / "photos",
        folder / "run",
        "train.epochs = 1",
        "pipeline.resize = 'crop'",
    )
    return folder / "run"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "given"
    (folder / "below").mkdir(parents=True)
    for name, seed in (("b.jpg", 0), ("a.jpg", 1), ("below/c.PNG", 2)):
        form = "PNG" if name.endswith("PNG") else "JPEG"
        (folder / name).write_bytes(encoded(photo(seed=seed), form))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def listed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_page_and_its_figures(run, photos, in_tmp, capsys):
    found = framework.explain(str(run), [str(photos)])
    place = pathlib.Path(found.directory)
    assert place.parent == run / "explain"
    assert listed(place) == ["explain.html", "explain.json"]
    figures = json.loads((place / "explain.json").read_text())
    files = [row["file"] for row in figures["pictures"]]
    # In order, the folder's own before those below; what is no picture is not
    # looked at, what is broken is named.
    assert files == [str(photos / n) for n in ("a.jpg", "b.jpg", "below/c.PNG")]
    assert figures["skipped"] == [
        {"file": str(photos / "broken.jpg"), "reason": "no image that decodes"}
    ]
    assert figures["classes"] == ["<b>'\" & co", "dog"]
    assert list(found.pictures) == figures["pictures"]

    # As in training: the same pixels, the same model.
    model = keras.saving.load_model(run / "model.keras", compile=False)
    for row in figures["pictures"]:
        data = tf.io.read_file(row["file"])
        pixels = decode_and_resize(data, 32, "crop")[None]
        expected = model.predict(pixels, verbose=0)[0]
        np.testing.assert_allclose(
            list(row["probabilities"].values()), expected, rtol=1e-5
        )
        assert row["class"] == figures["classes"][expected.argmax()]

    html = (place / "explain.html").read_text()
    assert "<b>'" not in html
    assert "&lt;b&gt;&#39;&#34; &amp; co" in html
    assert "broken.jpg" in html
    assert "resized by crop to 32 pixels" in html
    assert html.count('alt="Grad-CAM for') == 3
    said = capsys.readouterr().out
    assert found.page in said
    assert "Skipped: " in said
    for file in files:
        assert file in said


def test_hostile_file_names(run, tmp_path, capsys):
    for name in (NASTY, b"\xff\xfe.jpg"):
        path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
        with open(path, "wb") as file:
            file.write(encoded(photo(), "JPEG"))
    (tmp_path / "<img src=x>.jpg").write_bytes(b"broken")
    found = framework.explain(str(run), [str(tmp_path)])
    assert len(found.pictures) == 2
    assert len(found.skipped) == 1
    html = pathlib.Path(found.page).read_text()
    assert html.count("<script") == 1  # The page's own.
    assert "<img src=x" not in html
    assert "&lt;script&gt;alert(1)&lt;&#39;&#34;\\n&gt;.jpg" in html
    assert "\\xff\\xfe.jpg" in html
    assert "\\n>.jpg" in capsys.readouterr().out


def test_files_folders_and_patterns(run, photos, tmp_path):
    shutil.copy(photos / "a.jpg", photos / "a[1].jpg")
    found = framework.explain(
        str(run),
        [
            str(photos / "b.jpg"),
            str(photos / "?.jpg"),  # That one again, and another.
            str(photos / "a[1].jpg"),  # A name, though it looks like a pattern.
            str(photos / "bel*"),
        ],
        workdir=str(tmp_path / "there"),
    )
    names = [pathlib.Path(row["file"]).name for row in found.pictures]
    assert names == ["b.jpg", "a.jpg", "a[1].jpg", "c.PNG"]
    assert found.directory == str(tmp_path / "there")


def test_numbers_and_layers(run, photos):
    before = len(list((run / "explain").glob("*")))
    for number in (1, 2):
        found = framework.explain(
            str(run), [str(photos / "a.jpg")], layers=["relu1"]
        )
        assert pathlib.Path(found.directory).name == f"{before + number:03}"
    html = pathlib.Path(found.page).read_text()
    assert "of the layer relu1" in html
    assert "of the layer relu2" not in html


def test_many_pictures(run, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(40):
        (tmp_path / "many" / f"{number:02}.png").write_bytes(
            encoded(photo(seed=number), "PNG")
        )
    found = framework.explain(str(run), [str(tmp_path / "many")])
    assert len(found.pictures) == 40
    html = pathlib.Path(found.page).read_text()
    assert html.count('<li class="card look"') == MOST_EXPLAINED
    assert f"{MOST_EXPLAINED} pictures are explained: some of each" in html
    assert "40 pictures, laid out by t-SNE" in html


def test_paths_and_single_names_will_do(run, photos):
    """A folder is read as in training: nothing hidden, no links to folders."""
    (photos / ".hidden.jpg").write_bytes(encoded(photo(seed=5), "JPEG"))
    os.symlink(photos / "below", photos / "linked")
    found = framework.explain(run, photos)
    files = [pathlib.Path(row["file"]) for row in found.pictures]
    names = sorted(str(file.relative_to(photos)) for file in files)
    assert names == ["a.jpg", "b.jpg", "below/c.PNG"]
    figures = json.loads(
        (pathlib.Path(found.directory) / "explain.json").read_text()
    )
    last = figures["all_layers"][-1]
    again = framework.explain(run, str(photos / "a.jpg"), last)
    assert last in pathlib.Path(again.page).read_text()


def test_each_class_that_is_found_is_explained(run, tmp_path):
    """Thirty dark pictures and, last by name, a bright one."""
    (tmp_path / "many").mkdir()
    for number in range(31):
        level = 30 if number < 30 else 220
        pixels = np.full((40, 60, 3), level, np.uint8)
        (tmp_path / "many" / f"{number:02}.png").write_bytes(
            tf.io.encode_png(pixels + np.uint8(number)).numpy()
        )
    found = framework.explain(str(run), str(tmp_path / "many"))
    of_last = found.pictures[-1]["class"]
    if sum(row["class"] == of_last for row in found.pictures) > 1:
        pytest.skip("the model has not learned to tell dark from bright")
    html = pathlib.Path(found.page).read_text()
    looks = html.split('<ul class="looks"')[1].split("</ul>")[0]
    assert "30.png" in looks


def test_a_place_that_can_not_be_written_is_found_before_the_work(
    run, photos, in_tmp, monkeypatch
):
    monkeypatch.setattr("framework.modes.explain._judge", None)
    pathlib.Path("file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        framework.explain(run, photos, workdir="file/below")


def test_a_number_is_taken_by_one_only(run):
    with (
        beside(str(run), "explain") as first,
        beside(str(run), "explain") as second,
    ):
        assert first.path != second.path
    with pytest.raises(RuntimeError), beside(str(run), "explain") as third:
        third.write("page", "half of it")
        raise RuntimeError
    assert not os.path.exists(third.path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run"], "nothing to explain"),
        (["run", "nowhere.jpg"], "no picture 'nowhere.jpg'"),
        (["run", "photos/notes.txt"], "None of the pictures decodes"),
        (["run", "photos/broken.jpg"], "None of the pictures decodes"),
        (["photos", "photos"], "holds no run"),
        (["nowhere", "photos"], "holds no run"),
    ],
)
def test_mistakes(run, photos, in_tmp, arguments, expected):
    os.symlink(run, "run")
    os.symlink(photos, "photos")
    before = listed(run), listed(photos)
    with pytest.raises(UserError, match=expected):
        framework.explain(arguments[0], arguments[1:])
    assert (listed(run), listed(photos)) == before
    assert sorted(os.listdir()) == ["given", "photos", "run"]


def test_nothing_is_left_of_what_fails(run, photos, in_tmp):
    before = listed(run)
    with pytest.raises(UserError, match=r"'rellu1'.*'relu1'"):
        framework.explain(str(run), [str(photos)], layers=["rellu1"])
    assert listed(run) == before
    with pytest.raises(UserError, match="holds something already"):
        framework.explain(str(run), [str(photos)], workdir=str(photos))
    pathlib.Path("file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        framework.explain(str(run), [str(photos)], workdir="file/below")
    unfinished = in_tmp / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "summary.json").unlink()
    with pytest.raises(UserError, match="an unfinished run"):
        framework.explain(str(unfinished), [str(photos)])
    shutil.copy(run / "summary.json", unfinished)
    (unfinished / "model.keras").write_bytes(b"PK")
    with pytest.raises(UserError, match="can't be loaded"):
        framework.explain(str(unfinished), [str(photos)])
    (unfinished / "model.keras").unlink()
    with pytest.raises(UserError, match=r"no model\.keras"):
        framework.explain(str(unfinished), [str(photos)])


@pytest.mark.slow
def test_from_the_command_line(run, photos, in_tmp):
    os.makedirs("runs/folder")
    shutil.copytree(run, "runs/folder/001")
    os.symlink("folder/001", "runs/latest")

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "framework.main", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
        )

    done = command(
        "--mode=explain", "runs/latest", str(photos), "--layer=conv1"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Page: runs/folder/001/explain/" in done.stdout
    lines = done.stdout.splitlines()
    assert sum(str(photos) in line for line in lines) == 4
    done = command("--mode=explain")
    assert done.returncode == 2
    assert "is given no run" in done.stderr
    assert "Traceback" not in done.stderr
