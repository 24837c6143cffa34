"""Turns a picture's sides and thumbnail into what resizing will do to it."""

import numpy as np

# From here on a side is much longer than the other: the same bound as
# cleanvision's odd_aspect_ratio (0.35).
EXTREME_ASPECT = 1 / 0.35
# A subject that fills less of the picture's area is tiny.
TINY_SUBJECT = 0.1
# The share of a picture's detail that its subject has.
_SUBJECTS_DETAIL = 0.9

Verdict = tuple[str, str, float]


def judge(
    width: int,
    height: int,
    thumbnail: np.ndarray | None,
    image_size: int | None,
) -> list[Verdict]:
    """Says of a picture whether its sides or its subject ask for care.

    Args:
        width: in pixels, upright.
        height: likewise.
        thumbnail: uint8 `[S, S]` grey 0..255 of the whole picture, squashed;
            None where there is none.
        image_size: side of the model's input in pixels; None if unknown.

    Returns:
        (kind, reason, score); the lower a score the worse.
    """
    verdicts = []
    longer, shorter = max(width, height), min(width, height)
    if longer > EXTREME_ASPECT * shorter:
        left = ""
        if image_size:
            small = max(1, round(image_size * shorter / longer))
            left = f", pad leaves {small} of {image_size} pixels"
        verdicts.append(
            (
                "aspect",
                f"{width} x {height}: squash stretches it "
                f"{longer / shorter:.1f} times, crop cuts off "
                f"{1 - shorter / longer:.0%} of it{left}",
                shorter / longer,
            )
        )
    if not image_size:
        return verdicts
    if longer < image_size:
        verdicts.append(
            (
                "small",
                f"{width} x {height}, scaled up {image_size / longer:.1f} "
                "times",
                longer / image_size,
            )
        )
    box = None if thumbnail is None else subject(thumbnail)
    if box is not None:
        top, left, bottom, right = box
        area = (bottom - top) * (right - left)
        if area < TINY_SUBJECT:
            seen = image_size * np.sqrt(area)
            cut = _cut_off(box, width, height)
            crop = f"crop cuts off {cut:.0%} of it" if cut else "crop keeps it"
            verdicts.append(
                (
                    "tiny_subject",
                    f"nearly all detail is in {area:.1%} of the picture, some "
                    f"{seen:.0f} x {seen:.0f} pixels of the input; {crop}",
                    float(area),
                )
            )
    return verdicts


def subject(thumbnail: np.ndarray) -> tuple[float, float, float, float] | None:
    """Where a picture's detail is: a guess, by where brightness changes.

    Args:
        thumbnail: uint8 `[S, S]`.

    Returns:
        top, left, bottom, right of a box that holds nine tenths of it, as
        shares of the height and the width; None of a picture without detail.
    """
    pixels = thumbnail.astype(np.float32)
    down, across = np.gradient(pixels)
    detail = down**2 + across**2
    total = detail.sum()
    if total < 1:
        return None
    sides = []
    for axis in (1, 0):
        share = np.cumsum(detail.sum(axis=axis)) / total
        rest = (1 - _SUBJECTS_DETAIL) / 2
        first = int(np.searchsorted(share, rest / 2))
        last = int(np.searchsorted(share, 1 - rest / 2))
        sides.append(
            (first / len(share), min(last + 1, len(share)) / len(share))
        )
    (top, bottom), (left, right) = sides
    return top, left, bottom, right


def _cut_off(
    box: tuple[float, float, float, float], width: int, height: int
) -> float:
    """The share of a box that lies outside of the middle square."""
    top, left, bottom, right = box
    shorter = min(width, height)
    inside = 1.0
    for begin, end, side in ((top, bottom, height), (left, right, width)):
        first = 0.5 - shorter / side / 2
        overlap = min(end, 1 - first) - max(begin, first)
        inside *= max(overlap, 0) / (end - begin)
    return 1 - inside
