"""The shipped experiments on real images, to the accuracy they promise.

The images lie beside the checkout, in `../shared`; without them these tests
are skipped, but for the one that renders its own.
"""

import pathlib
import shutil
import statistics
import subprocess
import sys

import pytest

import framework

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

needs_images = pytest.mark.skipif(
    not SHARED.is_dir(), reason="no real images beside the checkout"
)


@pytest.fixture(scope="session")
def seeded(tmp_path_factory):
    """A TFDS directory whose real builders prepare without a network."""
    directory = tmp_path_factory.mktemp("tfds")
    subprocess.run(
        [sys.executable, SHARED / "tools" / "seed_tfds.py", directory],
        check=True,
        timeout=300,
    )
    return directory


@needs_images
def test_a_few_photographs_are_told_apart(in_tmp):
    """The short twin of what follows: 240 photographs, two epochs."""
    for animal in ("cats", "dogs"):
        folder = in_tmp / "photos" / animal
        folder.mkdir(parents=True)
        source = SHARED / "data" / "cats_and_dogs" / animal
        for path in sorted(source.iterdir())[:120]:
            shutil.copy(path, folder)
    (in_tmp / "photos" / "cats" / "notes.txt").write_text("not an image")
    result = framework.run(
        "gin/folder.gin",
        [
            f"ImageFolder.root = '{in_tmp / 'photos'}'",
            "classifier.image_size = 128",
            "train.epochs = 2",
        ],
    )
    assert result.class_names == ("cats", "dogs")
    assert result.summary["validation"]["accuracy"] >= 0.85


@needs_images
@pytest.mark.slow
def test_rock_paper_scissors(in_tmp, seeded, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(seeded))
    results = [
        framework.run("gin/rps_softmax.gin", [f"train.seed = {seed}"])
        for seed in range(3)
    ]
    for result in results:
        assert not result.summary["data"]["stand_in"]
        assert result.summary["data"]["source"].startswith(
            "rock_paper_scissors 3.0.0"
        )
        assert result.summary["data"]["examples"]["test"] == 372
    accuracies = [r.summary["test"]["accuracy"] for r in results]
    assert statistics.median(accuracies) >= 0.88


@needs_images
@pytest.mark.slow
def test_cats_vs_dogs(in_tmp, seeded, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(seeded))
    result = framework.run("gin/cats_vs_dogs_sigmoid.gin")
    assert result.summary["data"]["examples"] == {
        "train": 1500,
        "validation": 502,
    }
    assert result.summary["validation"]["accuracy"] >= 0.975


@needs_images
@pytest.mark.slow
def test_photographs_of_hands(in_tmp):
    root = SHARED / "data" / "rps_photos"
    result = framework.run("gin/folder.gin", [f"ImageFolder.root = '{root}'"])
    assert result.summary["validation"]["accuracy"] >= 0.99


@pytest.mark.slow
def test_the_stand_in(in_tmp, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(in_tmp / "tfds"))
    # A closed port of this machine in place of the network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    result = framework.run("gin/rps_softmax.gin")
    assert result.summary["data"]["stand_in"]
    assert result.summary["test"]["accuracy"] >= 0.955
