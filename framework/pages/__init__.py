"""Turns a template and what it shows into one HTML page that opens anywhere.

A page needs no other file, no network and no JavaScript; it is light or dark
as the reader's screen is. Templates extend `base.html.j2`, which has what all
pages look like. Whatever they print goes through `visible` and is escaped: the
names of files and classes are anybody's.
"""

import base64
import datetime
import os
from typing import Any

import jinja2
from markupsafe import Markup

# Of a name or a reason: a path may have 4,096.
MOST_CHARACTERS = 200


def template(path: str) -> jinja2.Template:
    """The template in the file at `path`.

    It has the filters `brief`, `number` (1,234) and `times` (3 sets), and the
    time as `now`.
    """
    folder, name = os.path.split(path)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, os.path.dirname(__file__)]),
        autoescape=True,
        finalize=visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(brief=brief, number="{:,}".format, times=times)
    environment.globals["now"] = f"{datetime.datetime.now():%Y-%m-%d %H:%M}"
    return environment.get_template(name)


class Room:
    """Room for pictures within a page, as addresses that hold them.

    Args:
        size: of all of them, in bytes, before they are encoded, which adds a
            third.

    Attributes:
        full: whether one has not found room; no other one does then.
    """

    def __init__(self, size: int):
        self._left = size
        self.full = False

    def address(self, picture: bytes | None) -> Markup | None:
        """A `data:` address of a PNG or JPEG; None where there is no room."""
        if not picture:
            return None
        self.full = self.full or len(picture) > self._left
        if self.full:
            return None
        self._left -= len(picture)
        kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
        text = base64.b64encode(picture).decode("ascii")
        return Markup(f"data:image/{kind};base64,{text}")


def brief(name: str) -> str:
    """Leaves out the middle: a path's end says more than that."""
    if len(name) <= MOST_CHARACTERS:
        return name
    half = MOST_CHARACTERS // 2
    return f"{name[:half]} … {name[-half:]}"


def visible(value: Any) -> Any:
    r"""Makes everything in a text visible: a line break becomes `\n`.

    Characters that turn the direction of writing, or that have no width,
    could make a name look like another; a surrogate can't be written at all.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if value.isprintable():
        return value
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
        for c in value
    )


def times(count: int, one: str, many: str = "") -> str:
    """ "1 set", "3 sets"."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
