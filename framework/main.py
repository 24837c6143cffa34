"""Turns command-line flags into one mode of one configuration.

python -m framework.main --gin_file=gin/rps_softmax.gin
"""

import os
import signal
import sys

from absl import app, flags, logging

from framework.cli import parse_flags
from framework.noise import STARTUP, standard_error_without

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
        *("explain", "export", "compare", "predict", "evaluate", "serve"),
    ],
    "What to do: train; examine the data, changing nothing; write the data as "
    "shards, for a cluster to read; measure where the time goes; find a "
    "learning rate; show what is fed, before and after augmentation. Of "
    "finished runs, without a gin file: explain what one sees in pictures "
    "(--mode=explain RUN PICTURE ...); make what is deployed, and prove that "
    "it answers as measured (--mode=export RUN); compare "
    "several (--mode=compare RUN RUN ...); answer for pictures, of a run or of "
    "what was exported of it (--mode=predict RUN PICTURE ...), or over "
    "HTTP (--mode=serve RUN); judge one on labelled pictures "
    "(--mode=evaluate RUN FOLDER).",
)
_LIST = flags.DEFINE_bool(
    "list", False, "Print what gin files can name, by kind, and end there."
)
_DESCRIBE = flags.DEFINE_string(
    "describe",
    None,
    "Print what a name of a gin file is, its parameters and their defaults, "
    "and end there.",
)
_COMPLETION = flags.DEFINE_enum(
    "completion",
    None,
    ["bash", "zsh"],
    "Print what completes the command `framework` in a shell, and end there: "
    "source <(framework --completion=bash).",
)
_LAYER = flags.DEFINE_multi_string(
    "layer",
    [],
    "With --mode=explain: a layer whose feature maps to show. May be repeated.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "With --mode=predict: the file to write, .jsonl or .csv; what was begun is "
    "gone on with. By default JSONL on standard output.",
)
_TOP = flags.DEFINE_integer(
    "top", 5, "With --mode=predict: how many classes to name, at most."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "With --mode=predict: pictures at a time."
)
_SPLIT = flags.DEFINE_string(
    "split", None, "With --mode=evaluate: which split of the data."
)
_MAX_UNREADABLE = flags.DEFINE_float(
    "max_unreadable",
    0.01,
    "With --mode=evaluate: the share of pictures that may fail to decode.",
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "With --mode=serve: on which address to listen."
)
_PORT = flags.DEFINE_integer(
    "port", 8501, "With --mode=serve: on which port; 0 takes a free one."
)
_PROOF = flags.DEFINE_bool(
    "proof",
    True,
    "With --mode=export: compare the artifact with what the run measured. "
    "Takes the data that it was judged on.",
)
_FORMATS = flags.DEFINE_list(
    "formats",
    ["saved_model"],
    "With --mode=export: what to make, of saved_model, litert, litert_int8 "
    "and onnx, with commas between.",
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
_PRINT_CONFIG = flags.DEFINE_bool(
    "print_config",
    False,
    "Print all values that the gin file and --gin_param lead to, each with "
    "where it comes from, and end there.",
)
_PROFILE = flags.DEFINE_bool(
    "profile",
    False,
    "With --mode=train: trace ten updates, for TensorBoard's profiler.",
)


def main(argv: list[str]) -> None:
    """Runs what the flags say; exits with 2 on a mistake of the user's."""
    from framework.errors import UserError

    # TFDS and gin tell absl's log what they do, step by step.
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)
    try:
        if _LIST.value or _DESCRIBE.value:
            with standard_error_without(STARTUP):
                from framework import describing
            print(
                describing.listing(_IMPORT.value)
                if _LIST.value
                else describing.describe(_DESCRIBE.value, _IMPORT.value)
            )
            return
        if _COMPLETION.value:
            with standard_error_without(STARTUP):
                from framework import completion
            known = flags.FLAGS.get_key_flags_for_module(sys.modules[__name__])
            print(completion.script(_COMPLETION.value, known), end="")
            return
        _check_flags()
        if _MODE.value in _OF_RUNS:
            with standard_error_without(STARTUP):
                from framework.configuration import import_named

                import_named(_IMPORT.value)
            # What is half made is taken away, as after Ctrl+C.
            signal.signal(signal.SIGTERM, _terminated)
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
        if _PRINT_CONFIG.value:
            with standard_error_without(STARTUP):
                from framework.configuration import Configuration
            asked = Configuration(
                _GIN_FILE.value, _GIN_PARAM.value, _IMPORT.value
            )
            print(asked.printed(_MODE.value))
            return
        with standard_error_without(STARTUP):
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
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt as stopped:
        _leave("Stopped.", stopped.args[0] if stopped.args else 130)
    except Exception as error:
        # Of the modules that TensorFlow comes with: imported where they are
        # needed.
        from framework.training.distribution import WorkerLost
        from framework.training.interruption import Interrupted

        if not isinstance(error, (WorkerLost, Interrupted)):
            raise
        _leave(error.message, error.status)


