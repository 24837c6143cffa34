"""Turns the installed libraries into what a run writes down of them."""

import importlib.metadata

import tensorflow as tf

_LIBRARIES = (
    "keras",
    "keras-cv",
    "tensorflow-datasets",
    "gin-config",
    "numpy",
)


def versions() -> dict[str, str | None]:
    """Versions by name, None for what isn't installed."""
    # TensorFlow's package has other names on other machines.
    found: dict[str, str | None] = {"tensorflow": tf.__version__}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = None
    return found
