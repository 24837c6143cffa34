"""What is said of single files, and of many in worker processes."""

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import fatal
import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

from framework.data.doctor import examine, survey
from framework.data.doctor.examine import examine_bytes, examine_path
from framework.data.images import decode
from framework.data.limits import MAX_PIXELS
from framework.data.source import IndexedExamples, StreamedExamples


def kinds(found) -> list[str]:
    return [kind for kind, _ in found.remarks]


@pytest.mark.parametrize(
    ("form", "name", "options"),
    [
        ("JPEG", "a.jpg", {}),
        ("JPEG", "a.jpeg", {"progressive": True}),
        ("PNG", "a.png", {}),
        ("GIF", "a.gif", {}),
        ("BMP", "a.bmp", {}),
        ("WEBP", "a.webp", {}),
        ("JPEG", "no_ending", {}),
    ],
)
def test_good_pictures_are_not_accused(form, name, options):
    found = examine_bytes(encoded(photo(), form, **options), name, MAX_PIXELS)
    assert (found.width, found.height) == (90, 60)
    assert found.format.upper() == form
    # A GIF has a palette, and that is said.
    assert kinds(found) == (["mode"] if form == "GIF" else [])
    assert found.thumbnail.shape == (examine.THUMBNAIL,) * 2
    grey = np.asarray(photo().convert("L"), float)
    assert abs(found.thumbnail.mean() - grey.mean()) < 3


