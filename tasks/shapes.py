"""Shapes: circles, squares and triangles drawn in memory, for smoke runs."""

import numpy as np
from PIL import Image, ImageDraw

from framework import TASKS, Source, Task, array_source
from framework.ranges import Count, Seed

CLASSES = ("circle", "square", "triangle")


@TASKS.register()
def shapes(
    examples: Count = 1500, image_size: Count = 32, seed: Seed = 0
) -> Task:
    """A third of each class; a fifth each to validate and to test on."""
    return Task(
        source=lambda: draw(examples, image_size, seed),
        validation=0.2,
        test=0.2,
    )


def draw(examples: int, image_size: int, seed: int) -> Source:
    """Draws uint8 `[examples, image_size, image_size, 3]`, pixels 0..255."""
    rng = np.random.default_rng(seed)
    labels = np.arange(examples) % len(CLASSES)
    images = [_shape(rng, label, image_size) for label in labels]
    return array_source(np.stack(images), labels, CLASSES, name="shapes")


def _shape(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    background, colour = rng.permutation([40, 200]) + rng.integers(-30, 30, 2)
    image = Image.new("L", (size, size), int(background))
    radius = rng.uniform(0.28, 0.4) * size
    centre = rng.uniform(radius, size - radius, 2)
    turn = rng.uniform(0, 360)
    pen = ImageDraw.Draw(image)
    if label == 0:
        pen.ellipse([*(centre - radius), *(centre + radius)], int(colour))
    else:
        circle = (*map(float, centre), float(radius))
        pen.regular_polygon(circle, 5 - int(label), turn, int(colour))
    noisy = np.array(image)[..., None] + rng.normal(0, 8, (size, size, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)
