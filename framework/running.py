"""Turns a gin file and a few bindings into a finished run, from Python."""

import os
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from framework.configuration import Configuration
from framework.data.doctor.diagnosis import Diagnosis
from framework.errors import UserError
from framework.run_directory import RunDirectory, fingerprint, numbered
from framework.training.distribution import cluster_resolver
from framework.training.trainer import Observer


def run(
    gin_file: str | os.PathLike,
    bindings: Sequence[str] = (),
    *,
    imports: Sequence[str] = (),
    mode: str = "train",
    workdir: str | None = None,
    new: bool = False,
    profile: bool = False,
    dry_run: bool = False,
    started: float | None = None,
    console: Console | None = None,
    observers: Sequence[Observer] = (),
) -> Any:
    """Does what `python -m framework.main` does, and returns the result.

    Args:
        gin_file: path of a gin file, or the name of a shipped one
            ("gin/smoke.gin").
        bindings: gin lines that override it (["train.epochs = 3"]).
        imports: modules that register tasks or parts.
        mode: what to do, a name in `framework.registry.MODES`.
        workdir: the run's directory; by default the next free number under
            `runs/<the gin file's name>`.
        new: begin anew, also where an unfinished run of the same
            configuration could be continued.
        profile: trace ten updates of training, for TensorBoard.
        dry_run: say what would be trained, and do not.
        started: when the command was given, in seconds since 1970; now by
            default.
        console: where to write; standard output by default.
        observers: of "train": told of every step and epoch. What one raises
            ends the run, which stays unfinished.

    Returns:
        what the mode does; of "train" a `framework.Result`, of a dry run None.

    Raises:
        UserError: something in what was asked must be mended.
    """
    started = time.time() if started is None else started
    configuration = Configuration(gin_file, bindings, imports)
    # Beside the numbers of the training runs: what other modes have to say.
    name = configuration.name
    place = name if mode == "train" else f"{name}/{mode}"
    RunDirectory.check(configuration.name, workdir)
    if dry_run and mode != "train":
        raise UserError(
            f"A dry run is asked for in the mode {mode!r}; expected 'train', "
            "which it shows without training."
        )

    if mode != "train" and cluster_resolver() is not None:
        raise UserError(
            f"--mode={mode} works in one process, and the environment names a "
            "cluster of several workers (TF_CONFIG, or SLURM's variables). "
            "Start it by itself, without launch or srun."
        )

    def locate() -> RunDirectory:
        return RunDirectory.locate(
            place,
            configuration.asked,
            configuration.operative(),
            workdir,
            new,
        )

    return configuration.call(
        mode,
        locate=locate,
        fingerprint=lambda: fingerprint(configuration.operative()),
        at_hand=lambda: Diagnosis.newest(numbered(f"{name}/doctor")),
        profile=profile,
        dry_run=dry_run,
        started=started,
        console=console,
        observers=observers,
    )
