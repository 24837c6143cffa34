"""Turns a table of paths and labels, CSV or Parquet, into a source."""

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import tensorflow as tf
from pyarrow import csv, parquet

from framework.console import some
from framework.data.folder import SPLITS, printable
from framework.data.source import IndexedExamples, Source
from framework.data.tfds import brief, shown
from framework.errors import UserError
from framework.registry import SOURCES, nearest

# By the ending of a file: what parts its fields; Parquet needs nothing.
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".parquet": None}
# Integers as one writes them: "01" and "+1" are texts.
_INTEGER = re.compile(r"0|-?[1-9]\d*")
# How many images are looked for before training begins.
_LOOKED_FOR = 50


@SOURCES.register()
def Manifest(
    path: str,
    root: str | None = None,
    class_names: Sequence[str] | None = None,
    image_column: str = "path",
    label_column: str = "label",
    split_column: str = "split",
    group_column: str = "group",
) -> Source:
    """Images that a table lists, a row each, wherever they lie.

        path,label,split,group
        a/1.jpg,cat,train,anna
        b/7.jpg,dog,validation,bert

    Without a column of splits everything is "train". Their names are those of
    `ImageFolder`'s folders, in letters of either case. An example's id is its
    path as the table has it. Spaces around labels and splits don't count.
    Labels that are all integers ("0", "-3", not "01") are classes in the order
    of the numbers; others in that of the alphabet.

    Args:
        path: the table: ".csv" or ".tsv" in UTF-8 with a line of column names,
            or ".parquet"; `~` is expanded; "gs://..." is read through
            TensorFlow's file system.
        root: what paths in the table are relative to; by default the
            directory of the table.
        class_names: which classes to take, in the order of the labels; by
            default all.
        image_column: the column of the paths.
        label_column: that of the labels.
        split_column: that of the splits, if there is one.
        group_column: that of the groups (what must not be parted: one
            patient's pictures), if there is one. An empty cell is a group of
            its own.

    Raises:
        UserError: there is no such file, it can't be parsed, or a column is
            missing; a row lacks its path or label, has an unknown split, or
            says of a path what another row denies; there is no training split,
            or another has a class that it lacks; of 50 images none is there.
    """
    path, root = _places(path, root)
    rows = _rows(path, image_column, label_column, split_column, group_column)
    rows, notes = _without_repetitions(rows)
    names = _class_names(rows, class_names)
    left_out = ~_among(rows.labels, names)
    if left_out.any():
        notes.append(
            f"Left out, of classes not asked for: {left_out.sum()} rows "
            f"({some(np.unique(rows.labels[left_out]))})."
        )
        rows = rows.select(~left_out)
    notes += _check_splits(rows, names)
    places = np.array([_join(root, p) for p in rows.paths], object)
    notes += _check_images(rows, places, root)
    return Source(
        name=f"{printable(os.path.basename(path))} (manifest)",
        class_names=tuple(names),
        splits={
            split: _examples(rows, places, names, rows.splits == split)
            for split in ("train", "validation", "test")
            if (rows.splits == split).any()
        },
        notes=tuple(notes),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """What a table says: arrays of texts, `[N]`.

    Attributes:
        where: the table, for messages.
        numbers: of the rows, as a spreadsheet counts them.
        groups: None without such a column.
    """

    where: str
    numbers: np.ndarray
    paths: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    groups: np.ndarray | None

    def select(self, which: np.ndarray) -> "_Rows":
        return _Rows(
            self.where,
            self.numbers[which],
            self.paths[which],
            self.labels[which],
            self.splits[which],
            None if self.groups is None else self.groups[which],
        )

    def named(self, which: np.ndarray, what: np.ndarray) -> str:
        """The rows, and what stands there: "3 ('a.png'), 7 ('b.png')"."""
        chosen = zip(self.numbers[which], what[which], strict=True)
        return some(f"{number} ({text!r})" for number, text in chosen)


# Reading the table.


def _places(path: str, root: str | None) -> tuple[str, str]:
    """The table and what its paths are relative to; checked."""
    path = _expanded(path)
    if not tf.io.gfile.exists(path):
        raise UserError(
            f"Received the manifest {shown(path)!r}, which does not exist; "
            "expected a table of paths and labels. Correct Manifest.path."
        )
    ending = os.path.splitext(path)[1].lower()
    if tf.io.gfile.isdir(path) or ending not in _DELIMITERS:
        raise UserError(
            f"Received the manifest {shown(path)!r}; expected a file that ends "
            f"in {', '.join(_DELIMITERS)}. Convert or rename it; for a "
            "directory of class folders there is gin/folder.gin."
        )
    root = os.path.dirname(path) if root is None else _expanded(root)
    if "://" not in root and not os.path.isdir(root or "."):
        raise UserError(
            f"Received the root {shown(root)!r}, which is no directory; "
            "expected the one that the manifest's paths are relative to. "
            "Correct Manifest.root."
        )
    return path, root


def _expanded(path: str) -> str:
    path = os.fspath(path)
    return path if "://" in path else os.path.expanduser(path)


def _join(root: str, path: str) -> str:
    """Where an image lies; `path` may be absolute or an address."""
    return path if "://" in path else os.path.join(root, path)


def _rows(path: str, image: str, label: str, split: str, group: str) -> _Rows:
    table, first = _table(path)
    where = shown(path)
    columns = table.column_names
    # The optional ones are optional under their default names.
    wanted = [image, label]
    wanted += [c for c in (split,) if c in columns or c != "split"]
    wanted += [c for c in (group,) if c in columns or c != "group"]
    for name in wanted:
        if columns.count(name) != 1:
            problem = "twice" if name in columns else "not at all"
            hint = nearest(name, columns)
            if len(columns) == 1 and re.search(r"[;\t|]", columns[0]):
                hint = "Are its fields parted by something else than commas?"
            raise UserError(
                f"Received {where!r}, which has the column {name!r} {problem}: "
                f"{some(map(repr, columns))}; expected it once. {hint} Name "
                "the columns in Manifest.image_column, label_column, "
                "split_column and group_column.".replace("  ", " ")
            )
    if not len(table):
        raise UserError(
            f"Received {where!r}, which has no rows; expected one for each "
            "image. Correct Manifest.path."
        )

    def texts(name: str) -> np.ndarray:
        try:
            values = table.column(name).cast(pa.string()).to_pylist()
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise UserError(
                f"Received {where!r}, whose column {name!r} is of the type "
                f"{table.column(name).type}: {brief(error)} Expected texts in "
                "UTF-8, or whole numbers. Convert it."
            ) from error
        return np.array([v or "" for v in values], object)

    def stripped(name: str) -> np.ndarray:
        return np.array([text.strip() for text in texts(name)], object)

    numbers = np.arange(first, first + len(table))
    rows = _Rows(
        where=where,
        numbers=numbers,
        paths=texts(image),
        labels=stripped(label),
        splits=(
            stripped(split)
            if split in columns
            else np.full(len(table), "train", object)
        ),
        groups=texts(group) if group in columns else None,
    )
    _check_rows(rows, image, label, split)
    splits = [SPLITS[name.lower()] for name in rows.splits]
    return dataclasses.replace(rows, splits=np.array(splits, object))


def _table(path: str) -> tuple[pa.Table, int]:
    """The table, and the number of its first row."""
    with tf.io.gfile.GFile(path, "rb") as file:
        content = pa.py_buffer(file.read())
    delimiter = _DELIMITERS[os.path.splitext(path)[1].lower()]
    try:
        if delimiter is None:
            return parquet.read_table(pa.BufferReader(content)), 1
        how = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        names = csv.open_csv(
            pa.BufferReader(content), parse_options=how
        ).schema.names
        # Everything is text: "01" and "NA" are labels like others.
        types = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string())
        )
        table = csv.read_csv(
            pa.BufferReader(content), parse_options=how, convert_options=types
        )
        return table, 2  # The first row holds the names.
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        expected = "a Parquet file"
        if delimiter is not None:
            expected = (
                "a line of column names, rows of as many fields, parted by "
                f"{'tabs' if delimiter != ',' else 'commas'}, all in UTF-8"
            )
        raise UserError(
            f"Received {shown(path)!r}, which can't be parsed: {brief(error)} "
            f"Expected {expected}. Write it anew."
        ) from error


