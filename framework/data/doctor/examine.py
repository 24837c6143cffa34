"""Turns the bytes of one file into what is to be said of it.

Knows no TensorFlow: it runs in worker processes, which start quickly without,
and whose end, should a file bring it about, is not ours.
"""

import dataclasses
import hashlib
import io
import os
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import Image

from framework.data.limits import MAX_BYTES

# Of a thumbnail. Enough that two photographs of one thing differ, few enough
# that those of a million pictures fit into memory.
THUMBNAIL = 16

# By the first bytes: (offset, bytes, name). Those the pipeline reads, first.
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypavif", "AVIF"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\1\0", "icon"),
    (0, b"PK\3\4", "zip archive"),
    (0, b"PK\5\6", "zip archive"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"7z\xbc\xaf", "7z archive"),
    (0, b"Rar!", "rar archive"),
    (257, b"ustar", "tar archive"),
    (0, b"%PDF", "PDF"),
    (4, b"ftyp", "video"),
    (0, b"\x1aE\xdf\xa3", "video"),
    (0, b"SQLite format 3", "database"),
    (0, b"\x7fELF", "program"),
    (0, b"MZ", "program"),
)
READ_BY_PIPELINE = ("JPEG", "PNG", "GIF", "BMP", "WebP")
_EXTENSIONS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".heic": "HEIC",
    ".avif": "AVIF",
}
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: "mirrored",
    3: "upside down",
    4: "mirrored upside down",
    5: "mirrored, lying",
    6: "lying, a quarter turn to the left",
    7: "mirrored, lying",
    8: "lying, a quarter turn to the right",
}


@dataclasses.dataclass(slots=True)
class Examination:
    """What is to be said of one file.

    Attributes:
        format: what its content is ("JPEG", "zip archive"), whatever its
            name; "" where that can't be told.
        width: of the picture in pixels, as it is seen (upright); 0 unknown.
        height: likewise.
        mode: the kind of its pixels ("RGB", "grey", "CMYK"); "" unknown.
        remarks: (kind, reason) with kinds of `findings.KINDS`.
        decodes: whether the pipeline decodes it; None where only the
            pipeline can tell.
        digest: of the bytes; b"" where they could not be read.
        thumbnail: uint8 `[THUMBNAIL, THUMBNAIL]`, grey 0..255, upright; None
            where it does not decode here.
        quality: measures of `quality`, where asked for.
    """

    format: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    remarks: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    decodes: bool | None = None
    digest: bytes = b""
    thumbnail: np.ndarray | None = None
    quality: dict[str, float] | None = None

    def remark(self, kind: str, reason: str) -> None:
        self.remarks.append((kind, reason))

    def lost(self, reason: str) -> "Examination":
        """Says that the pipeline can't read it, and why."""
        self.remark("unreadable", reason)
        self.decodes = False
        return self


