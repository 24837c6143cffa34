"""Turns a split's examples into batches of uint8 pixels for the model.

A batch is `{"image": uint8 [B, S, S, 3], "label": int64 [B], "id": string
[B], "position": int64 [B], "weight": float32 [B]}`. The order is a pure
function of (seed, epoch, position), so that any run can be repeated and
continued from any step.
"""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from framework.data.images import RESIZES, decode, resize, to_rgb
from framework.data.source import Examples, IndexedExamples, StreamedExamples
from framework.errors import UserError
from framework.model.augmentation import apply_in_pipeline
from framework.registry import PARTS


@PARTS.register("pipeline")
@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Reads, orders, decodes, resizes and batches.

    Attributes:
        resize: how pictures come to the model's square: "squash" changes
            their aspect ratio, "crop" keeps the middle, "pad" adds black
            borders.
        max_unreadable: the share of a split's examples that may fail to
            decode before training stops.
    """

    resize: str = "squash"
    max_unreadable: float = 0.01

    def __post_init__(self):
        if self.resize not in RESIZES:
            raise UserError(
                f"pipeline.resize is {self.resize!r}; expected one of "
                f"{', '.join(RESIZES)}."
            )
        if not 0 <= self.max_unreadable <= 1:
            raise UserError(
                f"pipeline.max_unreadable is {self.max_unreadable}; expected "
                "a share from 0 to 1."
            )

    def training(
        self,
        examples: Examples,
        image_size: int,
        batch_size: int,
        seed: int,
        first_position: int = 0,
        augmentation: Sequence[keras.layers.Layer] = (),
    ) -> tf.data.Dataset:
        """Shuffled, endless batches.

        Every epoch shows each example once, in another order. Batches run
        across the border of two epochs, so that all are full and no example
        is dropped.

        Args:
            examples: the split.
            image_size: side S of the images in pixels.
            batch_size: B.
            seed: of the order.
            first_position: where to start, in examples since the beginning of
                training; what lies before is not decoded.
            augmentation: layers that can't run in the model.
        """
        if isinstance(examples, IndexedExamples):
            size = len(examples)
            dataset = self._indexed(
                examples,
                lambda position: shuffled_index(position, size, seed),
                first_position,
                None,
                image_size,
                batch_size,
            )
        else:
            dataset = self._batches(
                _stream_epochs(examples, seed, first_position),
                first_position,
                None,
                image_size,
                batch_size,
            )
        dataset = apply_in_pipeline(dataset, augmentation)
        return dataset.prefetch(tf.data.AUTOTUNE)

    def evaluation(
        self, examples: Examples, image_size: int, batch_size: int
    ) -> tf.data.Dataset:
        """Every example once, in the source's order, in full batches.

        The last batch is padded with black images of weight 0 and id "", so
        that all batches have one shape.
        """
        size = len(examples)
        if isinstance(examples, IndexedExamples):
            dataset = self._indexed(
                examples, lambda p: p, 0, size, image_size, batch_size
            )
        else:
            in_order = examples.stream(tf.constant(-1, tf.int64))
            dataset = self._batches(
                _number(in_order, 0), 0, size, image_size, batch_size
            )
        return dataset.prefetch(tf.data.AUTOTUNE)

    def _indexed(
        self,
        examples: IndexedExamples,
        index_at: Callable[[tf.Tensor], tf.Tensor],
        first: int,
        end: int | None,
        image_size: int,
        batch_size: int,
    ) -> tf.data.Dataset:
        rows = tf.constant(examples.rows)
        labels = tf.constant(examples.labels)
        ids = tf.constant(examples.ids.tolist(), tf.string)
        last = tf.int64.max if end is None else end

        def read(position):
            row = tf.gather(rows, index_at(position))
            return {"image": examples.read(row), "position": position}

        def describe(batch):
            # Beyond the end lies padding, without a label and an id.
            real = batch["position"] < last
            index = index_at(tf.where(real, batch["position"], 0))
            return {
                **batch,
                "label": tf.where(real, tf.gather(labels, index), 0),
                "id": tf.where(real, tf.gather(ids, index), ""),
            }

        dataset = self._batches(
            tf.data.Dataset.range(first, last),
            first,
            end,
            image_size,
            batch_size,
            read,
        )
        # Labels and ids follow from the positions and are looked up by the
        # batch, so that an example that does not decode keeps its own.
        return dataset.map(describe)

    def _batches(
        self,
        dataset: tf.data.Dataset,
        first: int,
        end: int | None,
        image_size: int,
        batch_size: int,
        read: Callable[..., dict] = lambda example: example,
    ) -> tf.data.Dataset:
        def decode_one(element):
            # Reading and decoding in one parallel map: one hand-over an
            # example.
            example = read(element)
            image = example["image"]
            if image.dtype == tf.string:
                image = decode(image)
            else:
                image = to_rgb(image)
            image = resize(image, image_size, self.resize)
            image = tf.ensure_shape(image, (image_size, image_size, 3))
            return {**example, "image": image, "weight": tf.constant(1.0)}

        dataset = dataset.map(
            decode_one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        # What does not decode leaves a hole in the positions.
        dataset = dataset.ignore_errors()
        dataset = _keep_places(dataset, first, end, batch_size)
        return dataset.batch(batch_size, drop_remainder=True)


def shuffled_index(
    position: tf.Tensor, size: int, seed: int | tf.Tensor
) -> tf.Tensor:
    """Which example stands at a position of an endless training order.

    Positions `e * size` to `(e + 1) * size - 1` are epoch e, a permutation of
    0..size-1 that (seed, e) alone determines. Takes constant time and memory,
    whatever the size and wherever one starts.

    Args:
        position: int64, a scalar or `[B]`, in examples since the beginning of
            training.
        size: the number of examples.
        seed: of the order.

    Returns:
        int64 of the same shape.
    """
    if size == 1:
        return tf.zeros_like(position)
    epoch = position // size
    # The operation itself: tf.random.experimental.index_shuffle pads the
    # seeds of a batch along the wrong axis (TensorFlow 2.21). Keys must be
    # well mixed: of small integers it makes but 256 different permutations.
    run = _mix(tf.zeros_like(epoch) + seed)
    keys = [_mix(run + _mix(3 * epoch + part)) for part in range(3)]
    return tf.raw_ops.RandomIndexShuffle(
        index=position % size,
        seed=tf.bitcast(tf.stack(keys, -1), tf.int64),
        max_index=tf.constant(size - 1, tf.int64),
        rounds=8,
    )


def _mix(value: tf.Tensor) -> tf.Tensor:
    """splitmix64: spreads integers over uint64, https://prng.di.unimi.it."""
    x = tf.bitcast(value, tf.uint64) + tf.constant(
        0x9E3779B97F4A7C15, tf.uint64
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, _right(x, shift))
        x *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(x, _right(x, 31))


