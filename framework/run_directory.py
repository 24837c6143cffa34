"""Turns a run's results into files that outlive it.

runs/<name>/<number>/
    config.gin        as asked
    operative.gin     as used, imports included: reproduces the run
    environment.json  versions, machine, git state
    metrics.jsonl     a line an epoch
    tensorboard/      the same for TensorBoard
    history.png       training against validation
    model.keras       the trained model, the best epoch's weights
    predictions.csv   of the last evaluation, an example a line
    summary.json      the end in figures; written last, it marks the run
                      as complete
"""

import csv
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.evaluation.predictions import Predictions
from framework.training.trainer import Observer

SUMMARY = "summary.json"
_LIBRARIES = (
    "tensorflow",
    "keras",
    "keras-cv",
    "tensorflow-datasets",
    "gin-config",
    "numpy",
)


class RunDirectory:
    """One run's files; paths may be on anything that `tf.io.gfile` knows.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: str):
        self.path = path

    @classmethod
    def check(cls, name: str, workdir: str | None = None) -> None:
        """Looks whether `create` will succeed; writes nothing.

        Raises:
            UserError: `workdir` is not an empty or a new directory, or the
                name is that of the link to the newest run.
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
        if tf.io.gfile.exists(os.path.join(workdir, SUMMARY)):
            raise UserError(
                f"{workdir} holds a finished run already. Choose another "
                "--workdir, or leave it out to get a new number."
            )
        if tf.io.gfile.listdir(workdir):
            raise UserError(
                f"{workdir} is not empty: it holds an unfinished run, or "
                "something else. Expected an empty or a new directory; "
                "choose another --workdir or remove this one."
            )

    @classmethod
    def create(cls, name: str, workdir: str | None = None) -> "RunDirectory":
        """Makes `workdir`, or the next free number under `runs/<name>`.

        Raises:
            UserError: as `check` does, or it can't be written.
        """
        cls.check(name, workdir)
        place = workdir or os.path.join("runs", name)
        try:
            run = cls(workdir or _next_number(place))
            tf.io.gfile.makedirs(run.path)
            run.write_json("environment.json", _environment())
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"{os.path.abspath(place)} can't be written: {error}. "
                "Expected a directory, or a path where one can be made; "
                "choose another place with --workdir."
            ) from error
        return run

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the summary, which marks the run as complete.

        `runs/latest` then points at it, if it lies under `runs`.
        """
        self.write_json(SUMMARY, summary)
        if os.path.dirname(os.path.dirname(self.path)) == "runs":
            _point_latest_at(self.path)

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def write(self, name: str, content: str | bytes) -> None:
        mode = "wb" if isinstance(content, bytes) else "w"
        with tf.io.gfile.GFile(self.file(name), mode) as file:
            file.write(content)

    def write_json(self, name: str, content: Any) -> None:
        self.write(name, json.dumps(content, indent=2) + "\n")

    def append_json_line(self, name: str, content: Any) -> None:
        with tf.io.gfile.GFile(self.file(name), "a") as file:
            file.write(json.dumps(content) + "\n")

    def write_model(self, model: keras.Model) -> None:
        """Saves `model.keras`, by way of a local file (gs:// has no seek)."""
        with tempfile.TemporaryDirectory() as folder:
            local = os.path.join(folder, "model.keras")
            model.save(local)
            tf.io.gfile.copy(local, self.file("model.keras"), overwrite=True)

    def write_predictions(
        self, predictions: Predictions, class_names: tuple[str, ...]
    ) -> None:
        """Saves `predictions.csv`: id, true and predicted class, scores."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(
            ["id", "label", "predicted", *(f"p({c})" for c in class_names)]
        )
        for row in zip(
            predictions.ids,
            predictions.labels,
            predictions.predicted,
            predictions.probabilities,
            strict=True,
        ):
            example_id, label, predicted, scores = row
            writer.writerow(
                [
                    example_id,
                    class_names[label],
                    class_names[predicted],
                    *(f"{score:.6f}" for score in scores),
                ]
            )
        self.write("predictions.csv", text.getvalue())


class LogObserver(Observer):
    """Writes every epoch to `metrics.jsonl` and for TensorBoard."""

    def __init__(self, run: RunDirectory):
        self._run = run
        self._writers = {}

    def on_epoch(self, figures: dict) -> None:
        self._run.append_json_line("metrics.jsonl", figures)
        for split in ("train", "validation"):
            if split not in figures:
                continue
            if split not in self._writers:
                self._writers[split] = tf.summary.create_file_writer(
                    os.path.join(self._run.file("tensorboard"), split)
                )
            scalars = dict(figures[split])
            if split == "train":
                for name in ("learning_rate", "images_per_second"):
                    scalars[name] = figures[name]
            with self._writers[split].as_default(step=figures["step"]):
                for name, value in scalars.items():
                    tf.summary.scalar(name, value)
            self._writers[split].flush()


def weights_sha256(model: keras.Model) -> str:
    """A fingerprint of all weights, the same for bit-identical ones only."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _next_number(base: str) -> str:
    """Makes `base/001`, or the number after the highest there is."""
    os.makedirs(base, exist_ok=True)
    number = max((int(n) for n in os.listdir(base) if n.isdigit()), default=0)
    while True:
        number += 1
        path = os.path.join(base, f"{number:03}")
        try:
            os.mkdir(path)
            return path
        except FileExistsError:
            continue  # Another run took it meanwhile.


def _point_latest_at(path: str) -> None:
    link = os.path.join("runs", "latest")
    try:
        if os.path.islink(link):
            os.unlink(link)
        os.symlink(os.path.relpath(path, "runs"), link)
    except OSError:
        pass  # A convenience; not every file system has links.


def _environment() -> dict[str, Any]:
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [d.name for d in tf.config.list_logical_devices()],
        "versions": versions,
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
