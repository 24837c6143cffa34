"""Turns examples of which only ids are known into small pictures."""

import contextlib
from collections.abc import Collection, Sequence

import numpy as np
import tensorflow as tf

from framework.data.images import (
    RESIZES,
    decode,
    resize,
    shrink,
    to_rgb,
    to_square,
)
from framework.data.source import Examples, IndexedExamples
from framework.task import Data

_SIDE = 160
_QUALITY = 80


class Pictures:
    """Pictures by split and id, decoded as the pipeline does.

    Args:
        data: the task's.
        shown: (split, id) of what is going to be asked for; a stream is read
            once for all of it.
        image_size: side of the model's input in pixels.
    """

    def __init__(
        self, data: Data, shown: Collection[tuple[str, str]], image_size: int
    ):
        self._splits = data.splits
        self._size = image_size
        self._places: dict[str, dict[str, int]] = {}
        self._streamed: dict[tuple[str, str], bytes] = {}
        for name, examples in data.splits.items():
            if not isinstance(examples, IndexedExamples):
                wanted = {i for split, i in shown if split == name}
                self._collect(name, examples, wanted)

    def thumbnail(self, split: str, example_id: str) -> bytes | None:
        """The whole picture as a JPEG of at most 160 pixels; None if lost."""
        pixels = self._pixels(split, example_id)
        return None if pixels is None else _jpeg(shrink(pixels, _SIDE))

    def model_inputs(
        self, split: str, ids: Sequence[str], how: str
    ) -> dict[str, np.ndarray]:
        """By id uint8 `[S, S, 3]`, as the pipeline makes it; lost ones lack.

        Args:
            split: where the examples are.
            ids: which.
            how: as `Pipeline.resize`.
        """
        examples = self._splits.get(split)
        if isinstance(examples, IndexedExamples):
            places = self._places_in(split, examples)
            rows = [examples.rows[places[name]] for name in ids]
            images = tf.data.Dataset.from_tensor_slices(
                np.array(rows, np.int64)
            ).map(examples.read, tf.data.AUTOTUNE)
        else:
            ids = [name for name in ids if (split, name) in self._streamed]
            found = [self._streamed[split, name] for name in ids]
            images = tf.data.Dataset.from_tensor_slices(
                tf.constant(found, tf.string, [len(found)])
            )
        squares = images.enumerate().map(
            lambda number, image: (number, to_square(image, self._size, how)),
            tf.data.AUTOTUNE,
        )
        return {
            ids[number]: pixels
            for number, pixels in squares.ignore_errors().as_numpy_iterator()
        }

    def fits(self, split: str, example_id: str) -> dict[str, bytes]:
        """What each way to resize makes of it, as JPEGs; {} if it is lost."""
        pixels = self._pixels(split, example_id)
        if pixels is None:
            return {}
        return {
            how: _jpeg(shrink(resize(pixels, self._size, how), _SIDE))
            for how in RESIZES
        }

    def _pixels(self, split: str, example_id: str) -> tf.Tensor | None:
        with _unless_lost():
            image = self._read(split, example_id)
            if image is None:
                return None
            return decode(image) if image.dtype == tf.string else to_rgb(image)
        return None

    def _read(self, split: str, example_id: str) -> tf.Tensor | None:
        examples = self._splits.get(split)
        if not isinstance(examples, IndexedExamples):
            found = self._streamed.get((split, example_id))
            return None if found is None else tf.constant(found)
        row = examples.rows[self._places_in(split, examples)[example_id]]
        return examples.read(tf.constant(row, tf.int64))

    def _places_in(
        self, split: str, examples: IndexedExamples
    ) -> dict[str, int]:
        if split not in self._places:
            self._places[split] = {i: at for at, i in enumerate(examples.ids)}
        return self._places[split]

    def _collect(self, name: str, examples: Examples, wanted: set[str]) -> None:
        left = set(wanted)
        for example in examples.stream(tf.constant(-1, tf.int64)):
            if not left:
                return
            example_id = example["id"].numpy().decode("utf-8", "replace")
            if example_id in left:
                left.remove(example_id)
                self._streamed[name, example_id] = example["image"].numpy()


def _unless_lost() -> contextlib.AbstractContextManager:
    # The latter where TensorFlow's message quotes bytes of the file.
    return contextlib.suppress(tf.errors.OpError, UnicodeDecodeError)


def _jpeg(pixels: tf.Tensor) -> bytes:
    return tf.io.encode_jpeg(pixels, quality=_QUALITY).numpy()
