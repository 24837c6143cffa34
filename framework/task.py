"""Turns a source and a way to split it into examples to train and judge on."""

import dataclasses
from collections.abc import Callable, Mapping

from framework.data.doctor.diagnosis import Diagnosis
from framework.data.source import Examples, IndexedExamples, Source
from framework.errors import SourceUnavailable, UserError

Announce = Callable[[str, str], None]


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
        left_out: what lies among the images and is no example: (path, why).
    """

    source: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Examples]
    stand_in: bool
    notes: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()

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
        self,
        announce: Announce = lambda name, reason: None,
        diagnosis: Diagnosis | None = None,
    ) -> Data:
        """Loads the source, or what stands in for it, and cuts the splits.

        Args:
            announce: called before a stand-in is made (which may take a
                while), with its name and with why it is needed.
            diagnosis: what a doctor found: its quarantine is left out, and
                duplicates stay on one side of a cut.

        Raises:
            SourceUnavailable: the source can't be had and nothing stands in.
            UserError: a split is empty.
        """
        data = self._uncut(announce, diagnosis)
        return self._cut(
            data, {"test": self.test, "validation": self.validation}
        )

    def folds(
        self,
        count: int,
        announce: Announce = lambda name, reason: None,
        diagnosis: Diagnosis | None = None,
    ) -> list[Data]:
        """Loads the source for cross-validation.

        Each example of the training split is in the test split of one fold
        and of no other. The validation split, by which an epoch is chosen, is
        cut from the rest as `load` would, so that what is tested on chooses
        nothing. A test split that the source comes with is left alone.

        Args:
            count: of the folds, at least 2.
            announce: as for `load`.
            diagnosis: as for `load`.

        Raises:
            SourceUnavailable, UserError: as for `load`; or the training split
                is streamed, or a class has fewer examples than there are
                folds.
        """
        data = self._uncut(announce, diagnosis)
        train = data.splits["train"]
        if not isinstance(train, IndexedExamples):
            raise UserError(
                f"{count} folds are asked for, and the training split of "
                f"{data.source} is streamed. Expected one that is held in "
                "memory: allow for it with in_memory_bytes."
            )
        if "test" in data.splits:
            note = "Its own test split is left alone: the folds test."
            data = dataclasses.replace(data, notes=(*data.notes, note))
        return [
            self._cut(
                dataclasses.replace(
                    data, splits={**data.splits, "train": rest, "test": part}
                ),
                {"validation": self.validation},
            )
            for rest, part in train.folds(count, self.seed, data.class_names)
        ]

    def _uncut(self, announce: Announce, diagnosis: Diagnosis | None) -> Data:
        try:
            source, stand_in = self.source(), False
        except SourceUnavailable as error:
            if self.stand_in is None:
                raise
            # A partial has no name of its own.
            named = getattr(self.stand_in, "func", self.stand_in)
            announce(named.__name__, error.message)
            source, stand_in = self.stand_in(), True
        splits, notes = dict(source.splits), source.notes
        if "train" not in splits:
            raise UserError(
                f"{source.name} has the splits {', '.join(splits)}; expected "
                "one called train."
            )
        if diagnosis is not None:
            splits, remarks = diagnosis.apply(splits, source.class_names)
            notes += remarks
        return Data(
            source=source.name,
            class_names=source.class_names,
            splits=splits,
            stand_in=stand_in,
            notes=notes,
            left_out=source.left_out,
        )

    def _cut(self, data: Data, fractions: Mapping[str, float]) -> Data:
        """Cuts from the training split what there is not yet."""
        splits = dict(data.splits)
        # Fractions are of the whole training split, whichever is cut first.
        remaining = 1.0
        for name, fraction in fractions.items():
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
                    f"The {name} split of {data.source} is empty. Expected at "
                    "least one example; give more data or another fraction."
                )
        return dataclasses.replace(data, splits=splits)
