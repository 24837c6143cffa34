"""Turns a large test split into what its report takes beside judging it.

    python -m benchmarks.report [--examples=10000]

Draws so many JPEGs, has `gin/folder.gin` train on a few of them and test on
the rest, and prints the seconds of evaluation and those of `report.html`, in
one run, their ratio, and the size of the page.
"""

import argparse
import functools
import os
import tempfile
import time

import tensorflow as tf

import framework
from framework.modes import train
from tasks.shapes import CLASSES, draw

SIDE = 200
_TRAINED_ON = 320
_AT_ONCE = 2000


def write(folder: str, split: str, examples: int, seed: int) -> None:
    """Draws shapes, a folder a class."""
    for name in CLASSES:
        os.makedirs(os.path.join(folder, split, name))
    for first in range(0, examples, _AT_ONCE):
        count = min(_AT_ONCE, examples - first)
        train_split = draw(count, SIDE, seed + first).splits["train"]
        for row, label in zip(
            train_split.rows, train_split.labels, strict=True
        ):
            pixels = train_split.read(tf.constant(row))
            path = os.path.join(
                folder, split, CLASSES[label], f"{first + row}.jpg"
            )
            tf.io.write_file(path, tf.io.encode_jpeg(pixels, quality=90))


def measure(examples: int) -> tuple[float, float, int]:
    """Seconds of evaluation, seconds of the report, bytes of it."""
    seconds = {}
    originals = {name: getattr(train, name) for name in _TIMED}

    def timed(name: str):
        original = originals[name]

        @functools.wraps(original)
        def call(*arguments):
            start = time.monotonic()
            result = original(*arguments)
            seconds[name] = time.monotonic() - start
            return result

        return call

    with tempfile.TemporaryDirectory() as folder:
        write(folder, "train", _TRAINED_ON, 1)
        write(folder, "test", examples, 2)
        for name in _TIMED:
            setattr(train, name, timed(name))
        try:
            result = framework.run(
                "gin/folder.gin",
                [
                    f"ImageFolder.root = {folder!r}",
                    "image_folder.validation = 0",
                    "train.early_stopping = None",
                    "train.epochs = 1",
                ],
                workdir=os.path.join(folder, "run"),
            )
        finally:
            for name, original in originals.items():
                setattr(train, name, original)
        size = os.path.getsize(os.path.join(result.directory, "report.html"))
    return seconds["_judge"], seconds["_write_page"], size


_TIMED = ("_judge", "_write_page")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000)
    examples = parser.parse_args().examples
    judged, reported, size = measure(examples)
    print(
        f"{examples:,} examples: evaluation {judged:.1f} s, report "
        f"{reported:.1f} s ({reported / judged:.2f} of it), "
        f"{size / 1e6:.1f} MB."
    )


if __name__ == "__main__":
    main()
