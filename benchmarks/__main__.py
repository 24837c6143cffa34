"""Turns a folder of images into a report: this against its rivals.

    python -m benchmarks --folder=FOLDER [--sections=input,growth] [--quick]

All that is compared runs in turns in this one run. The report is printed and,
unless it is a quick one, written to benchmarks/results.md. On a machine that
has other work too, ask for more rounds and look at the spread.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
from collections.abc import Iterator

from rich.console import Console

from benchmarks import (
    augmentation,
    end_to_end,
    features,
    growth,
    inputs,
    overhead,
)
from benchmarks.compare import Section
from benchmarks.settings import Settings
from framework.errors import UserError

# Each makes a `Section` of `Settings`.
SECTIONS = {
    "features": features.section,
    "input": inputs.section,
    "end-to-end": end_to_end.section,
    "growth": growth.section,
    "overhead": overhead.section,
    "augmentation": augmentation.section,
}
RESULTS = pathlib.Path(__file__).with_name("results.md")
_PACKAGES = ("tensorflow", "keras", "torch", "numpy", "pillow")


def machine() -> Iterator[str]:
    """What the figures depend on; neither names nor paths."""
    yield f"{datetime.date.today()}"
    yield f"{len(os.sched_getaffinity(0))} processors ({platform.machine()})"
    yield f"load {os.getloadavg()[0]:.1f} at the start"
    yield f"Python {platform.python_version()}"
    for package in _PACKAGES:
        if importlib.util.find_spec("PIL" if package == "pillow" else package):
            yield f"{package} {importlib.metadata.version(package)}"


def report(header: str, settings: Settings, sections: list[Section]) -> str:
    return "\n\n".join(
        (
            "# Against the rivals",
            f"`make bench`, {settings.rounds} rounds: {header}.",
            "A ratio is ours by theirs, the median of those of all rounds, in "
            "which all sides run in turns; least and greatest beside it.",
            *(section.markdown() for section in sections),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument(
        "--folder", required=True, help="one folder of images per class"
    )
    parser.add_argument(
        "--sections",
        default=",".join(SECTIONS),
        help="some of %(default)s",
    )
    parser.add_argument("--rounds", type=int, help="5 unless told otherwise")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a round of next to nothing: shows that everything runs",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help=f"the report's file; {RESULTS.name} where all sections are asked "
        "for, and not --quick",
    )
    asked = parser.parse_args()
    if not asked.folder:
        parser.error("Expected a folder of images: make bench FOLDER=...")
    names = asked.sections.split(",")
    unknown = ", ".join(name for name in names if name not in SECTIONS)
    if unknown:
        parser.error(
            f"There is no section {unknown}; expected some of "
            f"{', '.join(SECTIONS)}."
        )
    settings = Settings(
        os.path.abspath(os.path.expanduser(asked.folder)),
        rounds=asked.rounds or (1 if asked.quick else 5),
        quick=asked.quick,
    )
    is_whole = not asked.quick and set(names) == set(SECTIONS)
    output = asked.output or (RESULTS if is_whole else None)
    header = ", ".join(machine())
    console = Console()
    console.print(header)
    sections = []
    for name in names:
        try:
            sections.append(SECTIONS[name](settings))
        except UserError as error:
            parser.error(error.message)
        console.print(sections[-1].table())
        # After each, so that nothing is lost where a later one fails.
        if output is not None:
            output.write_text(report(header, settings, sections) + "\n")


if __name__ == "__main__":
    main()
