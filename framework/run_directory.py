"""Turns a run's results into files that outlive it.

runs/<name>/<number>/
    config.gin        as asked
    operative.gin     as used, imports included: reproduces the run
    environment.json  versions, machine, git state
    metrics.jsonl     a line an epoch
    tensorboard/      the same for TensorBoard
    report.html       what it learned, saw and was fed, on one page
    report_problems.txt  what of it could not be made, if anything
    history.png       training against validation
    model.keras       the trained model, the best epoch's weights
    predictions.csv   of the last evaluation, an example a line
    splits.csv        which example was trained and which judged on
    export/           what --mode=export makes: a SavedModel and its proof
    fold-1/ ...       of a cross-validation: each fold's own run
    checkpoints/      where an unfinished run continues
    summary.json      the end in figures; written last, it marks the run
                      as complete
"""

import contextlib
import csv
import fcntl
import hashlib
import io
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import keras
import numpy as np
import tensorflow as tf

from framework.configuration import bindings
from framework.console import some
from framework.data.source import Examples, IndexedExamples
from framework.digests import digest
from framework.errors import UserError
from framework.evaluation.predictions import Predictions
from framework.training.trainer import Observer
from framework.versions import versions

SUMMARY = "summary.json"
_OPERATIVE = "operative.gin"
_LOCK = ".lock"
_PREDICTIONS = "predictions.csv"
# What a run writes before anything else.
_FIRST = (_OPERATIVE, "config.gin", "environment.json")
_MAY_CHANGE = (
    r"(\w+[./])*("
    r"(distribution|Checkpoints)\.\w+|pipeline\.(service|cache)|"
    r"train\.(distribution|checkpoints|steps_per_call))"
)


