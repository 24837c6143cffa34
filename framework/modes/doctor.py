"""Turns a task's data into a report of what is wrong with it."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from framework.console import Bar, say
from framework.data.doctor import page
from framework.data.doctor.diagnosis import (
    FINDINGS,
    QUARANTINE,
    Diagnosis,
)
from framework.data.doctor.doctor import Examiner
from framework.data.doctor.findings import (
    KINDS,
    Findings,
    dumps,
    quarantine_csv,
    quarantined,
)
from framework.data.doctor.label_errors import LabelChecker
from framework.data.pictures import Pictures
from framework.data.pipeline import Pipeline
from framework.errors import UserError
from framework.evaluation import report
from framework.modes.loading import load_data
from framework.noise import standard_error_without
from framework.registry import MODES, nearest
from framework.run_directory import RunDirectory
from framework.task import Task

_PAGE = "doctor.html"
# What resizing does is shown at this size, where the model's is not known.
_SIZE = 224


@MODES.register(given=["locate", "console"])
def doctor(
    locate: Callable[[], RunDirectory],
    task: Task,
    pipeline: Pipeline,
    image_size: int | None = None,
    likeness: float = 0.985,
    check_quality: bool = True,
    check_labels: bool = True,
    most_labels: int = 20_000,
    quarantine: Sequence[str] = ("unreadable",),
    console: Console | None = None,
) -> Diagnosis:
    """Examines a task's data; moves and deletes nothing.

    What `train` binds of `task`, `pipeline` and `classifier.image_size` holds
    here too, unless it is bound here.

    Args:
        locate: finds the run's directory.
        task: what the data is.
        pipeline: how pictures are decoded and resized.
        image_size: side of the model's input in pixels; None where neither
            the classifier nor its backbone says.
        likeness: from which correlation of their thumbnails on, 0 to 1, two
            pictures count as the same.
        check_quality: look for dark, blurry and blank pictures.
        check_labels: look for wrong labels.
        most_labels: of how many examples to check the labels at most, drawn
            at random.
        quarantine: kinds of findings that training is to leave out.
        console: where to write.

    Returns:
        what was found, and the directory that `train.doctor` names to honour
        it.

    Raises:
        UserError: the data can't be had, or the run's directory not written.
    """
    console = console or Console()
    if not 0 < likeness < 1:
        raise UserError(
            f"doctor.likeness is {likeness}; expected a correlation between 0 "
            "and 1, such as 0.985."
        )
    for kind in quarantine:
        if kind not in KINDS:
            raise UserError(
                f"doctor.quarantine names {kind!r}; expected kinds among "
                f"{', '.join(KINDS)}. {nearest(kind, KINDS)}".rstrip()
            )
    data = load_data(task, console)
    say(console, report.describe(data))
    # Before the work: that a place can't be written is known at once.
    run = locate()
    if run.is_finished:
        raise UserError(
            f"{run.path} holds a finished examination. Choose another "
            "--workdir, or leave it out."
        )
    run.create()
    examiner = Examiner(
        pipeline=pipeline,
        image_size=image_size,
        likeness=likeness,
        check_quality=check_quality,
        label_checker=LabelChecker(most=most_labels) if check_labels else None,
    )
    with Bar(console) as bar:
        findings = examiner.examine(data, bar.show)
        pictures = Pictures(data, page.shown(findings), image_size or _SIZE)
        # Decoding what is damaged once more, libjpeg complains once more.
        with standard_error_without([b""]):
            html = page.page(
                findings,
                pictures.thumbnail,
                pictures.fits,
            )
    # An example that is listed for two reasons is one.
    listed = {
        f.id: f for kind in quarantine for f in quarantined(findings, kind)
    }.values()
    run.write(FINDINGS, dumps(findings))
    run.write(_PAGE, html)
    run.write(QUARANTINE, quarantine_csv(list(listed)))
    run.finish(
        {
            "data": {"source": data.source, "stand_in": data.stand_in},
            "found": _numbers(findings),
            "quarantined": len(listed),
            "seconds": findings.seconds,
        }
    )
    _tell(console, findings, run, len(listed))
    return Diagnosis(run.path, findings, {f.id: f.reason for f in listed})


def _numbers(findings: Findings) -> dict[str, int]:
    """How many there are of each kind; of duplicates, how many clusters."""
    return {
        kind: len(findings.of(kind)) + len(findings.clusters_of(kind))
        for kind in KINDS
    }


def _tell(
    console: Console, findings: Findings, run: RunDirectory, quarantined: int
) -> None:
    table = Table(title=Text(findings.source), title_justify="left")
    for column in ("found", "", "such as"):
        table.add_column(
            column, justify="left" if column == "such as" else "right"
        )
    for kind, number in _numbers(findings).items():
        if not number:
            continue
        if clusters := findings.clusters_of(kind):
            first = ", ".join(m.id for m in clusters[0].members[:2])
        else:
            finding = findings.of(kind)[0]
            first = f"{finding.id}: {finding.reason}"
        first = first if len(first) <= 100 else f"{first[:97]}..."
        table.add_row(f"{number:,}", KINDS[kind].title, Text(first))
    if table.row_count:
        console.print(table)
    else:
        say(console, "Nothing was found.")
    say(console, page.verdict(findings))
    for remark in findings.remarks:
        say(console, f"Note: {remark}")
    parts = ", ".join(f"{k} {v:.1f}" for k, v in findings.seconds.items())
    say(console, f"Seconds: {parts}.")
    say(console, f"Report: {run.file(_PAGE)}")
    say(
        console,
        f"{quarantined:,} examples are in {run.file(QUARANTINE)}, which you "
        "may edit; no file was moved. To leave them out, and to keep "
        "duplicates on one side of a cut, train with\n"
        f"    --gin_param=\"train.doctor = '{run.path}'\"",
    )
