"""Turns a folder and its multiples into what each costs to read.

    python -m benchmarks.growth SIDE FOLDER SIZE BATCHES WARM

reads one of them in a process of its own, so that the peak of its memory is
its own too, and prints figures as JSON.
"""

import argparse
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

from benchmarks import feeds
from benchmarks.compare import Section, against, in_turns
from benchmarks.settings import BATCH, ROOT, Settings

SCALES = (1, 4, 16)
_SIDES = {
    "ours": lambda folder, size: feeds.ours(feeds.examples(folder), size),
    "dataset": feeds.keras_dataset,
}


def section(settings: Settings) -> Section:
    """The input of 1, 4 and 16 times the data."""
    batches, warm = settings.short(60, 2), settings.short(8, 1)
    rounds = min(settings.rounds, 3)  # A process each takes its time.
    last = SCALES[-1]
    with tempfile.TemporaryDirectory() as below:
        folders = {
            scale: _multiplied(settings.folder, scale, below)
            for scale in SCALES
        }

        def side(name, scale):
            return lambda: _measured(
                name, folders[scale], settings.size, batches, warm
            )

        measured = in_turns(
            {
                **{scale: side("ours", scale) for scale in SCALES},
                "dataset": side("dataset", last),
            },
            rounds,
        )

    def row(what, ours, theirs, figure, **goal):
        return against(
            what,
            [figures[figure] for figures in measured[ours]],
            [figures[figure] for figures in measured[theirs]],
            **goal,
        )

    slower = {"goal": 0.95, "unit": "images/s"}
    larger = {"goal": 1.1, "unit": "MiB", "at_most": True}
    keras_dataset = f"{last} times: Keras's image_dataset_from_directory"
    rows = []
    for scale in SCALES[1:]:
        what = f"{scale} times the data, against once"
        rows += [
            row(f"{what}: input", scale, 1, "rate", **slower),
            row(f"{what}: peak memory", scale, 1, "memory", **larger),
        ]
    rows += [
        row(
            f"{keras_dataset}, peak memory",
            last,
            "dataset",
            "memory",
            **{"unit": "MiB"},
        ),
        row(
            f"{keras_dataset}, until the first batch",
            last,
            "dataset",
            "first",
            unit="s",
        ),
    ]
    return Section(
        "Growth",
        rows,
        [
            f"Each in a process of its own, {rounds} rounds; {warm + batches} "
            f"batches of {BATCH} at {settings.size} px. The data are links "
            "to the same files, so that a disk shows no difference."
        ],
    )


def _multiplied(folder: str, scale: int, below: str) -> str:
    """A folder with links to each image of another, so many of each."""
    result = pathlib.Path(below, str(scale))
    root = pathlib.Path(folder)
    for path in feeds.examples(folder).ids:
        for number in range(scale):
            link = result / path
            link = link.with_name(f"{number}_{link.name}")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(root / path)
    return os.fspath(result)


def _measured(side, folder, size, batches, warm) -> dict[str, float]:
    arguments = map(str, (side, folder, size, batches, warm))
    done = subprocess.run(
        [sys.executable, "-m", __name__, *arguments],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        cwd=ROOT,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _peak_memory() -> float:
    """MiB of this process."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # What getrusage tells may be the parent's: it outlives exec.
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 ** (2 if sys.platform == "darwin" else 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=_SIDES)
    parser.add_argument("folder")
    for name in ("size", "batches", "warm"):
        parser.add_argument(name, type=int)
    asked = parser.parse_args()
    began = time.perf_counter()
    feed = _SIDES[asked.side](asked.folder, asked.size)
    next(feed())
    first = time.perf_counter() - began
    rate = feeds.rate(feed, asked.batches, asked.warm)
    print(json.dumps({"rate": rate, "first": first, "memory": _peak_memory()}))


if __name__ == "__main__":
    main()