class RunDirectory:
    """One run's files; paths may be on anything that `tf.io.gfile` knows.

    Attributes:
        path: the directory.
        is_begun: whether an unfinished run of the same configuration lies
            there, to be continued.
        is_finished: whether a finished one does.
    """

    def __init__(self, path: str):
        self.path = path
        self.is_finished = self._held(SUMMARY).endswith("}\n")
        self.is_begun = bool(self._held(_OPERATIVE)) and not self.is_finished
        # Of a new run under runs/: where it takes the next number.
        self._base = ""
        # The run that this one is a part of.
        self._whole: RunDirectory | None = None
        self._texts: dict[str, str] = {}
        self._lock: BinaryIO | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Locks are a process's own.
        return {**self.__dict__, "_lock": None}

    def _held(self, name: str) -> str:
        """A file's text; none where there is no such file."""
        return self.read(name) if tf.io.gfile.exists(self.file(name)) else ""

    @classmethod
    def check(cls, name: str, workdir: str | None = None) -> None:
        """Looks whether a run can go there at all; writes nothing.

        Raises:
            UserError: `workdir` holds something else than a run, or the name
                is that of the link to the newest run.
        """
        if not workdir:
            if name == "latest":
                raise UserError(
                    "A gin file called latest would write its runs where "
                    "runs/latest points at the newest run. Rename it."
                )
            return
        if not tf.io.gfile.exists(workdir):
            return
        if not tf.io.gfile.isdir(workdir):
            raise UserError(
                f"--workdir is {workdir}, which is a file; expected a "
                "directory, or a path where one can be made."
            )
        held = set(tf.io.gfile.listdir(workdir))
        if _OPERATIVE not in held and held - {_LOCK, *_FIRST}:
            raise UserError(
                f"{workdir} holds something else than a run: "
                f"{some(sorted(held))}. Expected an empty or a new directory, "
                "or that of a run to continue; choose another --workdir."
            )

    @classmethod
    def locate(
        cls,
        name: str,
        asked: str,
        operative: str,
        workdir: str | None = None,
        new: bool = False,
    ) -> "RunDirectory":
        """Where the run goes, or goes on; writes nothing.

        An unfinished run of the same configuration is continued; otherwise
        it is `workdir`, or the next free number under `runs/<name>`.

        Args:
            name: of the gin file.
            asked: the configuration as asked for.
            operative: as used.
            workdir: the directory, if it is given.
            new: continue nothing.

        Raises:
            UserError: `workdir` holds a run of another configuration, or one
                that another process is at.
        """
        cls.check(name, workdir)
        if workdir:
            run = cls(workdir)
            if run.is_begun or run.is_finished:
                run._check_same(operative, new)
        else:
            run = cls._in_runs(os.path.join("runs", name), operative, new)
        run._texts = {_OPERATIVE: operative, "config.gin": asked}
        return run

    @classmethod
    def _in_runs(cls, base: str, operative: str, new: bool) -> "RunDirectory":
        for number in [] if new else reversed(_numbers(base)):
            run = cls(os.path.join(base, number))
            if (
                run.is_begun
                and not _differences(run.read(_OPERATIVE), operative)
                and run._take_lock()
            ):
                return run
        run = cls(os.path.join(base, _next_number(base)))
        run._base = base
        return run

    def _check_same(self, operative: str, new: bool) -> None:
        differing = _differences(self.read(_OPERATIVE), operative)
        if differing:
            raise UserError(
                f"{self.path} holds a run of another configuration. Where "
                f"they differ: {'; '.join(differing)}. Choose another "
                "--workdir, or ask for the same."
            )
        if new:
            raise UserError(
                f"--new is given, and {self.path} holds a run already. "
                "Choose another --workdir, or leave --new out."
            )
        if not self.is_finished and not self._take_lock():
            raise UserError(
                f"Another process is at the run in {self.path}. Wait for "
                "it, or choose another --workdir."
            )

    def part(self, name: str) -> "RunDirectory":
        """A run inside of this one, with the same configuration."""
        part = RunDirectory(self.file(name))
        part._whole = self
        part._texts = self._texts
        return part

    def create(self) -> str:
        """Makes the directory, or takes it over from a process that ended.

        Returns:
            its path.

        Raises:
            UserError: it can't be written, or another process has just taken
                it.
        """
        if self._whole is not None:
            self.path = os.path.join(
                self._whole.create(), os.path.basename(self.path)
            )
        with self.writing():
            if self._base:
                self._take_number()
                self._base = ""
            tf.io.gfile.makedirs(self.path)
        if self._lock is None and not self._take_lock():
            raise UserError(
                f"Another process has just begun in {self.path}. Wait for it, "
                "or choose another place."
            )
        if not self.is_begun:
            try:
                for name, text in self._texts.items():
                    self.write(name, text)
            except UserError:
                # Half of it would pass for another configuration.
                with contextlib.suppress(OSError, tf.errors.OpError):
                    tf.io.gfile.remove(self.file(_OPERATIVE))
                raise
        self.write_json("environment.json", _environment())
        return self.path

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns a place that can't be written to into a UserError."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            path = (
                self.path if "://" in self.path else os.path.abspath(self.path)
            )
            reason = getattr(error, "message", None) or error
            raise UserError(
                f"{path} can't be written: {reason}. "
                "Expected a directory with room, or a path where one can be "
                "made; make room, or choose another place with --workdir."
            ) from error

    def _take_number(self) -> None:
        os.makedirs(self._base, exist_ok=True)
        while True:
            try:
                os.mkdir(self.path)
                return
            except FileExistsError:  # Another run took it meanwhile.
                self.path = os.path.join(self._base, _next_number(self._base))

    def _take_lock(self) -> bool:
        """Marks the directory as in use, for as long as this process lives.

        Object stores have no locks, nor have some network file systems: there
        it is the user's to run one only.
        """
        if "://" in self.path:
            return True
        with self.writing():
            lock = open(self.file(_LOCK), "ab")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        except OSError:
            pass
        self._lock = lock
        return True

    def close(self) -> None:
        """Gives the directory free for other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the summary, which marks the run as complete.

        `runs/latest` then points at it, if it lies under `runs`.
        """
        self.write_json(SUMMARY, summary)
        if self._lock is not None:
            self.close()
            with contextlib.suppress(OSError):
                os.unlink(self.file(_LOCK))
        if os.path.dirname(os.path.dirname(self.path)) == "runs":
            _point_latest_at(self.path)

    def results(self) -> tuple[list[np.ndarray], list[dict], dict]:
        """Of a finished run: the model's weights, its epochs, its summary."""
        weights = self.model().get_weights()
        epochs = map(json.loads, self.read("metrics.jsonl").splitlines())
        return weights, list(epochs), json.loads(self.read(SUMMARY))

    def model(self) -> keras.Model:
        """The model of a finished run, as it was saved."""
        with tempfile.TemporaryDirectory() as folder:
            local = os.path.join(folder, "model.keras")
            tf.io.gfile.copy(self.file("model.keras"), local)
            return keras.saving.load_model(local, compile=False)

    @property
    def checkpoints(self) -> str:
        """Where the checkpoints lie."""
        return self.file("checkpoints")

    def read(self, name: str) -> str:
        with tf.io.gfile.GFile(self.file(name), "r") as file:
            return file.read()

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def write(self, name: str, content: str | bytes) -> None:
        mode = "wb" if isinstance(content, bytes) else "w"
        with (
            self.writing(),
            tf.io.gfile.GFile(self.file(name), mode) as file,
        ):
            file.write(content)

    def write_json(self, name: str, content: Any) -> None:
        self.write(name, json.dumps(content, indent=2) + "\n")

    def write_model(self, model: keras.Model) -> None:
        """Saves `model.keras`, by way of a local file (gs:// has no seek).

        Without the optimizer, whose moments take twice the room, and whose
        schedule plain Keras need not know.
        """
        bare = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
        with self.writing(), tempfile.TemporaryDirectory() as folder:
            local = os.path.join(folder, "model.keras")
            bare.save(local)
            tf.io.gfile.copy(local, self.file("model.keras"), overwrite=True)

    def write_predictions(
        self, predictions: Predictions, class_names: tuple[str, ...]
    ) -> None:
        """Saves `predictions.csv`: id, classes, loss, probabilities."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(
            [
                *("id", "label", "predicted", "loss"),
                *(f"p({c})" for c in class_names),
            ]
        )
        for row in zip(
            predictions.ids,
            predictions.labels,
            predictions.predicted,
            predictions.losses,
            predictions.probabilities,
            strict=True,
        ):
            example_id, label, predicted, loss, scores = row
            writer.writerow(
                [
                    example_id,
                    class_names[label],
                    class_names[predicted],
                    f"{loss:.9g}",
                    *(f"{score:.9g}" for score in scores),
                ]
            )
        self.write(_PREDICTIONS, text.getvalue())

    def write_tensorboard(
        self,
        step: int,
        figures: Mapping[str, Mapping[str, Any]],
        pictures: Mapping[str, Sequence[bytes]],
    ) -> None:
        """Gives TensorBoard the final figures by split, and pictures.

        Args:
            step: the update whose weights were judged.
            figures: as `summary.json` has them; what is no number is left out.
            pictures: JPEGs or PNGs by what they show; each list is one image
                summary.
        """

        def writer(name: str) -> tf.summary.SummaryWriter:
            return tf.summary.create_file_writer(
                os.path.join(self.file("tensorboard"), name)
            )

        with self.writing():
            for split, values in figures.items():
                with (
                    contextlib.closing(writer(f"final/{split}")) as made,
                    made.as_default(step=step),
                ):
                    for name, value in values.items():
                        if isinstance(value, float):
                            tf.summary.scalar(name, value)
            with (
                contextlib.closing(writer("pictures")) as made,
                made.as_default(step=step),
            ):
                for name, images in pictures.items():
                    decoded = [
                        tf.io.decode_image(image, 3, expand_animations=False)
                        for image in images
                    ]
                    # Side by side they have one size; and of one name there
                    # is one at a step.
                    sizes = list(dict.fromkeys(tuple(e.shape) for e in decoded))
                    for number, size in enumerate(sizes, 1):
                        alike = [e for e in decoded if tuple(e.shape) == size]
                        tf.summary.image(
                            name if number == 1 else f"{name} ({number})",
                            tf.stack(alike),
                            max_outputs=len(alike),
                        )

    def write_splits(self, splits: Mapping[str, Examples]) -> None:
        """Saves `splits.csv`: which example is on which side."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "split", "group"])
        for name, examples in splits.items():
            # A stream's ids only reading would tell.
            if isinstance(examples, IndexedExamples):
                groups = examples.groups
                if groups is None:
                    groups = itertools.repeat("")
                writer.writerows(
                    (i, name, g)
                    for i, g in zip(examples.ids, groups, strict=False)
                )
        self.write("splits.csv", text.getvalue())


