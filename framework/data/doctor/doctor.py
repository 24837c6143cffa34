"""Turns a task's data into findings, one kind of examination after another."""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from framework.data.doctor import duplicates, label_errors, quality, shape
from framework.data.doctor.examine import Examination
from framework.data.doctor.findings import (
    KINDS,
    Cluster,
    Finding,
    Findings,
    Member,
)
from framework.data.doctor.survey import Survey, examine_all, survey
from framework.data.folder import printable
from framework.data.pipeline import Pipeline
from framework.task import Data

# So many examples tell this data from other.
_SAMPLE = 64
# A cluster with a larger share of all pictures says that they all look alike.
_MOST_ALIKE = 0.2
_QUANTILES = (0, 5, 25, 50, 75, 95, 100)

# What is under way, and how much of it is done: (title, done, total).
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Examiner:
    """What to look for, and how closely.

    Attributes:
        pipeline: how pictures are decoded and resized.
        image_size: side of the model's input in pixels; None where that is
            not known, and nothing is said of what depends on it.
        likeness: from which correlation of their thumbnails on two pictures
            count as the same.
        check_quality: look for dark, blurry and blank pictures.
        label_checker: looks for wrong labels; None does not.
    """

    pipeline: Pipeline
    image_size: int | None
    likeness: float = 0.985
    check_quality: bool = True
    label_checker: "label_errors.LabelChecker | None" = None

    def examine(
        self,
        data: Data,
        progress: Progress = lambda title, done, total: None,
    ) -> Findings:
        """Examines all examples, and what lies among them and is none."""
        return _Work(self, data, progress).findings()


