"""Turns gin files into what is asked for; beside `registry`, this knows gin."""

from framework.configuration.configuration import (
    Configuration,
    bindings,
    listed,
    operative_now,
    overriding,
)
from framework.configuration.files import find_gin_file, shipped_gin_files
from framework.configuration.importing import import_named, import_registered

__all__ = [
    "Configuration",
    "bindings",
    "find_gin_file",
    "import_named",
    "import_registered",
    "listed",
    "operative_now",
    "overriding",
    "shipped_gin_files",
]
