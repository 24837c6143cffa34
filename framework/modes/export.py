"""Turns a finished run into an artifact that is proved to be the same."""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from rich.console import Console

from framework.configuration import Configuration
from framework.console import say
from framework.errors import UserError
from framework.evaluation import report
from framework.export import artifact
from framework.export.proof import prove
from framework.finished import Finished, load, resolved
from framework.run_directory import (
    RunDirectory,
    read_predictions,
    weights_sha256,
)
from framework.task import Data
from framework.versions import versions

FOLDER = "export"
SAVED_MODEL = "saved_model"
PROOF = "proof.json"


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        directory: `export/` in the run's directory.
        saved_model: of the version.
        metadata: what the artifact says of itself.
        proof: as in `proof.json`; None where none was asked for.
    """

    directory: str
    saved_model: str
    metadata: dict[str, Any]
    proof: dict[str, Any] | None


def export(
    run: str, *, proof: bool = True, console: Console | None = None
) -> Exported:
    """Makes, or makes anew, the artifact of a finished run.

    It appears in the run's directory whole or not at all; what lay there
    before stays where this fails. The configuration that gin holds is replaced
    by the run's.

    Args:
        run: the run's directory ("runs/latest"), on anything that
            `tf.io.gfile` knows.
        proof: whether to compare it with what the run measured; takes the data
            that the run was judged on.
        console: where to report; standard output by default.

    Raises:
        UserError: the run is not finished, its data can't be had, or the
            proof fails.
    """
    console = console or Console()
    run = resolved(run)
    finished = load(run)
    if weights_sha256(finished.model) != finished.summary["weights_sha256"]:
        raise UserError(
            f"{run}/model.keras has other weights than summary.json speaks of. "
            "Expected the model that the run has saved."
        )
    data = None
    if proof:
        data = _data(finished, console)
    directory = RunDirectory(run)
    with _made_beside(directory) as made:
        version = os.path.join(made, SAVED_MODEL, artifact.VERSION)
        metadata = artifact.write(
            finished.model,
            version,
            finished.class_names,
            finished.resize,
            _facts(finished),
        )
        figures = None
        if data is not None:
            figures = prove(
                version,
                data.splits.values(),
                read_predictions(run, finished.class_names),
                finished.class_names,
                finished.image_size,
                finished.resize,
            )
            _say_proof(console, figures, metadata)
            with open(os.path.join(made, PROOF), "w") as file:
                file.write(json.dumps({SAVED_MODEL: figures}, indent=2) + "\n")
    place = directory.file(FOLDER)
    version = os.path.join(place, SAVED_MODEL, artifact.VERSION)
    say(console, f"Exported: {version}")
    return Exported(place, version, metadata, figures)


def _data(finished: Finished, console: Console) -> Data:
    """The examples that a run was judged on; some, maybe, in other splits."""
    if not tf.io.gfile.exists(f"{finished.path}/predictions.csv"):
        raise UserError(
            f"{finished.path} has no predictions.csv: it was judged on no "
            "split, and there is nothing to prove an export by. Export "
            "without a proof (--noproof)."
        )
    try:
        task = Configuration(f"{finished.path}/operative.gin").task()
        return task.load(
            lambda name, reason: console.print(
                report.stand_in_notice(name, reason)
            )
        )
    except UserError as error:
        raise UserError(
            f"The data to prove the export by can't be had: {error.message} "
            "Export where it is, or without a proof (--noproof)."
        ) from error


def _facts(finished: Finished) -> dict[str, Any]:
    """What is known of a model beside how to use it."""
    summary = finished.summary
    judged = report.judged_split(summary)
    return {
        "source": summary["data"]["source"],
        "stand_in": summary["data"]["stand_in"],
        "judged": judged
        and {
            "label": judged[1],
            **{
                name: summary[judged[0]][name]
                for name in ("examples", "accuracy", "loss")
            },
        },
        "weights_sha256": summary["weights_sha256"],
        "versions": versions(),
    }


def _say_proof(
    console: Console, figures: dict[str, Any], metadata: dict[str, Any]
) -> None:
    of = figures["measured"]
    say(
        console,
        f"Proved: on {figures['examples']:,}"
        + (f" of {of:,}" if of > figures["examples"] else "")
        + f" examples ({metadata['judged']['label']}), in a process of its "
        "own, probabilities differ from the run's by at most "
        f"{figures['difference']:.1g}; accuracy {figures['accuracy']:.4f}. "
        "Two calls agree to the bit.",
    )
    times = figures["milliseconds"]
    say(
        console,
        f"{figures['bytes'] / 1e6:.1f} MB; a call takes "
        + ", ".join(
            f"{times[n]:.1f} ms for {n} picture{'s' * (n != '1')}"
            for n in times
        )
        + ".",
    )


@contextlib.contextmanager
def _made_beside(run: RunDirectory) -> Iterator[str]:
    """A folder on this machine that becomes the run's `export/` at the end."""
    is_local = "://" not in run.path
    with run.writing():
        # What is renamed has to be on the same file system.
        folder = tempfile.mkdtemp(
            prefix=".export-", dir=run.path if is_local else None
        )
    try:
        made = os.path.join(folder, "new")
        os.mkdir(made)
        yield made
        with run.writing():
            if is_local:
                _swap(made, run.file(FOLDER), os.path.join(folder, "old"))
            else:
                _copy(made, run.file(FOLDER))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _swap(made: str, place: str, old: str) -> None:
    if os.path.lexists(place):
        os.rename(place, old)
    try:
        os.rename(made, place)
    except OSError:
        if os.path.lexists(old):
            os.rename(old, place)
        raise


def _copy(made: str, place: str) -> None:
    """Object stores do not rename: the proof, written last, completes it."""
    if tf.io.gfile.exists(place):
        tf.io.gfile.rmtree(place)
    files = [
        os.path.relpath(os.path.join(folder, name), made)
        for folder, _, names in os.walk(made)
        for name in names
    ]
    for name in sorted(files, key=lambda name: name == PROOF):
        target = f"{place}/{name}"
        tf.io.gfile.makedirs(os.path.dirname(target))
        tf.io.gfile.copy(os.path.join(made, name), target)
