"""Turns a finished run's directory into its model and what goes with it."""

import contextlib
import dataclasses
import importlib
import json
import os
import re
from typing import Any

import keras
import tensorflow as tf

# What a saved model may hold beside Keras's own layers.
import framework.model.classifier  # noqa: F401
from framework.configuration import bindings
from framework.errors import UserError
from framework.run_directory import SUMMARY, RunDirectory


@dataclasses.dataclass(frozen=True)
class Finished:
    """What of a finished run is needed to ask it about pictures.

    Attributes:
        path: the run's directory.
        model: uint8 `[B, S, S, 3]`, pixels 0..255, to outputs `[B, units]`.
        class_names: in the order of the model's labels.
        resize: how pictures become squares, as `images.resize` has it.
        summary: the run's end in figures.
    """

    path: str
    model: keras.Model
    class_names: tuple[str, ...]
    resize: str
    summary: dict[str, Any]

    @property
    def image_size(self) -> int:
        """Side S of the images in pixels."""
        return self.model.input_shape[1]


def resolved(path: str) -> str:
    """Where a link leads: runs/latest will be another run some day."""
    if "://" in path or not os.path.islink(path.rstrip("/")):
        return path
    path = os.path.realpath(path)
    below = os.path.relpath(path)
    return path if below.startswith(os.pardir) else below


def directory(path: str) -> RunDirectory:
    """The directory of a finished run.

    Raises:
        UserError: no finished run lies there.
    """
    run = RunDirectory(path)
    if not run.is_finished:
        state = "an unfinished run" if run.is_begun else "no run"
        raise UserError(
            f"{path} holds {state}. Expected the directory of a finished one, "
            "such as runs/latest."
        )
    return run


def imported(run: RunDirectory) -> str:
    """Imports what a run had imported; its operative configuration.

    What can't be imported may have registered layers: then the model does not
    load, and that error says so.
    """
    if not tf.io.gfile.exists(run.file("operative.gin")):
        raise UserError(
            f"{run.path} has no operative.gin. Expected a run's directory as a "
            "whole."
        )
    operative = run.read("operative.gin")
    for module in re.findall(r"^import ([\w.]+)$", operative, re.M):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    return operative


def load(path: str) -> Finished:
    """Loads a finished run.

    Args:
        path: the run's directory, on anything that `tf.io.gfile` knows.

    Raises:
        UserError: no finished run of one model lies there, or its model can't
            be loaded.
    """
    run = directory(path)
    if not tf.io.gfile.exists(run.file("model.keras")):
        folds = tf.io.gfile.exists(run.file("fold-1"))
        raise UserError(
            f"{path} has no model.keras. Expected the directory of a run that "
            "trained one model"
            + (
                "; of this cross-validation name a fold's, such as "
                f"{run.file('fold-1')}."
                if folds
                else "."
            )
        )
    operative = imported(run)
    try:
        model = run.model()
    except Exception as error:
        raise UserError(
            f"{run.file('model.keras')} can't be loaded: {error}"
        ) from error
    summary = json.loads(run.read(SUMMARY))
    return Finished(
        path,
        model,
        tuple(summary["data"]["classes"]),
        _resize(operative, path),
        summary,
    )


def _resize(operative: str, path: str) -> str:
    """How pictures were resized, whatever scope and macro say so."""
    bound = bindings(operative)
    said = {
        bound.get(value.removeprefix("%"), value).strip("'\"")
        for name, value in bound.items()
        if re.fullmatch(r"(\w+[./])*pipeline\.resize", name)
    }
    if len(said) > 1:
        raise UserError(
            f"{path}/operative.gin binds pipeline.resize to "
            f"{' and '.join(sorted(said))}. Expected one way to resize, or "
            "what the model was trained on can't be told."
        )
    return said.pop() if said else "squash"