def examine_path(
    path: str, max_pixels: int, measure: bool = False
) -> Examination:
    """Examines a file of this machine; never raises for what is in it.

    Args:
        path: of the file.
        max_pixels: more than the pipeline decodes.
        measure: take the measures of quality too.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return Examination().lost("no file, but a folder or a device")
        if status.st_size > MAX_BYTES:
            return Examination().lost(
                f"{status.st_size:,} bytes, more than any picture should have"
            )
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES)
    except FileNotFoundError:
        return Examination().lost("it is not there, or a link that leads away")
    except OSError as error:
        return Examination().lost(f"can't be read: {error.strerror}")
    return examine_bytes(content, path, max_pixels, measure)


def examine_bytes(
    content: bytes, name: str, max_pixels: int, measure: bool = False
) -> Examination:
    """Examines the content of a file; never raises for what is in it.

    Args:
        content: the bytes.
        name: of the file, for its ending; one without an ending is not
            compared with the content.
        max_pixels: more than the pipeline decodes.
        measure: take the measures of quality too.
    """
    found = Examination()
    found.digest = digest(content)
    if not content:
        return found.lost("an empty file")
    found.format = _format(content)
    if found.format not in READ_BY_PIPELINE:
        return found.lost(_what_it_is(content, found.format))
    _compare_with_name(found, name)
    try:
        with warnings.catch_warnings():
            # Pillow warns of pictures from half of what it refuses, and of
            # damage that it can do without.
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            _look_inside(found, content, max_pixels, measure)
    except (_TooLarge, Image.DecompressionBombError) as error:
        found.lost(_brief(error))
    except Exception as error:  # Pillow raises whatever its parsers meet.
        found.remark("damaged", _brief(error))
        found.decodes = None
    return found


def digest(content: bytes) -> bytes:
    """What tells files apart: 16 bytes of SHA-256."""
    return hashlib.sha256(content).digest()[:16]


class _TooLarge(Exception):
    pass


def _look_inside(
    found: Examination, content: bytes, max_pixels: int, measure: bool
) -> None:
    # Pillow reads the header here, and no pixels.
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise _TooLarge(
                f"{width:,} x {height:,} pixels, more than the "
                f"{max_pixels:,} that are decoded"
            )
        found.width, found.height = width, height
        found.mode = _mode(found, image)
        orientation = _orientation(found, image)
        if orientation >= 5:
            found.width, found.height = height, width
        if found.format.startswith("JPEG"):
            grey = _whole_jpeg(found, content, image)
        else:
            if found.format == "PNG":
                _check_png(content)
            image.load()
            grey = _grey(image)
        thumbnail = np.asarray(
            grey.resize(
                (THUMBNAIL, THUMBNAIL),
                Image.Resampling.BILINEAR,
                reducing_gap=2,
            )
        )
        found.thumbnail = _upright(thumbnail, orientation)
        if measure:
            # Imported where it is needed: it brings pandas with it.
            from framework.data.doctor import quality

            found.quality = quality.measures(image)


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


# What it is.


def _format(content: bytes) -> str:
    for offset, signature, name in _SIGNATURES:
        if content.startswith(signature, offset):
            return name
    return ""


def _what_it_is(content: bytes, kind: str) -> str:
    """Why something that the pipeline does not read is not read."""
    if kind == "zip archive":
        return _zip(content)
    if kind in ("TIFF", "HEIC", "AVIF", "JPEG XL", "JPEG 2000"):
        return f"a {kind} image, which is not read; convert it to JPEG or PNG"
    if kind:
        return f"no image, but: {kind}"
    start = content[:4096]
    if not start.strip(b"\0"):
        return "no image: it begins with nothing but zeros"
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        # The cut may have gone through a character.
        text = start[: error.start].decode() if error.start > 4000 else ""
    if text and all(c.isprintable() or c in "\r\n\t\ufeff" for c in text):
        shown = " ".join(text.split())[:40]
        return f"no image, but a text: {shown!r}"
    return f"no image that is known: it begins with {content[:8].hex(' ')}"


def _zip(content: bytes) -> str:
    reason = "no image, but a zip archive"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except Exception:  # Broken ones end in many kinds of errors.
        return f"{reason}, which is damaged"
    outside = [
        name
        for name in names
        if name.startswith(("/", "\\"))
        or ".." in name.replace("\\", "/").split("/")
    ]
    if outside:
        return (
            f"{reason} with names that lead out of it ({outside[0]!r}): do "
            "not unpack it"
        )
    return f"{reason} of {len(names):,} files; unpack it"


def _compare_with_name(found: Examination, name: str) -> None:
    ending = os.path.splitext(name)[1].lower()
    # What is no ending of images says nothing: ids are not always names.
    if _EXTENSIONS.get(ending, found.format) != found.format:
        found.remark("wrong_extension", f"{ending}, but a {found.format}")


def _mode(found: Examination, image: Image.Image) -> str:
    """The kind of pixels; remarks what the pipeline makes of odd ones."""
    if getattr(image, "is_animated", False) and found.format != "JPEG":
        found.remark("mode", "animated: the first frame is used")
    mode = image.mode
    if mode in ("P", "PA"):
        found.remark("mode", "palette: its colours are looked up")
        if "transparency" in image.info or mode == "PA":
            found.remark("mode", _ALPHA)
        return "palette"
    if mode == "CMYK":
        found.remark("mode", "CMYK: converted to RGB")
    elif mode.startswith("I") or mode == "F":
        found.remark("mode", "16 bits: the upper 8 are used")
        return "grey, 16 bits"
    elif found.format == "PNG" and _png_depth(image) == 16:
        found.remark("mode", "16 bits: the upper 8 are used")
        mode += ", 16 bits"
    if mode.startswith(("RGBA", "LA", "La")):
        found.remark("mode", _ALPHA)
    return mode.replace("LA", "grey, alpha").replace("L", "grey")


_ALPHA = "transparent: alpha is dropped, the colour under it shows"


def _png_depth(image: Image.Image) -> int:
    raw = image.tile[0][3] if image.tile else ""
    raw = raw if isinstance(raw, str) else str(raw)
    return 16 if ";16" in raw else 8


def _orientation(found: Examination, image: Image.Image) -> int:
    """1..8, of a JPEG; nobody turns the others."""
    if found.format != "JPEG":
        return 1
    try:
        turn = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # Damage in there costs no pixels, and is common.
        return 1
    if turn not in _TURNS:
        return 1
    found.remark("orientation", f"stored {_TURNS[turn]}")
    return turn


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As `images._upright` does."""
    if orientation >= 5:
        pixels = pixels.T
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


