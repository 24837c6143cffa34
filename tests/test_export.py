"""`--mode=export`: from Python and from the command line."""

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
from PIL import Image

import framework
from framework import finished
from framework.errors import UserError
from framework.export import frozen
from framework.modes.export import FORMATS, export
from framework.run_directory import read_predictions

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on files of many kinds; most are judged on."""
    folder = tmp_path_factory.mktemp("trained")
    exif = Image.Exif()
    exif[0x0112] = 6
    for label, name in enumerate(("cat", "dog")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(14):
            seed = 100 * label + number
            picture, form, options = (
                (photo(seed=seed), "JPEG", {}),
                (photo(seed=seed), "PNG", {}),
                (photo(seed=seed).convert("L"), "JPEG", {}),
                (photo(seed=seed).convert("CMYK"), "JPEG", {}),
                (photo(seed=seed), "JPEG", {"exif": exif}),
                (photo(41, 41, seed), "JPEG", {}),
                (photo(6000, 300, seed), "JPEG", {}),
            )[number % 7]
            path = folder / "photos" / name / f"{number}.{form.lower()}"
            path.write_bytes(encoded(picture, form, **options))
    tiny.run(
        folder / "photos",
        folder / "run",
        "train.epochs = 1",
        "train.batch_size = 4",
        "image_folder.validation = 0.8",
        "train/pipeline.resize = 'crop'",
        "train.pipeline = @train/pipeline()",
    )
    return folder / "run"


def listed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_an_artifact_and_its_proof(run, capsys):
    before = listed(run)
    made = export(str(run))
    place = pathlib.Path(made.saved_model)
    assert place == run / "export" / "saved_model" / "1"
    new = {name.split("/")[0] for name in set(listed(run)) - set(before)}
    assert new == {"export"}
    said = capsys.readouterr().out
    assert (
        "Proved saved_model: on 24 examples (validation, used for selection)"
        in said
    )
    assert f"Exported: {place}" in said

    figures = json.loads((run / "export" / "proof.json").read_text())
    assert figures == made.proof
    summary = json.loads((run / "summary.json").read_text())
    assert (
        made.proof["saved_model"]["examples"]
        == summary["validation"]["examples"]
    )
    assert (
        made.proof["saved_model"]["accuracy"]
        == summary["validation"]["accuracy"]
    )
    assert made.proof["saved_model"]["difference"] < 1e-5

    metadata = json.loads((place / "assets" / "metadata.json").read_text())
    assert metadata == made.metadata
    assert metadata["classes"] == ["cat", "dog"]
    assert (metadata["image_size"], metadata["resize"]) == (32, "crop")
    assert metadata["weights_sha256"] == summary["weights_sha256"]
    assert metadata["judged"] == {
        "label": "validation, used for selection",
        **{
            name: summary["validation"][name]
            for name in ("examples", "accuracy", "loss")
        },
    }
    assert metadata["versions"]["tensorflow"] == tf.__version__

    # The files themselves, against what the run has written of them.
    serve = tf.saved_model.load(str(place)).signatures["serve_bytes"]
    predictions = read_predictions(str(run), ("cat", "dog"))
    for name, expected in zip(
        predictions.ids, predictions.probabilities, strict=True
    ):
        data = tf.io.read_file(str(run.parent / "photos" / name))
        found = serve(image_bytes=data[None])["probabilities"][0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_all_formats_and_what_they_cost(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    made = export(str(copied), FORMATS)
    proof = json.loads((copied / "export" / "proof.json").read_text())
    assert list(proof) == [*made.artifacts] == [*FORMATS]
    for name, figures in proof.items():
        assert os.path.exists(made.artifacts[name])
        assert figures["examples"] == figures["measured"]
        assert figures["repeatable"]
        assert figures["bytes"] > 0 and len(figures["milliseconds"]) == 2
        if name == "litert_int8":
            assert figures["tolerance"] is None
            assert 0 < figures["difference"] < 0.2
        else:
            assert figures["difference"] <= figures["tolerance"] == 1e-4
    assert not (copied / "export" / "saved_model" / "2").exists()


@pytest.mark.slow
def test_other_formats_of_the_same_weights_stay(copied):
    export(str(copied), ["saved_model", "litert"])
    kept = (copied / "export" / "litert" / "model.tflite").read_bytes()
    made = export(str(copied), ["saved_model"], proof=False)
    assert list(made.artifacts) == ["saved_model"]
    place = copied / "export"
    assert (place / "litert" / "model.tflite").read_bytes() == kept
    proof = json.loads((place / "proof.json").read_text())
    assert list(proof) == ["litert"]
    # Of other weights nothing stays.
    about = place / "litert" / "metadata.json"
    facts = json.loads(about.read_text()) | {"weights_sha256": "other"}
    about.write_text(json.dumps(facts))
    export(str(copied), ["saved_model"], proof=False)
    assert not (place / "litert").exists()


def test_nothing_to_prove_by_is_found_before_training(in_tmp, some_pictures):
    asked = [
        f"ImageFolder.root = {str(some_pictures)!r}",
        "image_folder.validation = 0.0",
        "train.early_stopping = None",
        "train.export = @Export()",
    ]
    with pytest.raises(UserError, match="neither a validation nor a test"):
        framework.run("gin/folder.gin", asked)
    assert not os.path.exists("runs")


def test_a_run_exports_at_its_end(in_tmp):
    result = framework.run(
        "gin/smoke.gin",
        [
            "train.epochs = 1",
            "shapes.examples = 120",
            "train.export = @Export()",
            "Export.formats = ['saved_model', 'litert']",
        ],
    )
    place = pathlib.Path(result.directory)
    proof = json.loads((place / "export" / "proof.json").read_text())
    assert [*proof] == ["saved_model", "litert"]
    accuracy = result.summary["test"]["accuracy"]
    assert proof["litert"]["accuracy"] == accuracy


def test_a_format_that_there_is_not_is_refused(run, in_tmp):
    before = listed(run)
    with pytest.raises(UserError, match="expected some of saved_model, litert"):
        export(str(run), ["tflite"])
    with pytest.raises(UserError, match="without a proof"):
        export(str(run), ["litert_int8"], proof=False)
    assert listed(run) == before
    for formats in ("'onnx'", "['tflite']"):
        with pytest.raises(UserError, match=r"expected (a list|some of saved)"):
            framework.run(
                "gin/smoke.gin",
                ["train.export = @Export()", f"Export.formats = {formats}"],
            )
    assert not list(in_tmp.iterdir())


def test_a_failed_proof_leaves_what_was_there(run, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("export"))
    original = frozen.fold

    def other(model):
        folded = original(model)
        kernel = folded.get_layer("logits").kernel
        kernel.assign(kernel + np.array([[0.5, -0.5]]))
        return folded

    before = listed(copy)
    with monkeypatch.context() as context:
        context.setattr(frozen, "fold", other)
        with pytest.raises(UserError, match="something else than the run"):
            export(str(copy))
        assert listed(copy) == before
        # Asked for, it is made; nothing says that it was proved.
        made = export(str(copy), proof=False)
        assert made.proof is None
        assert not (copy / "export" / "proof.json").exists()
    good = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    with monkeypatch.context() as context:
        context.setattr(frozen, "fold", other)
        with pytest.raises(UserError, match="something else than the run"):
            export(str(copy))
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == good


@pytest.fixture
def copied(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("export"))
    return copy


def test_mistakes(copied, tmp_path):
    before = listed(copied)
    with pytest.raises(UserError, match="holds no run"):
        export(str(tmp_path))
    operative = (copied / "operative.gin").read_text()
    (copied / "operative.gin").write_text(
        operative.replace(str(copied.parent), "x").replace("photos", "gone")
    )
    with pytest.raises(UserError, match=r"can't be had: .*gone.*--noproof"):
        export(str(copied))
    (copied / "operative.gin").write_text(operative)
    (copied / "predictions.csv").rename(tmp_path / "predictions.csv")
    with pytest.raises(UserError, match=r"no predictions\.csv"):
        export(str(copied))
    (tmp_path / "predictions.csv").rename(copied / "predictions.csv")
    assert listed(copied) == before
    model = keras.saving.load_model(copied / "model.keras", compile=False)
    model.get_layer("logits").kernel.assign_add(np.ones((32, 2)))
    model.save(copied / "model.keras")
    with pytest.raises(UserError, match="other weights than summary"):
        export(str(copied))
    assert listed(copied) == before


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", "squash"),
        ("pipeline.resize = 'pad'", "pad"),
        ("a/b/pipeline.resize = 'pad'", "pad"),
        ("framework.pipeline.resize = \\\n    'pad'", "pad"),
        ("how = 'crop'\npipeline.resize = %how", "crop"),
        ("a/pipeline.resize = 'pad'\npipeline.resize = 'pad'", "pad"),
    ],
)
def test_how_a_run_resized(lines, expected):
    assert finished._resize(lines, "run") == expected


def test_two_ways_to_resize_are_refused():
    lines = "a/pipeline.resize = 'pad'\npipeline.resize = 'crop'"
    with pytest.raises(UserError, match="to crop and pad"):
        finished._resize(lines, "run")


@pytest.mark.slow
def test_from_the_command_line(copied, in_tmp):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "framework.main", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
        )

    os.makedirs("runs/folder")
    shutil.copytree(copied, "runs/folder/001")
    os.symlink("folder/001", "runs/latest")
    done = command("--mode=export", "runs/latest")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    place = "runs/folder/001/export/saved_model/1"
    assert f"Exported: {place}" in done.stdout
    assert os.path.isfile(f"{place}/saved_model.pb")
    for arguments, message in (
        (["--mode=export"], "is given 0 runs"),
        (["--mode=export", "nowhere"], "holds no run"),
        (["--mode=explain", "--noproof", "a"], "expected --mode=export"),
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
