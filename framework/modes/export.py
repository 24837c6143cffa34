"""Turns a finished run into artifacts that are proved to be the same."""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from framework.configuration import Configuration
from framework.console import in_megabytes, say
from framework.data.images import to_square
from framework.data.source import IndexedExamples
from framework.errors import UserError
from framework.evaluation import report
from framework.export import artifact, portable
from framework.export.frozen import Frozen
from framework.export.proof import prove
from framework.finished import Finished, load, resolved
from framework.inference.loaded import load as load_artifact
from framework.modes.loading import load_data
from framework.registry import PARTS
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


FORMATS = (SAVED_MODEL, portable.LITERT, portable.LITERT_INT8, portable.ONNX)
# Pictures that tell a model in 8 bits the ranges of its activations.
_REPRESENTATIVE = 200


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        directory: `export/` in the run's directory.
        artifacts: by format, the folder of a SavedModel's version or a file.
        metadata: what they say of themselves.
        proof: as in `proof.json`, by format; None where none was asked for.
    """

    directory: str
    artifacts: dict[str, str]
    metadata: dict[str, Any]
    proof: dict[str, Any] | None

    @property
    def saved_model(self) -> str:
        """The SavedModel's version."""
        return self.artifacts[SAVED_MODEL]


@PARTS.register()
@dataclasses.dataclass(frozen=True)
class Export:
    """What a run exports at its end, `train.export = @Export()`.

    Attributes:
        formats: of "saved_model", "litert", "litert_int8" and "onnx".
        proof: whether to compare each with what the run measured.

    Raises:
        UserError: there is no such format.
    """

    formats: Sequence[str] = (SAVED_MODEL,)
    proof: bool = True

    def __post_init__(self):
        check_formats(self.formats, self.proof)


