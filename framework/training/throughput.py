"""Turns the times of epochs into images a second and what held them up.

Counted are updates alone: not the first one of a start, which builds, compiles
and finds the input cold, nor validation and checkpoints. An epoch of one update
thus may have no rate: 0.
"""

from collections.abc import Sequence

# From this share of time spent waiting for pictures on, a faster input would
# be noticed.
NOTICED = 0.1


def throughput(epochs: Sequence[dict]) -> dict[str, float]:
    """Of all epochs together, each for what it took.

    Args:
        epochs: of `History`.

    Returns:
        "images_per_second" and "input_wait", 0 to 1.
    """
    rated = [e for e in epochs if e["images_per_second"]]
    total = sum(epoch["seconds"] for epoch in rated) or 1.0
    return {
        # Runs begun before it was measured lack the latter.
        name: sum(e.get(name, 0.0) * e["seconds"] for e in rated) / total
        for name in ("images_per_second", "input_wait")
    }


def verdict(input_wait: float) -> str:
    """What training waited for, and what to try; sentences.

    Args:
        input_wait: the share of time spent waiting for pictures, 0 to 1.
    """
    if input_wait >= NOTICED:
        return (
            f"Input-bound: {input_wait:.0%} of the time was spent waiting for "
            "pictures. What helps: smaller files (--mode=prepare with "
            "prepare.max_side), pipeline.cache, more processors, or other "
            "machines that decode (pipeline.service). --mode=benchmark shows "
            "where the time goes."
        )
    return (
        f"Compute-bound: {input_wait:.0%} of the time was spent waiting for "
        "pictures. What helps: smaller pictures (classifier.image_size), more "
        "of the backbone frozen and its features kept (train.feature_views), "
        "16 bits (train.precision) where the device is made for it, another "
        "device."
    )
