"""Turns rendered hands into a TFDS data set, `rendered_hands`.

    builder = RenderedHands(data_dir=...)
    builder.download_and_prepare()  # renders; nothing is downloaded

Features, labels and splits are those of TFDS's `rock_paper_scissors`, for
which it can stand in.
"""

from collections.abc import Iterator
from typing import ClassVar

import tensorflow_datasets as tfds

from framework.data.rendered_hands import render, worker

# As many as in rock_paper_scissors: 840 and 124 of each class.
SIZES = {"train": 2520, "test": 372}
SEED = 0


class RenderedHands(tfds.core.GeneratorBasedBuilder):
    """Hands that show rock, paper or scissors, rendered from a skeleton."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "First release.",
        "2.0.0": "Poses, cameras and pictures vary as real ones do.",
    }

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (render.SIZE, render.SIZE, 3)
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Rock, paper and scissors: hands rendered in 3D from posed "
                "skeletons, with varied proportions, skins, cameras, lights, "
                "clothes and backgrounds. The test split's hands, skins and "
                "cameras do not occur in the training split. Computer "
                "graphics, not photographs."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=shape, encoding_format="jpeg"
                    ),
                    "label": tfds.features.ClassLabel(
                        names=list(render.CLASS_NAMES)
                    ),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, "_Examples"]:
        del dl_manager  # nothing to download
        return {s: self._generate_examples(s) for s in SIZES}

    def _generate_examples(self, split: str) -> "_Examples":
        return _Examples(split, SIZES[split])


class _Examples:
    """A split's examples; its length lets TFDS's progress bar show an end."""

    def __init__(self, split: str, count: int):
        self._split, self._count = split, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, dict]]:
        # Encoded already, by the processes that rendered them.
        encoded = worker.images(self._split, self._count, SEED)
        for index, image in enumerate(encoded):
            label = render.label_of(index)
            key = f"{render.CLASS_NAMES[label]}-{index:05d}"
            yield key, {"image": image, "label": label}