def read_predictions(
    directory: str, class_names: tuple[str, ...]
) -> Predictions:
    """What `RunDirectory.write_predictions` saved."""
    path = os.path.join(directory, _PREDICTIONS)
    with tf.io.gfile.GFile(path, "r") as file:
        # The ids hold line ends of their own.
        rows = list(csv.reader(io.StringIO(file.read(), newline="")))[1:]
    place = {name: label for label, name in enumerate(class_names)}
    return Predictions(
        ids=np.array([row[0] for row in rows], object),
        labels=np.array([place[row[1]] for row in rows], np.int64),
        probabilities=np.array([row[4:] for row in rows], np.float32),
        losses=np.array([row[3] for row in rows], np.float32),
        unreadable=(),
    )


class LogObserver(Observer):
    """Writes every epoch to `metrics.jsonl` and for TensorBoard.

    Args:
        run: where to.
        epochs: what a run that is continued has behind it.
    """

    def __init__(self, run: RunDirectory, epochs: Sequence[dict] = ()):
        self._run = run
        self._lines = [json.dumps(figures) for figures in epochs]
        self._writers = {}

    def on_epoch(self, figures: dict) -> None:
        self._lines.append(json.dumps(figures))
        # Whole: object stores can't append, and a run that is continued must
        # not keep what it had written after its checkpoint.
        self._run.write("metrics.jsonl", "\n".join(self._lines) + "\n")
        for split in ("train", "validation"):
            if split not in figures:
                continue
            scalars = dict(figures[split])
            if split == "train":
                for name in (
                    "learning_rate",
                    "images_per_second",
                    "input_wait",
                ):
                    scalars[name] = figures[name]
            with self._run.writing():
                self._write_summary(split, figures["step"], scalars)

    def _write_summary(
        self, split: str, step: int, scalars: Mapping[str, float]
    ) -> None:
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(
                os.path.join(self._run.file("tensorboard"), split)
            )
        with self._writers[split].as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._writers[split].flush()


