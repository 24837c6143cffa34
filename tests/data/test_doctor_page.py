"""The doctor's page, whatever is found and whatever it is called."""

import base64
import html.parser
import re
import shutil
import subprocess

import pytest

from framework.data.doctor import page as doctor_page
from framework.data.doctor.findings import (
    KINDS,
    Cluster,
    Finding,
    Findings,
    Member,
)
from framework.data.doctor.page import page, shown, verdict

PNG = b"\x89PNG\r\n\x1a\n of a picture"
JPEG = b"\xff\xd8\xff of a picture"
CHROMIUM = next(
    filter(
        None,
        map(shutil.which, ("chromium", "chromium-browser", "google-chrome")),
    ),
    None,
)
HOSTILE = (
    "<script>alert(1)</script>",
    "quo\"te's & <b>amp</b>",
    "new\nline\ttab\r",
    "evil\u202egnp.exe\u2066",
    "sur\udc80rogate\\xff",
    "nul\x00\x1b[31mred",
    "x" * 900,
    "zero\u200bwidth\ufeff",
    "</style></title><img src=x onerror=alert(2)>",
    "{{ 7 * 7 }}{% include 'x' %}",
    "http://elsewhere.example/x.png",
)


def found(findings=(), clusters=(), **others):
    return Findings(
        **{
            "source": "pets",
            "class_names": ("cat", "dog"),
            "counts": {"train": [800, 801], "test": [201, 200]},
            "formats": {"JPEG": 1990, "PNG": 12},
            "modes": {"RGB": 1997, "CMYK": 5},
            "sizes": {
                "width": [41, 150, 320, 447, 499, 500, 1023],
                "height": [32, 140, 263, 374, 421, 499, 768],
                "aspect": [0.26, 0.7, 0.89, 1.17, 1.34, 1.51, 4.1],
            },
            "findings": tuple(findings),
            "clusters": tuple(clusters),
            **others,
        }
    )


def of(kind, count, **others):
    return [
        Finding(kind, "train", f"{kind}/{i:05}.jpg", 0, f"reason {i}", **others)
        for i in range(count)
    ]


def cluster(*members, kind="exact_duplicate"):
    return Cluster(kind, tuple(Member(*m) for m in members))


def made(findings, thumbnail=lambda *_: JPEG, fits=lambda *_: {"pad": PNG}):
    text = page(findings, thumbnail, fits)
    return text, Read(text)


