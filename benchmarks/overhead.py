"""Turns one training step into two rates: bare, and inside our loop.

    python -m benchmarks.overhead [--milliseconds=30] [--rounds=9]

Both sides train the same model on the same batch in memory, in turns, in one
process. "theirs" is the compiled step as a user would write it (GradientTape,
`optimizer.apply`), called in a Python loop; "ours" is `Trainer.fit` with
progress, history and everything else that a run has, on the same batch from
an endless `tf.data` pipeline.
"""

import argparse

import tensorflow as tf
from rich.console import Console

from benchmarks import steps
from benchmarks.compare import Section, against, in_turns
from benchmarks.settings import Settings
from framework.model.backbones import tiny_cnn

SIZE = 64
CLASSES = 10


def build():
    return steps.build(lambda image_size: tiny_cnn(SIZE), CLASSES)


def measure(milliseconds: float, rounds: int, seconds: float) -> Section:
    """The trainer against the bare step.

    Args:
        milliseconds: what a step should take, about.
        rounds: how often to repeat.
        seconds: what a side should take in each of them, about.
    """
    # As many rows as make a step take so long.
    rows = 128
    for _ in range(3):
        trial = steps.bare(build(), steps.a_batch(rows, SIZE, CLASSES))
        rows = max(1, round(trial(30) * milliseconds / 1000))
    batch = steps.a_batch(rows, SIZE, CLASSES)

    def batches(first, share):
        return tf.data.Dataset.from_tensors(batch).repeat()

    count = max(10, round(1000 * seconds / milliseconds))
    runs = {
        "bare": steps.bare(build(), batch),
        "ours": steps.in_our_loop(build(), rows, batches),
    }
    for run in runs.values():
        run(5)
    rates = in_turns(
        {name: lambda run=run: run(count) for name, run in runs.items()},
        rounds,
    )
    row = against(
        f"tiny_cnn, {milliseconds:g} ms a step: the bare compiled step",
        rates["ours"],
        rates["bare"],
        0.97,
    )
    return Section(
        "Training loop alone",
        [row],
        [
            f"{rows} rows of {SIZE}x{SIZE} px in memory a step, {count} steps "
            "a round."
        ],
    )


def section(settings: Settings) -> Section:
    return measure(30, settings.rounds, settings.short(3, 0.3))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--milliseconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    made = measure(asked.milliseconds, asked.rounds, seconds=3)
    Console().print(made.table())


if __name__ == "__main__":
    main()
