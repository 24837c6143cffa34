"""Turns one trial's bindings into a run, in a process of its own.

    python -m framework.sweeping.trial SOCKET [LOCK]

Whoever starts it sends a `Job` over the socket and is told each epoch's figure,
to which it answers whether to go on; a trial that breaks its process breaks
nothing else. The lock is held open for as long as the process lives.
"""

import dataclasses
import json
import math
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

# Before TensorFlow is imported, as in framework.main.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@dataclasses.dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        gin_file: of the experiment.
        bindings: gin lines, the trial's own among them.
        imports: modules that register parts.
        monitor: the figure of an epoch that is told.
        workdir: the run's directory; None trains nothing and tells what of
            the bindings would be used.
    """

    gin_file: str
    bindings: Sequence[str]
    imports: Sequence[str]
    monitor: str
    workdir: str | None


class Channel:
    """Lines of JSON over a socket.

    Args:
        connection: to the other side.
    """

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._reading = connection.makefile("rb")

    def tell(self, **message: Any) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        line = self._reading.readline()
        if not line:
            raise EOFError("Nobody is there any more.")
        return json.loads(line)


class Pruned(Exception):
    """The trial is not worth its other epochs."""


def figure(epoch: dict[str, Any], monitor: str) -> float:
    """The monitored figure of an entry of `History.epochs`."""
    split, _, name = monitor.partition(".")
    return epoch[split][name]


def _run(job: Job, channel: Channel) -> dict[str, Any]:
    """Runs a trial to its end; what there is to tell of it."""
    from framework.errors import UserError
    from framework.running import run
    from framework.training.trainer import Observer

    class Reporter(Observer):
        def on_epoch(self, figures: dict) -> None:
            value = figure(figures, job.monitor)
            if not math.isfinite(value):
                raise UserError(
                    f"{job.monitor} is {value} after epoch "
                    f"{figures['epoch']}; expected a number."
                )
            channel.tell(epoch=figures["epoch"], value=value)
            if not channel.hear()["go_on"]:
                raise Pruned

    result = run(
        job.gin_file,
        job.bindings,
        imports=job.imports,
        workdir=job.workdir,
        observers=[Reporter()],
    )
    history = result.history
    return {
        "end": "complete",
        "value": figure(history.epochs[history.best_epoch], job.monitor),
        "best_epoch": history.best_epoch + 1,
        # A run that was complete already has told none of them.
        "figures": [figure(epoch, job.monitor) for epoch in history.epochs],
    }


def _rehearse(job: Job) -> dict[str, Any]:
    """Builds what the trial would train; says what of it there is."""
    from rich.console import Console

    from framework.configuration import Configuration
    from framework.running import run

    task = Configuration(job.gin_file, job.bindings, job.imports).task()
    splits = list(task.load(lambda name, reason: None).splits)
    run(
        job.gin_file,
        job.bindings,
        imports=job.imports,
        dry_run=True,
        console=Console(quiet=True),
    )
    from framework.configuration import operative_now

    return {"end": "rehearsed", "splits": splits, "used": operative_now()}


def main(arguments: Sequence[str]) -> int:
    """Does the job that it is sent; returns the exit status."""
    connection, *locks = map(int, arguments)
    for number in (connection, *locks):
        # What a run starts must not pass for the trial itself.
        os.set_inheritable(number, False)
    channel = Channel(socket.socket(fileno=connection))
    job = Job(**channel.hear())

    from framework.errors import UserError
    from framework.training.interruption import Interrupted

    try:
        told = _run(job, channel) if job.workdir else _rehearse(job)
    except Pruned:
        told = {"end": "pruned"}
    except Interrupted as error:
        print(error.message, file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except EOFError:
        return 1
    except UserError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        told = {"end": "failed", "reason": error.message}
    except Exception as error:
        traceback.print_exc()
        told = {
            "end": "failed",
            "reason": f"{type(error).__name__}: {error}",
        }
    channel.tell(**told)
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # TensorFlow's threads have nothing to add.
    os._exit(status)
