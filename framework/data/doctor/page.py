"""Turns what the doctor found into one HTML page that opens anywhere."""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from framework.console import some
from framework.data.doctor.findings import (
    KINDS,
    Cluster,
    Findings,
    Kind,
    Member,
)
from framework.pages import Room, brief, template, times

# What is shown of findings.json, so that the page stays a page: of each kind,
# of a set of duplicates, of classes, of anything else that is counted.
MOST_FINDINGS = 48
MOST_SETS = 24
MOST_MEMBERS = 6
MOST_CLASSES = 60
MOST_ROWS = 40
# Before these are encoded, which adds a third. Thumbnails take some 5 kB.
MOST_PICTURE_BYTES = 8_000_000
# The rest of a kind is there on request.
_AT_ONCE = 12
_SETS_AT_ONCE = 6
_UNBALANCED = 3
_WITH_FITS = ("aspect", "tiny_subject")


def page(
    findings: Findings,
    thumbnail: Callable[[str, str], bytes | None],
    fits: Callable[[str, str], dict[str, bytes]],
) -> str:
    """One HTML page that needs no other file, no network and no JavaScript.

    Args:
        findings: what was found.
        thumbnail: of a split and an id, a small JPEG or PNG of that example,
            or None where there is none. Called for what is shown only.
        fits: of a split and an id, what "squash", "crop" and "pad" make of
            it, small JPEGs or PNGs. Called likewise.

    Returns:
        Some MB of HTML at most, however much was found. It can be written as
        UTF-8 whatever the names in it are.
    """
    sections = _sections(findings)
    path = os.path.join(os.path.dirname(__file__), "page.html.j2")
    return template(path).render(
        findings=findings,
        verdict=verdict(findings),
        kinds=KINDS,
        sections=sections,
        absent=[
            kind.title
            for key, kind in KINDS.items()
            if key not in {section.key for section in sections}
        ],
        imbalances=imbalances(findings),
        classes=_classes(findings),
        tallies=[
            ("Formats", "Format", _tally(findings.formats)),
            ("Kinds of pixels", "Pixels", _tally(findings.modes)),
        ],
        members=_members,
        pictures=_Pictures(thumbnail, fits),
        class_name=functools.partial(_class_name, findings),
        most_rows=MOST_ROWS,
    )


def shown(findings: Findings) -> set[tuple[str, str]]:
    """Split and id of the examples whose pictures are shown.

    For those who read examples in sequence, and would rather do that once.
    """
    wanted: set[tuple[str, str]] = set()
    for section in _sections(findings):
        if section.form == "sets":
            found = [m for c in section.shown for m in _members(c)]
        else:
            found = section.shown if section.form == "cards" else []
        wanted.update((one.split, one.id) for one in found)
    return wanted


# What it says.


def verdict(findings: Findings) -> str:
    """The whole in two to four plain sentences."""
    examples = sum(sum(counts) for counts in findings.counts.values())
    by_severity = collections.defaultdict(set)
    for finding in findings.findings:
        severity = KINDS[finding.kind].severity
        by_severity[severity].add((finding.split, finding.id))
    lost = len(by_severity["lost"])
    look = len(by_severity["warning"] - by_severity["lost"])
    sentences = [
        f"{times(examples, 'example')}, "
        f"{times(len(findings.class_names), 'class', 'classes')}."
    ]
    clauses = []
    if lost:
        are = "is" if lost == 1 else "are"
        clauses.append(f"{lost:,} {are} lost to training")
    if look:
        clauses.append(f"{look:,} {'wants' if look == 1 else 'want'} a look")
    if clauses:
        sentences.append(" and ".join(clauses) + ".")
    if findings.clusters:
        sentences.append(_of_duplicates(findings))
    if imbalances(findings):
        sentences.append("The classes are unbalanced.")
    if len(sentences) == 1:
        sentences.append("Nothing was found that should worry you.")
    return " ".join(sentences)


def _of_duplicates(findings: Findings) -> str:
    sets = len(findings.clusters)
    leaks = len(findings.leaks())
    crossed = sum(len(c.labels) > 1 for c in findings.clusters)
    places = []
    if leaks:
        places.append(f"{leaks:,} in several splits")
    if crossed:
        places.append(f"{crossed:,} under several classes")
    details = f": {' and '.join(places)}" if places else ""
    are = "is" if sets == 1 else "are"
    return f"There {are} {times(sets, 'set')} of duplicates{details}."