def _terminated(number: int, frame) -> None:
    raise KeyboardInterrupt(128 + number)


def _explain(arguments: list[str]) -> None:
    from framework.errors import UserError

    if not arguments:
        raise UserError(
            "--mode=explain is given no run. Expected its directory and "
            "pictures: --mode=explain runs/latest photos/*.jpg."
        )
    with standard_error_without(STARTUP):
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
    with standard_error_without(STARTUP):
        from framework.modes.export import export

    export(arguments[0], _FORMATS.value, proof=_PROOF.value)


def _compare(arguments: list[str]) -> None:
    with standard_error_without(STARTUP):
        from framework.modes.compare import compare

    compare(arguments, workdir=_WORKDIR.value)


def _predict(arguments: list[str]) -> None:
    from framework.errors import UserError

    if not arguments:
        raise UserError(
            "--mode=predict is given no model. Expected a run or an artifact, "
            "and pictures: --mode=predict runs/latest photos/."
        )
    with standard_error_without(STARTUP):
        from framework.modes.predict import predict

    model, *pictures = arguments
    predict(
        model,
        pictures,
        output=_OUTPUT.value,
        top=_TOP.value,
        batch_size=_BATCH_SIZE.value,
    )


def _evaluate(arguments: list[str]) -> None:
    from framework.errors import UserError

    if not 1 <= len(arguments) <= 2:
        raise UserError(
            f"--mode=evaluate is given {len(arguments)} arguments. Expected a "
            "run or an artifact, and a directory of class folders: "
            "--mode=evaluate runs/latest photos/."
        )
    with standard_error_without(STARTUP):
        from framework.modes.evaluate import evaluate

    evaluate(
        *arguments,
        gin_file=_GIN_FILE.value,
        bindings=_GIN_PARAM.value,
        imports=_IMPORT.value,
        split=_SPLIT.value,
        max_unreadable=_MAX_UNREADABLE.value,
        workdir=_WORKDIR.value,
    )


def _serve(arguments: list[str]) -> None:
    from framework.errors import UserError

    if len(arguments) != 1:
        raise UserError(
            f"--mode=serve is given {len(arguments)} models. Expected one, a "
            "run or an artifact: --mode=serve runs/latest."
        )
    with standard_error_without(STARTUP):
        from framework.modes.serve import serve

    serve(arguments[0], host=_HOST.value, port=_PORT.value)


# What takes finished runs, and no gin file.
_OF_RUNS = {
    "explain": _explain,
    "export": _export,
    "compare": _compare,
    "predict": _predict,
    "evaluate": _evaluate,
    "serve": _serve,
}
# Flags that only some modes have a use for, and what it is; without a gin file
# the rest have none of what belongs to one.
_USES = {
    "apply": (("doctor",), "whose findings it applies"),
    "profile": (("train",), "whose updates it traces"),
    "dry_run": (("train",), "which it shows without training"),
    "layer": (("explain",), "whose feature maps it names"),
    "proof": (("export",), "which proves what it exports"),
    "formats": (("export",), "which makes them"),
    "output": (("predict",), "whose answers go there"),
    "top": (("predict",), "whose answers name so many classes"),
    "split": (("evaluate",), "which may judge by another"),
    "max_unreadable": (("evaluate",), "which leaves those out"),
    "host": (("serve",), "which listens there"),
    "port": (("serve",), "which listens there"),
    "batch_size": (("predict",), "which takes so many pictures at a time"),
}
_OF_A_GIN_FILE = ("gin_file", "gin_param", "print_config")
_NO_WORKDIR = ("export", "predict", "serve")


def _check_flags() -> None:
    """Refuses flags that the mode has no use for."""
    from framework.errors import UserError

    mode = _MODE.value
    given = flags.FLAGS
    for name, (modes, why) in _USES.items():
        if given[name].present and mode not in modes:
            raise UserError(
                f"--{name} is given with --mode={mode}; expected "
                f"--mode={' or '.join(modes)}, {why}."
            )
    if mode == "evaluate" and not _GIN_FILE.value and _GIN_PARAM.value:
        raise UserError(
            "--gin_param is given without --gin_file. Expected both, or a "
            "directory or table to evaluate on."
        )
    useless = [
        "new",
        *(() if mode == "evaluate" else _OF_A_GIN_FILE),
        *(["workdir"] if mode in _NO_WORKDIR else []),
    ]
    for name in useless if mode in _OF_RUNS else ():
        if given[name].present:
            raise UserError(
                f"--{name} is given with --mode={mode}, which works on what "
                "was trained already and has no use for it. Leave it out."
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


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
