"""Turns a list in a gin file into phases of training, one after another.

A pretrained backbone under a new head is best trained in phases: the head
alone first, while the backbone is frozen, since the gradients of a random head
would ruin what was learned; then more and more of the backbone, at a rate so
low that it is only adapted.

    train.phases = [@head/Phase(), @tune/Phase()]
    head/Phase.epochs = 2
    head/Phase.freeze = 'all'
    tune/Phase.epochs = 8
    tune/Phase.freeze = 'block3b_add'
    tune/Phase.learning_rate = 0.0003
    tune/classifier.augmentation = [@keras.RandomFlip()]

Whatever builds a phase is built in its scope, so that anything can be bound
for one phase alone, as the last line does.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from framework import registry
from framework.errors import UserError
from framework.ranges import Count, Positive, PositiveShare, Share
from framework.registry import PARTS


@PARTS.register(scopes=[registry.OWN_SCOPE])
@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase; what is None is as it is bound without it.

    Attributes:
        epochs: passes over the training split, at most.
        freeze: as `classifier.freeze`: "all", "none", the name of a layer, or
            a share of the backbone's layers.
        learning_rate: the peak of the schedule; where there is none, the
            optimizer's. It goes before what is bound for these.
        schedule: as `train.schedule`.
        lowest_rate: what the lowest layer that is trained gets of the learning
            rate; the layers between it and the head get shares that rise
            geometrically with depth. Discriminative fine-tuning: Howard and
            Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2.
        name: in logs and reports; the scope by default.
        scope: the gin scope in which the phase is built.

    Raises:
        UserError: a value makes no sense.
    """

    epochs: Count
    freeze: str | Share | None = None
    learning_rate: Positive | None = None
    schedule: Callable[..., Any] | None = None
    lowest_rate: PositiveShare = 1.0
    name: str | None = None
    scope: str = dataclasses.field(default_factory=registry.current_scope)

    def __post_init__(self):
        if self.epochs < 1:
            raise UserError(
                f"Phase.epochs is {self.epochs}; expected a whole number, at "
                "least 1."
            )
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise UserError(
                f"Phase.learning_rate is {self.learning_rate}; expected a "
                "number above 0, or None."
            )
        if not 0 < self.lowest_rate <= 1:
            raise UserError(
                f"Phase.lowest_rate is {self.lowest_rate}; expected a share "
                "of the learning rate, above 0 and at most 1."
            )

    @property
    def title(self) -> str | None:
        return self.name or self.scope.rpartition("/")[2] or None

    def building(self) -> contextlib.AbstractContextManager:
        """Inside, what is bound for this phase holds."""
        return registry.in_scope(self.scope)


@PARTS.register(scopes=["head", "tune"])
def fine_tune(
    head_epochs: Count = 2,
    epochs: Count = 8,
    freeze: str | Share = 0.5,
    head_rate: Positive = 1e-3,
    rate: Positive = 1e-4,
    lowest_rate: PositiveShare = 0.1,
) -> Sequence[Phase]:
    """The usual two: the head alone, then the upper part of the backbone.

    Their scopes are `head` and `tune`.

    Batch normalisations of a pretrained backbone keep their statistics in both
    (`classifier.batch_norm`).

    Args:
        head_epochs: passes in which the backbone is frozen.
        epochs: passes in which its upper part is trained, too.
        freeze: what stays frozen then, as `classifier.freeze`.
        head_rate: the learning rate of the first phase.
        rate: that of the second.
        lowest_rate: as in `Phase`, in the second.
    """
    return (
        Phase(head_epochs, "all", head_rate, scope="head"),
        Phase(epochs, freeze, rate, lowest_rate=lowest_rate, scope="tune"),
    )
