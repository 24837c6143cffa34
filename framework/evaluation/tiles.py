"""Turns arrays into pictures: grids of channels, overlays, maps of thumbnails.

Colour maps are matplotlib's viridis and inferno, whose lightness rises evenly,
so that the colour-blind read them too.
"""

import functools
import io
import math
import os
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Sides in pixels: of a channel's or a filter's tile, of a picture.
_TILE = 64
_PICTURE = 224
_GAP = 2
_COLUMNS = 8
_QUALITY = 85
# Of the map of embeddings: its sides, the largest place for a picture.
_MAP = (1120, 840)
_LARGEST_CELL = 96
_BORDER = 3
_CROSS = "\N{MULTIPLICATION SIGN}"
# Between light and dark pages; bright borders show on it.
_GROUND = (38, 40, 44)
# Okabe and Ito's colours without black, and grey: for the colour-blind too,
# https://jfly.uni-koeln.de/color/. More than these nobody tells apart.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (187, 187, 187),
)


def channels(
    feature_map: np.ndarray, most: int = 32
) -> tuple[bytes, np.ndarray]:
    """Channels of a feature map side by side, each by itself.

    A channel is less its mean, divided by its standard deviation, and shown
    from -2 to 2 (Chollet, Deep Learning with Python, section 5.4.1, 2017).
    Maps of few positions are enlarged without blending them, others reduced.

    Args:
        feature_map: float `[h, w, C]`.
        most: how many channels to show: those that differ most from place to
            place.

    Returns:
        a PNG, and which channels it shows, in order, eight a row: int `[n]`.
    """
    spread = feature_map.std((0, 1))
    # In their own order: the same channel is found in the same place.
    shown = np.sort(np.argsort(-spread, kind="stable")[:most])
    maps = feature_map[..., shown].astype(np.float32)
    mean, spread = maps.mean((0, 1)), maps.std((0, 1))
    # A channel that is the same everywhere is the middle colour.
    scaled = (maps - mean) / np.where(spread > 0, spread, 1)
    values = np.clip(scaled * 64 + 128, 1, 255).astype(np.uint8)
    tiles = [_fitted(values[..., n], _TILE) for n in range(len(shown))]
    image = Image.fromarray(_grid(tiles))
    # A palette takes a third of the bytes of RGB.
    image.putpalette(_colours("viridis").tobytes())
    return _png(image, 0), shown


def filters(kernel: np.ndarray) -> bytes:
    """Filters side by side: what they look for, in its colours.

    Each is scaled by itself; grey is a weight of 0.

    Args:
        kernel: float `[height, width, 3, filters]`, red first.

    Returns:
        a PNG, eight a row.
    """
    kernel = kernel.astype(np.float32)
    largest = np.abs(kernel).max((0, 1, 2))
    scaled = kernel / np.where(largest > 0, largest, 1)
    values = np.round(scaled * 127 + 128).astype(np.uint8)
    tiles = [_fitted(values[..., n], _TILE) for n in range(values.shape[-1])]
    return _png(Image.fromarray(_grid(tiles)), (0, 0, 0))


def picture(pixels: np.ndarray) -> bytes:
    """A picture as a JPEG, about 224 pixels wide if it is much smaller.

    Args:
        pixels: uint8 `[S, S, 3]`.
    """
    return _jpeg(Image.fromarray(_fitted(pixels, _PICTURE)))


def overlay(pixels: np.ndarray, heat: np.ndarray) -> bytes:
    """A picture in grey with a map on it, from dark violet to yellow.

    Where the map is 0 only the picture shows.

    Args:
        pixels: uint8 `[S, S, 3]`.
        heat: float `[h, w]`, 0..1, of any size; interpolated bilinearly.

    Returns:
        a JPEG as large as that of `picture`.
    """
    shown = Image.fromarray(_fitted(pixels, _PICTURE))
    grey = np.asarray(shown.convert("L"), np.float32)[..., None]
    whole = Image.fromarray(heat.astype(np.float32))
    heat = np.asarray(whole.resize(shown.size, Image.Resampling.BILINEAR))
    heat = np.clip(heat, 0, 1)[..., None]
    colours = _colours("inferno")[np.round(heat[..., 0] * 255).astype(int)]
    share = 0.75 * heat**0.75
    blend = (1 - share) * grey + share * colours
    return _jpeg(Image.fromarray(np.round(blend).astype(np.uint8)))


