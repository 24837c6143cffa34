"""Turns augmentation layers into a table: ours against Keras's, in one run.

    python -m benchmarks.augmentation [--rounds=15] [--rows=32] [--size=160]

All sides augment the same batch in memory inside of `tf.function`, in turns,
in one process; a ratio is the median of those of all rounds. Then, what
resampling loses: a picture is shifted, zoomed and turned, by the layers one
after the other and at once, and all of it undone, at once in both cases.
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from rich.console import Console
from rich.table import Table

from benchmarks.compare import Section, against, in_turns
from benchmarks.settings import BATCH, Settings
from framework.model.affine import RandomAffine, fuse
from framework.model.colour import RandomColor
from framework.model.policy import OPERATIONS, RandomPolicy

COLOURS = {
    "brightness_factor": 0.2,
    "contrast_factor": (0.2, 0.2),
    "saturation_factor": (0.3, 0.7),
}
# What a picture's pixels need not be looked at for.
MAPS = tuple(
    name
    for name in OPERATIONS
    if name not in ("auto_contrast", "equalize", "sharpness")
)


def moves():
    return [
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(0.1),
        layers.RandomZoom(0.2),
        layers.RandomTranslation(0.1, 0.1),
    ]


def pairs():
    """(what, ours, Keras's)."""
    keras.utils.set_random_seed(0)
    jitter = layers.RandomColorJitter((0, 255), **COLOURS)
    hue = layers.RandomColorJitter((0, 255), **COLOURS, hue_factor=0.1)
    affine = RandomAffine(
        "horizontal",
        rotation_factor=0.1,
        zoom_height_factor=0.2,
        translation_height_factor=0.1,
        translation_width_factor=0.1,
    )
    stack = "RandomFlip, -Rotation, -Zoom, -Translation"
    return [
        (f"{stack}: fused", fuse(moves()), moves()),
        (f"{stack}: RandomAffine", [affine], moves()),
        ("RandomColorJitter: RandomColor", [RandomColor(**COLOURS)], [jitter]),
        (
            "RandomColorJitter with hue: RandomColor without",
            [RandomColor(**COLOURS)],
            [hue],
        ),
        (
            "RandAugment: RandomPolicy",
            [RandomPolicy()],
            [layers.RandAugment((0, 255))],
        ),
        (
            "RandomPolicy of maps alone: RandomPolicy of all operations",
            [RandomPolicy()],
            [RandomPolicy(operations=MAPS)],
        ),
    ]


def rate(layers_in_row, images):
    """A function that returns the images/s of one batch."""

    @tf.function(autograph=False)
    def step(images):
        for layer in layers_in_row:
            images = layer(images, training=True)
        return images

    def run() -> float:
        began = time.perf_counter()
        step(images).numpy()
        return len(images) / (time.perf_counter() - began)

    run(), run()
    return run


def measure(rows: int, size: int, rounds: int) -> Section:
    rng = np.random.default_rng(0)
    shape = (rows, size, size, 3)
    images = tf.constant(rng.uniform(0, 255, shape).astype(np.float32))
    compared = []
    for what, ours, theirs in pairs():
        sides = {"theirs": rate(theirs, images), "ours": rate(ours, images)}
        rates = in_turns(sides, rounds)
        compared.append(against(what, rates["ours"], rates["theirs"]))
    return Section(
        "Augmentation, against Keras's layers",
        compared,
        [f"Batches of {rows} at {size} px, in memory."],
    )


def section(settings: Settings) -> Section:
    return measure(BATCH, 160, settings.rounds)


def photo(size: int) -> np.ndarray:
    """A picture with a photograph's spectrum, 1/f, as [1, size, size, 3]."""
    rng = np.random.default_rng(0)
    noise = np.fft.fft2(rng.normal(size=(size, size, 3)), axes=(0, 1))
    steps = np.fft.fftfreq(size)
    distance = np.hypot(steps[:, None], steps[None])[..., None]
    noise /= np.maximum(distance, 1 / size)
    picture = np.fft.ifft2(noise, axes=(0, 1)).real
    picture -= picture.min()
    return (255 * picture / picture.max())[None].astype(np.float32)


def always(value):
    return (value, value)


def there():
    """Layers that leave nothing to chance."""
    return [
        layers.RandomTranslation(always(0.0532), always(-0.0317)),
        layers.RandomZoom(always(-0.1)),
        layers.RandomRotation(always(0.05)),
    ]


def back():
    return [
        layers.RandomRotation(always(-0.05)),
        layers.RandomZoom(always(1 / 0.9 - 1)),
        layers.RandomTranslation(always(-0.0532), always(0.0317)),
    ]


def sharpness(size: int) -> Table:
    table = Table("there and back", "RMS error, of 255", "contrast of detail")
    picture = photo(size)
    inner = np.s_[:, size // 4 : -size // 4, size // 4 : -size // 4]

    def detail(images):  # What differs from one pixel to the next.
        return np.diff(images[inner], axis=1).std()

    for what, row in (
        ("by Keras's layers", there()),
        ("by the same, fused", fuse(there())),
    ):
        images = picture
        for layer in (*row, *fuse(back())):
            images = np.asarray(layer(images, training=True))
        error = np.sqrt(np.square(images - picture)[inner].mean())
        table.add_row(
            what, f"{error:.2f}", f"{detail(images) / detail(picture):.1%}"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--size", type=int, default=160)
    asked = parser.parse_args()
    console = Console()
    console.print(measure(asked.rows, asked.size, asked.rounds).table())
    console.print(sharpness(asked.size))


if __name__ == "__main__":
    main()
