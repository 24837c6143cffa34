"""Turns what a run left behind into where training goes on."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from framework.data.source import IndexedExamples
from framework.digests import digest
from framework.errors import UserError
from framework.model.classifier import Classifier
from framework.task import Data
from framework.training.checkpoints import CheckpointStore
from framework.training.state import TrainState, has_state, misfit
from framework.versions import versions


def facts(data: Data, configuration: str) -> dict[str, Any]:
    """What must be the same for a run to be continued, and for all workers.

    Args:
        data: all splits.
        configuration: a fingerprint of it.
    """
    splits = [
        [name, len(examples), digest(examples.ids, examples.labels)]
        if isinstance(examples, IndexedExamples)
        else [name, len(examples)]
        for name, examples in data.splits.items()
    ]
    return {
        "configuration": configuration,
        "data": digest(list(data.class_names), splits),
        "versions": versions(),
    }


def load(
    store: CheckpointStore,
    expected: dict[str, Any],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
) -> tuple[tuple[dict[str, np.ndarray], dict] | None, list[str]]:
    """The newest checkpoint that can be used, and remarks for the user.

    Raises:
        UserError: the data has changed since, or no checkpoint can be used.
    """

    def fits(arrays: dict[str, np.ndarray], rest: dict) -> str | None:
        if rest["configuration"] != expected["configuration"]:
            return "it is of another configuration"
        return misfit(arrays, model, optimizer)

    found, passed_over = store.load(fits)
    remarks = [f"WARNING: passed over {reason}." for reason in passed_over]
    if found is None:
        return None, remarks
    rest = found[1]
    if rest["data"] != expected["data"]:
        raise UserError(
            "The data has changed since this run's last checkpoint: other "
            "examples, labels or classes. Expected the same, or the order of "
            "examples would be another. Put it back, or start a new run "
            "(--new, or another --workdir)."
        )
    for name, version in expected["versions"].items():
        if rest["versions"].get(name) != version:
            remarks.append(
                f"WARNING: the checkpoint was written with {name} "
                f"{rest['versions'].get(name)}, this is {version}: the run "
                "goes on, but not to the very same weights."
            )
    return found, remarks


def restore(
    found: tuple[dict[str, np.ndarray], dict] | None,
    built: Classifier,
    optimizer: keras.optimizers.Optimizer,
    callbacks: Sequence[keras.callbacks.Callback],
) -> tuple[TrainState, list[Any]]:
    """Gives model and optimizer their values.

    Returns:
        where training stands, and what each callback remembered.

    Raises:
        UserError: the frozen part was built with other weights.
    """
    if found is None:
        return TrainState(), [None] * len(callbacks)
    arrays, rest = found
    # `built.features` has copies of them, and is not restored.
    frozen = built.frozen_weights()
    state = TrainState.unpack(arrays, rest, built.model, optimizer)
    if not all(map(np.array_equal, frozen, built.frozen_weights())):
        raise UserError(
            "The weights of the frozen part of the backbone are others than "
            "when this run began: what its weights are loaded from has "
            "changed. Put it back, or start a new run (--new, or another "
            "--workdir)."
        )
    return state, rest["callbacks"]


def inexact(callbacks: Sequence[keras.callbacks.Callback]) -> list[str]:
    """Sentences on what keeps a continued run from being exactly the same."""
    names = [type(c).__name__ for c in callbacks if not has_state(c)]
    if not names:
        return []
    return [
        f"Not exactly resumable: {', '.join(names)} has no get_state and "
        "set_state. What such a callback remembers is lost when the run is "
        "continued."
    ]