class Read(html.parser.HTMLParser):
    """What a browser makes of a page: its tags and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.texts = []
        self._silent = 0
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._silent:
            self.texts.append(data)

    def attributes(self, name):
        return [a[name] for _, a in self.tags if name in a]


def everything():
    findings = [f for kind in KINDS if "dup" not in kind for f in of(kind, 60)]
    return found(
        findings,
        [
            cluster(("train", "a", 0), ("test", "b", 0)),
            cluster(("train", "c", 0), ("train", "d", 1)),
            cluster(
                ("train", "e", 0), ("train", "f", 0), kind="near_duplicate"
            ),
        ],
    )


def hostile():
    return found(
        [
            Finding(kind, name, name, i, name, suggested=i)
            for kind in ("unreadable", "label", "aspect", "left_out")
            for i, name in enumerate(HOSTILE)
        ],
        [
            cluster((name, name, i), ("test", f"{name}2", 0))
            for i, name in enumerate(HOSTILE)
        ],
        source=HOSTILE[0],
        class_names=HOSTILE,
        counts={name: range(len(HOSTILE)) for name in HOSTILE},
        formats=dict.fromkeys(HOSTILE, 1),
        modes=dict.fromkeys(HOSTILE, 1),
        remarks=HOSTILE,
        seconds=dict.fromkeys(HOSTILE, 1.0),
    )


@pytest.mark.parametrize("findings", [found(), everything(), hostile()])
def test_the_page_asks_for_nothing_outside(findings):
    text, read = made(findings)
    for address in read.attributes("src") + read.attributes("href"):
        assert re.match(r"data:|#|(findings\.json|quarantine\.csv)$", address)
    assert "url(" not in text and "@import" not in text
    assert {"link", "script"} >= {t for t, _ in read.tags} & {
        "link", "script", "iframe", "object", "embed", "base", "form"
    }  # fmt: skip
    anchors = {a[1:] for a in read.attributes("href") if a.startswith("#")}
    ids = read.attributes("id")
    assert anchors <= set(ids) and len(ids) == len(set(ids))


def test_names_are_text_whatever_they_are():
    text, read = made(hostile())
    _, plain = made(found())
    assert text.encode("utf-8")
    tags = {tag for tag, _ in read.tags}
    assert "b" not in tags
    assert sum(tag == "script" for tag, _ in read.tags) == 1
    assert not read.attributes("onerror")
    for name in (0, 1, 8, 9, 10):
        assert HOSTILE[name] in read.text
    for name in (
        r"new\nline\ttab\r",
        r"evil\u202egnp.exe\u2066",
        r"sur\udc80rogate\xff",
        r"nul\x00\x1b[31mred",
        r"zero\u200bwidth\ufeff",
    ):
        assert name in read.text
    assert "x" * 201 not in text
    # Only the page itself breaks lines.
    assert all(c.isprintable() or c == "\n" for c in text)
    assert plain.text.startswith("Data report: pets")


def test_the_figures_are_those_of_the_findings():
    findings = found(
        [
            *of("unreadable", 3),
            *of("blank", 1234, score=0.5),
            # The same examples again.
            *(Finding("dark", "train", f"blank/{i:05}.jpg", 0, "")
              for i in range(9)),
            *of("small", 7),
        ],
        [
            cluster(("train", "a", 0), ("test", "b", 0)),
            cluster(("train", "c", 0), ("test", "d", 1)),
            cluster(("train", "e", 0), ("train", "f", 0)),
        ],
        remarks=("Labels were not checked.",),
        seconds={"decoding": 31.24},
    )  # fmt: skip
    _, read = made(findings)
    assert verdict(findings) == (
        "2,002 examples, 2 classes. 3 are lost to training and 1,234 want a "
        "look. There are 3 sets of duplicates: 2 in several splits and 1 under "
        "several classes."
    )
    for text in (
        verdict(findings),
        "Does not decode lost 3 Training leaves it out",
        "Blank warning 1,234 Hardly anything",
        "Dark warning 9 Even",
        "Exact duplicate warning 3 sets of 6 examples",
        "and 1,186 more in findings.json",
        "cat 800 201",
        "dog 801 200",
        "All 1,601 401",
        "JPEG 1,990 99.4 %",
        "CMYK 5 0.2 %",
        "Width, pixels 41 150 320 447 499 500 1,023",
        "Width / height 0.26 0.70 0.89 1.17 1.34 1.51 4.10",
        "2 times across splits across classes",
        "decoding 31.2",
        "Labels were not checked.",
        "score 0.5",
        "train.doctor = '<run directory>'",
    ):
        assert text in read.text
    for meaning in ("unreadable", "blank", "dark", "small"):
        assert KINDS[meaning].meaning in read.text


def test_the_first_of_each_kind_are_shown_with_their_pictures():
    findings = everything()
    asked = []

    def thumbnail(split, example_id):
        asked.append((split, example_id))
        return JPEG

    _, read = made(findings, thumbnail)
    for finding in findings.findings:
        number = int(finding.id[-9:-4])
        is_shown = number < doctor_page.MOST_FINDINGS
        assert (finding.id in read.text) == is_shown
    # What is slow is done once, and for nothing that isn't shown.
    assert len(asked) == len(set(asked))
    assert set(asked) == shown(findings)
    assert not any(name.startswith("left_out") for _, name in asked)
    pictures = [a for t, a in read.tags if t == "img"]
    jpeg = f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"
    png = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert {a["src"] for a in pictures} == {jpeg, png}
    assert all(a["alt"] for a in pictures)
    assert sum(a["src"] == png for a in pictures) == 2 * 48


def test_what_has_no_picture_says_why():
    findings = found(of("unreadable", 1) + of("dark", 1) + of("aspect", 1))
    _, read = made(findings, lambda *_: None, lambda *_: {})
    assert "img" not in {tag for tag, _ in read.tags}
    assert "Does not decode unreadable/00000.jpg train · cat" in read.text
    assert "No preview dark/00000.jpg" in read.text


def test_suspected_labels_say_what_they_look_like():
    _, read = made(found(of("label", 1, score=0.01, suggested=1)))
    assert "cat → , suggested: dog label/00000.jpg train reason 0" in read.text


def test_of_many_duplicates_every_split_and_class_is_shown():
    members = [("train", f"many{i:02}", 0) for i in range(30)]
    findings = found(
        clusters=[cluster(*members, ("train", "odd", 1), ("test", "leak", 0))]
    )
    _, read = made(findings)
    assert "32 times across splits across classes" in read.text
    for name in ("many00", "many03", "odd", "leak", "and 26 more in"):
        assert name in read.text
    assert "many04" not in read.text


def test_nothing_found():
    _, read = made(found())
    assert "2,002 examples, 2 classes. Nothing was found" in read.text
    assert "no class has more than three times" in read.text
    assert "No check was left out." in read.text
    assert "h3" not in {tag for tag, _ in read.tags}


def test_no_examples_at_all():
    _, read = made(
        found(class_names=(), counts={}, formats={}, modes={}, sizes={})
    )
    assert "0 examples, 0 classes." in read.text
    assert "No picture decodes" in read.text


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (
            {"train": [100, 301]},
            "In train, dog has 3.0 times as many examples as cat: 301 against "
            "100.",
        ),
        ({"train": [9, 9], "test": [0, 9]},
         "In test, there is no example of cat."),
        ({"train": [9, 9], "test": [0, 0]}, "In test, there are no examples."),
    ],
)  # fmt: skip
def test_unbalanced_classes(counts, sentence):
    _, read = made(found(counts=counts))
    assert sentence in read.text
    assert "The classes are unbalanced." in read.text
    assert "no class has more than" not in read.text


def test_the_page_stays_small():
    name = "<&\u202e>'" * 1000
    kinds = [kind for kind in KINDS if "dup" not in kind]
    findings = found(
        [
            Finding(kind, "train", f"{name}{i}", 0, name, 0.1)
            for kind in kinds
            for i in range(1000)
        ],
        [
            cluster(*(("train", f"{name}{i}", i % 2) for i in range(50)),
                    kind=kind)
            for kind in ("exact_duplicate", "near_duplicate")
            for _ in range(100)
        ],
        class_names=tuple(f"{i:05}{name}" for i in range(5000)),
        counts={"train": range(5000)},
        remarks=(name,) * 1000,
    )  # fmt: skip
    calls = []

    def thumbnail(*example):
        calls.append(example)
        return bytes(100_000)

    text = page(findings, thumbnail, lambda *_: {})
    assert len(text.encode("utf-8")) < 15_000_000
    assert len(calls) <= doctor_page.MOST_PICTURE_BYTES / 100_000 + 1
    assert "Not shown: the page has enough pictures" in text
    assert "4,940 between them left out" in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")
def test_a_browser_shows_it_on_a_narrow_screen(tmp_path):
    probe = (
        "<script>parent.postMessage(`width ${innerWidth}, overflow "
        "${document.documentElement.scrollWidth > innerWidth}, filter "
        "${!document.querySelector('.filter').hidden}`, '*')</script></body>"
    )
    for name, findings in (("plain", everything()), ("hostile", hostile())):
        text, _ = made(findings)
        (tmp_path / f"{name}.html").write_text(
            text.replace("</body>", probe), encoding="utf-8"
        )
    # A window can't be that narrow.
    frames = tmp_path / "frames.html"
    frames.write_text(
        "<!DOCTYPE html><script>onmessage = message => "
        "document.title += `${message.data}; `</script>"
        "<iframe src='plain.html' width=390 height=800 frameborder=0></iframe>"
        "<iframe src='hostile.html' width=390 height=800 frameborder=0>"
    )
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=2000",
            "--dump-dom",
            frames.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.count("width 390, overflow false, filter true") == 2
    assert "CONSOLE" not in done.stderr
