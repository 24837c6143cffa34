"""Turns rows that are dear to make into rows that are there: made once, kept.

What is kept lies in memory, or in a scratch file that has no name and so is
gone with the process, however that ends.
"""

import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence

import numpy as np
import psutil

# Of what is free. The rest is for what training itself needs, and for others.
_SHARE_OF_MEMORY = 0.25
_SHARE_OF_DISK = 0.5

PLACES = ("memory", "disk")


class Rows:
    """An array whose rows come one by one, in any order, from any thread.

    Args:
        count: N, of the rows.
        shape: of a row.
        dtype: of the values.
        place: "memory" or "disk", as `place` says.
    """

    def __init__(
        self, count: int, shape: Sequence[int], dtype: np.dtype, place: str
    ):
        self.place = place
        self._there = np.zeros(count, bool)
        whole = (count, *shape)
        if place == "memory":
            # Pages that nobody has written to cost nothing yet; huge ones
            # would make a row cost 2 MB, since they come in any order.
            memory = mmap.mmap(-1, max(1, size(count, shape, dtype)))
            if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux.
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            self._values = np.ndarray(whole, dtype, memory)
        else:
            with tempfile.TemporaryFile() as scratch:
                # Or a disk that fills up later would end the process.
                os.posix_fallocate(
                    scratch.fileno(), 0, max(1, size(count, shape, dtype))
                )
                self._values = np.memmap(scratch, dtype, "w+", shape=whole)

    def __len__(self) -> int:
        return len(self._there)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row."""
        return self._values.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self._values.dtype

    @property
    def are_complete(self) -> bool:
        return bool(self._there.all())

    def has(self, indices: np.ndarray) -> np.ndarray:
        """Which of the rows are there; bool of the shape of `indices`."""
        return self._there[indices]

    def put(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Keeps rows `[*indices.shape, *shape]`."""
        self._values[indices] = values
        # Last: who reads at this moment must not find half of it.
        self._there[indices] = True

    def get(self, indices: np.ndarray) -> np.ndarray:
        """The rows, copied; what is not there yet is 0."""
        return np.asarray(self._values[indices])


def size(count: int, shape: Sequence[int], dtype: np.dtype) -> int:
    """Bytes that so many rows take."""
    return count * int(np.prod(shape)) * np.dtype(dtype).itemsize


def place(
    needed: int, taken: int = 0, places: Sequence[str] = PLACES
) -> str | None:
    """Where so much can be kept; the first of `places` that has room, or None.

    A quarter of the memory that is free now may be taken, half of the disk.

    Args:
        needed: bytes.
        taken: bytes that were promised to others and need not be taken yet.
        places: "memory", "disk".
    """
    for name in places:
        room = (
            _SHARE_OF_MEMORY * free_memory()
            if name == "memory"
            else _SHARE_OF_DISK * free_disk()
        )
        if needed + taken <= room:
            return name
    return None


def free_memory() -> int:
    """Bytes this process may still take, a container's limit considered."""
    free = psutil.virtual_memory().available
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            total, taken = (
                int(_read(os.path.join("/sys/fs/cgroup", name)))
                for name in (limit, used)
            )
        except (OSError, ValueError):  # No such group; or "max", no limit.
            continue
        free = min(free, max(0, total - taken))
    return free


def free_disk() -> int:
    """Bytes that are free where scratch files lie; TMPDIR says where."""
    return shutil.disk_usage(tempfile.gettempdir()).free


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
