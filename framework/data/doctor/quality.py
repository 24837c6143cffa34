"""Turns the pixels of a picture into how dark, light, blurry or blank it is.

The measures, and from where on they are too low, are those of the library
cleanvision, https://github.com/cleanlab/cleanvision. It takes a second to
import, and pandas with it, so that only those who call this pay for it.
"""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from cleanvision.issue_managers.image_property import ImageProperty

# Of a picture with a longer side than this, every n-th pixel tells how bright
# it is: a tenth of the time, and of 5,544 pictures one verdict changed.
_SAMPLE = 128
# A JPEG is decoded no larger than this needs, where it is not decoded yet.
_DRAFT = 512

# What cleanvision calls them.
_KINDS = {
    "dark": "dark",
    "light": "light",
    "blurry": "blurry",
    "blank": "low_information",
}

Verdict = tuple[str, str, float]


def measures(image: Image.Image) -> dict[str, float]:
    """Measures one picture.

    Args:
        image: of any mode and size, decoded or not; one that is not is
            decoded here, and may have become smaller by that.

    Returns:
        "brightness_perc_5" and "brightness_perc_99", 0..1: what so many
        percent of the pixels are darker than; "blurriness", the deviation of
        its edges at 64 px, and "blurriness_grayscale_std", that of its
        histogram; "entropy" of a pixel, in bits. JSON-able.

    Raises:
        OSError: its pixels can't be decoded.
    """
    properties, _ = _cleanvision()
    image.draft(None, (_DRAFT, _DRAFT))
    image = _plain(image)
    step = math.ceil(max(image.size) / _SAMPLE)
    sample = image.resize(
        [max(side // step, 1) for side in image.size],
        Image.Resampling.NEAREST,
    )
    found = {
        **properties["dark"].calculate(sample),
        **properties["blurry"].calculate(image),
        **properties["blank"].calculate(image),
    }
    wanted = {
        column
        for property_ in properties.values()
        for column in property_.score_columns
    }
    return {name: float(found[name]) for name in sorted(wanted)}


def judge(
    rows: Sequence[dict[str, float] | None],
) -> list[list[Verdict]]:
    """Says what is wrong with pictures.

    Args:
        rows: what `measures` returned of each; None of those it can't
            measure.

    Returns:
        of each a list of (kind, reason, score), empty where nothing is
        wrong. Kinds are those of `findings.KINDS`; scores run from 0, the
        worst, to 1.
    """
    import pandas as pd

    verdicts: list[list[Verdict]] = [[] for _ in rows]
    known = [at for at, row in enumerate(rows) if row is not None]
    if not known:
        return verdicts
    table = pd.DataFrame([rows[at] for at in known])
    properties, limits = _cleanvision()
    for kind, property_ in properties.items():
        name = _KINDS[kind]
        scores = property_.get_scores(table, name, **limits[kind])
        flags = property_.mark_issue(scores, name, limits[kind]["threshold"])
        for row in np.flatnonzero(flags.to_numpy()):
            at, score = known[row], float(scores.iloc[row, 0])
            reason = _reason(kind, rows[at], score, limits[kind])
            verdicts[at].append((kind, reason, score))
    return verdicts


def _reason(
    kind: str, row: dict[str, float], score: float, limits: dict[str, float]
) -> str:
    limit = limits["threshold"]
    if kind == "dark":
        return (
            f"99 of 100 pixels are darker than {100 * score:.1f} % of white "
            f"(usual: more than {100 * limit:.0f} %)"
        )
    if kind == "light":
        return (
            f"95 of 100 pixels are lighter than {100 - 100 * score:.1f} % of "
            f"white (usual: less than {100 - 100 * limit:.0f} %)"
        )
    if kind == "blurry":
        return (
            f"sharpness {score:.2f} of 1, seen at 64 px (usual: more than "
            f"{limit:.2f})"
        )
    usual = limit / limits["normalizing_factor"]
    return (
        f"{row['entropy']:.1f} bits of information a pixel (usual: more than "
        f"{usual:.0f})"
    )


@functools.cache
def _cleanvision() -> tuple[
    dict[str, "ImageProperty"], dict[str, dict[str, float]]
]:
    """What measures each kind, and from where on it is one."""
    from cleanvision.issue_managers.image_property_issue_manager import (
        ImagePropertyIssueManager,
    )

    manager = ImagePropertyIssueManager()
    return (
        {kind: manager.image_properties[name] for kind, name in _KINDS.items()},
        {kind: manager.params[name] for kind, name in _KINDS.items()},
    )


def _plain(image: Image.Image) -> Image.Image:
    """The picture as RGB or grey of 8 bits, its alpha dropped."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode.startswith("I"):
        # Of 16 bits the upper 8, as TensorFlow has it. Pillow cuts off what
        # is above 255.
        pixels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Else it warns of transparency.
    return image.convert("RGB")
