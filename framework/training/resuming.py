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
from framework.training.state import assign, has_state, misfit
from framework.versions import versions

# A checkpoint: its arrays and the rest.
Found = tuple[dict[str, np.ndarray], dict[str, Any]]


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
) -> tuple[Found | None, list[str]]:
    """The newest checkpoint that can be used, and remarks for the user.

    Args:
        store: where they lie.
        expected: `facts` of the run.
        model: of the first phase.
        optimizer: of the first phase.

    Raises:
        UserError: the data has changed since, or no checkpoint can be used.
    """

    def fits(arrays: dict[str, np.ndarray], rest: dict) -> str | None:
        if rest["configuration"] != expected["configuration"]:
            return "it is of another configuration"
        # Those of later phases are known when these are built.
        return misfit(arrays, model, optimizer) if rest["phase"] == 0 else None

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
    found: Found,
    built: Classifier,
    optimizer: keras.optimizers.Optimizer,
) -> list[Any]:
    """Gives the model and the optimizer of a checkpoint's phase its values.

    Returns:
        what each callback remembered.

    Raises:
        UserError: they are not those of this checkpoint.
    """
    arrays, rest = found
    reason = misfit(arrays, built.model, optimizer)
    if reason is not None:
        raise UserError(
            f"This run's last checkpoint can't be used: {reason}. Start a new "
            "run (--new, or another --workdir)."
        )
    assign(arrays, built.model, optimizer)
    built.refold()
    return rest["callbacks"]


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