def imbalances(findings: Findings) -> list[str]:
    """What is to be said of the classes' sizes, a sentence each."""
    sentences = []
    for split, counts in findings.counts.items():
        split = brief(split)
        names = map(brief, findings.class_names)
        sizes = list(zip(counts, names, strict=True))
        missing = [name for size, name in sizes if not size]
        present = [(size, name) for size, name in sizes if size]
        if not present:
            sentences.append(f"In {split}, there are no examples.")
            continue
        if missing:
            sentences.append(
                f"In {split}, there is no example of {some(missing)}."
            )
        small, large = min(present), max(present)
        if large[0] > _UNBALANCED * small[0]:
            sentences.append(
                f"In {split}, {large[1]} has {large[0] / small[0]:,.1f} times "
                f"as many examples as {small[1]}: {large[0]:,} against "
                f"{small[0]:,}."
            )
    return sentences


# What it shows.


@dataclasses.dataclass(frozen=True)
class _Section:
    """What is shown of a kind, and how much of it there is.

    Attributes:
        key: a key of `KINDS`.
        form: "sets" of duplicates, a "list" of files, or "cards".
        found: how many findings, or sets of duplicates.
        examples: how many examples those are about.
        shown: the first of them.
        at_once: how many of those are shown without being asked for.
    """

    key: str
    form: str
    found: int
    examples: int
    shown: Sequence[Any]
    at_once: int

    @property
    def kind(self) -> Kind:
        return KINDS[self.key]

    @property
    def is_ranked(self) -> bool:
        return self.form == "cards" and any(
            finding.score is not None for finding in self.shown
        )

    @property
    def with_fits(self) -> bool:
        return self.key in _WITH_FITS


def _sections(findings: Findings) -> list[_Section]:
    """Of the kinds of which something was found, in their order."""
    sections = []
    for key in KINDS:
        if clusters := findings.clusters_of(key):
            sections.append(
                _Section(
                    key,
                    form="sets",
                    found=len(clusters),
                    examples=sum(len(c.members) for c in clusters),
                    shown=clusters[:MOST_SETS],
                    at_once=_SETS_AT_ONCE,
                )
            )
        if found := findings.of(key):
            sections.append(
                _Section(
                    key,
                    # Files that are no examples have no picture.
                    form="list" if key == "left_out" else "cards",
                    found=len(found),
                    examples=len({(f.split, f.id) for f in found}),
                    shown=found[:MOST_FINDINGS],
                    at_once=_AT_ONCE,
                )
            )
    return sections


def _members(cluster: Cluster) -> list[Member]:
    """The members to show: of every split and class one, then others."""
    seen: collections.Counter = collections.Counter()
    turns = []
    for place, member in enumerate(cluster.members):
        group = member.split, member.label
        turns.append((seen[group], place))
        seen[group] += 1
    chosen = sorted(place for _, place in sorted(turns)[:MOST_MEMBERS])
    return [cluster.members[place] for place in chosen]


class _Pictures:
    """Gives pictures as addresses that hold them, until the page is full."""

    def __init__(
        self,
        thumbnail: Callable[[str, str], bytes | None],
        fits: Callable[[str, str], dict[str, bytes]],
    ):
        # An example may have many findings.
        self._thumbnail = functools.cache(thumbnail)
        self._fits = functools.cache(fits)
        self._room = Room(MOST_PICTURE_BYTES)

    @property
    def full(self) -> bool:
        return self._room.full

    def thumbnail(self, split: str, id: str) -> Markup | None:
        if self.full:
            return None
        return self._room.address(self._thumbnail(split, id))

    def fits(self, split: str, id: str) -> list[tuple[str, Markup]]:
        """How it is fitted, and an address."""
        made = {} if self.full else self._fits(split, id)
        addresses = (
            (how, self._room.address(made.get(how)))
            for how in ("squash", "crop", "pad")
        )
        return [(how, address) for how, address in addresses if address]


def _classes(findings: Findings) -> dict[str, Any]:
    """The table of classes; of very many only the largest and smallest."""
    rows = [
        (name, [counts[label] for counts in findings.counts.values()])
        for label, name in enumerate(findings.class_names)
    ]
    hidden = max(0, len(rows) - MOST_CLASSES)
    if hidden:
        rows.sort(key=lambda row: -sum(row[1]))
        half = MOST_CLASSES // 2
        rows = [*rows[:half], *rows[-half:]]
    return {
        "splits": list(findings.counts),
        "totals": [sum(counts) for counts in findings.counts.values()],
        # Bars of a split are drawn against its largest class.
        "largest": [max(c, default=0) for c in findings.counts.values()],
        "rows": rows,
        "hidden": hidden,
    }


def _tally(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """Name, count and share, the most frequent first."""
    total = sum(counts.values())
    rows = sorted(counts.items(), key=lambda item: -item[1])
    return [(name, n, n / total if total else 0.0) for name, n in rows]


def _class_name(findings: Findings, label: int) -> str:
    return findings.class_names[label] if label >= 0 else ""
