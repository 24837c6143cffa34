"""What all tests share."""

import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from framework.configuration import Configuration
from framework.data.source import array_source
from framework.evaluation import page

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Registers everything that ships, as any run does.
Configuration("gin/base.gin")
tf.config.experimental.enable_op_determinism()


def pytest_collection_modifyitems(items):
    gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus < 2:
        lacking = pytest.mark.skip(reason=f"needs two GPUs, here are {gpus}")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(lacking)


@pytest.fixture(autouse=True, scope="module")
def _no_garbage():
    """Collects it once a file: once a test would take minutes in all.

    What is left by then stays anyway, and is not looked through again.
    """
    keras.utils.clear_session(free_memory=False)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _clean_slate():
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(autouse=True)
def _no_page(request, monkeypatch):
    """Spares most runs the seconds that their report takes."""
    if request.node.get_closest_marker("page") is None:
        monkeypatch.setattr(page, "render", lambda ran: page.Page("<html>"))


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """Runs the test in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def arrays():
    """40 pictures, 20x20 and of two classes: dark (0) and bright (1)."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = (
        rng.integers(0, 100, (40, 20, 20, 3))
        + 150 * labels[:, None, None, None]
    )
    return array_source(
        images.astype(np.uint8), labels, ("dark", "bright"), name="toy"
    )


@pytest.fixture
def some_pictures(tmp_path):
    """A folder with 16 pictures each of two classes."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(16):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            (tmp_path / "photos" / label / f"{number}.png").write_bytes(
                tf.io.encode_png(pixels).numpy()
            )
    return tmp_path / "photos"
