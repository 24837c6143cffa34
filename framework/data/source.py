"""Turns wherever images lie into examples that a pipeline can address.

An example is an image (encoded bytes, or uint8 pixels `[H, W, C]`), a label
(an index into the source's class names) and an id that stays the same from
run to run. Nothing here decodes.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from framework.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class IndexedExamples:
    """Examples of which any one can be read at once, by its row.

    Attributes:
        ids: `[N]` strings, one an example, stable between runs.
        labels: `[N]` int64, indices into the source's class names.
        rows: `[N]` int64, what `read` is given for each example.
        read: maps a scalar int64 tensor, a row, to the image: a scalar string
            of encoded bytes, or uint8 `[H, W, C]`. Runs inside `tf.data`.
        path: maps a row to the file on this machine that holds this image
            and nothing else; None where there are no such files.
        groups: `[N]` strings; examples of one group (one patient, one burst of
            frames) belong on the same side of every split. "" is a group of
            its own. None where nothing is known of groups.
    """

    ids: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    read: Callable[[tf.Tensor], tf.Tensor]
    path: Callable[[int], str] | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: np.ndarray) -> "IndexedExamples":
        """The examples at `indices`, in that order."""
        groups = None if self.groups is None else self.groups[indices]
        return dataclasses.replace(
            self,
            ids=self.ids[indices],
            labels=self.labels[indices],
            rows=self.rows[indices],
            groups=groups,
        )

    def concatenated(
        self, others: Sequence["IndexedExamples"]
    ) -> "IndexedExamples":
        """These, and others of the same origin, one after the other."""
        parts = (self, *others)

        def whole(name: str) -> np.ndarray | None:
            found = [getattr(part, name) for part in parts]
            return None if found[0] is None else np.concatenate(found)

        names = ("ids", "labels", "rows", "groups")
        return dataclasses.replace(self, **{n: whole(n) for n in names})

    def cut(
        self, fraction: float, seed: int
    ) -> tuple["IndexedExamples", "IndexedExamples"]:
        """Splits off `fraction` of every class; returns (rest, part).

        Which examples go depends on their ids and the seed alone, so that a
        picture more or less in a folder moves no other picture to the other
        side (but for the one at the edge). A group goes as a whole, so that
        the shares of the classes are met as nearly as groups allow.
        """
        in_part = np.zeros(len(self), bool)
        for members, sizes in self._units(seed):
            # At least one on both sides, where the class has two examples.
            total = sizes.sum()
            count = int(np.ceil(fraction * total - 1e-9))
            count = min(count, total - 1)
            # The first units that fill the share; of the one at the edge,
            # the half that is nearer decides.
            behind = np.cumsum(sizes)
            taken = int(np.sum(behind - sizes / 2 <= count - 0.25))
            taken = min(max(taken, count > 0), len(sizes) - 1)
            for unit in members[:taken]:
                in_part[unit] = True
        (rest,), (part,) = np.nonzero(~in_part), np.nonzero(in_part)
        return self.select(rest), self.select(part)

    def folds(
        self, count: int, seed: int, class_names: Sequence[str]
    ) -> list[tuple["IndexedExamples", "IndexedExamples"]]:
        """Deals out all examples into parts that are alike and disjoint.

        Of every class each part gets the same number, as nearly as groups
        allow, which stay together. Who goes where depends on ids and the seed
        alone.

        Args:
            count: of the parts.
            seed: of who goes where.
            class_names: for messages.

        Returns:
            of each part (rest, part).

        Raises:
            UserError: a class has too few examples, or groups, to be in all
                of the parts.
        """
        part = np.zeros(len(self), int)
        filled = np.zeros(count, int)
        for members, sizes in self._units(seed):
            labels = np.unique(self.labels[np.concatenate(members)])
            if len(labels) == 1 and len(members) < count:
                raise UserError(
                    f"{count} folds are asked for, and the class "
                    f"{class_names[labels[0]]} has "
                    f"{len(members)} examples, or groups of them, that may be "
                    "parted; expected at least one a fold. Ask for fewer folds."
                )
            in_class = np.zeros(count, int)
            # Large groups first, while all parts have room for them.
            for i in np.argsort(-sizes, kind="stable"):
                least = np.lexsort((np.arange(count), filled, in_class))[0]
                part[members[i]] = least
                in_class[least] += sizes[i]
                filled[least] += sizes[i]
        if len(np.unique(part)) < count:
            raise UserError(
                f"{count} folds are asked for, and there are "
                f"{len(np.unique(part))} groups of examples that may be "
                "parted; expected at least one a fold. Ask for fewer folds."
            )
        for label in np.unique(self.labels):
            # A class may lie within groups that count for other classes.
            if len(np.unique(part[self.labels == label])) < 2:
                raise UserError(
                    f"All examples of the class {class_names[label]} are in "
                    "one group, so that none would be left to train on. "
                    "Expected groups that can be parted, or no folds."
                )
        return [
            (
                self.select(np.flatnonzero(part != p)),
                self.select(np.flatnonzero(part == p)),
            )
            for p in range(count)
        ]

    def _units(
        self, seed: int
    ) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
        """By class: what is not to be parted, in the order of the seed.

        Groups with pictures of several classes are together one more class.

        Yields:
            the indices of each unit's examples, and how many these are.
        """
        names = np.asarray(self.ids, object)
        if self.groups is not None:
            # A group's name can't be an example's: ids have no such end.
            own = np.array([f"{g}\0" for g in self.groups], object)
            names = np.where(self.groups == "", names, own)
        names, first, unit = np.unique(
            names, return_index=True, return_inverse=True
        )
        members = np.split(
            np.argsort(unit, kind="stable"),
            np.cumsum(np.bincount(unit, minlength=len(names)))[:-1],
        )
        rank = np.array([_hash(seed, name) for name in names], np.uint64)
        label_of = self.labels[first]
        mixed = np.unique(unit[self.labels != label_of[unit]])
        label_of[mixed] = -1
        for label in np.unique(label_of):
            (units,) = np.nonzero(label_of == label)
            units = units[np.argsort(rank[units], kind="stable")]
            yield (
                [members[u] for u in units],
                np.array([len(members[u]) for u in units]),
            )


def join(first: IndexedExamples, second: IndexedExamples) -> IndexedExamples:
    """The examples of both, of the same classes, one after the other.

    Ids must differ; groups are those that either has.
    """

    def read(row: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            row < len(first),
            lambda: first.read(tf.gather(first.rows, row)),
            lambda: second.read(tf.gather(second.rows, row - len(first))),
        )

    groups = None
    if first.groups is not None or second.groups is not None:
        none = [np.full(len(e), "", object) for e in (first, second)]
        groups = np.concatenate(
            [
                none if examples.groups is None else examples.groups
                for examples, none in zip((first, second), none, strict=True)
            ]
        )
    return IndexedExamples(
        ids=np.concatenate([first.ids, second.ids]),
        labels=np.concatenate([first.labels, second.labels]),
        rows=np.arange(len(first) + len(second), dtype=np.int64),
        read=read,
        groups=groups,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedExamples:
    """Examples too large to index, read from shards in sequence.

    Attributes:
        size: their number.
        stream: maps a scalar int64 tensor (the seed of an epoch's order; -1
            for the order on disk) to a `tf.data.Dataset` of all of them, each
            `{"image": encoded scalar string, "label": int64, "id": string}`.
        slice: maps two fractions of the whole, (begin, end), to those
            examples.
        window: how many examples the shuffle looks ahead; the order is that
            of shuffled shards, mixed within this window.
    """

    size: int
    stream: Callable[[tf.Tensor], tf.data.Dataset]
    slice: Callable[[float, float], "StreamedExamples"]
    window: int

    def __len__(self) -> int:
        return self.size

    def cut(
        self, fraction: float, seed: int
    ) -> tuple["StreamedExamples", "StreamedExamples"]:
        """Splits off the last `fraction`; returns (rest, part).

        Not stratified and blind to the seed, since labels are not known
        before reading: TFDS has shuffled what it wrote.
        """
        del seed
        return self.slice(0.0, 1 - fraction), self.slice(1 - fraction, 1.0)


Examples = IndexedExamples | StreamedExamples


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Images with labels, in the splits they come in.

    Attributes:
        name: what to call it in reports, with its version where it has one.
        class_names: the classes in the order of their labels; the only place
            they are taken from.
        splits: the examples by split: "train", and "validation" and "test"
            where the source itself tells them apart.
        notes: remarks for the user (stray files and the like).
        left_out: what lies among the images and is no example: (path, why).
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Examples]
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        if len(self.class_names) < 2:
            raise UserError(
                f"{self.name} has {len(self.class_names)} classes "
                f"({', '.join(self.class_names)}); a classifier needs at "
                "least 2."
            )
        if len(set(self.class_names)) < len(self.class_names):
            raise UserError(
                f"{self.name} has the classes {', '.join(self.class_names)}; "
                "expected names that all differ."
            )


def array_source(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    test_images: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
    name: str = "arrays",
) -> Source:
    """Arrays in memory as a source.

    Args:
        images: uint8 `[N, H, W, C]`, C = 1 or 3.
        labels: integers `[N]`, indices into `class_names`.
        class_names: the classes in the order of their labels.
        test_images: the same for a test split, if there is one.
        test_labels: the same for a test split, if there is one.
        name: what to call it in reports.

    Raises:
        UserError: shapes, dtypes or labels do not fit together.
    """
    splits = {"train": _array_examples(images, labels, class_names, "train")}
    if test_images is not None:
        splits["test"] = _array_examples(
            test_images, test_labels, class_names, "test"
        )
    return Source(name, tuple(class_names), splits)


def _array_examples(
    images: Any, labels: Any, class_names: tuple[str, ...], split: str
) -> IndexedExamples:
    images, labels = np.asarray(images), np.asarray(labels)
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[-1] not in (1, 3)
    ):
        raise UserError(
            f"The {split} images are {images.dtype} {list(images.shape)}; "
            "expected uint8 [N, H, W, C], C = 1 or 3, with pixels 0..255."
        )
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"The {split} labels have shape {list(labels.shape)}; expected "
            f"one for each of the {len(images)} images."
        )
    if not np.isin(labels, np.arange(len(class_names))).all():
        raise UserError(
            f"The {split} labels run from {labels.min()} to {labels.max()}; "
            f"expected 0..{len(class_names) - 1}, indices into {class_names}."
        )
    pixels = tf.constant(images)
    return IndexedExamples(
        ids=np.array([f"{split}/{i}" for i in range(len(images))], object),
        labels=labels.astype(np.int64),
        rows=np.arange(len(images), dtype=np.int64),
        read=lambda row: tf.gather(pixels, row),
    )


def _hash(seed: int, example_id: Any) -> int:
    digest = hashlib.blake2b(f"{seed}:{example_id}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
