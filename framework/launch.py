"""Turns one command into several workers on this machine that train as one.

    python -m framework.launch --workers=2 -- --gin_file=gin/smoke.gin

Every worker runs `python -m framework.main` with the flags after `--`. When
one dies, the others can't go on: all are ended and started anew, and continue
from the run's last checkpoint.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

from framework.errors import UserError

USER_MISTAKE = 2
_EXAMPLE = "python -m framework.launch --workers=2 -- --gin_file=gin/smoke.gin"

# Has Linux kill the worker as soon as the launcher is gone, even by SIGKILL;
# then becomes the worker. A program of its own and not a preexec_fn: what runs
# between fork and exec of a process with threads may hang.
WRAPPER = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
except (OSError, AttributeError):
    pass
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def task_config(addresses: Sequence[str], index: int) -> str:
    """TF_CONFIG of one worker among those that listen at `addresses`."""
    return json.dumps(
        {
            "cluster": {"worker": list(addresses)},
            "task": {"type": "worker", "index": index},
        }
    )


def visible_gpus(
    environment: Mapping[str, str], devices: pathlib.Path = pathlib.Path("/dev")
) -> list[str]:
    """The GPUs that may be used here, as CUDA_VISIBLE_DEVICES names them."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        # CUDA ends the list at the first name that it doesn't know: -1 is how
        # users say none.
        end = next((i for i, n in enumerate(names) if n in ("", "-1")), None)
        return names[:end]
    try:
        found = [p for p in devices.iterdir() if re.match(r"nvidia\d", p.name)]
    except OSError:
        return []
    return [str(number) for number in range(len(found))]