def _check_rows(rows: _Rows, image: str, label: str, split: str) -> None:
    for column, values, others in (
        (image, rows.paths, rows.labels),
        (label, rows.labels, rows.paths),
    ):
        lacking = values == ""
        if lacking.any():
            raise UserError(
                f"Received {rows.where!r} with nothing in the column "
                f"{column!r} of {lacking.sum()} of its {len(values)} rows: "
                f"{rows.named(lacking, others)}; expected a text there. Fill "
                "it in, or take these rows away."
            )
    broken = np.array(["\n" in name for name in rows.labels])
    if broken.any():
        raise UserError(
            f"Received {rows.where!r} with labels of several lines in the rows "
            f"{rows.named(broken, rows.paths)}; expected names of classes. Is "
            "there a quotation mark that is not closed?"
        )
    unknown = ~_among([name.lower() for name in rows.splits], SPLITS)
    if unknown.any():
        raise UserError(
            f"Received {rows.where!r} with unknown splits in {unknown.sum()} "
            f"rows: {rows.named(unknown, rows.splits)}; expected one of "
            f"{', '.join(SPLITS)}. Correct the column {split!r}, or name "
            "another one in Manifest.split_column."
        )


# Checking what it says.


def _without_repetitions(rows: _Rows) -> tuple[_Rows, list[str]]:
    """The rows without those that say the same again, and notes."""
    _, first, same = np.unique(
        rows.paths, return_index=True, return_inverse=True
    )
    first = first[same]  # Of each row the first with its path.
    contradicting = np.zeros(len(first), bool)
    for values in (rows.labels, rows.splits, rows.groups):
        if values is not None:
            contradicting |= values != values[first]
    if contradicting.any():
        pairs = [
            f"{rows.paths[i]!r} in {rows.numbers[first[i]]} and "
            f"{rows.numbers[i]}"
            for i in np.flatnonzero(contradicting)
        ]
        raise UserError(
            f"Received {rows.where!r} with rows that contradict each other in "
            f"label, split or group: {some(pairs)}; expected each path once. "
            "Take one of the rows away."
        )
    repeated = first != np.arange(len(first))
    if not repeated.any():
        return rows, []
    note = (
        f"Left out, rows that repeat another one: {repeated.sum()} "
        f"({rows.named(repeated, rows.paths)})."
    )
    return rows.select(~repeated), [note]


