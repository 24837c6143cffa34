"""Turns command-line flags into one mode of one configuration.

python -m framework.main --gin_file=gin/rps_softmax.gin
"""

import os
import sys

from absl import app, flags, logging

from framework.noise import standard_error_without

# Before TensorFlow is imported: its start-up messages are no news to users.
# (What really goes wrong is raised.)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_GIN_FILE = flags.DEFINE_string(
    "gin_file", None, "What to run: a path, or the name of a shipped gin file."
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param",
    [],
    'A gin line that overrides the file: --gin_param="train.epochs = 3". '
    "May be repeated.",
)
_IMPORT = flags.DEFINE_multi_string(
    "import",
    [],
    "A module that registers tasks or parts, found in the working directory "
    "or among the installed packages. May be repeated.",
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    [
        *("train", "doctor", "prepare", "benchmark", "lr_find", "show_batch"),
        *("explain", "export", "compare"),
    ],
    "What to do: train; examine the data, changing nothing; write the data as "
    "shards, for a cluster to read; measure where the time goes; find a "
    "learning rate; show what is fed, before and after augmentation. Of "
    "finished runs, without a gin file: explain what one sees in pictures "
    "(--mode=explain RUN PICTURE ...); make what is deployed, and prove that "
    "it answers as measured (--mode=export RUN); compare "
    "several (--mode=compare RUN RUN ...).",
)
_LAYER = flags.DEFINE_multi_string(
    "layer",
    [],
    "With --mode=explain: a layer whose feature maps to show. May be repeated.",
)
_PROOF = flags.DEFINE_bool(
    "proof",
    True,
    "With --mode=export: compare the artifact with what the run measured. "
    "Takes the data that it was judged on.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The run's directory; gs:// and the like too. By default "
    "runs/<gin file's name>/<number>. An unfinished run of the same "
    "configuration is continued.",
)
_NEW = flags.DEFINE_bool(
    "new", False, "Begin a new run, also where one could be continued."
)
_APPLY = flags.DEFINE_bool(
    "apply",
    False,
    "After --mode=doctor: train at once, without what it quarantined. No file "
    "is moved or changed.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "With --mode=train: build everything, say what would be trained and at "
    "which learning rates, and end there. Nothing is written.",
)
_PROFILE = flags.DEFINE_bool(
    "profile",
    False,
    "With --mode=train: trace ten updates, for TensorBoard's profiler.",
)


# What TensorFlow says on every start on a machine without a GPU, whatever the
# log level.
_NOISE = (
    b"absl::InitializeLog()",
    b"oneDNN custom operations are on",
    b"Could not find cuda drivers",
    b"failed call to cuInit",
)


def main(argv: list[str]) -> None:
    """Runs what the flags say; exits with 2 on a mistake of the user's."""
    from framework.errors import UserError

    # TFDS and gin tell absl's log what they do, step by step.
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)
    try:
        if not _PROOF.value and _MODE.value != "export":
            raise UserError(
                f"--noproof is given with --mode={_MODE.value}; expected "
                "--mode=export, which proves what it exports."
            )
        if _MODE.value in _OF_RUNS:
            _refuse_what_takes_a_gin_file()
            with standard_error_without(_NOISE):
                from framework.configuration import import_named

                import_named(_IMPORT.value)
            _OF_RUNS[_MODE.value](argv[1:])
            return
        if len(argv) > 1:
            raise UserError(
                f"Unexpected argument {argv[1]!r}. Expected flags: "
                "--gin_file=gin/rps_softmax.gin."
            )
        if not _GIN_FILE.value:
            raise UserError(
                "Nothing to run. Expected --gin_file=gin/rps_softmax.gin or "
                "another gin file; --help lists the flags."
            )
        if _APPLY.value and _MODE.value != "doctor":
            raise UserError(
                f"--apply is given with --mode={_MODE.value}; expected "
                "--mode=doctor, whose findings it applies."
            )
        for flag, why in (
            (_PROFILE, "whose updates it traces"),
            (_DRY_RUN, "which it shows without training"),
        ):
            if flag.value and _MODE.value != "train":
                raise UserError(
                    f"--{flag.name} is given with --mode={_MODE.value}; "
                    f"expected --mode=train, {why}."
                )
        with standard_error_without(_NOISE):
            import psutil

            from framework.running import run

        found = run(
            _GIN_FILE.value,
            _GIN_PARAM.value,
            imports=_IMPORT.value,
            mode=_MODE.value,
            workdir=_WORKDIR.value,
            new=_NEW.value,
            profile=_PROFILE.value,
            dry_run=_DRY_RUN.value,
            started=psutil.Process().create_time(),
        )
        if _APPLY.value:
            run(
                _GIN_FILE.value,
                [*_GIN_PARAM.value, f"train.doctor = {found.directory!r}"],
                imports=_IMPORT.value,
            )
    except UserError as error:
        _leave(f"Error: {error.message}", 2)
    except KeyboardInterrupt:
        _leave("Stopped.", 130)
    except Exception as error:
        # Of the modules that TensorFlow comes with: imported where they are
        # needed.
        from framework.training.distribution import WorkerLost
        from framework.training.interruption import Interrupted

        if not isinstance(error, (WorkerLost, Interrupted)):
            raise
        _leave(error.message, error.status)


def _explain(arguments: list[str]) -> None:
    from framework.errors import UserError

    if not arguments:
        raise UserError(
            "--mode=explain is given no run. Expected its directory and "
            "pictures: --mode=explain runs/latest photos/*.jpg."
        )
    with standard_error_without(_NOISE):
        from framework.modes.explain import explain

    run, *pictures = arguments
    explain(run, pictures, _LAYER.value, workdir=_WORKDIR.value)


def _export(arguments: list[str]) -> None:
    from framework.errors import UserError

    if len(arguments) != 1:
        raise UserError(
            f"--mode=export is given {len(arguments)} runs. Expected the "
            "directory of one: --mode=export runs/latest."
        )
    with standard_error_without(_NOISE):
        from framework.modes.export import export

    export(arguments[0], proof=_PROOF.value)


def _compare(arguments: list[str]) -> None:
    with standard_error_without(_NOISE):
        from framework.modes.compare import compare

    compare(arguments, workdir=_WORKDIR.value)


# What takes finished runs, and no gin file.
_OF_RUNS = {"explain": _explain, "export": _export, "compare": _compare}


def _refuse_what_takes_a_gin_file() -> None:
    from framework.errors import UserError

    mode = _MODE.value
    only = {_LAYER.name: "explain", _WORKDIR.name: "explain or compare"}
    for flag in (
        *(_GIN_FILE, _GIN_PARAM, _NEW, _APPLY, _DRY_RUN, _PROFILE),
        *([] if mode == "explain" else [_LAYER]),
        *([_WORKDIR] if mode == "export" else []),
    ):
        if flag.present:
            expected = (
                f"--mode={only[flag.name]}"
                if flag.name in only
                else "a mode that takes a gin file"
            )
            raise UserError(
                f"--{flag.name} is given with --mode={mode}, which has no use "
                f"for it. Expected {expected}."
            )


def _leave(message: str, status: int) -> None:
    """Ends the process at once.

    Among several workers the ordinary way would wait for peers, for minutes
    where they are gone.
    """
    print(f"\n{message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parse(argv: list[str]) -> list[str]:
    """As absl does, but a mistake ends with 2 like any other of the user's."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _leave(f"Error: {error} Expected flags: see --help.", 2)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