def share_gpus(gpus: Sequence[str], workers: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES by worker: the same number for each.

    Returns:
        None for every worker where there are no GPUs to share.

    Raises:
        UserError: there are fewer GPUs than workers.
    """
    if not gpus:
        return [None] * workers
    if len(gpus) < workers:
        raise UserError(
            f"--workers is {workers}, but there are {len(gpus)} GPUs: "
            f"{', '.join(gpus)}. Expected at least one for each worker; ask "
            "for fewer workers, or set CUDA_VISIBLE_DEVICES=-1 to train on "
            "the CPU."
        )
    each = len(gpus) // workers
    return [",".join(gpus[each * i : each * (i + 1)]) for i in range(workers)]


@dataclasses.dataclass(eq=False)
class _Worker:
    """A process, and how it ended."""

    index: int
    process: subprocess.Popen
    ended: float = 0.0

    @property
    def status(self) -> int:
        """What a shell would call its exit status."""
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    @property
    def end(self) -> str:
        code = self.process.returncode
        if code >= 0:
            return f"ended with status {code}"
        try:
            return f"died of {signal.Signals(-code).name}"
        except ValueError:
            return f"died of signal {-code}"


class Launcher:
    """Runs one command as several workers until all of them are done.

    Args:
        command: of one worker; absolute path of the program first.
        workers: how many.
        restarts: how often all may be started anew after one has died.
        grace: seconds for workers that are stopped on request to save and
            leave, before they are killed.
        kill_after: the same for those that are left when one has died.
        pause: seconds before a new start.
        command_again: of a worker that is started anew; `command` by default.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        *,
        restarts: int = 3,
        grace: float = 60,
        kill_after: float = 10,
        pause: float = 1,
        command_again: Sequence[str] | None = None,
    ):
        self._command = list(command)
        self._command_again = list(command_again or command)
        self._workers = workers
        self._restarts = restarts
        self._grace = grace
        self._kill_after = kill_after
        self._pause = pause
        gpus = visible_gpus(os.environ)
        self._shares = share_gpus(gpus, workers)
        self._unused = gpus[len(gpus) // workers * workers :]
        # Signal handlers put into it what the main thread may be taking out:
        # the one queue that is made for that.
        self._events: queue.SimpleQueue[signal.Signals | _Worker] = (
            queue.SimpleQueue()
        )
        self._printing = threading.Lock()
        self._unread = False

    def run(self) -> int:
        """Starts the workers and waits; call it from the main thread.

        Returns:
            The exit status: 0, that of the worker which died first, or 128
            and the number of the signal that ended it all.
        """
        if self._unused:
            self._say(
                f"left unused, to give all workers the same number of GPUs: "
                f"{', '.join(self._unused)}"
            )
        command = self._command
        with self._signals():
            for restart in range(1, self._restarts + 2):
                first, stop = self._run_once(command)
                if stop is None and first and first.status != USER_MISTAKE:
                    how = f"worker {first.index} {first.end}"
                    if restart > self._restarts:
                        self._say(f"{how}; no restarts are left")
                        break
                    self._say(
                        f"{how}; starting all anew, "
                        f"{restart} of {self._restarts}"
                    )
                    with contextlib.suppress(queue.Empty):
                        stop = self._events.get(timeout=self._pause)
                if stop is not None:
                    return 128 + stop
                if first is None or first.status == USER_MISTAKE:
                    break
                command = self._command_again
        return first.status if first else 0

    def _run_once(
        self, command: list[str]
    ) -> tuple[_Worker | None, signal.Signals | None]:
        """Runs all workers to their end.

        Returns:
            The worker that died first and the signal that stopped it all, if
            any; neither when all have finished.
        """
        workers: list[_Worker] = []
        try:
            self._start(command, workers)
            return self._wait(workers)
        finally:
            _kill(workers)

    def _start(self, command: list[str], workers: list[_Worker]) -> None:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(self._workers)]
        wrapper = [sys.executable, "-I", "-S", "-c", WRAPPER, str(os.getpid())]
        for index, gpus in enumerate(self._shares):
            environment = {
                **os.environ,
                "TF_CONFIG": task_config(addresses, index),
                "PYTHONUNBUFFERED": "1",
            }
            if gpus is not None:
                environment["CUDA_VISIBLE_DEVICES"] = gpus
            process = subprocess.Popen(
                [*wrapper, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Ctrl-C then reaches the launcher alone, which passes it on
                # once; and what a worker started can be killed with it.
                process_group=0,
            )
            workers.append(_Worker(index, process))
        told: set[bytes] = set()
        for worker in workers:
            threading.Thread(
                target=self._follow, args=(worker, told), daemon=True
            ).start()

    def _wait(
        self, workers: list[_Worker]
    ) -> tuple[_Worker | None, signal.Signals | None]:
        running = set(workers)
        stop: signal.Signals | None = None
        died = False
        deadline: float | None = None
        while running:
            timeout = None
            if deadline is not None:
                timeout = max(0.0, deadline - time.monotonic())
            try:
                event = self._events.get(timeout=timeout)
            except queue.Empty:
                names = ", ".join(sorted(str(w.index) for w in running))
                self._say(f"killing what did not leave in time: {names}")
                _kill(running)
                deadline = None
                continue
            if isinstance(event, _Worker):
                running.discard(event)
                if died or stop or not event.status:
                    continue
                died = True
                grace = self._kill_after
                if event.status == USER_MISTAKE:
                    # They have nothing to save, and most find it themselves.
                    grace = min(grace, 2)
                elif event.status in (
                    128 + signal.SIGTERM,
                    128 + signal.SIGINT,
                ):
                    # It was asked to leave, and so were the others, which may
                    # still be writing their checkpoint.
                    grace = self._grace
            elif stop:
                # Whoever asks twice is in a hurry.
                deadline = time.monotonic()
                continue
            else:
                stop, grace = event, self._grace
                if running:
                    self._say(f"{stop.name}: stopping the workers")
            deadline = time.monotonic() + grace
            for worker in running:
                with contextlib.suppress(ProcessLookupError):
                    worker.process.terminate()
        dead = [worker for worker in workers if worker.status]
        if dead and not workers[0].process.returncode:
            # It ends when all is written: nothing is left to start anew for.
            self._say(f"worker {dead[0].index} {dead[0].end} after the end")
            return None, None
        first = min(dead, key=lambda worker: worker.ended, default=None)
        # Asked to stop when all were done anyway: the work is complete.
        return first, stop if dead else None

    def _follow(self, worker: _Worker, told: set[bytes]) -> None:
        """Passes on what a worker prints, and that it has ended."""
        prefix = f"[{worker.index}] ".encode()
        readers = [
            threading.Thread(target=self._relay, args=arguments, daemon=True)
            for arguments in (
                (prefix, worker.process.stdout, sys.stdout.buffer, None),
                (prefix, worker.process.stderr, sys.stderr.buffer, told),
            )
        ]
        for reader in readers:
            reader.start()
        worker.process.wait()
        worker.ended = time.monotonic()
        kill_group(worker.process.pid)
        for reader in readers:
            # What a worker started and moved to another process group may
            # hold its output open for ever.
            reader.join(timeout=2)
        self._events.put(worker)

    def _relay(
        self,
        prefix: bytes,
        source: BinaryIO,
        sink: BinaryIO,
        told: set[bytes] | None,
    ) -> None:
        """Copies lines. A user's mistake, told by all, is printed once."""
        mistake = False
        for line in source:
            line = line.rstrip(b"\r\n")
            if told is not None:
                if not line:
                    continue
                mistake = mistake or line.startswith(b"Error: ")
            with self._printing:
                if mistake and line in told:
                    continue
                if mistake:
                    told.add(line)
                self._print(prefix + line + b"\n", sink)

    def _print(self, text: bytes, sink: BinaryIO) -> None:
        try:
            sink.write(text)
            sink.flush()
        except BrokenPipeError:
            # Nobody reads any more; nor is what is left in the buffer to
            # raise once more when Python closes it.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sink.fileno())
            os.close(null)
            if not self._unread:
                self._unread = True
                self._events.put(signal.SIGTERM)

    def _say(self, text: str) -> None:
        with self._printing:
            self._print(f"[launch] {text}\n".encode(), sys.stderr.buffer)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Puts the signals that mean stop among the events."""

        def put(number, frame):
            self._events.put(signal.Signals(number))

        before = {}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # nohup, or a shell's `&`, has it ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, put)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _kill(workers: Iterable[_Worker]) -> None:
    """Ends those that still run. (The others' numbers may be taken again.)"""
    for worker in workers:
        if worker.process.poll() is None:
            kill_group(worker.process.pid)


def kill_group(number: int) -> None:
    """Ends a worker and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(number, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at on 127.0.0.1 at this moment."""
    with contextlib.ExitStack() as stack:
        # All at once, else the same one may be given twice.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(
            f"{message[:1].upper()}{message[1:]}. Expected {_EXAMPLE}, with "
            "the flags of framework.main after the '--'."
        )


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's own flags, and those of framework.main."""
    own, flags = list(arguments), None
    if "--" in own:
        at = own.index("--")
        own, flags = own[:at], own[at + 1 :]
    parser = _Parser(
        prog="python -m framework.launch",
        usage="%(prog)s --workers=N [options] -- <flags of framework.main>",
        description="Trains with several workers on this machine.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workers", type=int, required=True, help="how many processes"
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=3,
        help="how often to start all anew when one has died; default 3",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=60,
        help="seconds for the workers to save and leave when they are "
        "stopped; default 60",
    )
    options = parser.parse_args(own)
    for name, least in (("workers", 1), ("restarts", 0), ("grace", 0)):
        value = getattr(options, name)
        if not value >= least:
            raise UserError(
                f"--{name} is {value}; expected {least} or more: {_EXAMPLE}."
            )
    if flags is None:
        raise UserError(
            "Received no '--' with the flags of framework.main after it. "
            f"Expected {_EXAMPLE}."
        )
    if not any(re.match(r"--?(gin_file|flagfile)(=|$)", f) for f in flags):
        raise UserError(
            f"Nothing to run: received {' '.join(flags) or 'no flags'} after "
            f"'--'. Expected --gin_file among them: {_EXAMPLE}."
        )
    return options, flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the flags say; returns the exit status."""
    try:
        options, flags = _parse(
            sys.argv[1:] if arguments is None else arguments
        )
        run = [sys.executable, "-m", "framework.main"]
        launcher = Launcher(
            [*run, *flags],
            options.workers,
            restarts=options.restarts,
            grace=options.grace,
            # What was begun with --new is to be continued, not begun again.
            command_again=[
                *run,
                *(f for f in flags if not re.match(r"--?new(=|$)", f)),
            ],
        )
        return launcher.run()
    except UserError as error:
        print(f"\nError: {error.message}", file=sys.stderr)
        return USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main())
