"""Turns the state of training into files from which it continues exactly.

checkpoints/
    00000120-0004/   after 120 updates and 4 epochs
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
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.ranges import Count, Positive
from framework.registry import PARTS

_ARRAYS, _STATE = "arrays.npz", "state.json"
_FORMAT = 2
_NAME = r"\d{8,}-\d{4,}"  # Updates, and epochs that are complete.


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

    every_steps: Count | None = None
    every_minutes: Positive | None = 5.0
    keep: Count = 2

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

    Attributes:
        directory: where they lie; anything that `tf.io.gfile` knows. None
            saves nothing (of several workers only the chief saves).

    Args:
        directory: the same.
        when: how often, and how many to keep.
    """

    def __init__(self, directory: str | None, when: Checkpoints):
        self.directory = directory
        self._when = when
        self._last_time = time.monotonic()
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: concurrent.futures.Future | None = None
        # The last one that is known to be whole.
        self._whole: str | None = None

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to save after an update.

        Args:
            step: its number.
            steps: how many of them since this was last asked.
        """
        if self.directory is None:
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

        Nothing is done where this very state is saved already.

        Args:
            step: updates so far.
            arrays: a copy of what is large.
            state: the rest; anything that JSON can hold, and "epochs".

        Raises:
            UserError: the checkpoint before this one could not be written,
                or JSON can't hold the state.
        """
        if self.directory is None:
            return
        self.wait()
        self._last_time = time.monotonic()
        # At the end of an epoch the state changes, but not the step.
        name = f"{step:08}-{len(state.get('epochs', ())):04}"
        if name == self._whole:
            return
        try:
            # Here and now: what it is made of goes on changing.
            text = json.dumps(
                {"format": _FORMAT, "step": step, **state}, default=_plain
            )
        except TypeError as error:
            raise UserError(
                f"A checkpoint can't be written: {error}. Expected get_state "
                "of every callback to return what JSON can hold."
            ) from error
        self._pending = self._thread.submit(self._write, name, arrays, text)

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
            before = (
                "The checkpoint before it is intact: make room, and the same "
                "command continues from there."
                if self._whole
                else "There was none before it."
            )
            raise UserError(
                f"A checkpoint can't be written to {self.directory}: {error}. "
                f"Expected a place with room that may be written to. {before}"
            ) from error

    def close(self) -> None:
        """Ends the thread, whether or not what it wrote is complete."""
        self._thread.shutdown()

    def _write(
        self, name: str, arrays: Mapping[str, np.ndarray], text: str
    ) -> None:
        place = self._place(name)
        try:
            content = _pack(arrays)
            # What an earlier try left must not pass for part of this one.
            if tf.io.gfile.exists(place):
                tf.io.gfile.rmtree(place)
            tf.io.gfile.makedirs(place)
            with tf.io.gfile.GFile(os.path.join(place, _ARRAYS), "wb") as file:
                file.write(content)
            sha256 = hashlib.sha256(content).hexdigest()
            with tf.io.gfile.GFile(os.path.join(place, _STATE), "w") as file:
                file.write(f'{{"sha256": "{sha256}", {text[1:]}')
        except (OSError, tf.errors.OpError):
            _remove(place)
            raise
        self._whole = name
        # Newer ones are of a future that was lost: damaged, or not finished.
        names = self._names()
        older = names[: names.index(name) + 1]
        for other in older[: -self._when.keep] + names[len(older) :]:
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
        for name in reversed(self._names()):
            try:
                arrays, state = self._read(name)
                reason = fits(arrays, state)
            except _Unfinished:
                passed_over.append(f"{self._place(name)} was not finished")
                continue
            except Exception as error:
                # Damage takes any form: a cut zip, JSON of other things.
                reason = f"{type(error).__name__}: {error}"
            if reason is None:
                self._whole = name
                return (arrays, state), passed_over
            damaged = True
            passed_over.append(f"{self._place(name)}: {reason}")
        if damaged:
            raise UserError(
                "None of this run's checkpoints can be used. "
                f"{'; '.join(passed_over)}. Remove them to begin anew, or "
                "start a new run (--new, or another --workdir)."
            )
        return None, passed_over

    def _read(self, name: str) -> tuple[dict[str, np.ndarray], dict]:
        place = self._place(name)
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

    def _place(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _names(self) -> list[str]:
        """Of all checkpoints, complete or not, the oldest first."""
        if self.directory is None or not tf.io.gfile.exists(self.directory):
            return []
        names = (
            name.rstrip("/") for name in tf.io.gfile.listdir(self.directory)
        )
        return sorted(
            (name for name in names if re.fullmatch(_NAME, name)),
            key=lambda name: tuple(map(int, name.split("-"))),
        )


def _plain(value: Any) -> Any:
    """What JSON can hold in place of a number or an array of numpy's."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}")


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