# Whether it is whole.


def _whole_jpeg(
    found: Examination, content: bytes, image: Image.Image
) -> Image.Image:
    """Decodes a JPEG to grey, to its end, and notices what libjpeg warns of.

    Grey takes two thirds of the time: all of the file is read and checked,
    colours are left out.
    """
    kind, header = _jpeg_header(content)
    if header != "JFIF":
        found.format = f"JPEG ({header or 'no header'})"
        has = f"a header of {header}, none of" if header else "no header of"
        found.remark("header", f"a JPEG with {has} JFIF")
    plain = image.mode in ("L", "RGB") and kind
    try:
        grey = simplejpeg.decode_jpeg(
            content, "GRAY" if plain else "CMYK", strict=True
        )
    except ValueError as error:
        # Whether the pipeline decodes it all the same, it has to say.
        found.remark("damaged", _brief(error))
        image.load()
        return _grey(image)
    if plain:
        # Decoded by what TensorFlow decodes it with: it will.
        found.decodes = True
        return Image.fromarray(grey[..., 0])
    return _grey(image)


def _jpeg_header(content: bytes) -> tuple[int, str]:
    """Reads the segments before the picture: FF, a marker, length, content.

    Returns:
        the marker of the frame, 0xC0 (baseline) or 0xC2 (progressive); 0 for
        kinds that not everybody decodes. And whose header it has: "JFIF",
        "Exif", "Adobe" or "".
    """
    header, at = "", 2
    while at + 5 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # A fill byte.
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            of_8_bits = content[at + 4] == 8
            return marker if of_8_bits and marker in (0xC0, 0xC2) else 0, header
        if not header and 0xE0 <= marker <= 0xEF:
            start = content[at + 4 : at + 9]
            for name in ("JFIF", "Exif", "Adobe"):
                if start.startswith(name.encode()):
                    header = name
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return 0, header


def _check_png(content: bytes) -> None:
    """Raises where a chunk's checksum is wrong or the end is missing.

    Pillow does not check the pixels' chunks. The format:
    https://www.w3.org/TR/png-3/#5DataRep
    """
    at = 8
    while at + 12 <= len(content):
        length, name = struct.unpack(">I4s", content[at : at + 8])
        end = at + 8 + length
        if end + 4 > len(content):
            break
        (stored,) = struct.unpack(">I", content[end : end + 4])
        if zlib.crc32(memoryview(content)[at + 4 : end]) != stored:
            shown = name.decode("latin-1")
            raise ValueError(f"the checksum of its {shown!r} chunk is wrong")
        if name == b"IEND":
            return
        at = end + 4
    raise ValueError("truncated: the end of the PNG is missing")


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(pixels >> 8, 0, 255).astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("L")


# Many of them.


def examine_many(
    batch: Sequence[tuple[str | bytes, str]], max_pixels: int, measure: bool
) -> list[Examination]:
    """Examines a batch: of each its path, or its bytes and its name."""
    return [
        examine_path(content, max_pixels, measure)
        if isinstance(content, str)
        else examine_bytes(content, name, max_pixels, measure)
        for content, name in batch
    ]
