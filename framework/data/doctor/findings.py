"""Turns what the doctor found into JSON, a quarantine list, and back."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

VERSION = 1


# Of duplicates, the one in the first of these splits is kept.
_KEEP = ("test", "validation", "train")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        title: names it in a table.
        meaning: what it means, and what one may do about it.
        severity: "lost" where the pipeline can't read the example, "warning"
            where it should be looked at, "note" where it is only said.
    """

    title: str
    meaning: str
    severity: str


# In the order of the report.
KINDS: dict[str, Kind] = {
    "unreadable": Kind(
        "Does not decode",
        "Training leaves it out. Fetch the file again, or convert it.",
        "lost",
    ),
    "damaged": Kind(
        "Damaged, yet decodes",
        "Decoders complain and go on: part of the picture may be grey or "
        "shifted. Training uses it. Look at it, and fetch it again.",
        "warning",
    ),
    "wrong_extension": Kind(
        "Not what its name says",
        "The content decides; the picture is used. Rename it.",
        "note",
    ),
    "header": Kind(
        "JPEG without a JFIF header",
        "As cameras write it; the picture is used. Some programs skip such "
        "files, TFDS's builder of cats_vs_dogs among them.",
        "note",
    ),
    "mode": Kind(
        "Unusual pixels",
        "Not plain RGB of 8 bits: what the pipeline makes of it is told.",
        "note",
    ),
    "orientation": Kind(
        "Turned by EXIF",
        "Stored lying and turned upright on reading, here and in the "
        "exported model. Other programs may not turn it.",
        "note",
    ),
    "exact_duplicate": Kind(
        "Exact duplicate",
        "The same bytes again. Across splits it flatters the figures; across "
        "classes one of the labels is wrong.",
        "warning",
    ),
    "near_duplicate": Kind(
        "Near duplicate",
        "The same picture, encoded or scaled anew, or the next frame. Across "
        "splits it flatters the figures.",
        "warning",
    ),
    "label": Kind(
        "Suspected label",
        "A classifier that has not seen the picture is sure of another "
        "class. Look at it; correct the label where it is wrong.",
        "warning",
    ),
    "blank": Kind("Blank", "Hardly anything is on it.", "warning"),
    "dark": Kind("Dark", "Even its brightest parts are dark.", "warning"),
    "light": Kind("Overexposed", "Even its darkest parts are light.", "note"),
    "blurry": Kind(
        "Blurry",
        "Few edges, as cleanvision measures them. Sharp things on a plain "
        "background have few, too: look before you leave one out.",
        "note",
    ),
    "aspect": Kind(
        "Extreme aspect ratio",
        "Squash distorts it, crop cuts much of it off, pad makes it small.",
        "warning",
    ),
    "tiny_subject": Kind(
        "Tiny subject",
        "What is to be seen fills a small part of the picture: at the "
        "model's size little of it is left.",
        "note",
    ),
    "small": Kind(
        "Smaller than the model's input",
        "It is scaled up: no detail is there to be learned from.",
        "note",
    ),
    "left_out": Kind(
        "No example",
        "Lies among the images and is not used.",
        "note",
    ),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing about one example, or about a file that is none.

    Attributes:
        kind: a key of `KINDS`.
        split: "train", ...; "" for a file that is no example.
        id: the example's; the path of a file that is none.
        label: the example's class, an index; -1 for a file that is none.
        reason: what exactly, in a sentence or less.
        score: what findings of this kind are ranked by, the lowest first.
        suggested: of a suspected label, the class it looks like; else -1.
    """

    kind: str
    split: str
    id: str
    label: int
    reason: str
    score: float | None = None
    suggested: int = -1


@dataclasses.dataclass(frozen=True)
class Member:
    """An example that has duplicates: split, id and label as in `Finding`."""

    split: str
    id: str
    label: int


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Examples that are the same picture.

    Attributes:
        kind: "exact_duplicate" or "near_duplicate".
        members: at least two, in the order of the splits and ids.
    """

    kind: str
    members: tuple[Member, ...]

    @property
    def splits(self) -> list[str]:
        """The splits in which it has members."""
        return list(dict.fromkeys(m.split for m in self.members))

    @property
    def labels(self) -> list[int]:
        """The classes of its members."""
        return sorted({m.label for m in self.members})


@dataclasses.dataclass(frozen=True)
class Findings:
    """What an examination of a task's data found.

    Attributes:
        source: the data's name.
        class_names: in the order of the labels.
        counts: how many examples of each class, by split.
        formats: how many examples of each true format ("JPEG").
        modes: how many of each kind of pixels ("RGB", "CMYK").
        sizes: of "width", "height" (pixels) and "aspect" (width / height):
            the quantiles 0, 5, 25, 50, 75, 95 and 100 %. Empty where nothing
            decodes.
        findings: by kind in the order of `KINDS`, then by score, then by
            split and id. Duplicates are in `clusters` and not here.
        clusters: duplicates, those across splits and classes first.
        sample: of some examples, by id, the digest of their bytes: by it one
            knows the data again.
        remarks: which checks were left out, and why.
        seconds: how long each part took.
    """

    source: str
    class_names: tuple[str, ...]
    counts: Mapping[str, Sequence[int]]
    formats: Mapping[str, int]
    modes: Mapping[str, int]
    sizes: Mapping[str, Sequence[float]]
    findings: tuple[Finding, ...]
    clusters: tuple[Cluster, ...]
    sample: Mapping[str, str] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def of(self, kind: str) -> list[Finding]:
        """The findings of one kind."""
        return [f for f in self.findings if f.kind == kind]

    def clusters_of(self, kind: str) -> list[Cluster]:
        """The duplicates of one kind."""
        return [c for c in self.clusters if c.kind == kind]

    def leaks(self) -> list[Cluster]:
        """Duplicates with members in several splits, each picture once."""
        return once([c for c in self.clusters if len(c.splits) > 1])

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` is its inverse."""
        return {"version": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Findings":
        """The findings that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it did not write this.
        """
        content = dict(content)
        version = content.pop("version")
        if version != VERSION:
            raise ValueError(f"findings of version {version}, not {VERSION}")
        return cls(
            **{
                **content,
                "class_names": tuple(content["class_names"]),
                "findings": tuple(Finding(**f) for f in content["findings"]),
                "clusters": tuple(
                    Cluster(c["kind"], tuple(Member(**m) for m in c["members"]))
                    for c in content["clusters"]
                ),
                "remarks": tuple(content["remarks"]),
            }
        )


def once(clusters: Sequence[Cluster]) -> list[Cluster]:
    """Without exact duplicates that are part of a cluster of near ones."""
    near = {
        member.id
        for cluster in clusters
        if cluster.kind == "near_duplicate"
        for member in cluster.members
    }
    return [
        cluster
        for cluster in clusters
        if cluster.kind == "near_duplicate"
        or any(member.id not in near for member in cluster.members)
    ]


def quarantined(findings: Findings, kind: str) -> list[Finding]:
    """The examples that quarantining a kind of findings leaves out.

    Of duplicates of one class one stays, in the test split if there is one, so
    that what is judged on stays the same; of those with several classes none
    does, since nobody knows which is right.
    """
    listed = [f for f in findings.of(kind) if f.split]
    for cluster in findings.clusters_of(kind):
        kept = min(cluster.members, key=lambda m: _KEEP.index(m.split))
        reason = f"{KINDS[kind].title.lower()} of {kept.id}"
        if len(cluster.labels) > 1:
            kept, reason = None, f"{KINDS[kind].title.lower()} of another class"
        listed += [
            Finding(kind, m.split, m.id, m.label, reason)
            for m in cluster.members
            if m != kept
        ]
    return listed


def quarantine_csv(findings: Sequence[Finding]) -> str:
    """A CSV file of what training is to leave out: path, reason, split."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason", "split"])
    for finding in findings:
        writer.writerow([finding.id, finding.reason, finding.split])
    return text.getvalue()


def dumps(findings: Findings) -> str:
    """`findings.json`, a finding a line."""
    return json.dumps(findings.to_json(), indent=1) + "\n"
