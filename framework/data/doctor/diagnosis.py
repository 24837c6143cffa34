"""Turns a doctor's run directory into what training makes of it."""

import contextlib
import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from framework.console import some
from framework.data.doctor.duplicates import components
from framework.data.doctor.examine import digest
from framework.data.doctor.findings import Cluster, Findings, once
from framework.data.doctor.survey import read_encoded
from framework.data.source import Examples, IndexedExamples
from framework.errors import UserError

FINDINGS = "findings.json"
QUARANTINE = "quarantine.csv"
_COMPLETE = "summary.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is known of a task's data from an earlier examination.

    Attributes:
        directory: where it lies.
        findings: what was found.
        quarantine: why each example is to be left out, by its id.
    """

    directory: str
    findings: Findings
    quarantine: Mapping[str, str]

    @classmethod
    def read(cls, directory: str) -> "Diagnosis":
        """Reads `findings.json` and `quarantine.csv`, which one may edit.

        Raises:
            UserError: they are not there, or are something else.
        """
        try:
            texts = []
            # The last one, since it is written last.
            for name in (FINDINGS, QUARANTINE, _COMPLETE):
                path = os.path.join(directory, name)
                with tf.io.gfile.GFile(path, "r") as file:
                    texts.append(file.read())
        except (OSError, tf.errors.OpError, UnicodeDecodeError) as error:
            raise UserError(
                f"train.doctor is {directory!r}, where {FINDINGS}, "
                f"{QUARANTINE} and {_COMPLETE} can't all be read: {error}. "
                "Expected the run directory of a finished --mode=doctor."
            ) from error
        try:
            findings = Findings.from_json(json.loads(texts[0]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{os.path.join(directory, FINDINGS)} is not what this "
                f"version's --mode=doctor writes ({error}). Run it again."
            ) from error
        return cls(directory, findings, _quarantine(directory, texts[1]))

    @classmethod
    def newest(cls, directories: Sequence[str]) -> "Diagnosis | None":
        """The last one that can be read, if there is any."""
        for directory in reversed(directories):
            with contextlib.suppress(UserError):
                return cls.read(directory)
        return None

    def is_of(self, splits: Mapping[str, Examples]) -> bool:
        """Whether these examples are those that were examined, by a sample.

        One may have added, removed and mended some. Of streamed splits nothing
        is known.
        """
        sample = self.findings.sample
        same = known = 0
        for examples in splits.values():
            if not isinstance(examples, IndexedExamples):
                return True
            at = [n for n, i in enumerate(examples.ids) if i in sample]
            chosen = examples.select(np.array(at, int))
            for example_id, content in zip(
                chosen.ids, read_encoded(chosen), strict=True
            ):
                known += 1
                same += digest(content).hex() == sample[example_id]
        return not sample or 2 * same > max(known, len(sample) // 2)

    def apply(
        self, splits: Mapping[str, Examples], class_names: Sequence[str]
    ) -> tuple[dict[str, Examples], tuple[str, ...]]:
        """Leaves out the quarantined; makes groups of duplicates.

        Args:
            splits: as the source gives them.
            class_names: the source's.

        Returns:
            the splits without the quarantined examples, duplicates of each
            other in one group; and remarks for the user.

        Raises:
            UserError: other data was examined, the splits can't be indexed,
                or nothing is left of one.
        """
        streamed = [
            name
            for name, examples in splits.items()
            if not isinstance(examples, IndexedExamples)
        ]
        if streamed:
            raise UserError(
                f"train.doctor is bound, and the {', '.join(streamed)} split "
                "is streamed, so that no example can be left out of it. "
                "Leave them out when it is written (--mode=prepare with "
                "prepare.doctor), or hold it in memory (in_memory_bytes)."
            )
        if tuple(class_names) != self.findings.class_names or not self.is_of(
            splits
        ):
            raise UserError(
                f"{self.directory} holds findings on other data than this: "
                f"{self.findings.source}, with the classes "
                f"{some(self.findings.class_names)}. Expected those on the "
                "very same pictures; run --mode=doctor on them."
            )
        kept, removed = {}, 0
        for name, examples in splits.items():
            keep = np.array([i not in self.quarantine for i in examples.ids])
            removed += len(examples) - int(keep.sum())
            kept[name] = examples.select(np.flatnonzero(keep))
            if len(examples) and not len(kept[name]):
                raise UserError(
                    f"All {len(examples)} examples of the {name} split are in "
                    f"{os.path.join(self.directory, QUARANTINE)}; expected "
                    "some that are not. Look at the reasons there."
                )
        known = {i for e in splits.values() for i in e.ids}
        strange = [i for i in self.quarantine if i not in known]
        remarks = [
            f"{self.directory}: {removed:,} examples are quarantined and left "
            f"out; duplicates stay on one side of a cut "
            f"({len(self.findings.clusters):,} clusters)."
        ]
        if strange:
            remarks.append(
                f"{len(strange):,} quarantined examples are not in this data: "
                f"{some(strange, 3)}."
            )
        groups = self._groups()
        return {
            name: dataclasses.replace(
                examples, groups=_joined(examples, groups)
            )
            for name, examples in kept.items()
        }, tuple(remarks)

    def _groups(self) -> dict[str, str]:
        """By id: what its group is called, for those that have duplicates."""
        ids = sorted({m.id for c in self.findings.clusters for m in c.members})
        number = {name: at for at, name in enumerate(ids)}
        pairs = [
            (number[c.members[0].id], number[m.id])
            for c in self.findings.clusters
            for m in c.members[1:]
        ]
        pairs = np.array(pairs, int).reshape(-1, 2).T
        return {
            ids[node]: ids[nodes[0]]
            for nodes in components(len(ids), pairs)
            for node in nodes
        }

    def leaks(
        self, splits: Mapping[str, Examples]
    ) -> list[tuple[Cluster, list[str]]]:
        """Clusters that these splits part, and the splits in which they are.

        Args:
            splits: as they are trained and judged on; streamed ones are
                passed over.
        """
        where = {
            example_id: name
            for name, examples in splits.items()
            if isinstance(examples, IndexedExamples)
            for example_id in examples.ids
        }
        found = []
        for cluster in once(self.findings.clusters):
            places = {where[m.id] for m in cluster.members if m.id in where}
            if len(places) > 1:
                found.append((cluster, [n for n in splits if n in places]))
        return found

    def leak_remarks(self, splits: Mapping[str, Examples]) -> tuple[str, ...]:
        """Sentences on duplicates that lie on both sides of a split."""
        leaks = self.leaks(splits)
        if not leaks:
            return ()
        pairs: dict[str, int] = {}
        for _, names in leaks:
            key = " and ".join(names)
            pairs[key] = pairs.get(key, 0) + 1
        named = "; ".join(f"{count:,} in {key}" for key, count in pairs.items())
        first = [m.id for m in leaks[0][0].members]
        return (
            f"LEAK: {len(leaks):,} pictures are on more than one side ({named}"
            f"), such as {some(first, 2)}. Figures on those are flattered.",
        )


def _quarantine(directory: str, text: str) -> dict[str, str]:
    path = os.path.join(directory, QUARANTINE)
    # Spreadsheets like to put a mark in front.
    text = text.removeprefix("\ufeff")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if not {"path", "reason"} <= set(reader.fieldnames or ()):
        raise UserError(
            f"{path} has the columns {', '.join(reader.fieldnames or ())}; "
            "expected path and reason in its first line, with a comma between."
        )
    return {row["path"]: row["reason"] or "" for row in reader if row["path"]}


def _joined(
    examples: IndexedExamples, groups: Mapping[str, str]
) -> np.ndarray | None:
    """The examples' own groups and those of duplicates as one."""
    if examples.groups is None:
        found = [groups.get(i, "") for i in examples.ids]
        return np.array(found, object) if any(found) else None
    # Examples are nodes, and so are groups of either kind.
    own, of_own = np.unique(examples.groups.astype(object), return_inverse=True)
    found = np.array([groups.get(i, "") for i in examples.ids], object)
    other, of_other = np.unique(found, return_inverse=True)
    size = len(examples)
    node = np.arange(size)
    first = np.stack([node, size + of_own])[:, examples.groups != ""]
    second = np.stack([node, size + len(own) + of_other])[:, found != ""]
    joined = np.full(size, "", object)
    for nodes in components(
        size + len(own) + len(other), np.concatenate([first, second], axis=1)
    ):
        members = nodes[nodes < size]
        # Named by the least of its ids, so that others don't rename it.
        joined[members] = min(examples.ids[members])
    return joined
