import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from framework.evaluation import tiles

VIRIDIS = matplotlib.colormaps["viridis"](np.arange(256), bytes=True)[:, :3]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_channels_are_standardised_each_by_itself():
    rng = np.random.default_rng(0)
    maps = rng.normal(5, 3, (3, 3, 10)).astype(np.float32)
    maps[..., 4] = 7  # The same everywhere.
    data, shown = tiles.channels(maps)
    np.testing.assert_array_equal(shown, np.arange(10))
    image = opened(data)
    # 3 pixels fit 21 times into 64; eight tiles a row, two pixels between.
    side = 63
    assert image.size == (8 * side + 7 * 2, 2 * side + 2)
    indices = np.asarray(image)
    colours = np.asarray(image.convert("RGB"))
    for channel in range(10):
        y, x = channel // 8 * (side + 2), channel % 8 * (side + 2)
        tile = indices[y : y + side, x : x + side]
        assert (
            tile.reshape(3, 21, 3, 21) == tile[::21, None, ::21, None]
        ).all()
        values = maps[..., channel].astype(np.float64)
        spread = values.std() or 1
        expected = ((values - values.mean()) / spread * 64 + 128).clip(1, 255)
        np.testing.assert_allclose(tile[::21, ::21], expected, atol=1.01)
        np.testing.assert_array_equal(
            colours[y + 30, x + 30], VIRIDIS[tile[30, 30]]
        )
    # What is between them, and behind the last one, lets the page through.
    assert image.info["transparency"] == 0
    assert not indices[:, side : side + 2].any()
    assert not indices[side + 2 :, 2 * (side + 2) :].any()
    assert indices[:side, :side].all()


def test_the_channels_that_differ_most_are_shown():
    maps = np.zeros((4, 4, 6), np.float32)
    maps[0, 0] = [1, 9, 0, 5, 8, 7]
    maps[..., 2] = 100  # Large, but the same everywhere.
    data, shown = tiles.channels(maps, most=3)
    np.testing.assert_array_equal(shown, [1, 4, 5])
    assert opened(data).size == (3 * 64 + 2 * 2, 64)


def test_large_maps_are_averaged():
    maps = np.zeros((128, 128, 1), np.float32)
    maps[::2, :, 0] = 1  # Every other row: grey, not stripes.
    data, _ = tiles.channels(maps)
    values = np.asarray(opened(data))
    assert values.shape == (64, 64)
    assert np.ptp(values) == 0


def test_filters_show_the_colours_they_answer_to():
    kernel = np.zeros((3, 3, 3, 2), np.float32)
    kernel[0, 0, 0, 0] = 0.02  # Red, upper left.
    kernel[1, 1, :, 1] = -5  # Black in the middle.
    image = opened(tiles.filters(kernel))
    pixels = np.asarray(image)
    assert image.size == (2 * 63 + 2, 63)
    assert tuple(pixels[10, 10]) == (255, 128, 128)
    assert tuple(pixels[50, 50]) == (128, 128, 128)
    assert tuple(pixels[31, 65 + 31]) == (1, 1, 1)
    assert tuple(pixels[31, 64]) == image.info["transparency"] == (0, 0, 0)


@pytest.mark.parametrize(
    ("side", "expected"), [(32, 224), (100, 200), (224, 224), (300, 224)]
)
def test_pictures_are_large_enough_and_not_too_large(side, expected):
    pixels = np.full((side, side, 3), (200, 100, 50), np.uint8)
    image = opened(tiles.picture(pixels))
    assert image.format == "JPEG"
    assert image.size == (expected, expected)
    np.testing.assert_allclose(
        np.asarray(image), pixels[0, 0] + 0 * np.asarray(image), atol=3
    )
    assert opened(tiles.overlay(pixels, np.ones((5, 5)))).size == image.size


def test_an_overlay_is_the_grey_picture_and_the_heat():
    pixels = np.full((224, 224, 3), (200, 100, 50), np.uint8)
    heat = np.zeros((2, 2), np.float32)
    heat[:, 1] = 1
    image = np.asarray(opened(tiles.overlay(pixels, heat)), int)
    grey = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    np.testing.assert_allclose(image[:, :40], grey, atol=4)
    yellow = matplotlib.colormaps["inferno"](255, bytes=True)[:3]
    expected = 0.25 * grey + 0.75 * np.array(yellow, float)
    np.testing.assert_allclose(
        image[:, 190:], np.broadcast_to(expected, (224, 34, 3)), atol=8
    )


def test_a_map_hides_no_picture():
    # All in one place, and each of a colour of its own.
    count = 200
    rng = np.random.default_rng(0)
    points = rng.normal(size=(count, 2)) * 1e-3
    points[0], points[1] = (-1, -1), (1, 1)
    shades = np.linspace(0, 255, count).round().astype(np.uint8)
    pictures = np.broadcast_to(shades[:, None, None, None], (count, 20, 20, 3))
    colours = [(255, 0, 0)] * count
    numbers = np.ones(count, int)
    crossed = np.zeros(count, bool)
    data = tiles.scatter(points, pictures, numbers, colours, crossed)
    image = np.asarray(opened(data), int)
    assert image.shape == (840, 1120, 3)
    cell = int((1120 * 840 / 2 / count) ** 0.5)
    # Where red borders begin: one for each picture.
    places = image[: 840 // cell * cell, : 1120 // cell * cell]
    places = places.reshape(840 // cell, cell, 1120 // cell, cell, 3)
    left = places[:, cell // 2, :, 1]
    taken = (left[..., 0] > 150) & (left[..., 1] < 100)
    assert taken.sum() == count
    # The first one is lower left, the second one upper right.
    assert taken[-1, 0] and taken[0, -1]
    again = tiles.scatter(points, pictures, numbers, colours, crossed)
    assert again == data
    other = tiles.scatter(points, pictures, numbers, colours, ~crossed)
    assert other != data


def test_a_cross_and_a_number_are_in_their_corners():
    points = np.array([[0.0, 0.0], [1.0, 1.0]])
    pictures = np.full((2, 20, 20, 3), 128, np.uint8)
    colours = [(0, 158, 115)] * 2

    def drawn(numbers, crossed):
        data = tiles.scatter(points, pictures, numbers, colours, crossed)
        image = np.asarray(opened(data).convert("L"), int)
        return image[-96 - 840 % 96 :, :96]  # The lower left one.

    plain = drawn([1, 1], [False, False])
    changed = np.abs(drawn([1, 1], [True, False]) - plain) > 60
    rows, columns = np.nonzero(changed)
    assert rows.min() > 70 and columns.min() > 70
    changed = np.abs(drawn([27, 1], [False, False]) - plain) > 60
    rows, columns = np.nonzero(changed)
    assert rows.max() < 25 and columns.max() < 35