def _among(texts: Iterable[str], known: Iterable[str]) -> np.ndarray:
    """Which of the texts are known; of objects, NumPy would compare all."""
    known = set(known)
    return np.array([text in known for text in texts], bool)


def _class_names(rows: _Rows, asked: Sequence[str] | None) -> list[str]:
    """The classes in the order of their labels."""
    known = [str(name) for name in np.unique(rows.labels)]
    if all(map(_INTEGER.fullmatch, known)):
        known.sort(key=int)
    if asked is None:
        return known
    for name in asked:
        if name not in known:
            raise UserError(
                f"Received the class {name!r}, which no row of {rows.where!r} "
                f"has; expected one of {some(map(repr, known))}. "
                f"{nearest(name, known)} Correct Manifest.class_names.".replace(
                    "  ", " "
                )
            )
    if len(set(asked)) < len(asked):
        raise UserError(
            f"Received Manifest.class_names = {list(asked)!r}; expected each "
            "class once."
        )
    return list(asked)


def _check_splits(rows: _Rows, names: list[str]) -> list[str]:
    """Refuses splits that can't be learned from; notes what they lack."""
    present = sorted(set(rows.splits))
    if "train" not in present:
        raise UserError(
            f"Received {rows.where!r} with the splits {', '.join(present)}; "
            "expected one called train. Call one of them so."
        )
    unlearned = ~_among(rows.labels, rows.labels[rows.splits == "train"])
    if unlearned.any():
        classes = np.unique(rows.labels[unlearned])
        raise UserError(
            f"Received {rows.where!r} with classes of which the train split "
            f"has no image: {some(map(repr, classes))}, in the rows "
            f"{rows.named(unlearned, rows.paths)}; expected the classes of the "
            "train split only. Move images of them to train, or list the "
            "classes to take in Manifest.class_names."
        )
    notes = []
    for split in present:
        has = set(rows.labels[rows.splits == split])
        lacks = [name for name in names if name not in has]
        if lacks:
            notes.append(
                f"Classes that the {split} split lacks: {len(lacks)} "
                f"({some(lacks)})."
            )
    return notes


def _check_images(rows: _Rows, places: np.ndarray, root: str) -> list[str]:
    """Looks for a few images, where that costs next to nothing."""
    at = np.linspace(0, len(places) - 1, _LOOKED_FOR).round().astype(int)
    at = [i for i in np.unique(at) if "://" not in places[i]]
    missing = [i for i in at if not os.path.exists(places[i])]
    if missing and len(missing) == len(at):
        raise UserError(
            f"Received {rows.where!r}, of whose images {len(at)} were looked "
            f"for and none was found, such as {shown(places[missing[0]])!r}; "
            f"expected paths relative to {shown(root)!r}. Correct "
            "Manifest.root."
        )
    if not missing:
        return []
    return [
        f"Of {len(at)} images that were looked for, {len(missing)} are not "
        f"there: {some(rows.paths[missing])}."
    ]


def _examples(
    rows: _Rows, places: np.ndarray, names: list[str], which: np.ndarray
) -> IndexedExamples:
    chosen, places = rows.select(which), list(places[which])
    label = {name: index for index, name in enumerate(names)}
    files = tf.constant([os.fsencode(place) for place in places])
    is_local = not any("://" in place for place in places)
    return IndexedExamples(
        ids=chosen.paths,
        labels=np.array([label[name] for name in chosen.labels], np.int64),
        rows=np.arange(len(places), dtype=np.int64),
        read=lambda row: tf.io.read_file(tf.gather(files, row)),
        path=places.__getitem__ if is_local else None,
        groups=chosen.groups,
    )
