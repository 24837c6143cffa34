"""The doctor as its users meet it: on folders, then in training."""

import csv
import io
import json
import pathlib
import random
import shutil
import subprocess
import sys
import warnings
import zipfile

import pytest
import simplejpeg
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

import framework
from framework.data.doctor.findings import Findings
from framework.data.images import decode
from framework.errors import UserError

SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared"
needs_images = pytest.mark.skipif(
    not SHARED.is_dir(), reason="no real images beside the checkout"
)

GIN = """
include 'gin/base.gin'
import tasks.image_folder
train.task = @image_folder()
train.epochs = 1
train.batch_size = 4
classifier.backbone = @tiny_cnn
classifier.image_size = 24
classifier.head = @softmax_head
doctor.check_labels = False
ImageFolder.root = 'photos'
"""


def doctor(*bindings: str, **options) -> Findings:
    pathlib.Path("own.gin").write_text(GIN)
    found = framework.run("own.gin", [*bindings], mode="doctor", **options)
    return found.findings


FORMS = (("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("BMP", ".bmp"))


def write_good(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Pictures of four formats and many sizes, of two classes."""
    rng = random.Random(0)
    paths = []
    for number in range(count):
        # Half of them JPEG, as in life.
        form, ending = FORMS[max(0, number % 6 - 2)]
        image = photo(rng.randint(30, 120), rng.randint(30, 120), number)
        path = folder / ("cat", "dog")[number % 2] / f"good{number}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        options = (
            {"quality": rng.choice([60, 80, 95])} if form == "JPEG" else {}
        )
        path.write_bytes(encoded(image, form, **options))
        paths.append(path)
    return paths


def damage(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done, and what came of it."""
    kind = rng.choice(
        [
            *("truncated at the start", "truncated", "truncated at the end"),
            *("flipped", "flipped in the header", "overwritten"),
            *("empty", "text", "zip", "huge header", "other ending"),
        ]
    )
    size = len(content)
    if kind == "truncated at the start":
        content = content[: rng.randint(1, 60)]
    elif kind == "truncated":
        content = content[: rng.randint(1, size - 1)]
    elif kind == "truncated at the end":
        content = content[: -rng.randint(1, 4)]
    elif kind.startswith("flipped"):
        content = bytearray(content)
        within = 200 if kind.endswith("header") else size
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(min(within, size))
            content[at] ^= 1 << rng.randrange(8)
        content = bytes(content)
    elif kind == "overwritten":
        at = rng.randrange(size)
        content = content[:at] + rng.randbytes(40) + content[at + 40 :]
    elif kind == "empty":
        content = b""
    elif kind == "text":
        content = b"This is not the picture that you are looking for.\n" * 9
    elif kind == "zip":
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as archive:
            archive.writestr("../../picture.jpg", content)
        content = held.getvalue()
    elif kind == "huge header" and content[:2] == b"\xff\xd8":
        at = content.find(b"\xff\xc0") + 5
        content = content[:at] + b"\xff\xdc\xff\xdc" + content[at + 4 :]
    elif kind == "huge header" and content[1:4] == b"PNG":
        content = content[:16] + b"\0\1\0\0\0\1\0\0" + content[24:]
    return kind, content


def fails_or_warns(content: bytes) -> bool:
    """By decoders that are not the doctor's way of asking them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Image.open(io.BytesIO(content)).convert("RGB")
        if content.startswith(b"\xff\xd8"):
            simplejpeg.decode_jpeg(content, "RGB", strict=True)
        return not decodes(content)
    except Exception:
        return True


def decodes(content: bytes) -> bool:
    try:
        decode(tf.constant(content))
    # The latter where TensorFlow's message quotes bytes of the file.
    except (tf.errors.OpError, UnicodeDecodeError):
        return False
    return True


@pytest.mark.parametrize(
    ("good", "damaged"),
    [(24, 96), pytest.param(500, 2000, marks=pytest.mark.slow)],
)
def test_damage_is_found_the_good_are_not_accused_and_training_goes_on(
    in_tmp, good, damaged
):
    originals = write_good(in_tmp / "photos", good)
    rng = random.Random(1)
    for number in range(damaged):
        original = rng.choice(originals)
        kind, content = damage(original.read_bytes(), rng)
        ending = original.suffix
        if kind == "other ending":
            ending = rng.choice([e for _, e in FORMS if e != ending])
        path = original.parent / f"bad{number}-{kind.replace(' ', '-')}"
        path.with_suffix(ending).write_bytes(content)
    contents = {
        str(path.relative_to(in_tmp / "photos")): path.read_bytes()
        for path in (in_tmp / "photos").rglob("*.*")
    }
    assert len(contents) == good + damaged

    findings = doctor()

    accused = {f.id for f in findings.findings if f.kind not in TOLD}
    lost = {f.id for f in findings.of("unreadable")}
    for name, content in contents.items():
        if "good" in name:
            assert name not in accused, name
        elif fails_or_warns(content) or "other-ending" in name:
            assert name in accused, name
        assert (name in lost) == (not decodes(content)), name
    assert len(lost) > damaged / 4
    (directory,) = (in_tmp / "runs/own/doctor").iterdir()
    with open(directory / "quarantine.csv", newline="") as file:
        listed = {row["path"] for row in csv.DictReader(file)}
    assert listed == lost

    result = framework.run("own.gin", [f"train.doctor = '{directory}'"])
    seen = split_ids(result.directory)
    assert set(seen) == set(contents) - lost
    assert len(seen) == len(set(seen))
    assert result.summary["unreadable"] == []
    # Without the doctor's help the same are left out on the way.
    result = framework.run("own.gin", ["pipeline.max_unreadable = 1.0"])
    assert set(result.summary["unreadable"]) == lost
    assert set(split_ids(result.directory)) == set(contents)


# What is said of good pictures, too.
TOLD = ("mode", "small", "tiny_subject", "aspect", "dark", "light", "blurry")
TOLD += ("blank", "header", "orientation")


def split_ids(directory: str | pathlib.Path) -> list[str]:
    with open(pathlib.Path(directory) / "splits.csv", newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


def test_a_report_as_json_as_a_page_and_on_the_console(in_tmp, capsys):
    paths = write_good(in_tmp / "photos", 24)
    shutil.copy(paths[0], paths[0].parent / "again.jpg")
    (in_tmp / "photos/cat/notes.txt").write_text("a text")
    (in_tmp / "photos/cat/broken.jpg").write_bytes(b"")
    findings = doctor()
    said = capsys.readouterr().out
    directory = in_tmp / "runs/own/doctor/001"
    assert {p.name for p in directory.iterdir()} == {
        *("config.gin", "operative.gin", "environment.json"),
        *("findings.json", "doctor.html", "quarantine.csv", "summary.json"),
    }
    read = json.loads((directory / "findings.json").read_text())
    assert Findings.from_json(read) == findings
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["found"]["unreadable"] == 1
    assert summary["found"]["exact_duplicate"] == 1
    assert summary["quarantined"] == 1
    page = (directory / "doctor.html").read_text()
    assert "again.jpg" in page and "broken.jpg" in page
    for words in (
        "Does not decode",
        "cat/broken.jpg: an empty file",
        "No example",
        "train.doctor = 'runs/own/doctor/001'",
        "Labels were not checked",
    ):
        assert words in said
    (left_out,) = findings.of("left_out")
    assert left_out.id.endswith("photos/cat/notes.txt")
    assert left_out.reason == "no images: no image, but a text: 'a text'"
    # A second examination is another run; nothing was moved.
    doctor()
    assert (in_tmp / "runs/own/doctor/002/summary.json").exists()
    assert (in_tmp / "photos/cat/broken.jpg").exists()
    assert not (in_tmp / "runs/latest").exists()


def test_leaks_into_given_splits_are_told_when_training_starts(in_tmp, capsys):
    for split, count in (("train", 20), ("test", 8)):
        write_good(in_tmp / "photos" / split, count)
    assert len(doctor().leaks()) == 8
    capsys.readouterr()
    result = framework.run("own.gin", ["image_folder.validation = 0.0"])
    said = capsys.readouterr().out
    assert "LEAK: 8 pictures are on more than one side" in said
    assert "train.doctor = 'runs/own/doctor/001' honours them" in said
    assert any("LEAK" in note for note in result.summary["data"]["notes"])


def test_another_finished_examination_is_not_overwritten(in_tmp):
    write_good(in_tmp / "photos", 8)
    doctor(workdir="found")
    with pytest.raises(UserError, match="holds a finished examination"):
        doctor(workdir="found")


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("doctor.likeness = 98", "between 0 and 1"),
        ("doctor.quarantine = ['unreadible']", "'unreadable'"),
        ("doctor.quarantine = 'unreadable'", "expected a list of texts"),
    ],
)
def test_mistakes_are_told_before_any_work(in_tmp, binding, message):
    write_good(in_tmp / "photos", 8)
    with pytest.raises(UserError, match=message):
        doctor(binding)
    assert not (in_tmp / "runs").exists()


def test_from_the_command_line_it_ends_with_0(in_tmp):
    write_good(in_tmp / "photos", 8)
    (in_tmp / "photos/cat/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (in_tmp / "own.gin").write_text(GIN)
    command = [sys.executable, "-m", "framework.main", "--gin_file=own.gin"]
    done = subprocess.run(
        [*command, "--mode=doctor", "--apply"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "quarantine.csv" in done.stdout
    assert "Traceback" not in done.stderr
    assert "cat/broken.jpg" not in split_ids(in_tmp / "runs/own/001")
    assert len(split_ids(in_tmp / "runs/own/001")) == 8
    assert (in_tmp / "photos/cat/broken.jpg").exists()
    done = subprocess.run(
        [*command, "--apply"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "expected --mode=doctor" in done.stderr


@needs_images
def test_camera_headers_are_named_and_nothing_is_lost(in_tmp):
    root = SHARED / "data" / "petimages_40"
    findings = doctor(f"ImageFolder.root = '{root}'")
    named = {f.id: f.reason for f in findings.of("header")}
    assert set(named) == {
        *(f"Cat/{n}.jpg" for n in (11, 12, 19)),
        *(f"Dog/{n}.jpg" for n in (2, 10, 13)),
    }
    assert all("Exif" in reason for reason in named.values())
    assert findings.of("unreadable") == findings.of("damaged") == []
    assert findings.formats == {"JPEG": 34, "JPEG (Exif)": 6}


@needs_images
@pytest.mark.slow
def test_planted_copies_and_swapped_labels_are_found(in_tmp):
    """On 2,002 photographs: 60 copies, 30 swaps."""
    planted = plant(in_tmp / "photos", seed=0)
    findings = doctor(
        "doctor.check_labels = True", "classifier.image_size = 224"
    )
    together = [
        {m.id for m in cluster.members} for cluster in findings.clusters
    ]
    for copy, original in planted["copies"].items():
        assert any({copy, original} <= ids for ids in together), copy
    suspects = [f.id for f in findings.of("label")]
    right = planted["swapped"].intersection(suspects[:60])
    assert len(right) >= 25
    # Two of the photographs are nearly the same, by themselves.
    copies = {*planted["copies"], *planted["copies"].values()}
    twins = {m.id for c in findings.clusters for m in c.members} - copies
    assert {pathlib.Path(i).name for i in twins} == {
        "dog.74.jpg",
        "dog.180.jpg",
    }
    print(
        f"{len(right)} of 30 swaps within the first 60 suspects; untouched and "
        f"accused: {len(set(suspects) - planted['swapped'])} labels, "
        f"{len(twins)} duplicates"
    )


def plant(root: pathlib.Path, seed: int) -> dict:
    """cats_and_dogs with faults, 3 to 1 in train and test.

    Returns:
        "copies": by the path of each copy that of its original, half of them
        byte by byte in the same split, the others encoded and scaled anew in
        the other one; "swapped": what lies in the wrong class's folder.
    """
    rng = random.Random(seed)
    places = []
    for animal in ("cats", "dogs"):
        source = sorted((SHARED / "data/cats_and_dogs" / animal).iterdir())
        rng.shuffle(source)
        for number, path in enumerate(source):
            split = "train" if number < 0.75 * len(source) else "test"
            place = root / split / animal / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
            places.append(place)
    rng.shuffle(places)
    copies, swapped = {}, set()
    for number, place in enumerate(places[:60]):
        if number < 30:
            copy = place.with_name(f"copy-{place.name}")
            shutil.copy(place, copy)
        else:
            split = {"train": "test", "test": "train"}[place.parts[-3]]
            copy = root / split / place.parent.name / f"anew-{place.name}"
            scale = rng.uniform(0.35, 1.4)
            with Image.open(place) as image:
                sides = [max(8, round(side * scale)) for side in image.size]
                image.resize(sides, Image.Resampling.LANCZOS).save(
                    copy, quality=rng.randint(40, 90)
                )
        copies[str(copy.relative_to(root))] = str(place.relative_to(root))
    for place in places[60:90]:
        other = {"cats": "dogs", "dogs": "cats"}[place.parent.name]
        wrong = place.parent.parent / other / place.name
        place.rename(wrong)
        swapped.add(str(wrong.relative_to(root)))
    return {"copies": copies, "swapped": swapped}
