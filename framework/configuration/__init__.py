"""Turns gin files into what is asked for; beside `registry`, this knows gin."""

from framework.configuration.configuration import (
    Configuration,
    bindings,
    import_named,
    import_registered,
    operative_now,
    overriding,
)
from framework.configuration.files import find_gin_file, shipped_gin_files

__all__ = [
    "Configuration",
    "bindings",
    "find_gin_file",
    "import_named",
    "import_registered",
    "operative_now",
    "overriding",
    "shipped_gin_files",
]
