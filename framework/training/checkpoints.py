"""Turns the state of training into files from which it continues exactly.

checkpoints/
    00000120/
        arrays.npz   weights, optimizer, seeds, the best epoch's weights
        state.json   all else, and the digest of arrays.npz; written last, it
                     marks the checkpoint as complete

Neither renames nor links are used: object stores have none.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.registry import PARTS

_ARRAYS, _STATE = "arrays.npz", "state.json"
_FORMAT = 1


@PARTS.register()
@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """When to save and how much to keep.

    A run is also saved when it is asked to stop (SIGTERM, Ctrl-C). The
    weights of the best epoch so far are part of every checkpoint.

    Attributes:
        every_steps: updates between two checkpoints; None goes by time only.
        every_minutes: time between two checkpoints; None goes by steps only.
        keep: how many of the newest remain.
    """

    every_steps: int | None = None
    every_minutes: float | None = 5.0
    keep: int = 2

    def __post_init__(self):
        for field in ("every_steps", "every_minutes"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise UserError(
                    f"Checkpoints.{field} is {value}; expected more than 0, "
                    "or None."
                )
        if self.keep < 1:
            raise UserError(
                f"Checkpoints.keep is {self.keep}; expected at least 1."
            )


class CheckpointStore:
    """The checkpoints of one run.

    Files are written by a thread of their own, so that training goes on; what
    is saved is a copy, taken when `save` is called.

    Args:
        directory: where they lie; anything that `tf.io.gfile` knows. None
            saves nothing (of several workers only the chief saves).
        when: how often, and how many to keep.
    """

    def __init__(self, directory: str | None, when: Checkpoints):
        self._directory = directory
        self._when = when
        self._last_time = time.monotonic()
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: concurrent.futures.Future | None = None

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to save now.

        Args:
            step: updates so far.
            steps: how many of them since this was last asked.
        """
        if self._directory is None:
            return False
        by_steps = self._when.every_steps
        if by_steps and step // by_steps > (step - steps) // by_steps:
            return True
        minutes = (time.monotonic() - self._last_time) / 60
        by_time = self._when.every_minutes
        return by_time is not None and minutes >= by_time

    def save(
        self, step: int, arrays: Mapping[str, np.ndarray], state: dict
    ) -> None:
        """Writes a checkpoint, in the background; `wait` waits for it.

        Args:
            step: updates so far; names the checkpoint.
            arrays: a copy of what is large.
            state: the rest; anything that JSON can hold.

        Raises:
            UserError: the checkpoint before this one could not be written.
        """
        if self._directory is None:
            return
        self.wait()
        self._last_time = time.monotonic()
        self._pending = self._thread.submit(self._write, step, arrays, state)

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
            UserError: it could not be.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"A checkpoint can't be written to {self._directory}: {error}. "
                "Expected a place with room that may be written to. The "
                "checkpoint before it is intact: make room, and the same "
                "command continues from there."
            ) from error

    def close(self) -> None:
        """Ends the thread, whether or not what it wrote is complete."""
        self._thread.shutdown()

    def _write(
        self, step: int, arrays: Mapping[str, np.ndarray], state: dict
    ) -> None:
        place = self._place(step)
        try:
            content = _pack(arrays)
            # What an earlier try left must not pass for part of this one.
            if tf.io.gfile.exists(place):
                tf.io.gfile.rmtree(place)
            tf.io.gfile.makedirs(place)
            with tf.io.gfile.GFile(os.path.join(place, _ARRAYS), "wb") as file:
                file.write(content)
            header = {
                "format": _FORMAT,
                "step": step,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            with tf.io.gfile.GFile(os.path.join(place, _STATE), "w") as file:
                file.write(json.dumps({**header, **state}))
        except (OSError, tf.errors.OpError):
            _remove(place)
            raise
        # Newer ones are of a future that was lost: damaged, or not finished.
        steps = self._steps()
        older = [s for s in steps if s <= step]
        for other in older[: -self._when.keep] + steps[len(older) :]:
            _remove(self._place(other))

    def load(
        self, fits: Callable[[dict[str, np.ndarray], dict], str | None]
    ) -> tuple[tuple[dict[str, np.ndarray], dict] | None, list[str]]:
        """The newest checkpoint that is whole and fits.

        Args:
            fits: returns why a checkpoint's (arrays, state) can't be used, or
                None.

        Returns:
            (arrays, state), or None where nothing was ever saved whole; and
            why newer ones were passed over.

        Raises:
            UserError: checkpoints were saved, and none can be used.
        """
        passed_over, damaged = [], False
        for step in reversed(self._steps()):
            try:
                arrays, state = self._read(step)
                reason = fits(arrays, state)
            except _Unfinished:
                passed_over.append(f"{self._place(step)} was not finished")
                continue
            except Exception as error:
                # Damage takes any form: a cut zip, JSON of other things.
                reason = f"{type(error).__name__}: {error}"
            if reason is None:
                return (arrays, state), passed_over
            damaged = True
            passed_over.append(f"{self._place(step)}: {reason}")
        if damaged:
            raise UserError(
                "None of this run's checkpoints can be used. "
                f"{'; '.join(passed_over)}. Remove them to begin anew, or "
                "start a new run (--new, or another --workdir)."
            )
        return None, passed_over

    def _read(self, step: int) -> tuple[dict[str, np.ndarray], dict]:
        place = self._place(step)
        state_file = os.path.join(place, _STATE)
        if not tf.io.gfile.exists(state_file):
            raise _Unfinished
        with tf.io.gfile.GFile(state_file, "r") as file:
            text = file.read()
        if not text.endswith("}"):
            raise _Unfinished
        state = json.loads(text)
        if state.get("format") != _FORMAT:
            raise ValueError("another version of this program wrote it")
        with tf.io.gfile.GFile(os.path.join(place, _ARRAYS), "rb") as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != state["sha256"]:
            raise ValueError(f"{_ARRAYS} is damaged")
        with np.load(io.BytesIO(content)) as arrays:
            return dict(arrays), state

    def _place(self, step: int) -> str:
        return os.path.join(self._directory, f"{step:08}")

    def _steps(self) -> list[int]:
        """Of all checkpoints, complete or not, in ascending order."""
        if self._directory is None or not tf.io.gfile.exists(self._directory):
            return []
        names = (
            name.rstrip("/") for name in tf.io.gfile.listdir(self._directory)
        )
        return sorted(int(name) for name in names if name.isdigit())


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


class _Unfinished(Exception):
    """The process ended while it wrote the checkpoint."""


def _remove(place: str) -> None:
    # What can't be removed is passed over when it is read.
    with contextlib.suppress(OSError, tf.errors.OpError):
        tf.io.gfile.rmtree(place)


def digest(*values: Any) -> str:
    """A short fingerprint of arrays and of what JSON can hold."""
    whole = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            # Texts have lengths of their own: by their representation.
            value = value.tolist() if value.dtype == object else value
        if isinstance(value, np.ndarray):
            whole.update(np.ascontiguousarray(value).tobytes())
        else:
            whole.update(json.dumps(value, default=repr).encode())
    return whole.hexdigest()[:16]
