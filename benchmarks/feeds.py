"""Turns a folder of images into endless batches: ours, and those of others.

A feed is a function that makes an iterator anew. Where a rival's own
documentation shows how to feed a model from a folder, that is what is here.
"""

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from benchmarks.settings import BATCH
from framework.data.folder import ImageFolder
from framework.data.pipeline import Pipeline
from framework.data.source import IndexedExamples
from framework.model.affine import RandomAffine

Feed = Callable[[], Iterator]

# The augmentation of Chollet's Deep Learning with Python, 5.2, as
# ImageDataGenerator is told of it; turns and shears are in degrees.
COURSE = {
    "rotation_range": 40,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "shear_range": 0.2,
    "zoom_range": 0.2,
    "horizontal_flip": True,
}


def rate(feed: Feed, batches: int, warm: int) -> float:
    """Images/s of a feed that runs already.

    The first batches are not counted: neither the start nor what was made
    ahead of time decides.
    """
    iterator = feed()
    for _ in range(warm):
        next(iterator)
    began = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return batches * BATCH / (time.perf_counter() - began)


def examples(folder: str) -> IndexedExamples:
    return ImageFolder(folder).splits["train"]


def decoding(files: IndexedExamples) -> Feed:
    """Reads and decodes, and makes nothing of it: as fast as it can be."""

    def decoded(row):
        return tf.size(tf.io.decode_jpeg(files.read(row), channels=3))

    def make():
        dataset = tf.data.Dataset.from_tensor_slices(files.rows)
        dataset = dataset.shuffle(len(files))
        dataset = dataset.map(
            decoded, num_parallel_calls=tf.data.AUTOTUNE
        ).ignore_errors()
        # Of numbers only, so that Python is not asked for every picture.
        return iter(dataset.repeat().batch(BATCH))

    return make


def ours(files: IndexedExamples, size: int) -> Feed:
    return lambda: iter(Pipeline().training(files, size, BATCH, seed=0))


def augmented(feed: Feed) -> Feed:
    """Ours with the course's augmentation, as it runs within the model."""
    keras.utils.set_random_seed(0)
    layer = RandomAffine(
        "horizontal",
        rotation_factor=COURSE["rotation_range"] / 360,
        zoom_height_factor=COURSE["zoom_range"],
        zoom_width_factor=COURSE["zoom_range"],
        shear_x_factor=math.tan(math.radians(COURSE["shear_range"])),
        translation_height_factor=COURSE["height_shift_range"],
        translation_width_factor=COURSE["width_shift_range"],
        fill_mode="nearest",
    )

    @tf.function(autograph=False)
    def augment(images):
        return layer(images, training=True)

    return lambda: (augment(batch["image"]) for batch in feed())


def keras_dataset(folder: str, size: int) -> Feed:
    """https://keras.io/examples/vision/image_classification_from_scratch"""

    def make():
        dataset = keras.utils.image_dataset_from_directory(
            folder,
            image_size=(size, size),
            batch_size=BATCH,
            seed=0,
            verbose=False,
        )
        return iter(dataset.repeat().prefetch(tf.data.AUTOTUNE))

    return make


def generator(folder: str, size: int, augmentation: dict) -> Feed:
    """Keras 2's way, which courses teach."""
    images = tf.keras.preprocessing.image.ImageDataGenerator(
        rescale=1 / 255, **augmentation
    )
    with contextlib.redirect_stdout(io.StringIO()):  # It counts files.
        flow = images.flow_from_directory(
            folder,
            target_size=(size, size),
            batch_size=BATCH,
            class_mode="sparse",
        )
    return lambda: flow


def sides(feeds: dict[str, Feed], batches: int, warm: int) -> dict:
    """For `compare.in_turns`."""
    return {
        name: lambda feed=feed: rate(feed, batches, warm)
        for name, feed in feeds.items()
    }
