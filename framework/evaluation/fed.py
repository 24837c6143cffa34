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
        most: pictures to show.

    Raises:
        UserError: a layer of augmentation can't be copied.
    """
    # Enough that some of them decode.
    rows = min(batch_size, max(16, 2 * most))
    here = dataclasses.replace(pipeline, service=None)
    batches = here.training(
        examples,
        classifier.image_size,
        rows,
        seed,
        share=Share(),
        sampling=sampling,
    )
    batch = next(iter(batches))
    images, positions = batch["image"], batch["position"]
    labels = batch["label"].numpy()
    there = np.flatnonzero(batch["weight"].numpy() > 0)[:most]
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

    drawn = [[] for _ in there]
    for number in range(DRAWS if steps else 0):
        at = positions + number * FAR
        made, share = images, tf.ones_like(batch["weight"])
        if before:
            made = before[1](made, at)
        if mixing:
            made, share = mixing[1](made, batch["weight"], at)
        if after:
            made = after[1](made, at)
        for place, row in enumerate(there):
            drawn[place].append(
                Drawn(
                    tiles.picture(made[row].numpy()),
                    _labels(
                        class_names,
                        (labels[row], float(share[row])),
                        (labels[-1 - row], 1 - float(share[row])),
                    ),
                )
            )
    ids = readable_ids(batch["id"].numpy()[there])
    return Fed(
        tuple(
            Row(
                name,
                class_names[labels[row]],
                tiles.picture(images[row].numpy()),
                tuple(drawn[place]),
            )
            for place, (name, row) in enumerate(zip(ids, there, strict=True))
        ),
        tuple(steps),
    )


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
