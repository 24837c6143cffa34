"""Cats vs dogs: photographs from Microsoft Research's Asirra.

https://www.tensorflow.org/datasets/catalog/cats_vs_dogs: 23,262 images of
unequal size in one split, cat=0 and dog=1. Elson, Douceur, Howell, Saul:
Asirra, 2007, https://dl.acm.org/doi/10.1145/1315245.1315291
"""

import functools
from collections.abc import Callable

from framework import SOURCES, TASKS, Source, Task
from framework.ranges import Part


@TASKS.register()
def cats_vs_dogs(
    validation: Part = 0.25,
    stand_in: Callable[[], Source] | None = None,
) -> Task:
    """A quarter of each class to validate on; there is no test split."""
    return Task(
        source=functools.partial(SOURCES["Tfds"], "cats_vs_dogs"),
        validation=validation,
        stand_in=stand_in,
    )
