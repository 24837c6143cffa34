"""Turns gin files and tasks into trained, explained, exported Keras models.

    import framework
    result = framework.run("gin/smoke.gin", ["train.epochs = 3"])

The names below load on first use, so that `import framework` (and with it
`python -m framework.main --help`) does not wait for TensorFlow.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "run": "framework.running",
    "explain": "framework.modes.explain",
    "compare": "framework.modes.compare",
    "load": "framework.inference.loaded",
    "predict": "framework.modes.predict",
    "evaluate": "framework.modes.evaluate",
    "Result": "framework.modes.train",
    "Task": "framework.task",
    "Source": "framework.data.source",
    "array_source": "framework.data.source",
    "Backbone": "framework.model.backbones",
    "Head": "framework.model.heads",
    "UserError": "framework.errors",
    "AUGMENTATIONS": "framework.registry",
    "BACKBONES": "framework.registry",
    "CALLBACKS": "framework.registry",
    "HEADS": "framework.registry",
    "OPTIMIZERS": "framework.registry",
    "SCHEDULES": "framework.registry",
    "SOURCES": "framework.registry",
    "TASKS": "framework.registry",
}

__all__ = [*_HOMES]  # noqa: PLE0604


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'framework' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
