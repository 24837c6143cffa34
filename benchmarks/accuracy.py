"""Turns a gin file into its accuracy over several seeds: mean and spread.

    python -m benchmarks.accuracy gin/rps_softmax.gin --seeds 0 1 2 3 4

Trains once a seed, each in a process of its own, as the command in the gin
file would; other flags are handed on (`--gin_param="train.folds = 5"`). Stopped
anywhere, the same command goes on. The figures are of the split that a run is
judged on, with the standard deviation from one seed to the next (that of a
sample, by n - 1). They hold for the machine: others may round otherwise.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Sequence

from framework.errors import UserError
from framework.evaluation.report import judged_split

# Of summary.json, as in `framework.modes.train`.
_AUGMENTED = "test_time_augmentation"


def train(
    gin_file: str, seed: int, workdir: pathlib.Path, flags: Sequence[str] = ()
) -> dict:
    """One run's `summary.json`; of a finished one at once."""
    subprocess.run(
        [
            *(sys.executable, "-m", "framework.main"),
            f"--gin_file={gin_file}",
            f"--gin_param=train.seed = {seed}",
            "--gin_param=train.report_page = False",
            *flags,
            f"--workdir={workdir}",
        ],
        check=True,
    )
    return json.loads((workdir / "summary.json").read_text())


def in_words(seeds: Sequence[int], summaries: Sequence[dict]) -> str:
    """A line: label, mean, standard deviation, and every seed's accuracy."""
    if "folds" in summaries[0]:
        split, label = "pooled", summaries[0]["pooled"]["label"]
    else:
        split, label = judged_split(summaries[0]) or (None, None)
    if split is None:
        raise UserError(
            "The runs were judged on no split, and there is no accuracy to "
            "compare. Expected a task with a validation or a test split."
        )
    figures = [summary[split] for summary in summaries]
    text = f"{label} {_spread(seeds, [f['accuracy'] for f in figures])}"
    augmented = [f[_AUGMENTED] for f in figures if _AUGMENTED in f]
    if augmented:
        spread = _spread(seeds, [a["accuracy"] for a in augmented])
        text += f"; of {augmented[0]['views']} views {spread}"
    return text


def _spread(seeds: Sequence[int], values: Sequence[float]) -> str:
    each = ", ".join(f"{value:.3f}" for value in values)
    which = "seed" if len(seeds) == 1 else "seeds"
    each = f"({which} {', '.join(map(str, seeds))}: {each})"
    if len(values) == 1:
        return each
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.3f} ± {deviation:.3f} {each}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("gin_file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument(
        "--workdir",
        type=pathlib.Path,
        help="where a run a seed is left; runs/<gin file's name>/seeds",
    )
    asked, flags = parser.parse_known_args(arguments)
    name = pathlib.Path(asked.gin_file).stem
    place = asked.workdir or pathlib.Path("runs") / name / "seeds"
    try:
        summaries = [
            train(asked.gin_file, seed, place / str(seed), flags)
            for seed in asked.seeds
        ]
        words = in_words(asked.seeds, summaries)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # It has said why.
    except UserError as error:
        parser.error(error.message)
    print(f"{name}, {summaries[0]['data']['source']}: {words}")


if __name__ == "__main__":
    main()
