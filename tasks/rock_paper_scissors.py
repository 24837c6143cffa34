"""Rock, paper, scissors: 2,892 computer-drawn hands by Laurence Moroney.

https://www.tensorflow.org/datasets/catalog/rock_paper_scissors (CC BY 2.0):
2,520 images to train on and 372 to test on, 300x300, of hands that differ
between the two. Labels are rock=0, paper=1, scissors=2.
"""

import functools
from collections.abc import Callable

from framework import SOURCES, TASKS, Source, Task


@TASKS.register()
def rock_paper_scissors(
    validation: float = 0.1,
    stand_in: Callable[[], Source] | None = None,
) -> Task:
    """TFDS's test split to test on; a tenth of its training split to select.

    The training images are frames of few hands, so that the validation split
    shares its hands with the training split: expect it to look better than
    the test split.
    """
    return Task(
        source=functools.partial(SOURCES["Tfds"], "rock_paper_scissors"),
        validation=validation,
        stand_in=stand_in,
    )
