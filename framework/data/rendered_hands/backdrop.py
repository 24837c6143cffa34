"""Turns a random generator into what lies behind a hand, [S, S, 3] 0..255."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def colour(rng: np.random.Generator) -> np.ndarray:
    """A colour as rooms and clothes have it: float32 `[3]`, 0..255.

    Mostly muted; saturated ones are rare.
    """
    value = rng.uniform(0.08, 0.95)
    saturation = rng.beta(1.2, 2.6)
    hue = rng.uniform(0, 6)
    spread = np.array([0.0, 4.0, 2.0])
    ramp = np.clip(np.abs((hue + spread) % 6 - 3) - 1, 0, 1)
    shade = 255 * value * (1 - saturation * (1 - ramp))
    return shade.astype(np.float32)


def draw(rng: np.random.Generator, size: int, tone: float) -> np.ndarray:
    """A backdrop, float32 `[size, size, 3]` in 0..255.

    Args:
        rng: what to draw from.
        size: of the picture, in pixels.
        tone: of the skin, 0..1; a plain ground of just that lightness would
            hide the hand and is drawn again.
    """
    kinds = (_white, _plain, _green, _texture, _planks, _clutter, _room)
    odds = (0.2, 0.16, 0.14, 0.14, 0.08, 0.18, 0.1)
    kind = kinds[rng.choice(len(kinds), p=odds)]
    image = kind(rng, size)
    for _ in range(3):
        if kind is _clutter or not _like_skin(image, tone):
            break
        image = kind(rng, size)
    return np.clip(image, 0, 255).astype(np.float32)


def _jitter(rng: np.random.Generator, by: float) -> np.ndarray:
    """A small shift of colour, float32 `[3]`."""
    return rng.normal(0, by, 3).astype(np.float32)


def _like_skin(image: np.ndarray, tone: float) -> bool:
    red, green, blue = image[::8, ::8].reshape(-1, 3).mean(0)
    skin = 235 - 185 * tone
    warm = red > green > blue and red - blue > 12
    near = abs(red - skin) < 45
    return bool((warm and near) or abs(green - 0.8 * skin) < 14)


def _field(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise in 0..1, float32 `[size, size, 1]`."""
    small = Image.fromarray(rng.random((cells, cells), np.float32))
    big = small.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(big)[..., None]


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    """A slope in 0..1 in some direction, `[size, size, 1]`."""
    angle = rng.uniform(0, 2 * np.pi)
    t = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    slope = t[None, :] * np.cos(angle) + t[:, None] * np.sin(angle)
    return (slope[..., None] / 1.42 + 0.5).astype(np.float32)


def _white(rng: np.random.Generator, size: int) -> np.ndarray:
    ground = rng.uniform(215, 253) + _jitter(rng, 2.5)
    return ground - rng.uniform(0, 26) * _ramp(rng, size)


def _plain(rng: np.random.Generator, size: int) -> np.ndarray:
    a = colour(rng)
    b = a * rng.uniform(0.6, 1.25) + _jitter(rng, 6)
    return a + (b - a) * _ramp(rng, size)


def _green(rng: np.random.Generator, size: int) -> np.ndarray:
    """A green screen, brighter in the middle."""
    value = rng.uniform(95, 200)
    ground = value * np.array(
        [rng.uniform(0.05, 0.45), 1.0, rng.uniform(0.1, 0.5)],
        np.float32,
    )
    t = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = rng.uniform(-0.5, 0.5, 2)
    far = (t[None, :, None] - x) ** 2 + (t[:, None, None] - y) ** 2
    return ground * (1 - rng.uniform(0.05, 0.25) * far)


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Stone, cloth or wall: noise of several sizes between two colours."""
    a = colour(rng)
    b = a * rng.uniform(0.5, 1.4) + _jitter(rng, 14)
    rough = rng.uniform(0.45, 0.8)
    mix, total = np.float32(0), 0.0
    for k, cells in enumerate((4, 9, 20, 45, 110)):
        mix = mix + rough**k * _field(rng, size, cells)
        total += rough**k
    mix = np.clip((mix / total - 0.5) * 2 + 0.5, 0, 1)
    image = a + (b - a) * mix
    if rng.uniform() < 0.35:
        t = np.arange(size, dtype=np.float32)
        period = rng.uniform(4, 26)
        weave = np.sin(t * 2 * np.pi / period)
        depth = rng.uniform(4, 18)
        image = image + depth * weave[None, :, None]
        if rng.uniform() < 0.6:
            image = image + depth * weave[:, None, None]
    return image


def _planks(rng: np.random.Generator, size: int) -> np.ndarray:
    """Wood: streaks along one direction, seams across it."""
    base = np.array([150, 108, 70], np.float32) * rng.uniform(0.45, 1.45)
    base = base + _jitter(rng, 10)
    across = rng.random((1, 90), np.float32)
    streaks = np.asarray(
        Image.fromarray(across).resize((size, size), Image.Resampling.BICUBIC)
    )[..., None]
    image = base * (0.78 + 0.3 * streaks + 0.14 * _field(rng, size, 6))
    for x in np.arange(rng.uniform(10, 60), size, rng.uniform(45, 110)):
        image[:, int(x) : int(x) + 2] *= 0.55
    if rng.uniform() < 0.5:
        image = image.transpose(1, 0, 2)
    return image


def _clutter(rng: np.random.Generator, size: int) -> np.ndarray:
    """Things of any shape and colour, more or less out of focus."""
    ground = tuple(int(c) for c in colour(rng))
    picture = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(8, 26)):
        fill = tuple(int(c) for c in colour(rng))
        x, y = rng.uniform(-40, size, 2)
        w, h = rng.uniform(15, 150, 2)
        kind = rng.integers(4)
        if kind == 0:
            pen.rectangle((x, y, x + w, y + h), fill)
        elif kind == 1:
            pen.ellipse((x, y, x + w, y + h), fill)
        elif kind == 2:
            corners = rng.uniform(-70, 70, (3, 2)) + np.array([x + 20, y + 20])
            pen.polygon([tuple(c) for c in corners], fill)
        else:
            end = rng.uniform(0, size, 2)
            pen.line((x, y, *end), fill, int(rng.integers(2, 14)))
    blur = rng.uniform(0.8, 9.0)
    picture = picture.filter(ImageFilter.GaussianBlur(blur))
    image = np.asarray(picture, np.float32)
    return image * rng.uniform(0.6, 1.0) * (0.8 + 0.3 * _ramp(rng, size))


def _room(rng: np.random.Generator, size: int) -> np.ndarray:
    """A wall above a floor or a table, with a few upright things."""
    wall, floor = colour(rng), colour(rng)
    picture = Image.new("RGB", (size, size), tuple(int(c) for c in wall))
    pen = ImageDraw.Draw(picture)
    horizon = rng.uniform(0.4, 0.9) * size
    for _ in range(rng.integers(1, 7)):
        x, w = rng.uniform(-30, size), rng.uniform(12, 90)
        top = rng.uniform(0, horizon)
        bottom = horizon if rng.uniform() < 0.6 else rng.uniform(top, size)
        fill = tuple(int(c) for c in colour(rng))
        pen.rectangle((x, top, x + w, max(bottom, top + 1)), fill)
    pen.rectangle((0, horizon, size, size), tuple(int(c) for c in floor))
    blur = rng.uniform(0.8, 7.0)
    picture = picture.filter(ImageFilter.GaussianBlur(blur))
    image = np.asarray(picture, np.float32)
    return image * (0.82 + 0.28 * _ramp(rng, size))
