"""Which pictures are found to be the same."""

import itertools

import numpy as np
import pytest
from pictures import encoded, photo
from PIL import Image

from framework.data.doctor import duplicates, shape
from framework.data.doctor.examine import THUMBNAIL, examine_bytes
from framework.data.limits import MAX_PIXELS


def thumbnail(image: Image.Image, **options) -> np.ndarray:
    return examine_bytes(
        encoded(image, "JPEG", **options), "", MAX_PIXELS
    ).thumbnail


def test_equal_bytes_are_exact_duplicates():
    found = duplicates.exact([b"a", b"b", b"", b"a", b"", b"b", b"a", b"c"])
    assert [c.tolist() for c in found] == [[0, 3, 6], [1, 5]]


def test_copies_encoded_and_scaled_anew_are_found_and_no_others():
    rng = np.random.default_rng(0)
    originals = [photo(200, 150, seed) for seed in range(60)]
    thumbnails = [thumbnail(image, quality=90) for image in originals]
    for image in originals[:20]:
        scale = rng.uniform(0.3, 1.6)
        copy = image.resize((round(200 * scale), round(150 * scale)))
        copy = copy.point(lambda level: int(level * 0.8 + 12))
        thumbnails.append(thumbnail(copy, quality=int(rng.integers(30, 80))))
    found = duplicates.near(np.stack(thumbnails), 0.985)
    assert [c.tolist() for c in found] == [[i, 60 + i] for i in range(20)]


@pytest.mark.parametrize("batch", [7, 512])
def test_the_tree_misses_no_pair(batch):
    """Against the comparison of all with all."""
    rng = np.random.default_rng(1)
    few = rng.integers(0, 256, (12, THUMBNAIL, THUMBNAIL))
    mixed = [
        few[a] * w + few[b] * (1 - w) + rng.normal(0, s, few[0].shape)
        for a, b, w, s in zip(
            rng.integers(0, 12, 200),
            rng.integers(0, 12, 200),
            rng.uniform(0, 1, 200),
            rng.uniform(0, 30, 200),
            strict=True,
        )
    ]
    thumbnails = np.clip(mixed, 0, 255).astype(np.uint8)
    flat = thumbnails.reshape(200, -1).astype(np.float64)
    alike = np.corrcoef(flat) >= 0.9
    pairs = [p for p in itertools.combinations(range(200), 2) if alike[p]]
    expected = duplicates.components(200, np.array(pairs).T)
    found = duplicates.near(thumbnails, 0.9, batch)
    assert len(expected) > 3
    assert [c.tolist() for c in found] == [c.tolist() for c in expected]


def test_blank_pictures_are_not_called_alike():
    rng = np.random.default_rng(0)
    blank = 128 + rng.integers(0, 2, (5, THUMBNAIL, THUMBNAIL))
    assert duplicates.near(blank.astype(np.uint8), 0.98) == []
    assert duplicates.near(np.zeros((0, 16, 16), np.uint8), 0.98) == []


def test_shapes_that_ask_for_care():
    assert shape.judge(400, 300, None, 224) == []
    ((kind, reason, score),) = shape.judge(2240, 224, None, 224)
    assert kind == "aspect" and score == pytest.approx(0.1)
    assert "10.0 times" in reason and "90%" in reason and "22 of 224" in reason
    ((kind, reason, _),) = shape.judge(56, 40, None, 224)
    assert kind == "small" and "4.0 times" in reason


def test_a_tiny_subject_is_seen_where_it_is():
    pixels = np.full((16, 16), 200, np.uint8)
    assert shape.subject(pixels) is None
    pixels[2:4, 12:14] = 20
    top, left, bottom, right = shape.subject(pixels)
    assert 0 < top < 2.5 / 16 and 3.5 / 16 < bottom < 6 / 16
    assert 10 / 16 < left < 12.5 / 16 and 13.5 / 16 < right < 1
    (verdict,) = shape.judge(800, 400, pixels, 224)
    assert verdict[0] == "tiny_subject"
    # The middle square ends at three quarters of the width.
    assert "crop cuts off" in verdict[1]
    rng = np.random.default_rng(0)
    full = rng.integers(0, 255, (16, 16), dtype=np.uint8)
    assert shape.judge(800, 400, full, 224) == []
