"""Turns a folder of images into rates of the input alone, ours and others'."""

import contextlib

from benchmarks import feeds, torch_rival
from benchmarks.compare import Section, against, in_turns
from benchmarks.settings import BATCH, Settings


def section(settings: Settings) -> Section:
    """What it takes to bring a folder's images into batches."""
    files = feeds.examples(settings.folder)
    folder, size = settings.folder, settings.size
    batches, warm = settings.short(40, 3), settings.short(8, 1)
    ours = feeds.ours(files, size)
    plain = {
        "decoding": feeds.decoding(files),
        "ours": ours,
        "dataset": feeds.keras_dataset(folder, size),
        "augmented": feeds.augmented(ours),
    }
    slow = {
        "generator": feeds.generator(folder, size, {}),
        "generator, augmented": feeds.generator(folder, size, feeds.COURSE),
    }
    with contextlib.ExitStack() as closing:
        torch = torch_rival.rivals(
            closing,
            {"torch": "load", "torch, draft": "load-draft"},
            folder,
            size,
            batches,
            warm,
        )
        rates = in_turns(
            {
                **feeds.sides(plain, batches, warm),
                # A Python loop without anything ahead of time: fewer do.
                **feeds.sides(slow, settings.short(12, 2), 1),
                **torch,
            },
            settings.rounds,
        )
    loader = f"PyTorch's DataLoader, {torch_rival.WORKERS} workers, Pillow"
    comparisons = (
        ("decoding alone", "ours", "decoding", 0.85),
        ("Keras's image_dataset_from_directory", "ours", "dataset", None),
        ("Keras's ImageDataGenerator", "ours", "generator", None),
        (
            "ImageDataGenerator, both with the course's augmentation",
            "augmented",
            "generator, augmented",
            3.5,
        ),
        (loader, "ours", "torch", 2.0),
        (f"{loader} in draft mode", "ours", "torch, draft", 1.4),
    )
    rows = [
        against(what, rates[us], rates[them], goal)
        for what, us, them, goal in comparisons
        if them in rates
    ]
    notes = [
        f"{len(files):,} images, shuffled, to batches of {BATCH} at {size} px; "
        "decoding alone neither resizes nor batches."
    ]
    if not torch:
        notes.append(torch_rival.MISSING)
    return Section("Input alone", rows, notes)