def _right(value: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(value, tf.constant(bits, tf.uint64))


def _epoch_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    pair = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.stateless_uniform(
        [], pair, minval=0, maxval=2**62, dtype=tf.int64
    )


def _number(dataset: tf.data.Dataset, first: int) -> tf.data.Dataset:
    return dataset.enumerate(first).map(
        lambda position, example: {**example, "position": position}
    )


def _stream_epochs(
    examples: StreamedExamples, seed: int, first_position: int
) -> tf.data.Dataset:
    first_epoch, skip = divmod(first_position, len(examples))
    # First the epoch, then its shuffle: all of one epoch is seen before the
    # next begins.
    dataset = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(
        lambda epoch: examples.stream(_epoch_seed(seed, epoch))
    )
    return _number(dataset, first_position - skip).skip(skip)


def _keep_places(
    dataset: tf.data.Dataset, first: int, end: int | None, batch_size: int
) -> tf.data.Dataset:
    """Fills holes in the positions, and the last batch, with zeros.

    Args:
        dataset: elements with "position", in ascending order.
        first: the first position.
        end: the position after the last, or None for an endless dataset.
        batch_size: what the number of elements is made a multiple of.
    """
    spec = dataset.element_spec

    def blank(position):
        zeros = {
            key: tf.zeros(s.shape, s.dtype)
            for key, s in spec.items()
            if s.dtype != tf.string
        }
        if "id" in spec:  # Of a stream; nothing else tells what was there.
            zeros["id"] = tf.strings.join(
                ["the example at position ", tf.strings.as_string(position)]
            )
            if end is not None:
                zeros["id"] = tf.where(position < end, zeros["id"], "")
        return {**zeros, "position": position}

    if end is not None:
        padded = first + -(-(end - first) // batch_size) * batch_size
        # One beyond, so that there is something to fill up to.
        mark = tf.data.Dataset.from_tensors(
            blank(tf.constant(padded, tf.int64))
        )
        dataset = dataset.concatenate(mark)

    def fill(expected, element):
        holes = tf.data.Dataset.range(expected, element["position"])
        return holes.map(blank).concatenate(
            tf.data.Dataset.from_tensors(element)
        )

    dataset = dataset.scan(
        tf.constant(first, tf.int64),
        lambda expected, e: (e["position"] + 1, (expected, e)),
    ).flat_map(fill)
    return dataset if end is None else dataset.take(padded - first)
