import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from framework.data.doctor import quality
from framework.data.doctor.findings import KINDS

# What cleanvision calls them.
THEIRS = {
    "dark": "dark",
    "light": "light",
    "blurry": "blurry",
    "blank": "low_information",
}


def photo(seed=0, width=400, height=300):
    """Blotches of all sizes before a slope from black to light grey."""
    rng = np.random.default_rng(seed)
    pixels = np.linspace(0, 170, width)[None, :, None] * np.ones((height, 1, 3))
    for cells in (6, 25, 100):
        blotches = Image.fromarray(
            rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        ).resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(blotches) - 128.0) * 0.5
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def made(kind):
    if kind == "black":
        return Image.new("RGB", (300, 200))
    if kind == "white":
        return Image.new("RGB", (300, 200), "white")
    if kind == "constant":
        return Image.new("RGB", (300, 200), (90, 140, 200))
    if kind == "grey and constant":
        return Image.new("L", (50, 70), 140)
    if kind == "dark":
        return photo().point(lambda value: value // 4)
    if kind == "overexposed":
        return photo().point(lambda value: 245 + value // 25)
    if kind == "blurred":
        return photo().filter(ImageFilter.GaussianBlur(25))
    if kind == "grey":
        return photo().convert("L")
    if kind == "small":
        return photo(width=40, height=30)
    return photo()


EXPECTED = {
    "black": {"dark", "blank"},
    "white": {"light", "blank"},
    "constant": {"blank"},
    "grey and constant": {"blank"},
    "dark": {"dark"},
    "overexposed": {"light"},
    "blurred": {"blurry"},
    "grey": set(),
    "small": set(),
    "normal": set(),
}


def judge(image):
    (verdicts,) = quality.judge([quality.measures(image)])
    return verdicts


@pytest.mark.parametrize("kind", EXPECTED)
def test_what_is_wrong_is_told_and_nothing_else(kind):
    verdicts = judge(made(kind))
    assert {v[0] for v in verdicts} == EXPECTED[kind]
    for name, reason, score in verdicts:
        assert name in KINDS
        assert 0 <= score <= 1 and type(score) is float
        assert any(character.isdigit() for character in reason)


def test_reasons_tell_the_number_and_the_usual_one():
    ((_, dark, score), (_, blank, _)) = judge(made("black"))
    assert score == 0
    assert dark == (
        "99 of 100 pixels are darker than 0.0 % of white (usual: more than "
        "32 %)"
    )
    # Which of the three channels a value is of is information too.
    assert blank == "1.6 bits of information a pixel (usual: more than 3)"


def test_verdicts_are_those_of_cleanvision(tmp_path):
    from cleanvision import Imagelab

    for kind in EXPECTED:
        made(kind).save(tmp_path / f"{kind}.png")
        made(kind).save(tmp_path / f"{kind}.jpg", quality=90)
    lab = Imagelab(data_path=str(tmp_path))
    asked = {name: {} for name in THEIRS.values()}
    lab.find_issues(asked, n_jobs=1, verbose=False)
    paths = list(lab.issues.index)
    assert len(paths) == 2 * len(EXPECTED)
    rows = []
    for path in paths:
        with Image.open(path) as image:
            rows.append(quality.measures(image))
    for path, verdicts in zip(paths, quality.judge(rows), strict=True):
        theirs = lab.issues.loc[path]
        found = {kind: score for kind, _, score in verdicts}
        for kind, name in THEIRS.items():
            assert (kind in found) == theirs[f"is_{name}_issue"], (path, kind)
            # Brightness is measured on every n-th pixel.
            tolerance = 0 if kind in ("blurry", "blank") else 0.02
            if kind in found:
                assert found[kind] == pytest.approx(
                    theirs[f"{name}_score"], abs=tolerance, rel=1e-12
                )


def test_rows_keep_their_place_and_those_without_measures_are_skipped():
    good, black = (
        quality.measures(made("normal")),
        quality.measures(made("black")),
    )
    verdicts = quality.judge([None, good, black, None, good])
    assert [len(v) for v in verdicts] == [0, 0, 2, 0, 0]
    assert quality.judge([None]) == [[]]
    assert quality.judge([]) == []


def test_measures_are_plain_and_the_function_travels():
    row = quality.measures(made("normal"))
    assert json.loads(json.dumps(row)) == row
    assert {type(value) for value in row.values()} == {float}
    assert pickle.loads(pickle.dumps(quality.measures)) is quality.measures


def test_a_large_jpeg_is_judged_alike_whether_decoded_before_or_not():
    for kind in ("normal", "dark", "blurred", "white"):
        encoded = io.BytesIO()
        made(kind).resize((2400, 1800)).save(encoded, "JPEG")
        decoded = Image.open(encoded)
        decoded.load()
        by_draft = Image.open(encoded)
        assert {v[0] for v in judge(by_draft)} == EXPECTED[kind]
        assert {v[0] for v in judge(decoded)} == EXPECTED[kind]
        assert max(by_draft.size) < 2400


def as_file(image, form="PNG", **options):
    encoded = io.BytesIO()
    image.save(encoded, form, **options)
    return Image.open(encoded)


def test_every_mode_is_measured_as_the_pipeline_sees_it():
    sixteen = np.asarray(photo().convert("L")).astype(np.uint16) * 257
    images = {
        "16 bits": as_file(Image.fromarray(sixteen)),
        "alpha": as_file(photo().convert("RGBA")),
        "grey and alpha": as_file(photo().convert("LA")),
        "palette": as_file(photo().quantize(128)),
        "transparent palette": as_file(
            photo().quantize(128), transparency=bytes(range(128))
        ),
        "CMYK": as_file(photo().convert("CMYK"), "JPEG"),
        "black and white": as_file(photo().convert("1")),
    }
    assert images["16 bits"].mode != "L"
    for name, image in images.items():
        kinds = {kind for kind, _, _ in judge(image)}
        # One bit a pixel is little information indeed.
        expected = {"blank"} if name == "black and white" else set()
        assert kinds == expected, name


def test_a_single_pixel_and_a_line_are_measured():
    for size in ((1, 1), (1, 900), (3000, 1)):
        assert "blank" in {v[0] for v in judge(Image.new("RGB", size))}


def test_workers_import_no_tensorflow_and_what_is_slow_only_when_needed():
    script = """
import sys
from PIL import Image
from framework.data.doctor import quality
slow = {"cleanvision", "pandas", "matplotlib", "tensorflow", "keras"}
assert not slow & set(sys.modules), slow & set(sys.modules)
quality.measures(Image.new("RGB", (9, 9)))
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
