"""Turns a task's data into shards that a cluster reads in sequence."""

from rich.console import Console

from framework.console import Bar, in_megabytes, say, some
from framework.data.preparing import Preparation
from framework.data.preparing import prepare as write
from framework.errors import UserError
from framework.evaluation import report
from framework.modes.loading import load_data
from framework.registry import MODES
from framework.task import Task


@MODES.register(given=["console"])
def prepare(
    task: Task,
    directory: str | None = None,
    file_format: str = "tfrecord",
    shard_bytes: int = 128 << 20,
    max_side: int | None = None,
    quality: int = 95,
    doctor: str | None = None,
    console: Console | None = None,
) -> Preparation:
    """Writes a task's splits as a data set of TFDS, for `Prepared` to read.

    A call that was interrupted is continued by the same call. What `train`
    binds of `task` and `doctor` holds here too, unless it is bound here.

    Args:
        task: what the data is; its splits are written as it cuts them.
        directory: where to write; "gs://..." and the like too.
        file_format: "tfrecord" or "array_record".
        shard_bytes: the size of a file, nearly.
        max_side: images with a longer side are shrunk to so many pixels;
            None copies all of them byte for byte.
        quality: of the JPEGs that are made then, 1 to 100.
        doctor: a run directory of `--mode=doctor`: what is in its quarantine
            is not written.
        console: where to write messages.

    Raises:
        UserError: the data can't be had, a setting makes no sense, or the
            directory holds something else.
    """
    console = console or Console()
    if directory is None:
        raise UserError(
            "prepare.directory is not bound. Expected where to write to: "
            "--gin_param=\"prepare.directory = 'prepared/photos'\"."
        )
    data = load_data(task, console, doctor)
    say(console, report.describe(data))
    for note in data.notes:
        say(console, f"Note: {note}")
    with Bar(console) as bar:
        done = write(
            data,
            directory,
            file_format,
            shard_bytes,
            max_side,
            quality,
            lambda count, total: bar.show("Writing", count, total),
        )
    if done.left_out:
        say(
            console,
            f"{len(done.left_out):,} examples do not decode and were left "
            f"out: {some(done.left_out)}.",
        )
    if done.was_complete:
        say(console, f"{done.directory} holds this data set already.")
    counts = ", ".join(f"{n:,} {name}" for name, n in done.examples.items())
    say(
        console,
        f"{done.directory}: {counts} examples in {done.shards} files, "
        f"{in_megabytes(done.size)}. To train on it: "
        "--gin_file=gin/prepared.gin "
        f"--gin_param=\"Prepared.directory = '{done.directory}'\"",
    )
    return done
