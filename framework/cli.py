"""Turns the console script `framework` into `python -m framework.main`."""

import os
import runpy
import sys

from absl import flags


def parse_flags(argv: list[str]) -> list[str]:
    """As absl does, but a mistake ends with 2 like any other of the user's."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"\nError: {error} Expected flags: see --help.", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Runs `framework.main` as the main module, so that --help has its flags.

    Python puts the working directory on the path for `-m` but not for a
    console script; tasks that lie there are to be found by both.
    """
    sys.path.insert(0, os.getcwd())
    runpy.run_module("framework.main", run_name="__main__", alter_sys=True)
