"""Turns the name of a gin file into the file: one's own, or a shipped one."""

import io
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


def open_gin_file(name: str) -> io.StringIO:
    """The file's text, open to be read.

    Raises:
        UserError: there is no such file, or it is not in UTF-8.
    """
    with tf.io.gfile.GFile(find_gin_file(name), "rb") as file:
        held = file.read()
    try:
        # Some editors begin a file with a mark of its bytes' order.
        return io.StringIO(held.decode("utf-8-sig"), newline=None)
    except UnicodeDecodeError as error:
        line = held.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name}:{line}: the byte 0x{held[error.start]:02x} is no UTF-8. "
            "Expected a text in that encoding; save the file so, or write it "
            "in plain letters."
        ) from error


def _is_gin_file(name: str) -> bool:
    try:
        find_gin_file(name)
    except UserError:
        return False
    return True


# Before gin's own reader, which takes any encoding.
gin.config._FILE_READERS.insert(0, (open_gin_file, _is_gin_file))
