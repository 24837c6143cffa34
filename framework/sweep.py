"""Turns command-line flags into a sweep: many runs around one gin file.

    python -m framework.sweep --gin_file=gin/smoke.gin \
        --space=gin/sweeps/smoke.gin
"""

import os
import sys

from absl import app, flags, logging

from framework.cli import parse_flags
from framework.noise import STARTUP, standard_error_without

# Before TensorFlow is imported, as in framework.main.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_GIN_FILE = flags.DEFINE_string(
    "gin_file",
    None,
    "The experiment: a path, or the name of a shipped gin file.",
)
_SPACE = flags.DEFINE_string(
    "space",
    None,
    "A gin file that says what to try around it; gin/sweeps/smoke.gin is one.",
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param",
    [],
    'A gin line that overrides the files: --gin_param="train.epochs = 3", '
    "--gin_param=\"search.pruner = 'none'\". May be repeated.",
)
_IMPORT = flags.DEFINE_multi_string(
    "import",
    [],
    "A module that registers tasks or parts, found in the working directory "
    "or among the installed packages. May be repeated.",
)
_TRIALS = flags.DEFINE_integer(
    "trials", None, "How many trials in all; search.trials by default."
)
_WORKERS = flags.DEFINE_integer(
    "workers", 1, "How many trials at a time on this machine."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The sweep's directory; sweeps/<gin file's name> by default. What is "
    "there of the same sweep is gone on with.",
)
_STORAGE = flags.DEFINE_string(
    "storage",
    None,
    "URL of a database that several machines share, as Optuna has them; by "
    "default a file in the sweep's directory.",
)


def main(argv: list[str]) -> None:
    """Sweeps; exits with 2 on a mistake of the user's."""
    from framework.errors import UserError

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)
    try:
        if len(argv) > 1 or not (_GIN_FILE.value and _SPACE.value):
            what = f"an argument {argv[1]!r}" if len(argv) > 1 else "too little"
            raise UserError(
                f"Received {what}. Expected --gin_file=gin/smoke.gin "
                "--space=gin/sweeps/smoke.gin, or others; --help lists the "
                "flags."
            )
        with standard_error_without(STARTUP):
            import tensorflow as tf

            from framework.sweeping.sweep import Stopped, sweep

            # This process trains nothing, and leaves the GPUs to those that
            # do.
            tf.config.set_visible_devices([], "GPU")
        try:
            sweep(
                _GIN_FILE.value,
                _SPACE.value,
                _GIN_PARAM.value,
                imports=_IMPORT.value,
                trials=_TRIALS.value,
                workers=_WORKERS.value,
                workdir=_WORKDIR.value,
                storage=_STORAGE.value,
            )
        except Stopped as stopped:
            _leave(stopped.message, stopped.status)
    except UserError as error:
        _leave(f"Error: {error.message}", 2)
    except KeyboardInterrupt:
        _leave("Stopped.", 130)


def _leave(message: str, status: int) -> None:
    print(f"\n{message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
