"""Turns every n-th index of a split into encoded images on standard output.

    python -m framework.data.rendered_hands.worker train 0 2 2520 7

writes images 0, 2, 4 ... below 2,520 of seed 7, each as its length (eight
bytes, big-endian) and its bytes. A process of its own, not one that
`multiprocessing` starts: those import the user's main script again, which
need not be written for that, or fork a parent that runs TensorFlow's threads.
"""

import contextlib
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from framework.data.rendered_hands import render

_MODULE = "framework.data.rendered_hands.worker"
_LENGTH = struct.Struct(">Q")


def images(
    split: str, count: int, seed: int = 0, processes: int | None = None
) -> Iterator[bytes]:
    """Yields images 0 .. `count` - 1 of a split, encoded, in order.

    Args:
        split: `train` or `test`.
        count: how many.
        seed: another seed gives another data set.
        processes: how many render at once; by default as many as there are
            processors to run on. One renders here, in this process.

    Raises:
        RuntimeError: a worker failed; the message holds the worker's own.
    """
    if processes is None:
        processes = _processors()
    processes = min(processes, count)
    if processes < 2 or not sys.executable:
        for index in range(count):
            yield render.encode(render.render(split, index, seed))
        return
    with contextlib.ExitStack() as stack:
        workers = [
            _Worker(stack, split, start, processes, count, seed)
            for start in range(processes)
        ]
        # Pipes hold a few images, so no worker runs far ahead.
        for index in range(count):
            yield workers[index % processes].read()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Worker:
    """One process and its pipe; `stack` ends it, whatever happens."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        split: str,
        start: int,
        step: int,
        count: int,
        seed: int,
    ):
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - the stack closes it
        self._errors = stack.enter_context(errors)
        root = str(pathlib.Path(__file__).resolve().parents[3])
        paths = [root, os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            # A process a processor is enough; their threads would collide.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        arguments = map(str, (split, start, step, count, seed))
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        stack.callback(self._end)

    def read(self) -> bytes:
        head = self._process.stdout.read(_LENGTH.size)
        if len(head) == _LENGTH.size:
            (length,) = _LENGTH.unpack(head)
            body = self._process.stdout.read(length)
            if len(body) == length:
                return body
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        raise RuntimeError(
            f"A process that renders hands ended early, with exit code "
            f"{code}. It said:\n{said}"
        )

    def _end(self) -> None:
        self._process.kill()
        self._process.stdout.close()
        self._process.wait()


def main(arguments: list[str]) -> None:
    """Renders what the command line says."""
    split, *numbers = arguments
    start, step, count, seed = map(int, numbers)
    out = sys.stdout.buffer
    try:
        for index in range(start, count, step):
            image = render.encode(render.render(split, index, seed))
            out.write(_LENGTH.pack(len(image)) + image)
            out.flush()
    except BrokenPipeError:
        # The reader has gone; so may this, without a word at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main(sys.argv[1:])
