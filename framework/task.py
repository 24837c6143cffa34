"""Turns a source and a way to split it into examples to train and judge on."""

import dataclasses
from collections.abc import Callable, Mapping

from framework.data.source import Examples, Source
from framework.errors import SourceUnavailable, UserError


@dataclasses.dataclass(frozen=True)
class Data:
    """A task's examples, loaded.

    Attributes:
        source: what to call their source in reports.
        class_names: the classes in the order of their labels.
        splits: the examples by split: "train", and "validation" and "test"
            where there are such.
        stand_in: whether another source took the place of the task's own.
        notes: remarks for the user.
    """

    source: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Examples]
    stand_in: bool
    notes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def title(self) -> str:
        """The source's name; a stand-in is never named without saying so."""
        return self.source + (" (STAND-IN DATA)" if self.stand_in else "")


@dataclasses.dataclass(frozen=True)
class Task:
    """What the data is and how it is split; nothing about models.

    A split that the source comes with is used as it is. One that it lacks is
    cut from its training split: the same fraction of every class, chosen by
    the examples' ids and the seed, and by nothing else.

    Attributes:
        source: makes the source when the data is needed.
        validation: the fraction to cut for validation, 0 for none.
        test: the fraction to cut for testing, 0 for none.
        seed: of the cut. Not the training's seed: runs that differ in their
            seed are judged on the same examples.
        stand_in: makes the source to use where `source` can't be had.
    """

    source: Callable[[], Source]
    validation: float = 0.2
    test: float = 0.0
    seed: int = 0
    stand_in: Callable[[], Source] | None = None

    def __post_init__(self):
        for field in ("source", "stand_in"):
            value = getattr(self, field)
            if value is not None and not callable(value):
                raise UserError(
                    f"Task.{field} is a {type(value).__name__}; expected a "
                    "function that makes a source, in a gin file a reference "
                    "without parentheses (@rendered_hands)."
                )
        for field in ("validation", "test"):
            value = getattr(self, field)
            if not 0 <= value < 1:
                raise UserError(
                    f"Task.{field} is {value}; expected a fraction of the "
                    "training split, 0 <= fraction < 1."
                )
        if self.validation + self.test >= 1:
            raise UserError(
                f"Task.validation + Task.test is {self.validation + self.test}"
                "; expected less than 1, so that something remains to train on."
            )

    def load(
        self, announce: Callable[[str, str], None] = lambda name, reason: None
    ) -> Data:
        """Loads the source, or what stands in for it, and cuts the splits.

        Args:
            announce: called before a stand-in is made (which may take a
                while), with its name and with why it is needed.

        Raises:
            SourceUnavailable: the source can't be had and nothing stands in.
            UserError: a split is empty.
        """
        try:
            source, stand_in = self.source(), False
        except SourceUnavailable as error:
            if self.stand_in is None:
                raise
            # A partial has no name of its own.
            named = getattr(self.stand_in, "func", self.stand_in)
            announce(named.__name__, error.message)
            source, stand_in = self.stand_in(), True
        splits = dict(source.splits)
        if "train" not in splits:
            raise UserError(
                f"{source.name} has the splits {', '.join(splits)}; expected "
                "one called train."
            )
        # Fractions are of the whole training split, whichever is cut first.
        remaining = 1.0
        for name, fraction in (
            ("test", self.test),
            ("validation", self.validation),
        ):
            if fraction and name not in splits:
                splits["train"], splits[name] = splits["train"].cut(
                    fraction / remaining, self.seed
                )
                remaining -= fraction
        splits = {
            name: splits[name]
            for name in ("train", "validation", "test")
            if name in splits
        }
        for name, examples in splits.items():
            if not len(examples):
                raise UserError(
                    f"The {name} split of {source.name} is empty. Expected at "
                    "least one example; give more data or another fraction."
                )
        return Data(
            source=source.name,
            class_names=source.class_names,
            splits=splits,
            stand_in=stand_in,
            notes=source.notes,
        )