def scatter(
    points: np.ndarray,
    thumbnails: Sequence[np.ndarray],
    numbers: Sequence[int],
    colours: Sequence[tuple[int, int, int]],
    crossed: Sequence[bool],
) -> bytes:
    """A map with pictures for points, none of which hides another.

    Each goes to the free place that is nearest to its point, in a grid with
    about twice as many places as there are pictures.

    Args:
        points: float `[N, 2]`, x to the right and y upwards.
        thumbnails: N pictures, uint8 `[S, S, 3]`.
        numbers: what stands in their upper left corners.
        colours: of their borders, red, green and blue, 0..255.
        crossed: whether a cross stands in their lower right corner.

    Returns:
        a JPEG, 1120 by 840 pixels; the same for the same arguments.
    """
    sheet = Image.new("RGB", _MAP, _GROUND)
    draw = ImageDraw.Draw(sheet)
    cell = int(min(_LARGEST_CELL, (_MAP[0] * _MAP[1] / 2 / len(points)) ** 0.5))
    side = cell - 2 * _BORDER - 1
    for place, thumbnail, number, colour, cross in zip(
        _free_places(points, np.array(_MAP) // cell),
        thumbnails,
        numbers,
        colours,
        crossed,
        strict=True,
    ):
        left, top = (int(value) for value in place * cell)
        draw.rectangle((left, top, left + cell - 2, top + cell - 2), colour)
        small = Image.fromarray(thumbnail).resize(
            (side, side), Image.Resampling.BOX
        )
        sheet.paste(small, (left + _BORDER, top + _BORDER))
        _tag(draw, (left, top), "lt", str(number))
        if cross:
            _tag(draw, (left + cell - 2, top + cell - 2), "rb", _CROSS)
    return _jpeg(sheet)


def _free_places(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Columns and rows `[N, 2]` in a grid of that size, a place for each."""
    low, high = points.min(0), points.max(0)
    scaled = (points - low) / np.where(high > low, high - low, 1)
    scaled[:, 1] = 1 - scaled[:, 1]  # Rows count downwards.
    wanted = scaled * (size - 1)
    free = np.stack(np.meshgrid(*map(np.arange, size)), -1).reshape(-1, 2)
    taken = []
    for point in wanted:
        nearest = ((free - point) ** 2).sum(-1).argmin()
        taken.append(free[nearest])
        free = np.delete(free, nearest, axis=0)
    return np.array(taken)


def _tag(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], anchor: str, text: str
) -> None:
    """White on black, so that it can be read on any picture."""
    inwards = 3 if anchor == "lt" else -3
    at = (at[0] + inwards, at[1] + inwards)
    left, top, right, bottom = draw.textbbox(at, text, _font(), anchor)
    draw.rectangle((left - 3, top - 3, right + 2, bottom + 2), (0, 0, 0))
    draw.text(at, text, (255, 255, 255), _font(), anchor)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    # One that is the same everywhere.
    folder = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    return ImageFont.truetype(os.path.join(folder, "DejaVuSans-Bold.ttf"), 11)


def _fitted(values: np.ndarray, side: int) -> np.ndarray:
    """uint8 `[h, w]` or `[h, w, 3]`, to about `side` pixels at most.

    Larger ones are averaged by area; of smaller ones each pixel becomes a
    square, as large as there is room for.
    """
    height, width = values.shape[:2]
    longest = max(height, width)
    if longest <= side:
        times = side // longest
        return values.repeat(times, axis=0).repeat(times, axis=1)
    size = [max(1, round(each * side / longest)) for each in (width, height)]
    return np.asarray(
        Image.fromarray(values).resize(size, Image.Resampling.BOX)
    )


def _grid(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Tiles of one size, eight a row, with zeros between them."""
    height, width, *depth = tiles[0].shape
    rows = math.ceil(len(tiles) / _COLUMNS)
    columns = min(len(tiles), _COLUMNS)
    sheet = np.zeros(
        (
            rows * (height + _GAP) - _GAP,
            columns * (width + _GAP) - _GAP,
            *depth,
        ),
        np.uint8,
    )
    for number, tile in enumerate(tiles):
        y = number // _COLUMNS * (height + _GAP)
        x = number % _COLUMNS * (width + _GAP)
        sheet[y : y + height, x : x + width] = tile
    return sheet


def _colours(name: str) -> np.ndarray:
    """uint8 `[256, 3]`."""
    return matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]


def _png(image: Image.Image, transparent: int | tuple[int, ...]) -> bytes:
    """With one colour, that of the gaps, transparent: pages have theirs."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=transparent)
    return file.getvalue()


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
