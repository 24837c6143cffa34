"""Turns the name of a gin file into the file: one's own, or a shipped one."""

import os
import re

import gin
import tensorflow as tf

from framework.errors import UserError
from framework.registry import nearest

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# A checkout has gin files beside the package, a wheel inside.
_SHIPPED = (
    os.path.join(os.path.dirname(_PACKAGE), "gin"),
    os.path.join(_PACKAGE, "configs"),
)


def find_gin_file(name: str) -> str:
    """The path of a gin file: as it is, or one that is shipped with us.

    `gin/base.gin` and `base.gin` are found from any working directory, so
    that one's own gin file can include them. `gs://...` and other storage of
    one's own is read through TensorFlow's file system.

    Raises:
        UserError: there is no such file, or it is a page of the web: a gin
            file imports code.
    """
    if re.match(r"(https?|ftp)://", name, re.IGNORECASE):
        raise UserError(
            f"{name!r} is to be fetched from the web. A gin file can import "
            "and run any code; expected a file that you have read. Download "
            "it, look at it, and give its path."
        )
    if tf.io.gfile.exists(name) and not tf.io.gfile.isdir(name):
        return name
    bare = re.sub(r"^(\./)?gin/", "", name)
    for folder in _SHIPPED:
        path = os.path.join(folder, bare)
        if os.path.isfile(path):
            return path
    shipped = shipped_gin_files()
    raise UserError(
        f"There is no gin file {name!r}, neither in {os.getcwd()} nor among "
        f"those shipped: {', '.join(shipped)}. {nearest(name, shipped)}"
    )


def shipped_gin_files() -> list[str]:
    """The names of all that are shipped: "gin/base.gin"."""
    return [
        f"gin/{entry}"
        for folder in _SHIPPED
        if os.path.isdir(folder)
        for entry in sorted(os.listdir(folder))
        if entry.endswith(".gin")
    ]


def open_gin_file(name: str):
    """The file, open to be read as text."""
    return tf.io.gfile.GFile(find_gin_file(name), "r")


def _is_gin_file(name: str) -> bool:
    try:
        find_gin_file(name)
    except UserError:
        return False
    return True


gin.config.register_file_reader(open_gin_file, _is_gin_file)
