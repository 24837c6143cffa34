"""Turns a task into its data, and says what stands in for what."""

from rich.console import Console

from framework.data.doctor.diagnosis import Diagnosis
from framework.evaluation import report
from framework.task import Data, Task


def load_data(task: Task, console: Console, doctor: str | None = None) -> Data:
    """The data of a task; a stand-in is told in a box.

    Args:
        task: what the data is.
        console: where to write.
        doctor: the run directory of an examination to honour.

    Raises:
        UserError: the data can't be had.
    """
    return task.load(
        lambda name, reason: console.print(
            report.stand_in_notice(name, reason)
        ),
        None if doctor is None else Diagnosis.read(doctor),
    )
