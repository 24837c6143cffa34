"""How much memory a large folder takes."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from pictures import encoded, photo

GIN = """
include 'gin/base.gin'
import tasks.image_folder
import stopping
train.task = @image_folder()
train.callbacks = [@StopAfter()]
StopAfter.steps = 20
classifier.backbone = @tiny_cnn
classifier.image_size = 96
classifier.head = @softmax_head
softmax_head.pooling = 'average'
ImageFolder.root = 'photos'
"""

STOPPING = """
import os
import signal

import keras

from framework import CALLBACKS


@CALLBACKS.register()
class StopAfter(keras.callbacks.Callback):
    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.steps:
            os.kill(os.getpid(), signal.SIGTERM)
"""


def hard_links(root: pathlib.Path, count: int, classes: int = 4) -> None:
    for number in range(classes):
        folder = root / f"class{number}"
        folder.mkdir(parents=True)
        first = folder / "0.jpg"
        first.write_bytes(encoded(photo(400, 300, number), "JPEG"))
        for copy in range(1, count // classes):
            os.link(first, folder / f"a_name_as_long_as_names_are_{copy}.jpg")


@pytest.mark.parametrize(
    "count", [10_000, pytest.param(200_000, marks=pytest.mark.slow)]
)
def test_memory_stays_flat(in_tmp, count):
    """Indexed, split and trained for 20 steps."""
    hard_links(in_tmp / "photos", count)
    (in_tmp / "own.gin").write_text(GIN)
    (in_tmp / "stopping.py").write_text(STOPPING)
    process = subprocess.Popen(
        [sys.executable, "-m", "framework.main", "--gin_file=own.gin"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert f"{count * 4 // 5:,} train" in said
    (splits,) = (in_tmp / "runs").glob("own/001/splits.csv")
    with open(splits) as file:
        assert sum(1 for _ in file) == 1 + count
    megabytes = usage.ru_maxrss / 1024
    print(f"{count:,} files: {megabytes:.0f} MB resident at most")
    assert megabytes < 2500