def check_formats(formats: Sequence[str], proof: bool) -> None:
    """Refuses, before the work, formats that can't be made.

    Raises:
        UserError: one is none, or there is none; what makes it is not
            installed; 8 bits are asked for without a proof.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats or isinstance(formats, str):
        raise UserError(
            f"The formats to export are {formats!r}; expected some of "
            f"{', '.join(FORMATS)}."
        )
    if portable.ONNX in formats:
        portable.check_onnx()
    if portable.LITERT_INT8 in formats and not proof:
        raise UserError(
            "litert_int8 is asked for without a proof. Expected one: the "
            "ranges of 8 bits are learned from the run's pictures, and what "
            "they cost is to be told."
        )


def export(
    run: str | os.PathLike,
    formats: Sequence[str] = (SAVED_MODEL,),
    *,
    proof: bool = True,
    data: Data | None = None,
    console: Console | None = None,
) -> Exported:
    """Makes, or makes anew, the artifacts of a finished run.

    They appear in the run's directory whole or not at all; what lay there
    before stays where this fails. Where it does not, other formats of the same
    weights stay, too.

    Args:
        run: the run's directory ("runs/latest"), on anything that
            `tf.io.gfile` knows.
        formats: of "saved_model", "litert", "litert_int8" and "onnx", see
            `framework.export`.
        proof: whether to compare each with what the run measured; takes the
            data that the run was judged on.
        data: that data, where it is at hand. Else it is loaded, and the
            configuration that gin holds is replaced by the run's.
        console: where to report; standard output by default.

    Raises:
        UserError: the run is not finished, its data can't be had, or a proof
            fails.
    """
    console = console or Console()
    check_formats(formats, proof)
    run = resolved(os.fspath(run))
    finished = load(run)
    if weights_sha256(finished.model) != finished.summary["weights_sha256"]:
        raise UserError(
            f"{run}/model.keras has other weights than summary.json speaks of. "
            "Expected the model that the run has saved."
        )
    measured = None
    if proof:
        if not tf.io.gfile.exists(f"{run}/predictions.csv"):
            raise UserError(
                f"{run} has no predictions.csv: it was judged on no split, and "
                "there is nothing to prove an export by. Export without a "
                "proof (--noproof)."
            )
        if data is None:
            data = _data(finished, console)
        measured = read_predictions(run, finished.class_names)
    directory = RunDirectory(run)
    places, figures = {}, {}
    with _made_beside(directory) as made:
        for name in dict.fromkeys(formats):
            place, metadata = _write(name, finished, made, data)
            places[name] = os.path.relpath(place, made)
            if measured is not None:
                figures[name] = prove(
                    place,
                    data.splits.values(),
                    measured,
                    finished.class_names,
                    finished.image_size,
                    finished.resize,
                    exact=name != portable.LITERT_INT8,
                )
                _say_proof(console, name, figures[name], metadata)
        proofs = {**_keep_others(directory, made, finished, places), **figures}
        if proofs:
            with open(os.path.join(made, PROOF), "w") as file:
                file.write(json.dumps(proofs, indent=2) + "\n")
    home = directory.file(FOLDER)
    artifacts = {k: os.path.join(home, place) for k, place in places.items()}
    for place in artifacts.values():
        say(console, f"Exported: {place}")
    return Exported(home, artifacts, metadata, figures or None)


def _keep_others(
    directory: RunDirectory,
    made: str,
    finished: Finished,
    places: Mapping[str, str],
) -> dict[str, Any]:
    """Copies what was exported before in other formats; its proofs."""
    proofs: dict[str, Any] = {}
    with contextlib.suppress(tf.errors.NotFoundError, ValueError):
        proofs = json.loads(directory.read(f"{FOLDER}/{PROOF}"))
    kept = {}
    for name in FORMATS:
        old = directory.file(f"{FOLDER}/{name}")
        if name in places or not tf.io.gfile.exists(old):
            continue
        try:
            is_same = (
                load_artifact(old).facts["weights_sha256"]
                == finished.summary["weights_sha256"]
            )
        except (UserError, KeyError):
            is_same = False
        if not is_same:
            continue
        for folder, _, files in tf.io.gfile.walk(old):
            below = os.path.relpath(folder, old)
            target = os.path.normpath(os.path.join(made, name, below))
            os.makedirs(target, exist_ok=True)
            for file in files:
                tf.io.gfile.copy(
                    os.path.join(folder, file), os.path.join(target, file)
                )
        if name in proofs:
            kept[name] = proofs[name]
    return kept


def _write(
    name: str, finished: Finished, made: str, data: Data | None
) -> tuple[str, dict[str, Any]]:
    """One artifact: its place, and what it says of itself."""
    names, facts = finished.class_names, _facts(finished)
    if name == SAVED_MODEL:
        place = os.path.join(made, SAVED_MODEL, artifact.VERSION)
        return place, artifact.write(
            finished.model, place, names, finished.resize, facts
        )
    frozen = Frozen(finished.model)
    metadata = artifact.describe(frozen, names, finished.resize, facts)
    pictures = _representative(data, finished) if data else []
    folder = os.path.join(made, name)
    return (
        portable.write(name, frozen, folder, metadata, pictures),
        metadata,
    )


def _representative(data: Data, finished: Finished) -> Iterator[np.ndarray]:
    """Pictures of the split that chose the epoch, or of training.

    Not of the test split: what the artifact is judged by chooses nothing.
    """
    split = "validation" if "validation" in data.splits else "train"
    examples = data.splits[split]
    if isinstance(examples, IndexedExamples):
        count = min(_REPRESENTATIVE, len(examples))
        places = np.linspace(0, len(examples) - 1, count).astype(int)
        part = examples.select(places)
        images = tf.data.Dataset.from_tensor_slices(part.rows).map(part.read)
    else:
        images = (
            examples.stream(tf.constant(-1, tf.int64))
            .map(lambda example: example["image"])
            .take(_REPRESENTATIVE)
        )
    squares = images.map(
        lambda image: to_square(image, finished.image_size, finished.resize)
    )
    return squares.ignore_errors().as_numpy_iterator()


def _data(finished: Finished, console: Console) -> Data:
    """The examples that a run was judged on; some, maybe, in other splits."""
    try:
        task = Configuration(f"{finished.path}/operative.gin").task()
        return load_data(task, console)
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
    console: Console,
    name: str,
    figures: dict[str, Any],
    metadata: dict[str, Any],
) -> None:
    of = figures["measured"]
    asked = (
        f"on {figures['examples']:,}"
        + (f" of {of:,}" if of > figures["examples"] else "")
        + f" examples ({metadata['judged']['label']}), in a process of its own"
    )
    if figures["tolerance"] is None:
        drop = 100 * (figures["measured_accuracy"] - figures["accuracy"])
        found = (
            f"Judged {name}: {asked}, accuracy {figures['accuracy']:.4f}, "
            f"{abs(drop):.2f} points {'less' if drop >= 0 else 'more'} than "
            f"the run's {figures['measured_accuracy']:.4f}; "
            f"{figures['other_classes']:,} have another class."
        )
    else:
        found = (
            f"Proved {name}: {asked}, probabilities differ from the run's by "
            f"at most {figures['difference']:.1g}; accuracy "
            f"{figures['accuracy']:.4f}."
        )
    say(console, f"{found} Two calls agree to the bit.")
    times = figures["milliseconds"]
    say(
        console,
        f"{in_megabytes(figures['bytes'])}; a call takes "
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
