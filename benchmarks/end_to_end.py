"""Turns a folder of images into rates of training, against the bare step."""

import contextlib

from benchmarks import feeds, steps, torch_rival
from benchmarks.compare import Row, Section, against, in_turns
from benchmarks.settings import BATCH, Settings
from framework.data.folder import ImageFolder
from framework.data.pipeline import Pipeline
from framework.model.backbones import course_cnn, efficientnet_lite0

# (name, backbone, side in pixels, options of the head)
MODELS = (
    (
        "course_cnn",
        lambda image_size: course_cnn(150),
        150,
        {"pooling": "flatten", "hidden": [512], "dropout": 0.5},
    ),
    (
        "efficientnet_lite0, all of it trained",
        lambda image_size: efficientnet_lite0(160, weights=None),
        160,
        {},
    ),
)
# Only this one is written for PyTorch too.
_OF_TORCH = "course_cnn"


def section(settings: Settings) -> Section:
    """Training from a folder, against a step that never waits for input."""
    rows = [row for model in MODELS for row in _compare(settings, *model)]
    notes = [
        f"Batches of {BATCH}. The bare step sees one batch in memory, again "
        "and again; the others decode the folder's images meanwhile, but for "
        "ours in later epochs, for which decoded pictures were kept."
    ]
    if not torch_rival.is_installed():
        notes.append(torch_rival.MISSING)
    return Section("End to end", rows, notes)


def _compare(settings, name, backbone, size, head) -> list[Row]:
    files = feeds.examples(settings.folder)
    classes = len(ImageFolder(settings.folder).class_names)

    def batches(first, share):
        return Pipeline().training(files, size, BATCH, 0, first, share=share)

    count, warm = settings.short(10, 2), settings.short(2, 1)
    bare = steps.bare(
        steps.build(backbone, classes, **head),
        steps.a_batch(BATCH, size, classes),
    )
    ours = steps.in_our_loop(
        steps.build(backbone, classes, **head), BATCH, batches, warm
    )
    later = steps.in_later_epochs(steps.build(backbone, classes, **head), files)
    sides = {
        "bare": lambda: bare(count),
        "ours": lambda: ours(count),
        "later": lambda: later(count),
    }
    with contextlib.ExitStack() as closing:
        if name == _OF_TORCH:
            sides |= torch_rival.rivals(
                closing,
                {"torch": "train"},
                settings.folder,
                size,
                count,
                warm,
            )
        bare(1), ours(1)
        rates = in_turns(sides, settings.rounds)
    what = f"{name}, {size} px"
    rows = [
        against(
            f"{what}, {epochs}: the bare compiled step",
            rates[side],
            rates["bare"],
            0.97,
        )
        for side, epochs in (("ours", "first epoch"), ("later", "later epochs"))
    ]
    if "torch" in rates:
        rows.append(
            against(
                f"{what}: PyTorch's loop and DataLoader",
                rates["ours"],
                rates["torch"],
            )
        )
    return rows