JPEG = encoded(photo(), "JPEG")
PNG = encoded(photo(), "PNG")


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"", "unreadable", "empty"),
        (b"Dear all,\nno picture here.", "unreadable", "text: 'Dear all, no"),
        (bytes(500), "unreadable", "zeros"),
        (b"\x01\x02\x03\x04rubbish\xff", "unreadable", "01 02 03 04"),
        (encoded(photo(), "TIFF"), "unreadable", "TIFF image"),
        (b"%PDF-1.7 ...", "unreadable", "PDF"),
        (b"PK\x03\x04 broken", "unreadable", "zip archive, which is damaged"),
        (JPEG[: len(JPEG) // 2], "damaged", "premature end"),
        (JPEG[:-2], "damaged", "premature end"),
        (PNG[:-12], "damaged", "the end of the PNG is missing"),
        (flipped(PNG, len(PNG) // 2), "damaged", "checksum of its 'IDAT'"),
        (PNG[:20], "damaged", ""),
        (JPEG[:30], "damaged", ""),
    ],
)
def test_what_is_wrong_is_named(content, kind, reason):
    found = examine_bytes(content, "a.jpg", MAX_PIXELS)
    reasons = [r for k, r in found.remarks if k == kind]
    assert reasons and reason.lower() in reasons[0].lower()
    # What is damaged may decode all the same: the pipeline is asked.
    assert found.decodes is (False if kind == "unreadable" else None)


def test_archives_that_lead_outside_are_named():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photos/1.jpg", b"")
        archive.writestr("../../etc/cron.d/job", b"")
    found = examine_bytes(buffer.getvalue(), "photos.zip", MAX_PIXELS)
    (reason,) = [r for _, r in found.remarks]
    assert "'../../etc/cron.d/job'" in reason and "do not unpack" in reason


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header promises more than it holds."""
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def png_of(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">II", width, height) + PNG[24:29]
    checksum = struct.pack(">I", zlib.crc32(chunk))
    return PNG[:12] + chunk + checksum + PNG[33:]


@pytest.mark.parametrize(
    "content", [jpeg_of(65000, 65000), png_of(60000, 60000)]
)
def test_bombs_are_refused_unopened(content):
    found = examine_bytes(content, "", MAX_PIXELS)
    assert found.decodes is False
    assert "pixels" in found.remarks[-1][1]


@pytest.mark.parametrize(
    ("image", "form", "reason"),
    [
        (photo().convert("CMYK"), "JPEG", "CMYK"),
        (photo().convert("P"), "PNG", "palette"),
        (photo().convert("RGBA"), "PNG", "transparent"),
        (photo().convert("LA"), "PNG", "transparent"),
        (Image.fromarray(np.full((9, 9), 999, np.uint16)), "PNG", "16 bits"),
    ],
)
def test_unusual_pixels_are_told(image, form, reason):
    found = examine_bytes(encoded(image, form), "", MAX_PIXELS)
    assert [r for k, r in found.remarks if k == "mode" and reason in r]
    assert "damaged" not in kinds(found)


def test_an_animation_is_told():
    content = encoded(
        photo(), "GIF", save_all=True, append_images=[photo(seed=1)]
    )
    found = examine_bytes(content, "", MAX_PIXELS)
    assert ("mode", "animated: the first frame is used") in found.remarks


@pytest.mark.parametrize("orientation", range(1, 9))
def test_thumbnails_are_upright_as_in_the_pipeline(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photo(), "JPEG", exif=exif, quality=95)
    found = examine_bytes(content, "", MAX_PIXELS)
    assert ("orientation" in kinds(found)) == (orientation > 1)
    upright = Image.fromarray(decode(tf.constant(content)).numpy())
    assert upright.size == (found.width, found.height)
    expected = upright.convert("L").resize(found.thumbnail.shape, 2)
    difference = np.asarray(expected, float) - found.thumbnail
    assert np.abs(difference).mean() < 4


def test_a_header_as_cameras_write_it():
    exif = Image.Exif()
    exif[0x0110] = "camera"
    content = encoded(photo(), "JPEG", exif=exif)
    # Pillow writes a JFIF header before it; cameras do not.
    length = struct.unpack(">H", content[4:6])[0]
    found = examine_bytes(
        content[:2] + content[4 + length :], "a.jpg", MAX_PIXELS
    )
    assert found.format == "JPEG (Exif)"
    assert kinds(found) == ["header"]
    assert found.decodes


def test_the_content_decides_and_the_name_is_compared():
    found = examine_bytes(PNG, "cat.jpg", MAX_PIXELS)
    assert found.remarks == [("wrong_extension", ".jpg, but a PNG")]


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dir.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    for name in ("pipe.jpg", "dir.jpg", "link.jpg", "gone.jpg"):
        found = examine_path(str(tmp_path / name), MAX_PIXELS)
        assert found.decodes is False, name
        assert kinds(found) == ["unreadable"]


def test_workers_know_no_tensorflow():
    code = (
        "import sys; import framework.data.doctor.examine; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_file_that_ends_its_decoder_is_found_out(tmp_path, monkeypatch):
    paths = []
    for number in range(80):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"fatal" if number in (3, 40) else PNG)
        paths.append(str(path))
    monkeypatch.setattr(survey, "examine_many", fatal.examine_many)
    found = list(survey.examine_all(((p, p) for p in paths), processes=2))
    lost = [at for at, f in enumerate(found) if f.decodes is False]
    assert lost == [3, 40]
    assert "ends the program" in found[3].remarks[0][1]
    assert len(found) == 80


def indexed(contents: list[bytes]) -> IndexedExamples:
    held = tf.constant(contents)
    return IndexedExamples(
        ids=np.array([f"e{i}" for i in range(len(contents))], object),
        labels=np.arange(len(contents)) % 2,
        rows=np.arange(len(contents)),
        read=lambda row: tf.gather(held, row),
    )


CONTENTS = [
    JPEG,
    b"",
    PNG,
    JPEG[:400],
    JPEG[:-2],
    b"text",
    png_of(70000, 70000),
]


def streamed(contents: list[bytes]) -> StreamedExamples:
    def stream(seed):
        return tf.data.Dataset.from_tensor_slices(
            {
                "image": contents,
                "label": np.arange(len(contents)) % 2,
                "id": [f"e{i}" for i in range(len(contents))],
            }
        )

    return StreamedExamples(len(contents), stream, None, 1)


@pytest.mark.parametrize("kind", [indexed, streamed])
def test_the_pipeline_decides_what_decodes(kind):
    seen = survey.survey({"train": kind(CONTENTS)})
    for content, found in zip(CONTENTS, seen.examinations, strict=True):
        try:
            decode(tf.constant(content))
            expected = True
        except tf.errors.InvalidArgumentError:
            expected = False
        assert found.decodes is expected
        # A reason for each that is lost, and one only.
        assert kinds(found).count("unreadable") == (not expected)
    assert seen.ids.tolist() == [f"e{i}" for i in range(len(CONTENTS))]
    assert seen.has_thumbnail[[0, 2]].all()
    assert seen.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_pixels_in_memory_are_examined_too(arrays):
    seen = survey.survey(arrays.splits)
    assert all(found.decodes for found in seen.examinations)
    assert {found.format for found in seen.examinations} == {"PNG"}
    assert seen.has_thumbnail.all()
