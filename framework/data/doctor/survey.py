"""Turns a task's examples into an examination of each, on all processors."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import loky
import numpy as np
import tensorflow as tf

from framework.data.doctor.examine import (
    THUMBNAIL,
    Examination,
    examine_many,
)
from framework.data.images import decode
from framework.data.limits import MAX_PIXELS
from framework.data.source import Examples, IndexedExamples
from framework.noise import standard_error_without

# How many files one call of a worker examines: enough that the call itself is
# not felt, few enough that all workers end at about the same time.
_BATCH = 32
_BATCH_BYTES = 1 << 26

# A file's path, or its bytes and a name for it.
_Item = tuple[str | bytes, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Survey:
    """All examples of all splits, and what was seen of each.

    Attributes:
        splits: `[N]`, the split of each, as an index into `names`.
        names: of the splits.
        ids: `[N]` strings.
        labels: `[N]` int64.
        examinations: `[N]`; their thumbnails are in `thumbnails`.
        thumbnails: uint8 `[N, S, S]`, black where there is none.
        has_thumbnail: `[N]` bool.
    """

    splits: np.ndarray
    names: tuple[str, ...]
    ids: np.ndarray
    labels: np.ndarray
    examinations: list[Examination]
    thumbnails: np.ndarray
    has_thumbnail: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def survey(
    splits: Mapping[str, Examples],
    measure: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Survey:
    """Examines every example of every split, once.

    Args:
        splits: the examples by split.
        measure: take the measures of quality too.
        progress: called with how many examples are behind.
    """
    total = sum(map(len, splits.values()))
    seen = Survey(
        splits=np.zeros(total, np.int8),
        names=tuple(splits),
        ids=np.full(total, "", object),
        labels=np.zeros(total, np.int64),
        examinations=[],
        thumbnails=np.zeros((total, THUMBNAIL, THUMBNAIL), np.uint8),
        has_thumbnail=np.zeros(total, bool),
    )

    def items() -> Iterator[_Item]:
        at = 0
        for split, examples in enumerate(splits.values()):
            for example_id, label, item in _read(examples):
                seen.splits[at], seen.ids[at] = split, example_id
                seen.labels[at] = label
                at += 1
                yield item

    for at, found in enumerate(examine_all(items(), measure)):
        if found.thumbnail is not None:
            seen.thumbnails[at] = found.thumbnail
            seen.has_thumbnail[at] = True
            found.thumbnail = None
        seen.examinations.append(found)
        progress(at + 1)
    # libjpeg tells the world what the report is going to tell.
    with standard_error_without([b""]):
        _ask_the_pipeline(splits, seen.examinations)
    return seen


def examine_all(
    items: Iterator[_Item], measure: bool = False, processes: int | None = None
) -> Iterator[Examination]:
    """Examines in worker processes; yields in the order of `items`.

    A file that ends the process that decodes it is found out, and said so.

    Args:
        items: paths, or bytes with names.
        measure: take the measures of quality too.
        processes: by default one for each processor.
    """
    processes = processes or loky.cpu_count()
    batches = _batches(items)
    waiting: collections.deque[
        tuple[list[_Item], concurrent.futures.Future]
    ] = collections.deque()
    pool = loky.ProcessPoolExecutor(processes)

    def submit(batch: list[_Item]) -> concurrent.futures.Future:
        return pool.submit(examine_many, batch, MAX_PIXELS, measure)

    try:
        while True:
            while len(waiting) < 3 * processes:
                batch = next(batches, None)
                if batch is None:
                    break
                waiting.append((batch, submit(batch)))
            if not waiting:
                return
            batch, future = waiting.popleft()
            try:
                yield from future.result()
            except loky.process_executor.BrokenProcessPool:
                # Of all that was under way, one file did it: each by itself.
                pool.shutdown(kill_workers=True)
                pool = loky.ProcessPoolExecutor(processes)
                yield from _one_by_one(batch, measure)
                waiting = collections.deque(
                    (batch, submit(batch)) for batch, _ in waiting
                )
    finally:
        pool.shutdown(kill_workers=True)


def _one_by_one(batch: Sequence[_Item], measure: bool) -> Iterator[Examination]:
    pool = loky.ProcessPoolExecutor(1)
    try:
        for item in batch:
            future = pool.submit(examine_many, [item], MAX_PIXELS, measure)
            try:
                yield from future.result()
            except loky.process_executor.BrokenProcessPool:
                pool.shutdown(kill_workers=True)
                pool = loky.ProcessPoolExecutor(1)
                yield Examination().lost("ends the program that decodes it")
    finally:
        pool.shutdown(kill_workers=True)


def _batches(items: Iterator[_Item]) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item[0])
        if len(batch) == _BATCH or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read(examples: Examples) -> Iterator[tuple[str, int, _Item]]:
    """(id, label, what to examine) of every example, in order."""
    if not isinstance(examples, IndexedExamples):
        for example in examples.stream(tf.constant(-1, tf.int64)):
            example_id = example["id"].numpy().decode("utf-8", "replace")
            yield (
                example_id,
                int(example["label"]),
                (
                    example["image"].numpy(),
                    "",
                ),
            )
        return
    if examples.path is not None:
        for example_id, label, row in zip(
            examples.ids, examples.labels, examples.rows, strict=True
        ):
            path = examples.path(int(row))
            yield example_id, int(label), (path, path)
        return
    contents = read_encoded(examples)
    for example_id, label, content in zip(
        examples.ids, examples.labels, contents, strict=True
    ):
        yield example_id, int(label), (content, example_id)


def read_encoded(examples: IndexedExamples) -> Iterator[bytes]:
    """The bytes of every example, in order; b"" for what can't be read.

    Pixels that are in no file are encoded as PNG.
    """

    def read(row):
        image = examples.read(row)
        if image.dtype == tf.string:
            return image
        return tf.io.encode_png(image)

    found = _those_that_succeed(examples.rows, read)
    index, content = next(found, (len(examples), b""))
    for at in range(len(examples)):
        if at < index:
            yield b""
        else:
            yield content
            index, content = next(found, (len(examples), b""))


def _those_that_succeed(
    values: np.ndarray, function: Callable[[tf.Tensor], tf.Tensor]
) -> Iterator[tuple[int, object]]:
    """(index, result) of each value, in parallel, but for those that fail."""
    dataset = tf.data.Dataset.from_tensor_slices(values).enumerate()
    dataset = dataset.map(
        lambda index, value: (index, function(value)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    ).ignore_errors()
    for index, result in dataset.as_numpy_iterator():
        yield int(index), result


def _ask_the_pipeline(
    splits: Mapping[str, Examples], examinations: Sequence[Examination]
) -> None:
    """Decides of those that only the pipeline's own decoder can decide."""
    start = 0
    for examples in splits.values():
        part = examinations[start : start + len(examples)]
        start += len(examples)
        asked = [at for at, found in enumerate(part) if found.decodes is None]
        if not asked:
            continue
        decoded = _decoded(examples, np.array(asked))
        for at in asked:
            found = part[at]
            found.decodes = at in decoded
            if not found.decodes:
                damage = [r for kind, r in found.remarks if kind == "damaged"]
                found.remarks = [
                    (k, r) for k, r in found.remarks if k != "damaged"
                ]
                found.lost(damage[0] if damage else _why(examples, at))


