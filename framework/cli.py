"""Turns the console script `framework` into `python -m framework.main`."""

import os
import runpy
import sys


def main() -> None:
    """Runs `framework.main` as the main module, so that --help has its flags.

    Python puts the working directory on the path for `-m` but not for a
    console script; tasks that lie there are to be found by both.
    """
    sys.path.insert(0, os.getcwd())
    runpy.run_module("framework.main", run_name="__main__", alter_sys=True)
