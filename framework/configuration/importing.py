"""Turns the name of a module into what it registers, or into what is wrong."""

import importlib
import importlib.metadata
import os
import sysconfig
import traceback
from collections.abc import Sequence

from framework.errors import UserError

ENTRY_POINTS = "framework.tasks"
# Folders of what is installed, and not anybody's own.
_INSTALLED = {"site-packages", "dist-packages"}
# What registers the names that every gin file may use.
_OWN_MODULES = (
    "framework.data.folder",
    "framework.data.manifest",
    "framework.data.prepared",
    "framework.data.tfds",
    "framework.data.pipeline",
    "framework.model.classifier",
    "framework.training.checkpoints",
    "framework.training.distribution",
    "framework.training.optimizers",
    "framework.training.early_stopping",
    "framework.training.phases",
    "framework.training.schedules",
    "framework.modes.benchmark",
    "framework.modes.doctor",
    "framework.modes.lr_find",
    "framework.modes.prepare",
    "framework.modes.show_batch",
    "framework.modes.train",
    "framework.sweeping.space",
)


def import_registered() -> list[str]:
    """Imports what registers names for every gin file; plug-ins' modules.

    Those are named by entry points, and a run writes them down.

    Raises:
        UserError: a plug-in can't be imported.
    """
    for module in _OWN_MODULES:
        importlib.import_module(module)
    plug_ins = []
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        _import(point.module, f"the entry point {point.name!r}")
        plug_ins.append(point.module)
    return plug_ins


def import_named(modules: Sequence[str]) -> None:
    """Imports what `--import` names.

    Raises:
        UserError: one of them can't be imported.
    """
    for module in modules:
        _import(module, "--import")


def _import(module: str, whence: str) -> None:
    why = why_not(module)
    if why:
        raise UserError(
            f"{whence} names the module {module!r}, which can't be imported: "
            f"{why}. Expected a module in the working directory "
            f"({os.getcwd()}) or in an installed package."
        )


def why_not(module: str) -> str | None:
    """Imports a module; tells why it can't, and where in it, or None."""
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        why = error.message if isinstance(error, UserError) else str(error)
        if not isinstance(error, (UserError, ImportError)):
            why = f"{type(error).__name__}: {getattr(error, 'msg', why)}"
        return f"{' '.join(why.split()).removesuffix('.')}{_place(error)}"
    return None


def _place(error: BaseException) -> str:
    """Where the user's own code raised it, as " (file:line)", or ""."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}:{error.lineno})"
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    python = sysconfig.get_path("stdlib")
    own, installed = [], []
    for frame in traceback.extract_tb(error.__traceback__):
        path = frame.filename
        if not _INSTALLED.isdisjoint(path.split(os.sep)):
            installed.append(frame)
        elif not path.startswith(
            ("<", os.path.join(package, ""), os.path.join(python, ""))
        ):
            own.append(frame)
    for frame in reversed(own or installed):
        return f" ({frame.filename}:{frame.lineno})"
    return ""