def weights_sha256(model: keras.Model) -> str:
    """A fingerprint of all weights, the same for bit-identical ones only."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _numbers(base: str) -> list[str]:
    if not os.path.isdir(base):
        return []
    return sorted((n for n in os.listdir(base) if n.isdigit()), key=int)


def numbered(name: str) -> list[str]:
    """The run directories under `runs/<name>`, the oldest first."""
    base = os.path.join("runs", name)
    return [os.path.join(base, number) for number in _numbers(base)]


def _next_number(base: str) -> str:
    """The number after the highest there is, from 001."""
    numbers = _numbers(base)
    return f"{int(numbers[-1]) + 1 if numbers else 1:03}"


def fingerprint(operative: str) -> str:
    """Of what must not change in a configuration from start to start."""
    bound = bindings(operative)
    return digest(
        {k: v for k, v in sorted(bound.items()) if not _may_change(k)}
    )


def _differences(before: str, now: str) -> list[str]:
    """Bindings in which two configurations differ, but for how they run.

    On how many devices, how often it is saved and who decodes may change from
    one start to the next.
    """
    was, wanted = bindings(before), bindings(now)
    return [
        f"{name} was {was.get(name, 'not bound')}, now "
        f"{wanted.get(name, 'not bound')}"
        for name in sorted({*was, *wanted})
        if was.get(name) != wanted.get(name) and not _may_change(name)
    ]


def _may_change(name: str) -> bool:
    return re.fullmatch(_MAY_CHANGE, name) is not None


def _point_latest_at(path: str) -> None:
    link = os.path.join("runs", "latest")
    try:
        if os.path.islink(link):
            os.unlink(link)
        os.symlink(os.path.relpath(path, "runs"), link)
    except OSError:
        pass  # A convenience; not every file system has links.


def _environment() -> dict[str, Any]:
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [d.name for d in tf.config.list_logical_devices()],
        "versions": versions(),
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    """Commit and cleanliness of the work tree, if this is one."""
    try:
        commit, status = (
            subprocess.run(
                ["git", *arguments],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "clean": not status}
