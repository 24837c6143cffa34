"""Turns a gin file and a few bindings into a finished run, from Python."""

from collections.abc import Sequence

from rich.console import Console

from framework.configuration import Configuration
from framework.modes import Result
from framework.run_directory import RunDirectory, fingerprint


def run(
    gin_file: str,
    bindings: Sequence[str] = (),
    *,
    imports: Sequence[str] = (),
    mode: str = "train",
    workdir: str | None = None,
    new: bool = False,
    console: Console | None = None,
) -> Result:
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
        console: where to write; standard output by default.

    Raises:
        UserError: something in what was asked must be mended.
    """
    configuration = Configuration(gin_file, bindings, imports)
    RunDirectory.check(configuration.name, workdir)

    def locate() -> RunDirectory:
        return RunDirectory.locate(
            configuration.name,
            configuration.asked,
            configuration.operative(),
            workdir,
            new,
        )

    return configuration.call(
        mode,
        locate=locate,
        fingerprint=lambda: fingerprint(configuration.operative()),
        console=console,
    )