class _Work:
    """One examination under way."""

    def __init__(self, examiner: Examiner, data: Data, progress: Progress):
        self._examiner = examiner
        self._data = data
        self._progress = progress
        self._found: list[Finding] = []
        self._remarks: list[str] = []
        self._seconds: dict[str, float] = {}

    def findings(self) -> Findings:
        with self._timed("decoding"):
            self._seen = self._survey()
            self._note_examinations()
            self._note_left_out()
        with self._timed("duplicates"):
            clusters = self._duplicates()
        with self._timed("quality"):
            self._note_shapes()
            if self._examiner.check_quality:
                self._note_quality()
        with self._timed("labels"):
            self._note_labels(clusters)
        order = {kind: at for at, kind in enumerate(KINDS)}
        self._found.sort(
            key=lambda f: (
                order[f.kind],
                np.inf if f.score is None else f.score,
                f.split,
                f.id,
            )
        )
        seen = self._seen.examinations
        return Findings(
            source=self._data.title,
            class_names=self._data.class_names,
            counts=self._counts(),
            formats=_counted(e.format or "unknown" for e in seen),
            modes=_counted(e.mode for e in seen if e.mode),
            sizes=_sizes([e for e in seen if e.width and e.decodes]),
            findings=tuple(self._found),
            clusters=self._in_order(clusters),
            sample=self._sample(),
            remarks=tuple(self._remarks),
            seconds=self._seconds,
        )

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._seconds[name] = round(time.monotonic() - start, 2)

    def _survey(self) -> Survey:
        total = sum(map(len, self._data.splits.values()))
        return survey(
            self._data.splits,
            self._examiner.check_quality,
            lambda done: self._progress("Decoding", done, total),
        )

    def _note(
        self,
        at: int,
        kind: str,
        reason: str,
        score: float | None = None,
        suggested: int = -1,
    ) -> None:
        seen = self._seen
        self._found.append(
            Finding(
                kind=kind,
                split=seen.names[seen.splits[at]],
                id=seen.ids[at],
                label=int(seen.labels[at]),
                reason=reason,
                score=score,
                suggested=suggested,
            )
        )

    def _note_examinations(self) -> None:
        for at, examination in enumerate(self._seen.examinations):
            for kind, reason in examination.remarks:
                self._note(at, kind, reason)

    def _note_left_out(self) -> None:
        """Files that are no examples: why, and what they are."""
        left_out = self._data.left_out
        paths = ((path, path) for path, _ in left_out)
        for (path, why), examination in zip(
            left_out, examine_all(iter(paths)), strict=True
        ):
            lost = [
                reason
                for kind, reason in examination.remarks
                if kind == "unreadable"
            ]
            what = lost[0] if lost else f"a {examination.format} image"
            self._found.append(
                Finding("left_out", "", printable(path), -1, f"{why}: {what}")
            )

    def _note_shapes(self) -> None:
        for at, examination in enumerate(self._seen.examinations):
            if not examination.decodes or not examination.width:
                continue
            thumbnail = None
            if self._seen.has_thumbnail[at]:
                thumbnail = self._seen.thumbnails[at]
            for kind, reason, score in shape.judge(
                examination.width,
                examination.height,
                thumbnail,
                self._examiner.image_size,
            ):
                self._note(at, kind, reason, score)

    def _note_quality(self) -> None:
        measures = [
            e.quality if e.decodes else None for e in self._seen.examinations
        ]
        for at, verdicts in enumerate(quality.judge(measures)):
            for kind, reason, score in verdicts:
                self._note(at, kind, reason, score)

    def _duplicates(self) -> list[tuple[str, np.ndarray]]:
        """(kind, indices) of the clusters."""
        seen = self._seen
        # Of what is lost, copies are no news.
        exact = duplicates.exact(
            [e.digest if e.decodes else b"" for e in seen.examinations]
        )
        # Of equal files one is compared with others; then all are in it.
        again = np.zeros(len(seen), bool)
        copies = {}
        for cluster in exact:
            again[cluster[1:]] = True
            copies[cluster[0]] = cluster
        decodes = np.array([e.decodes for e in seen.examinations], bool)
        (compared,) = np.nonzero(seen.has_thumbnail & decodes & ~again)
        near = duplicates.near(
            seen.thumbnails[compared], self._examiner.likeness
        )
        largest = max(map(len, near), default=0)
        if largest > _MOST_ALIKE * len(seen):
            self._remarks.append(
                f"{largest:,} of {len(seen):,} pictures are one cluster of "
                "near duplicates: in this data different pictures look alike, "
                f"and doctor.likeness = {self._examiner.likeness} is too low."
            )
        return [("exact_duplicate", cluster) for cluster in exact] + [
            (
                "near_duplicate",
                np.sort(
                    np.concatenate([copies.get(c, [c]) for c in compared[part]])
                ),
            )
            for part in near
        ]

    def _in_order(
        self, clusters: Sequence[tuple[str, np.ndarray]]
    ) -> tuple[Cluster, ...]:
        seen = self._seen
        made = [
            Cluster(
                kind,
                tuple(
                    Member(
                        seen.names[seen.splits[at]],
                        seen.ids[at],
                        int(seen.labels[at]),
                    )
                    for at in members
                ),
            )
            for kind, members in clusters
        ]
        made.sort(key=lambda c: (-len(c.splits), -len(c.labels)))
        return tuple(made)

    def _note_labels(self, clusters: list[tuple[str, np.ndarray]]) -> None:
        checker = self._examiner.label_checker
        if checker is None:
            self._remarks.append(
                "Labels were not checked: doctor.check_labels is False."
            )
            return
        # Copies of a picture are predicted together: one that is labelled
        # otherwise would teach the classifier its own answer.
        group = np.arange(len(self._seen))
        pairs = [
            np.stack([np.full(len(c) - 1, c[0]), c[1:]]) for _, c in clusters
        ]
        if pairs:
            for part in duplicates.components(
                len(group), np.concatenate(pairs, axis=1)
            ):
                group[part] = part[0]
        suspects, remarks = checker.check(
            self._data.splits,
            self._data.class_names,
            group,
            self._examiner.pipeline,
            lambda done, total: self._progress("Labels", done, total),
        )
        self._remarks += remarks
        names = self._data.class_names
        for suspect in suspects:
            self._note(
                suspect.index,
                "label",
                f"{'' if suspect.decided else 'perhaps: '}looks like "
                f"{names[suspect.suggested]} ({suspect.probability:.2f})",
                suspect.score,
                suspect.suggested,
            )

    def _sample(self) -> dict[str, str]:
        seen = self._seen
        read = [at for at, e in enumerate(seen.examinations) if e.digest]
        places = np.linspace(0, len(read) - 1, min(len(read), _SAMPLE))
        return {
            seen.ids[read[at]]: seen.examinations[read[at]].digest.hex()
            for at in places.astype(int)
        }

    def _counts(self) -> dict[str, list[int]]:
        seen = self._seen
        return {
            name: np.bincount(
                seen.labels[seen.splits == at],
                minlength=len(self._data.class_names),
            ).tolist()
            for at, name in enumerate(seen.names)
        }


def _counted(values: Iterator[str]) -> dict[str, int]:
    return dict(collections.Counter(values).most_common())


def _sizes(examinations: Sequence[Examination]) -> dict[str, list[float]]:
    if not examinations:
        return {}
    width = np.array([e.width for e in examinations])
    height = np.array([e.height for e in examinations])
    return {
        name: np.percentile(values, _QUANTILES).round(3).tolist()
        for name, values in (
            ("width", width),
            ("height", height),
            ("aspect", width / height),
        )
    }
