"""Rock, paper, scissors: 2,892 computer-drawn hands by Laurence Moroney.

https://www.tensorflow.org/datasets/catalog/rock_paper_scissors (CC BY 2.0):
2,520 images to train on and 372 to test on, 300x300, of hands that differ
between the two. Labels are rock=0, paper=1, scissors=2.
"""

import dataclasses
import functools
from collections.abc import Callable

from framework import SOURCES, TASKS, Source, Task, UserError
from framework.data.source import IndexedExamples, join
from framework.data.tfds import Known, with_groups
from framework.ranges import Part, Seed

# The 21 sequences of 120 frames in the archive of training images, by the hand
# that they show: seven hands, each as rock, paper and scissors. (Three of them
# are called "test", and are of the training split nevertheless.)
HANDS = {
    "pale": ("rock01", "paper04", "scissors01"),
    "russet": ("rock02", "paper03", "scissors02"),
    "dark": ("rock03", "paper02", "scissors04"),
    "mauve": ("rock04", "paper01", "scissors03"),
    "grey": ("rock05ck01", "paper07", "testscissors03"),
    "tan": ("rock06ck02", "paper06", "testscissors02"),
    "brown": ("rock07-k03", "paper05", "testscissors01"),
}
FRAMES = 120
CLASS_NAMES = ("rock", "paper", "scissors")


@TASKS.register()
def rock_paper_scissors(
    validation: Part = 1 / 7,
    seed: Seed = 0,
    besides: Callable[[], Source] | None = None,
    stand_in: Callable[[], Source] | None = None,
) -> Task:
    """TFDS's test split to test on; one of its seven hands to select.

    The training images are frames of seven hands that move a little from one
    to the next, and the test images show other hands. So whole hands are cut
    off for validation: a hand on both sides would make everything look right.
    Even so one hand is a small sample: which one it is moves the figure more
    than most choices do. To choose by, take several seeds, or
    `train.folds = 7`.

    Args:
        validation: the fraction to cut off, to whole hands: 1/7 is one.
        seed: of which hands these are.
        besides: makes a source, of the same classes in the same order, whose
            training split is trained on, too: `@rendered_hands`. It is never
            validated or tested on; ask for no folds then.
        stand_in: makes the source to use where TFDS's can't be had.
    """
    source = moving_hands
    if besides is not None:
        source = functools.partial(_joined, besides, validation, seed)
    return Task(
        source=source,
        validation=validation,
        seed=seed,
        stand_in=stand_in,
    )


def moving_hands() -> Source:
    """TFDS's images, those of each hand in a group.

    TFDS drops the files' names, which tell the hands apart; they follow from
    the order of its records (see `with_groups`).
    """
    known = {
        f"rps/{class_name}/{sequence}-{frame:03d}.png": Known(class_name, hand)
        for hand, sequences in HANDS.items()
        for class_name, sequence in zip(CLASS_NAMES, sequences, strict=True)
        for frame in range(FRAMES)
    }
    source = SOURCES["Tfds"]("rock_paper_scissors")
    return with_groups(source, {"train": known})


def _joined(
    besides: Callable[[], Source], validation: float, seed: int
) -> Source:
    """TFDS's images, cut, and in training the other source's, too."""
    source, other = moving_hands(), besides()
    if other.class_names != source.class_names:
        raise UserError(
            f"{other.name} has the classes {', '.join(other.class_names)}; "
            f"expected {', '.join(source.class_names)}, in this order."
        )
    splits = dict(source.splits)
    train = splits["train"]
    for each in (train, other.splits["train"]):
        if not isinstance(each, IndexedExamples):
            raise UserError(
                "rock_paper_scissors.besides joins training splits that are "
                "held in memory, and one is streamed. Allow for it with "
                "Tfds.in_memory_bytes."
            )
    if validation:
        train, splits["validation"] = train.cut(validation, seed)
    splits["train"] = join(train, other.splits["train"])
    return dataclasses.replace(
        source,
        name=f"{source.name} and {other.name}",
        splits=splits,
        notes=(*source.notes, *other.notes),
    )