def _decoded(examples: Examples, asked: np.ndarray) -> set[int]:
    """Which of the examples at the indices `asked` the pipeline decodes."""

    def size(image):
        # Pixels need not leave the graph.
        return tf.size(decode(image) if image.dtype == tf.string else image)

    if isinstance(examples, IndexedExamples):
        found = _those_that_succeed(
            examples.rows[asked], lambda row: size(examples.read(row))
        )
        return {int(asked[index]) for index, _ in found}
    is_asked = np.zeros(len(examples), bool)
    is_asked[asked] = True
    stream = examples.stream(tf.constant(-1, tf.int64)).enumerate()
    stream = stream.filter(lambda index, _: tf.gather(is_asked, index))
    stream = stream.map(
        lambda index, example: (index, size(example["image"])),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return {int(index) for index, _ in stream.ignore_errors()}


def _why(examples: Examples, index: int) -> str:
    """What the pipeline's decoder says to an example that it refuses."""
    reason = "the pipeline's decoder refuses it"
    if not isinstance(examples, IndexedExamples):
        return reason
    try:
        decode(examples.read(tf.constant(examples.rows[index])))
    except tf.errors.OpError as error:
        message = " ".join((error.message or str(error)).split())
        # Without what TensorFlow adds for its own people.
        message = message.partition(" [Op:")[0].rpartition("}} ")[2]
        return message[:200] or reason
    except UnicodeDecodeError:  # TensorFlow quotes bytes of the file.
        pass
    return reason
