"""Turns the pixels of a picture into whether it is dark, blurry or blank.

The measures and the bounds are cleanvision's,
https://github.com/cleanlab/cleanvision; what is ours is that they are taken
while the picture is decoded anyway, and of one that has been made small.
"""

import functools
from collections.abc import Sequence
from typing import Any

from PIL import Image

# Longer sides are halved until they are shorter than twice this: pixels of
# which no verdict depends. (cleanvision itself looks for edges at 64.)
_SIDE = 128

# cleanvision's names, ours, and what a score below the bound says.
_KINDS = {
    "dark": ("dark", "99 % of its pixels are darker than {:.0%} of white"),
    "light": ("light", "95 % of its pixels are brighter than {:.0%} of white"),
    "low_information": ("blank", "its grey levels tell {:.1f} bits a pixel"),
    "blurry": ("blurry", "its edges have a strength of {:.0f} of 255"),
}


def measures(image: Image.Image) -> dict[str, float]:
    """Takes cleanvision's measures of a picture.

    Args:
        image: opened; a JPEG that is not loaded yet is decoded to a fraction
            of its size.

    Returns:
        numbers by cleanvision's names.
    """
    # Where it has not been decoded yet, at an eighth, a quarter or half.
    image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
    factor = max(1, min(image.size) // _SIDE)
    small = image.convert("RGB").reduce(factor)
    found: dict[str, float] = {}
    for issue, measure in _properties().items():
        if issue != "light":  # Its measure is that of "dark".
            found.update(measure.calculate(small))
    return {name: float(value) for name, value in found.items()}


def judge(
    rows: Sequence[dict[str, float] | None],
) -> list[list[tuple[str, str, float]]]:
    """Says of each picture what is wrong with it.

    Args:
        rows: what `measures` returned; None of pictures without.

    Returns:
        of each (kind, reason, score); the lower a score the worse.
    """
    import pandas

    verdicts: list[list[tuple[str, str, float]]] = [[] for _ in rows]
    known = {at: row for at, row in enumerate(rows) if row}
    if not known:
        return verdicts
    table = pandas.DataFrame.from_dict(known, orient="index")
    manager = _manager()
    for issue, (kind, reason) in _KINDS.items():
        measure = _properties()[issue]
        options = dict(manager.params[issue])
        bound = options.pop("threshold")
        scores = measure.get_scores(
            raw_scores=table, issue_type=issue, **options
        )
        found = measure.mark_issue(scores, issue, bound)
        value = table[measure.score_columns[0]]
        for at in table.index[found.iloc[:, 0]]:
            verdicts[at].append(
                (kind, reason.format(value[at]), float(scores.loc[at].iloc[0]))
            )
    return verdicts


@functools.cache
def _manager() -> Any:
    # It takes pandas and a second to import.
    from cleanvision.issue_managers import image_property_issue_manager

    return image_property_issue_manager.ImagePropertyIssueManager()


def _properties() -> dict[str, Any]:
    return {name: _manager().image_properties[name] for name in _KINDS}
