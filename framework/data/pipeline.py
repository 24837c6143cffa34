"""Turns a split's examples into batches of uint8 pixels for the model.

A batch is `{"image": uint8 [b, S, S, 3], "label": int64 [b], "id": string
[b], "position": int64 [b], "weight": float32 [b]}`. The order is a pure
function of (seed, epoch, position), so that any run can be repeated, continued
from any step, and shared out over any number of workers.
"""

import dataclasses
import re
import socket
from collections.abc import Callable, Sequence
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from framework.data.images import RESIZES, to_square
from framework.data.rows import PLACES
from framework.data.source import Examples, IndexedExamples, StreamedExamples
from framework.digests import digest
from framework.errors import UserError
from framework.model.augmentation import augment_in_pipeline
from framework.ranges import Share as UpToAll
from framework.registry import PARTS

# Between the seeds of two classes; any odd number of many bits would do.
_SPREAD = 0x4F1BBCDCBFA53E0B
# How many pictures one thread decodes in a row: enough that what it costs to
# begin is not felt, few enough that the first batch comes soon.
_CHUNK = 32
# Into how many parts a stream is cut where the data service shares it out.
_STREAM_PARTS = 32
SAMPLINGS = ("natural", "balanced")
_SERVICE_ADDRESS = re.compile(r"grpc://(\[[^\]]+\]|[^:/\[\]]+):(\d{1,5})")
_CONNECT_SECONDS = 5
# AutoGraph would translate everything that a function of these calls, which
# takes a large part of the time to the first update.
_as_it_is = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True)
class Share:
    """Which rows of every global batch a worker makes.

    Replica r of worker w takes rows `(w * replicas + r) * b` and the b - 1
    behind it of each global batch, b being what `rows` returns.

    Attributes:
        workers: the number of processes that train together.
        worker: which of them this is, from 0.
        replicas: devices of this worker; all workers have as many.
    """

    workers: int = 1
    worker: int = 0
    replicas: int = 1

    def __post_init__(self):
        if self.replicas < 1 or not 0 <= self.worker < self.workers:
            raise UserError(
                f"Received {self}; expected at least one worker and one "
                "replica, and a worker from 0 to workers - 1."
            )

    def rows(self, batch_size: int) -> int:
        """The rows of a global batch that fall to each replica.

        Raises:
            UserError: they can't all get the same number.
        """
        total = self.workers * self.replicas
        if batch_size < 1 or batch_size % total:
            below, above = batch_size // total, -(-batch_size // total)
            sizes = [str(n * total) for n in (below, max(above, 1)) if n > 0]
            raise UserError(
                f"The batch size is {batch_size}; expected a multiple of "
                f"{total}, the number of replicas ({self.workers} workers "
                f"with {self.replicas} each), such as {' or '.join(sizes)}."
            )
        return batch_size // total


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
        service: the dispatcher of a tf.data service that makes the training
            batches, "grpc://host:port"; None makes them in this process.
            `python -m framework.data_service` starts one.
        cache: where decoded pictures are kept after the first epoch:
            "memory", "disk" (a scratch file), "none"; "auto" takes memory
            where they fill less than a quarter of what is free. It changes
            nothing but the speed.
    """

    resize: Literal[*RESIZES] = "squash"
    max_unreadable: UpToAll = 0.01
    service: str | None = None
    cache: Literal["auto", *PLACES, "none"] = "auto"

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
        if self.cache not in ("auto", *PLACES, "none"):
            raise UserError(
                f"pipeline.cache is {self.cache!r}; expected 'auto', 'memory', "
                "'disk' or 'none'."
            )
        if self.service is not None:
            _host_and_port(self.service)

    @property
    def description(self) -> tuple[str, ...]:
        """Sentences for the start-up text."""
        if self.service is None:
            return ()
        return (
            f"Training batches come from the tf.data service at "
            f"{self.service}, whose workers must see the same files under "
            "the same names. Their order depends on timing: the run is "
            "neither bit-reproducible nor exactly resumable. Each example "
            "comes once an epoch but for what is under way: at an epoch's "
            "border the next one's may come first, and what a lost service "
            "worker held is skipped. Without its dispatcher, or any worker, "
            "training waits. Streamed data is shuffled within "
            f"{_STREAM_PARTS} parts of it, whose order is shuffled too. "
            "Evaluation stays in this process.",
        )

    def training(
        self,
        examples: Examples,
        image_size: int,
        batch_size: int,
        seed: int,
        first_position: int = 0,
        augmentation: Sequence[keras.layers.Layer] = (),
        share: Share = Share(),
        job: str = "",
        sampling: str = "natural",
    ) -> tf.data.Dataset:
        """Shuffled, endless batches.

        Every epoch shows each example once, in another order; or each class
        as often, see `Order`. Batches run across the border of two epochs, so
        that all are full and no example is dropped.

        Args:
            examples: the split.
            image_size: side S of the images in pixels.
            batch_size: of a global batch; b is `share.rows(batch_size)`.
            seed: of the order and of what `augmentation` draws.
            first_position: where to start, in examples since the beginning of
                training; what lies before is not decoded.
            augmentation: layers that can't run in the model.
            share: which rows of each global batch to make; the replicas'
                batches come one after the other. With a service the workers
                take what comes instead.
            job: tells runs apart that use one service at the same time. All
                workers of a run pass the same, and another after a restart.
            sampling: "natural" or "balanced".

        Raises:
            UserError: the batch can't be shared out evenly, no service
                answers at the address given, or `sampling` can't be.
        """
        rows = share.rows(batch_size)
        at_service = self.service is not None
        if at_service:
            _probe(self.service)
            # Which worker gets which batch, the service decides.
            share, batch_size = Share(), rows

        augment = augment_in_pipeline(augmentation, seed, image_size)
        if isinstance(examples, IndexedExamples):
            index_at = Order.of(examples, seed, sampling).index
            chunks = _position_chunks(
                share, batch_size, rows, first_position, None
            )
            read = _reader(examples, index_at)
        else:
            check_sampling(sampling, examples)
            elements = (
                _stream_parts(examples, seed, first_position)
                if at_service
                else _stream_epochs(examples, seed, first_position)
            )
            elements = _own(elements, share, batch_size, first_position)
            chunks = elements.batch(min(rows, _CHUNK), drop_remainder=True)
            read = _image
        dataset = self._batches(chunks, rows, image_size, read, augment)
        if at_service:
            name = _job_name(
                job,
                self,
                examples,
                image_size,
                rows,
                seed,
                first_position,
                sampling,
            ) + digest([layer.get_config() for layer in augmentation])
            dataset = _distribute(dataset, self.service, name)
        if isinstance(examples, IndexedExamples):
            dataset = dataset.map(_describer(examples, index_at, None))
        return dataset.prefetch(tf.data.AUTOTUNE)

    def order(
        self,
        examples: IndexedExamples,
        batch_size: int,
        seed: int,
        first_position: int,
        share: Share,
        sampling: str = "natural",
    ) -> tf.data.Dataset:
        """The batches of `training` without their images and weights."""
        rows = share.rows(batch_size)
        index_at = Order.of(examples, seed, sampling).index
        chunks = _position_chunks(share, batch_size, rows, first_position, None)
        return chunks.rebatch(rows, drop_remainder=True).map(
            _describer(examples, index_at, None)
        )

    def evaluation(
        self,
        examples: Examples,
        image_size: int,
        batch_size: int,
        share: Share = Share(),
    ) -> tf.data.Dataset:
        """Every example once, in the source's order, in full batches.

        The last global batch is padded with black images of weight 0 and id
        "", so that all batches have one shape and all workers as many.

        Args:
            examples: the split.
            image_size: side S of the images in pixels.
            batch_size: of a global batch; b is `share.rows(batch_size)`.
            share: which rows of each global batch to make.

        Raises:
            UserError: the batch can't be shared out evenly.
        """
        rows = share.rows(batch_size)
        size = len(examples)
        padded = -(-size // batch_size) * batch_size
        if isinstance(examples, IndexedExamples):

            def index_at(position):
                return position

            chunks = _position_chunks(share, batch_size, rows, 0, padded)
            read = _reader(examples, index_at)
        else:
            elements = _number(examples.stream(tf.constant(-1, tf.int64)), 0)
            padding = tf.data.Dataset.range(size, padded).map(
                lambda position: {
                    "image": "",
                    "label": tf.constant(0, tf.int64),
                    "id": "",
                    "position": position,
                }
            )
            elements = elements.take(size).concatenate(padding)
            chunks = _own(elements, share, batch_size, 0).batch(
                min(rows, _CHUNK)
            )
            read = _image
        # What lies beyond the end is not even read.
        dataset = self._batches(
            chunks,
            rows,
            image_size,
            read,
            lambda example: example,
            lambda element: element["position"] < size,
        )
        if isinstance(examples, IndexedExamples):
            dataset = dataset.map(_describer(examples, index_at, size))
        return dataset.prefetch(tf.data.AUTOTUNE)

    def _batches(
        self,
        chunks: tf.data.Dataset,
        rows: int,
        image_size: int,
        read: Callable[[dict], tf.Tensor],
        augment: Callable[[dict], dict],
        is_there: Callable[[dict], tf.Tensor] | None = None,
    ) -> tf.data.Dataset:
        """Decodes chunks in parallel and makes batches of them.

        Args:
            chunks: elements with "position" `[k]`, and whatever else there
                is of these examples, k being `rows` or anything up to
                `_CHUNK`.
            rows: of a batch.
            image_size: S.
            read: maps one row of a chunk to its image.
            augment: applied to each image that decodes, with its position.
            is_there: tells rows that are to be read from padding.
        """

        def decode_one(element):
            image = to_square(read(element), image_size, self.resize)
            image = tf.ensure_shape(image, (image_size, image_size, 3))
            return {
                "image": image,
                "row": element["row"],
                "position": element["position"],
            }

        black = tf.zeros((image_size, image_size, 3), tf.uint8)

        @_as_it_is
        def decoded(chunk):
            length = chunk["position"].shape[0]
            count = tf.size(chunk["position"]) if length is None else length
            numbered = {**chunk, "row": tf.range(count)}
            dataset = tf.data.Dataset.from_tensor_slices(numbered)
            if is_there is not None:
                dataset = dataset.filter(is_there)
            # What does not decode is missing behind this.
            dataset = dataset.map(decode_one).ignore_errors().map(augment)
            # Last comes what the missing ones are replaced by.
            last = {
                "image": black,
                "row": tf.constant(-1),
                "position": tf.constant(-1, tf.int64),
            }
            dataset = dataset.concatenate(
                tf.data.Dataset.from_tensors(last)
            ).batch(_CHUNK + 1)

            def in_place(batch):
                found = tf.size(batch["row"]) - 1
                at = tf.tensor_scatter_nd_update(
                    tf.fill([count], found),
                    batch["row"][:-1, tf.newaxis],
                    tf.range(found),
                )
                return {
                    **{k: v for k, v in chunk.items() if k != "image"},
                    "image": tf.ensure_shape(
                        tf.gather(batch["image"], at),
                        (length, image_size, image_size, 3),
                    ),
                    "weight": tf.cast(at < found, tf.float32),
                }

            return dataset.map(in_place)

        # Threads decode whole chunks: a map over pictures, made safe against
        # those that do not decode one by one, is slower by a fifth.
        dataset = chunks.interleave(
            decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        if dataset.element_spec["position"].shape[0] != rows:
            dataset = dataset.rebatch(rows, drop_remainder=True)
        return dataset


def example_ids(
    examples: Examples,
    positions: np.ndarray,
    seed: int | None,
    sampling: str = "natural",
) -> list[str]:
    """What stands at positions, for messages.

    Args:
        examples: the split.
        positions: integers `[N]`.
        seed: of the training order; None for evaluation's.
        sampling: of the training order.

    Returns:
        The ids; of a stream, which only reading would tell, "the example at
        position ..."; "" for padding.
    """
    positions = np.asarray(positions, np.int64)
    if not isinstance(examples, IndexedExamples):
        return [f"the example at position {p}" for p in positions]
    if seed is None:
        return [
            str(examples.ids[p]) if p < len(examples) else "" for p in positions
        ]
    index = Order.of(examples, seed, sampling).index(tf.constant(positions))
    return [str(examples.ids[i]) for i in index.numpy()]


def check_sampling(sampling: str, examples: Examples) -> None:
    """Refuses what no order can be.

    Raises:
        UserError: there is no such sampling, or not of these examples.
    """
    if sampling not in SAMPLINGS:
        raise UserError(
            f"train.sampling is {sampling!r}; expected one of "
            f"{', '.join(map(repr, SAMPLINGS))}."
        )
    if sampling == "balanced" and not isinstance(examples, IndexedExamples):
        raise UserError(
            "train.sampling is 'balanced', and the training split is too "
            "large to be indexed: what is read in sequence can't be repeated. "
            "Expected 'natural', and train.class_weights = {...} to make up "
            "for rare classes."
        )


class Order:
    """Which example stands at each position of an endless training order.

    Positions `e * size` to `(e + 1) * size - 1` are epoch e. As everything
    here it is a pure function of position and seed.

    Where it is not balanced, an epoch is a permutation of all examples. Where
    it is, an epoch has as many of each class (up to one), in chance order.
    Those of a class come in permutations of all of them, one after the other,
    whatever the epoch: none comes again before all others have come.

    Args:
        size: the number of examples.
        seed: of the order.
        labels: of the examples, int64 `[size]`, to balance by; or None.
    """

    def __init__(self, size: int, seed: int, labels: np.ndarray | None = None):
        self.size = size
        self._seed = seed
        self._members = None
        if labels is not None:
            self.counts = np.unique(labels, return_counts=True)[1]
            self._members = np.argsort(labels, kind="stable")

    @classmethod
    def of(
        cls, examples: IndexedExamples, seed: int, sampling: str = "natural"
    ) -> "Order":
        """The order of a training split, see `SAMPLINGS`."""
        check_sampling(sampling, examples)
        balanced = sampling == "balanced"
        return cls(len(examples), seed, examples.labels if balanced else None)

    @property
    def per_epoch(self) -> np.ndarray:
        """How many examples of each class an epoch has, int64 `[classes]`.

        Of those that have any, in the order of their labels; if balanced.
        """
        classes = len(self.counts)
        return (self.size + classes - 1 - np.arange(classes)) // classes

    def index(self, position: tf.Tensor) -> tf.Tensor:
        """Which example, int64; see `visit`."""
        return self.visit(position)[0]

    def visit(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Which example stands at a position, and how often it has before.

        Args:
            position: int64, a scalar or `[B]`, in examples since the beginning
                of training.

        Returns:
            Two int64 of the same shape.
        """
        epoch = position // self.size
        slot = shuffled_index(position, self.size, self._seed)
        if self._members is None:
            return slot, epoch
        classes = len(self.counts)
        label, rank = slot % classes, slot // classes
        count = tf.gather(tf.constant(self.counts, tf.int64), label)
        per_epoch = tf.gather(tf.constant(self.per_epoch, tf.int64), label)
        # The class's own position, and from it the place in the class.
        position = epoch * per_epoch + rank
        seed = _mix(tf.constant(self._seed, tf.int64) + _SPREAD * (label + 1))
        place = shuffled_index(position, count, tf.bitcast(seed, tf.int64))
        starts = np.cumsum(self.counts) - self.counts
        first = tf.gather(tf.constant(starts, tf.int64), label)
        members = tf.constant(self._members, tf.int64)
        return tf.gather(members, first + place), position // count

    def until(self, visits: int) -> int:
        """The epochs after which all examples have come so often."""
        if self._members is None:
            return visits
        return int(np.max(-(-visits * self.counts // self.per_epoch)))


def shuffled_index(
    position: tf.Tensor, size: int | tf.Tensor, seed: int | tf.Tensor
) -> tf.Tensor:
    """Which example stands at a position of an endless training order.

    Positions `e * size` to `(e + 1) * size - 1` are epoch e, a permutation of
    0..size-1 that (seed, e) alone determines. Takes constant time and memory,
    whatever the size and wherever one starts.

    Args:
        position: int64, a scalar or `[B]`, in examples since the beginning of
            training.
        size: the number of examples; or int64 like `position`, one for each.
        seed: of the order; likewise.

    Returns:
        int64 of the same shape.
    """
    if isinstance(size, int) and size == 1:
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
        max_index=tf.cast(size - 1, tf.int64),
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


# Examples that can be read at any row.


def _position_chunks(
    share: Share, batch_size: int, rows: int, first: int, end: int | None
) -> tf.data.Dataset:
    """The positions of a worker's rows, by the chunk.

    Args:
        share: the worker's.
        batch_size: of a global batch.
        rows: of a replica's batch.
        first: the first position of all workers.
        end: the position after the last of all workers, a whole number of
            batches behind the first; None for no end.
    """
    length = min(rows, _CHUNK)
    own = batch_size // share.workers  # Of each global batch.
    total = None if end is None else (end - first) // share.workers

    @_as_it_is
    def positions(chunk):
        number = chunk * length + tf.range(length, dtype=tf.int64)
        if total is not None and total % length:
            number = number[: total - chunk * length]
        batch, row = number // own, number % own
        return {
            "position": first + batch * batch_size + share.worker * own + row
        }

    chunks = tf.int64.max if total is None else -(-total // length)
    return tf.data.Dataset.range(chunks).map(positions)


def _reader(
    examples: IndexedExamples, index_at: Callable[[tf.Tensor], tf.Tensor]
) -> Callable[[dict], tf.Tensor]:
    rows, read_row = tf.constant(examples.rows), examples.read
    if not getattr(read_row, "__module__", "").startswith("framework."):
        # It may be written for AutoGraph.
        read_row = tf.function(read_row)

    def read(element):
        return read_row(tf.gather(rows, index_at(element["position"])))

    return read


def _describer(
    examples: IndexedExamples,
    index_at: Callable[[tf.Tensor], tf.Tensor],
    end: int | None,
) -> Callable[[dict], dict]:
    """Adds labels and ids, which follow from the positions, to a batch."""
    labels = tf.constant(examples.labels)
    ids = tf.constant(examples.ids.tolist(), tf.string)
    last = tf.int64.max if end is None else end

    @_as_it_is
    def describe(batch):
        # Beyond the end lies padding, without a label and an id.
        real = batch["position"] < last
        index = index_at(tf.where(real, batch["position"], 0))
        return {
            **batch,
            "label": tf.where(real, tf.gather(labels, index), 0),
            "id": tf.where(real, tf.gather(ids, index), ""),
        }

    return describe


# Examples that can only be read in sequence.


def _image(element: dict) -> tf.Tensor:
    return element["image"]


def _number(dataset: tf.data.Dataset, first: int) -> tf.data.Dataset:
    return dataset.enumerate(first).map(
        lambda position, example: {**example, "position": position}
    )


def _own(
    dataset: tf.data.Dataset, share: Share, batch_size: int, first: int
) -> tf.data.Dataset:
    """Those of all examples, numbered from `first`, that are a worker's."""
    if share.workers == 1:
        return dataset
    own = batch_size // share.workers
    return dataset.filter(
        lambda element: (
            (element["position"] - first) % batch_size // own == share.worker
        )
    )


def _epoch_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    pair = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.stateless_uniform(
        [], pair, minval=0, maxval=2**62, dtype=tf.int64
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


def _stream_parts(
    examples: StreamedExamples, seed: int, first_position: int
) -> tf.data.Dataset:
    """Endless epochs as a dataset whose source can be dealt out.

    The service deals out what the first dataset of a pipeline yields. Were
    these epochs, each of its workers would be in an epoch of its own.
    """
    size = len(examples)
    count = min(_STREAM_PARTS, size)
    parts = [examples.slice(k / count, (k + 1) / count) for k in range(count)]
    starts = np.cumsum([0, *map(len, parts)])

    def part_of_epoch(number):
        epoch = number // count

        def stream(part):
            def make():
                # Another seed for each part than the epoch's.
                dataset = parts[part].stream(_epoch_seed(seed, number))
                first = epoch * size + starts[part]
                return tf.data.experimental.to_variant(_number(dataset, first))

            return make

        part = tf.cast(shuffled_index(number, count, seed), tf.int32)
        variant = tf.switch_case(part, [stream(k) for k in range(count)])
        return tf.data.experimental.from_variant(variant, spec)

    spec = _number(parts[0].stream(tf.constant(-1, tf.int64)), 0).element_spec
    epoch, position = divmod(first_position, size)
    first_part = epoch * count + position * count // size
    return tf.data.Dataset.range(first_part, tf.int64.max).flat_map(
        part_of_epoch
    )


# The tf.data service.


def _host_and_port(service: str) -> tuple[str, int]:
    match = _SERVICE_ADDRESS.fullmatch(service)
    if match is None or not 0 < int(match[2]) < 2**16:
        raise UserError(
            f"pipeline.service is {service!r}; expected the address of a "
            "tf.data service's dispatcher, 'grpc://host:port', or None."
        )
    return match[1].strip("[]"), int(match[2])


def _probe(service: str) -> None:
    """Raises a UserError where nothing answers; TensorFlow waits for ever."""
    try:
        socket.create_connection(
            _host_and_port(service), timeout=_CONNECT_SECONDS
        ).close()
    except OSError as error:
        raise UserError(
            f"pipeline.service is {service!r}, where no tf.data service "
            f"answers ({error}). Expected a running dispatcher; start one "
            "with python -m framework.data_service --role=dispatcher, or set "
            "pipeline.service = None."
        ) from error


def _job_name(
    job: str, pipeline: Pipeline, examples: Examples, *settings: int | str
) -> str:
    ids = ()
    if isinstance(examples, IndexedExamples):
        ids = (digest(examples.ids), digest(examples.rows))
    return f"{job}-{digest(repr(pipeline), len(examples), ids, settings)}"


def _distribute(
    dataset: tf.data.Dataset, service: str, name: str
) -> tf.data.Dataset:
    # Registered under a name, since the graphs that workers of one run make
    # need not be equal in every byte.
    identifier = tf.data.experimental.service.register_dataset(
        service, dataset, dataset_id=name
    )
    return tf.data.experimental.service.from_dataset_id(
        processing_mode="distributed_epoch",
        service=service,
        dataset_id=identifier,
        element_spec=dataset.element_spec,
        job_name=name,
    )
