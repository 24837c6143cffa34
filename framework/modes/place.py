"""Turns a finished run into a place beside it, for what is made of it."""

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf

from framework.errors import UserError
from framework.run_directory import RunDirectory


@contextlib.contextmanager
def beside(
    run: str, kind: str, workdir: str | None = None
) -> Iterator[RunDirectory]:
    """A new directory; it is gone again where what is inside raises.

    It is made at once, so that a place that can't be written to is found before
    the work, and nobody else takes the same number.

    Args:
        run: the finished run's directory.
        kind: of the place: it is the next free number in the run's folder of
            this name.
        workdir: where to write instead: an empty or a new directory.

    Raises:
        UserError: it can't be written, or `workdir` holds something.
    """
    if workdir:
        was_there = tf.io.gfile.exists(workdir)
        if was_there and (
            not tf.io.gfile.isdir(workdir) or tf.io.gfile.listdir(workdir)
        ):
            raise UserError(
                f"--workdir is {workdir}, which is a file or holds something "
                "already. Expected an empty or a new directory."
            )
        place = RunDirectory(workdir)
        with place.writing():
            tf.io.gfile.makedirs(workdir)
    else:
        was_there = False
        place = _next(os.path.join(run, kind))
    try:
        yield place
    except BaseException:
        with contextlib.suppress(tf.errors.OpError):
            if was_there:
                for name in tf.io.gfile.listdir(place.path):
                    tf.io.gfile.remove(place.file(name))
            else:
                tf.io.gfile.rmtree(place.path)
                _remove_if_empty(os.path.dirname(place.path), workdir)
        raise


def _next(base: str) -> RunDirectory:
    """Takes the number after the highest."""
    while True:
        held = tf.io.gfile.listdir(base) if tf.io.gfile.isdir(base) else []
        # Folders of object stores end with a slash.
        numbers = [int(n) for n in (h.rstrip("/") for h in held) if n.isdigit()]
        path = os.path.join(base, f"{max(numbers, default=0) + 1:03}")
        place = RunDirectory(path)
        with place.writing():
            if "://" in path:
                tf.io.gfile.makedirs(path)
                return place
            os.makedirs(base, exist_ok=True)
            try:
                os.mkdir(path)
            except FileExistsError:  # Another process took it meanwhile.
                continue
        return place


def _remove_if_empty(base: str, workdir: str | None) -> None:
    if not workdir and not tf.io.gfile.listdir(base):
        tf.io.gfile.rmtree(base)
