"""Dark, light, blurry and blank pictures, as cleanvision has them."""

import io

import numpy as np
import pytest
from cleanvision import Imagelab
from pictures import encoded, photo
from PIL import Image

from framework.data.doctor import quality


def noisy(low: int, high: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(low, high, (150, 200, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = {
    "dark": noisy(0, 30),
    "light": noisy(245, 256),
    "blurry": photo(320, 240, seed=8),
    "blank": Image.new("RGB", (200, 150), (120, 130, 125)),
}


def judged(image: Image.Image, form: str = "PNG") -> dict[str, float]:
    with Image.open(io.BytesIO(encoded(image, form))) as opened:
        (verdicts,) = quality.judge([quality.measures(opened)])
    return {kind: score for kind, _, score in verdicts}


@pytest.mark.parametrize("kind", PICTURES)
def test_what_is_wrong_is_seen(kind):
    assert kind in judged(PICTURES[kind])


def test_a_sharp_bright_picture_passes():
    assert judged(noisy(0, 256)) == {}


def test_pictures_without_measures_have_no_verdict():
    assert quality.judge([None, None]) == [[], []]
    with Image.open(io.BytesIO(encoded(PICTURES["dark"], "PNG"))) as opened:
        row = quality.measures(opened)
    first, second = quality.judge([None, row])
    assert first == [] and second[0][0] == "dark"


def test_verdicts_are_cleanvision_s(tmp_path):
    """Of its own way through files at their full size."""
    images = [*PICTURES.values(), *(photo(320, 240, n) for n in range(8))]
    images += [noisy(0, high, high) for high in (60, 120, 200)]
    paths = []
    for number, image in enumerate(images):
        path = tmp_path / f"{number}.png"
        path.write_bytes(encoded(image, "PNG"))
        paths.append(str(path))
    names = {
        **{"dark": "dark", "light": "light"},
        **{"low_information": "blank", "blurry": "blurry"},
    }
    lab = Imagelab(filepaths=paths)
    lab.find_issues({name: {} for name in names}, n_jobs=1, verbose=False)
    for path, image in zip(paths, images, strict=True):
        expected = {
            ours
            for theirs, ours in names.items()
            if lab.issues.loc[path, f"is_{theirs}_issue"]
        }
        assert set(judged(image)) == expected, path
