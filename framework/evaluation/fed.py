"""Turns the first training pictures into what training makes of them.

`fed.html.j2` prints it, in a run's report and in that of `--mode=show_batch`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from framework.data.pipeline import Pipeline, Share
from framework.data.source import Examples
from framework.evaluation import tiles
from framework.evaluation.at_test_time import FAR, copied
from framework.evaluation.predictions import readable_ids
from framework.model.affine import parts
from framework.model.augmentation import augment_one_by_one
from framework.model.classifier import Classifier

# From images [b, S, S, 3], weights [b] and positions [b] to what is mixed of
# them, and which share of each is its own, float32 [b].
Mix = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
DRAWS = 4
# Rows that are worked on at a time, and how many batches are looked through.
_MOST_ROWS, _MOST_BATCHES = 32, 64


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """What one draw makes of a picture.

    Attributes:
        picture: JPEG.
        labels: the classes' names and how much each counts, 0..1, the larger
            first; one where nothing is mixed.
    """

    picture: bytes
    labels: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One training picture, as it is and as it is trained on.

    Attributes:
        id: of the example.
        label: the class's name.
        picture: JPEG, decoded and resized, before augmentation.
        drawn: of some epochs.
    """

    id: str
    label: str
    picture: bytes
    drawn: tuple[Drawn, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Fed:
    """What the section "What it was fed" shows of a batch.

    Attributes:
        rows: the first pictures of training that decode.
        steps: what happens to them, in order, in words; none where nothing
            does.
    """

    rows: tuple[Row, ...]
    steps: tuple[str, ...]


def look(
    classifier: Classifier,
    pipeline: Pipeline,
    examples: Examples,
    class_names: Sequence[str],
    *,
    batch_size: int,
    seed: int,
    sampling: str = "natural",
    mixing: tuple[str, Mix] | None = None,
    augments: bool = True,
    most: int = 8,
    draws: int = DRAWS,
) -> Fed:
    """Decodes the first pictures of training and augments them some times.

    Each draw is what the picture could be in another epoch, by the layers
    themselves: first those in the pipeline, then mixing within the batch, then
    those in the model. Nothing that training draws from is touched.

    Args:
        classifier: has the layers; it stays as it is.
        pipeline: reads, decodes and resizes; here, whatever its service.
        examples: of the training split.
        class_names: in the order of the labels.
        batch_size: rows of a batch that are mixed with each other.
        seed: of the training order and of what is drawn.
        sampling: of the order.
        mixing: what to call it, and what mixes, each row with its partner from
            the other end of the batch.
        augments: whether training augments at all.
        most: pictures to show; fewer, where many don't decode.
        draws: how many to show of each.

    Raises:
        UserError: a layer of augmentation can't be copied.
    """
    here = dataclasses.replace(pipeline, service=None)
    before, after = _augmenting(classifier, seed) if augments else ((), ())
    steps = [
        f"{step[0]}, {where}"
        for step, where in (
            (before, "in the pipeline"),
            (mixing, "within the batch"),
            (after, "in the model"),
        )
        if step
    ]

    def drawn(batch: dict, number: int) -> tuple[np.ndarray, np.ndarray]:
        """What a draw makes of a batch, and which share each row has of it."""
        at = batch["position"] + number * FAR
        made, share = batch["image"], tf.ones_like(batch["weight"])
        if before:
            made = before[1](made, at)
        if mixing:
            made, share = mixing[1](made, batch["weight"], at)
        if after:
            made = after[1](made, at)
        return made.numpy(), share.numpy()

    rows: list[Row] = []
    batches = here.training(
        examples,
        classifier.image_size,
        min(batch_size, _MOST_ROWS),
        seed,
        share=Share(),
        sampling=sampling,
    )
    for batch in batches.take(_MOST_BATCHES):
        there = np.flatnonzero(batch["weight"].numpy() > 0)
        there = there[: most - len(rows)]
        if not len(there):
            continue
        views = [drawn(batch, n) for n in range(draws if steps else 0)]
        labels = batch["label"].numpy()
        ids = readable_ids(batch["id"].numpy())
        rows += [
            Row(
                ids[row],
                class_names[labels[row]],
                tiles.picture(batch["image"][row].numpy()),
                tuple(
                    Drawn(
                        tiles.picture(made[row]),
                        _labels(
                            class_names,
                            (labels[row], float(share[row])),
                            (labels[-1 - row], 1 - float(share[row])),
                        ),
                    )
                    for made, share in views
                ),
            )
            for row in there
        ]
        if len(rows) == most:
            break
    return Fed(tuple(rows), tuple(steps))


def _augmenting(classifier: Classifier, seed: int) -> list[tuple]:
    """Of what is in the pipeline and in the model its names, and what does it.

    () where there is nothing.
    """
    own = copied(classifier.augmentation_in_model, "Showing a batch")
    return [
        (
            ", ".join(
                type(part).__name__
                for layer in layers
                for part in (parts(layer) or (layer,))
            ),
            augment_one_by_one(layers, seed, classifier.image_size),
        )
        if layers
        else ()
        for layers in (classifier.augmentation_in_pipeline, own)
    ]


def _labels(
    class_names: Sequence[str], *counts: tuple[int, float]
) -> tuple[tuple[str, float], ...]:
    """Names with what they count; alike ones together, those of 0 left out."""
    total: dict[int, float] = {}
    for label, share in counts:
        total[label] = total.get(label, 0.0) + share
    kept = [(class_names[k], v) for k, v in total.items() if v > 5e-3]
    return tuple(sorted(kept, key=lambda pair: -pair[1]))
