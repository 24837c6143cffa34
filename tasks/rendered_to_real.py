"""Rendered hands to train on, real ones to test on: rock, paper, scissors.

What a model learns from computer graphics alone, judged on pictures that
somebody took. No real picture is trained on or chosen by.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from framework import SOURCES, TASKS, Source, Task, UserError
from framework.data.source import IndexedExamples


@TASKS.register()
def rendered_to_real(real: Callable[[], Source]) -> Task:
    """All rendered hands to train on and to validate on, `real` to test on.

    `rendered_hands`' test split, whose hands, skins and cameras its training
    split lacks, chooses the epoch.

    Args:
        real: makes the source of the real pictures; its classes are called
            rock, paper and scissors, in any order. Of one that has a test
            split only that is used, else all of its training split.
    """
    return Task(source=lambda: _joined(real), validation=0.0)


def _joined(real: Callable[[], Source]) -> Source:
    rendered, pictures = SOURCES["rendered_hands"](), real()
    split = "test" if "test" in pictures.splits else "train"
    return Source(
        name=f"{rendered.name}, tested on {pictures.name}, {split}",
        class_names=rendered.class_names,
        splits={
            "train": rendered.splits["train"],
            "validation": rendered.splits["test"],
            "test": _relabelled(pictures, split, rendered.class_names),
        },
        notes=(*rendered.notes, *pictures.notes),
        left_out=pictures.left_out,
    )


def _relabelled(
    source: Source, split: str, class_names: tuple[str, ...]
) -> IndexedExamples:
    """The split's examples with the labels that `class_names` gives them."""
    examples = source.splits[split]
    if set(source.class_names) != set(class_names):
        raise UserError(
            f"{source.name} has the classes {', '.join(source.class_names)}; "
            f"expected {', '.join(class_names)}, in any order. Rename them."
        )
    if not isinstance(examples, IndexedExamples):
        raise UserError(
            f"The {split} split of {source.name} is streamed; expected one "
            "that is held in memory: allow for it with in_memory_bytes."
        )
    labels = np.array([class_names.index(n) for n in source.class_names])
    return dataclasses.replace(examples, labels=labels[examples.labels])
