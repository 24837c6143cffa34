"""Turns pictures that come one by one into batches, and their answers back."""

import asyncio
import concurrent.futures
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from framework.data.images import decode_and_resize


class Overloaded(Exception):
    """There is too much to do already."""


class Broken(Exception):
    """What was sent is no picture."""


class Batcher:
    """Decodes pictures in threads and has them answered in batches.

    A batch is what has come while the one before was under way: nobody waits
    for others to come.

    Args:
        probabilities: from uint8 `[B, S, S, 3]` to float32 `[B, num_classes]`.
        image_size: side S in pixels.
        resize: how pictures become squares.
        largest: pictures of a batch, at most.
        waiting: pictures that may be under way at a time; more are refused.
    """

    def __init__(
        self,
        probabilities: Callable[[np.ndarray], np.ndarray],
        image_size: int,
        resize: str,
        largest: int = 32,
        waiting: int = 256,
    ):
        self._probabilities = probabilities
        self._largest = largest
        self._free = waiting
        self._decode = tf.function(
            lambda data: decode_and_resize(data, image_size, resize),
            input_signature=[tf.TensorSpec([], tf.string)],
            autograph=False,
        ).get_concrete_function()
        self._decoding = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        self._answering = concurrent.futures.ThreadPoolExecutor(1)
        self._queue: asyncio.Queue = asyncio.Queue()
        self._task: asyncio.Task | None = None
        self.sizes: Callable[[int], None] = lambda size: None
        # What a batch costs to begin with is paid before anybody waits.
        for size in (1, largest):
            probabilities(np.zeros((size, image_size, image_size, 3), np.uint8))

    def start(self) -> None:
        """Begins to answer; inside of the event loop."""
        self._task = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """Ends when all that was taken is answered."""
        await self._queue.join()
        if self._task is not None:
            self._task.cancel()
        self._decoding.shutdown()
        self._answering.shutdown()

    async def ask(self, pictures: list[bytes]) -> np.ndarray:
        """Probabilities `[B, num_classes]` of encoded pictures.

        Raises:
            Overloaded: there are too many already; none of these is taken.
            Broken: some don't decode; says which.
        """
        if len(pictures) > self._free:
            raise Overloaded
        self._free -= len(pictures)
        try:
            loop = asyncio.get_running_loop()
            decoded = await asyncio.gather(
                *(
                    loop.run_in_executor(self._decoding, self._pixels, data)
                    for data in pictures
                )
            )
            broken = [n for n, pixels in enumerate(decoded) if pixels is None]
            if broken:
                raise Broken(
                    "No JPEG, PNG, GIF, BMP or WebP image that decodes at: "
                    f"{', '.join(map(str, broken))}."
                )
            answers = [loop.create_future() for _ in decoded]
            for pixels, answer in zip(decoded, answers, strict=True):
                self._queue.put_nowait((pixels, answer))
            return np.stack(await asyncio.gather(*answers))
        finally:
            self._free += len(pictures)

    def _pixels(self, data: bytes) -> np.ndarray | None:
        try:
            return self._decode(tf.constant(data)).numpy()
        # The latter where TensorFlow's message quotes bytes of the file.
        except (tf.errors.OpError, UnicodeDecodeError):
            return None

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._largest and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            # Whoever waited too long is gone, and costs nothing more.
            gone = [answer for _, answer in batch if answer.done()]
            for _ in gone:
                self._queue.task_done()
            batch = [each for each in batch if not each[1].done()]
            if not batch:
                continue
            pixels = np.stack([pixels for pixels, _ in batch])
            try:
                found = await loop.run_in_executor(
                    self._answering, self._probabilities, pixels
                )
                self.sizes(len(batch))
            except Exception as error:
                found = [error] * len(batch)
            for (_, answer), row in zip(batch, found, strict=True):
                # Whoever asked may be gone.
                if not answer.done():
                    if isinstance(row, Exception):
                        answer.set_exception(row)
                    else:
                        answer.set_result(row)
                self._queue.task_done()
