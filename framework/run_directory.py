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
    def create(cls, name: str, workdir: str | None = None) -> "RunDirectory":
        """Makes `workdir`, or the next free number under `runs/<name>`.

        `runs/latest` then points at it, where the file system can do so.

        Raises:
            UserError: it can't be written, or holds a finished run.
        """
        if workdir:
            if tf.io.gfile.exists(os.path.join(workdir, SUMMARY)):
                raise UserError(
                    f"{workdir} holds a finished run already. Choose another "
                    "--workdir, or leave it out to get a new number."
                )
            run = cls(workdir)
            try:
                tf.io.gfile.makedirs(workdir)
                run.write("environment.json", _json(_environment()))
            except (OSError, tf.errors.OpError) as error:
                raise UserError(
                    f"{workdir} can't be written: {error}. Expected a "
                    "directory, or a path where one can be made (--workdir)."
                ) from error
            return run
        base = os.path.join("runs", name)
        try:
            os.makedirs(base, exist_ok=True)
            taken = [int(n) for n in os.listdir(base) if n.isdigit()]
            number = max(taken, default=0)
            while True:
                number += 1
                try:
                    os.mkdir(os.path.join(base, f"{number:03}"))
                    break
                except FileExistsError:
                    continue  # Another run took it meanwhile.
            run = cls(os.path.join(base, f"{number:03}"))
            run.write("environment.json", _json(_environment()))
        except OSError as error:
            raise UserError(
                f"{os.path.abspath(base)} can't be written: {error}. Choose "
                "another place with --workdir."
            ) from error
        _point_latest_at(run.path)
        return run

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def write(self, name: str, content: str | bytes) -> None:
        mode = "wb" if isinstance(content, bytes) else "w"
        with tf.io.gfile.GFile(self.file(name), mode) as file:
            file.write(content)

    def write_json(self, name: str, content: Any) -> None:
        self.write(name, _json(content))

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


def _json(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"


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
