"""Turns a folder of images into two rates: decoding alone, and the doctor.

    python benchmarks/doctor.py FOLDER [--rounds=5]

Both sides read the same files with the same processors, in turns, in one
process. "decoding" is a `tf.data` pipeline that reads and decodes and does
nothing else. "core" is what the doctor does of every file whatever is asked:
decoding, formats and modes, exact and near duplicates, balance. What the
checks of quality and labels add is measured once.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from framework.data.doctor.doctor import Examiner
from framework.data.doctor.label_errors import LabelChecker
from framework.data.folder import ImageFolder
from framework.data.images import decode
from framework.data.pipeline import Pipeline
from framework.data.source import IndexedExamples
from framework.task import Data, Task


def decoding(examples: IndexedExamples) -> float:
    """Seconds to read and decode all."""
    start = time.perf_counter()
    dataset = tf.data.Dataset.from_tensor_slices(examples.rows).map(
        lambda row: tf.size(decode(examples.read(row))),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    for _ in dataset.ignore_errors():
        pass
    return time.perf_counter() - start


def core(data: Data) -> float:
    """Seconds of the doctor without quality and labels."""
    examiner = Examiner(Pipeline(), 224, check_quality=False)
    start = time.perf_counter()
    examiner.examine(data)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="one folder of images per class")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    task = Task(lambda: ImageFolder(options.folder), validation=0.0)
    data = task.load()
    examples = data.splits["train"]
    count = len(examples)
    print(f"{count:,} images, {len(os.sched_getaffinity(0))} processors")
    # Once for the files to be in memory and for all that is loaded late.
    decoding(examples), core(data)
    ratios = []
    for number in range(options.rounds):
        alone, doctor = decoding(examples), core(data)
        ratios.append(alone / doctor)
        print(
            f"round {number + 1}: decoding {count / alone:.0f} images/s, "
            f"core {count / doctor:.0f} images/s, ratio {ratios[-1]:.2f}"
        )
    print(f"median ratio of the rates: {statistics.median(ratios):.2f}")
    everything = Examiner(Pipeline(), 224, label_checker=LabelChecker())
    seconds = everything.examine(data).seconds
    bare = core(data)
    print(
        f"with quality: decoding and measuring {seconds['decoding']:.1f} s "
        f"against {bare:.1f} s; labels: {seconds['labels']:.1f} s more"
    )


if __name__ == "__main__":
    main()
