"""Turns an experiment and a space around it into trials that are all done."""

import contextlib
import dataclasses
import json
import os
import re
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from framework.configuration import (
    Configuration,
    bindings,
    listed,
)
from framework.configuration.checking import check
from framework.configuration.reading import (
    COMMAND_LINE,
    MAY_BE_UNUSED,
    parse,
    read,
    scoped,
)
from framework.configuration.uses import Key, key_of
from framework.console import say
from framework.errors import UserError
from framework.launch import WRAPPER, kill_group, share_gpus, visible_gpus
from framework.sweeping.space import Search, Written, binding_of
from framework.sweeping.trial import Job
from framework.training.distribution import cluster_resolver

if TYPE_CHECKING:
    # Optuna is an extra: who lacks it is told how to get it.
    from framework.sweeping.ledger import Ledger, Trial

# In the sweep's directory; the first one marks it as one.
LOCKS, LOGS = "locks", "logs"
# How often a trial is started anew whose process died without a word.
_DEATHS = 3
# So many trials that all fail alike at first: so would the others.
_ALIKE = 3
_GRACE = 60.0
_TICK = 0.5
_BEAT = 30.0
# The page is written anew when a trial is finished, but not more often.
_BETWEEN_PAGES = 15.0
# What is the search's own, and not the experiment's.
_SEARCH = tuple(
    f"framework.{name}"
    for name in ("search", "uniform", "log_uniform", "integer", "choice")
)
_CHOICE = ("framework.choice", "options")
_FOLDS = ("", "framework.train", "folds")
_TRIAL = ("-m", "framework.sweeping.trial")
_PAGE_OFF = "train.report_page = False"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a sweep was asked to do.

    Attributes:
        gin_file: the experiment.
        bindings: gin lines that override it.
        imports: modules that register tasks or parts.
        directory: of the sweep.
        search: what is tried, and how it is chosen.
        facts: what must not change while the sweep goes on, by name.
        text: of the experiment, as asked.
    """

    gin_file: str
    bindings: tuple[str, ...]
    imports: tuple[str, ...]
    directory: str
    search: Search
    facts: dict[str, str]
    text: str

    def job(self, values: dict, workdir: str | None) -> Job:
        """What a trial's process is sent."""
        lines = [*self.bindings, *self.search.bindings(values)]
        if "train.report_page" not in (*self.facts, *self.search.space):
            # It takes some seconds; the best trial can be repeated with it.
            lines.append(_PAGE_OFF)
        return Job(
            self.gin_file, lines, self.imports, self.search.monitor, workdir
        )

    def command(self, values: dict) -> list[str]:
        """What trains once more what a trial trained, as a shell reads it.

        The program first, then a text for each flag.
        """
        flags = [f"--gin_file={self.gin_file}"]
        flags += [f"--import={module}" for module in self.imports]
        flags += [
            f"--gin_param={line}"
            for line in (*self.bindings, *self.search.bindings(values))
        ]
        return ["python -m framework.main", *map(shlex.quote, flags)]

    def place(self, number: int) -> str:
        """The run directory of a trial."""
        return os.path.join(self.directory, place(number))


@dataclasses.dataclass(frozen=True)
class Swept:
    """What a sweep has come to.

    Attributes:
        directory: where everything lies.
        page: path of the page.
        best: number of the best trial; None where none is complete.
        value: what that one is judged by.
        bindings: the gin lines that make it.
        unfinished: how many trials are not finished.
    """

    directory: str
    page: str
    best: int | None
    value: float | None
    bindings: tuple[str, ...]
    unfinished: int


class Stopped(Exception):
    """The sweep was asked to stop; the same command goes on with it.

    Attributes:
        message: what to tell the user.
        status: for the process to exit with, as a shell would have it.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.message = message
        self.status = status


def sweep(
    gin_file: str,
    space: str,
    bindings: Sequence[str] = (),
    *,
    imports: Sequence[str] = (),
    trials: int | None = None,
    workers: int = 1,
    workdir: str | None = None,
    storage: str | None = None,
    console: Console | None = None,
) -> Swept:
    """Does what `python -m framework.sweep` does; from the main thread only.

    What is there of the same sweep is gone on with.

    Args:
        gin_file: of the experiment: a path, or the name of a shipped one.
        space: a gin file that binds `search`; see `space.Search`.
        bindings: gin lines that override both.
        imports: modules that register tasks or parts.
        trials: how many in all; `search.trials` by default.
        workers: how many trials at a time.
        workdir: the sweep's directory; `sweeps/<the gin file's name>` by
            default.
        storage: URL of a database, as Optuna has them; by default a file in
            the directory.
        console: where to report; standard output by default.

    Raises:
        UserError: something in what was asked must be mended, or the first
            trials all fail alike.
        Stopped: by Ctrl-C or SIGTERM.
    """
    console = console or Console()
    try:
        from optuna.exceptions import StorageInternalError

        from framework.sweeping.ledger import Ledger, first_values
    except ImportError as error:
        raise UserError(
            f"A sweep can't start: {error}. Expected the package of this "
            "package's extra 'sweep': pip install 'optuna>=4'."
        ) from error
    for name, value in (("workers", workers), ("trials", trials)):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; expected at least 1.")
    if cluster_resolver() is not None:
        raise UserError(
            "A sweep trains each trial in one process, and the environment "
            "names a cluster of several workers (TF_CONFIG, or SLURM's "
            "variables). Start it without; on several machines each runs the "
            "same command, with a --storage and a --workdir that they share."
        )
    gpus = share_gpus(visible_gpus(os.environ), workers)
    bindings = listed("bindings", bindings)
    imports = listed("imports", imports)
    asked = _read(gin_file, space, bindings, imports, workdir)
    _check_values(asked, space)
    is_new = not os.path.exists(asked.directory) or not os.listdir(
        asked.directory
    )
    if is_new:
        _check_first(asked, first_values(asked.search), console)
    _make(asked.directory)
    ledger = Ledger(asked.directory, asked.search, asked.facts, storage)
    wanted = trials or asked.search.trials
    there = ledger.provide(wanted)
    if there < wanted:
        say(console, f"The grid has {there} combinations: so many trials.")
    elif there > wanted:
        say(
            console,
            f"{wanted} trials are asked for, and the sweep has {there} "
            "already: it goes on with these.",
        )
    say(console, f"Sweep directory: {asked.directory}")
    try:
        return _Work(asked, ledger, gpus, console).do()
    except StorageInternalError as error:
        raise UserError(
            f"The sweep's storage {storage or ''} can't be used any more: "
            f"{str(error).splitlines()[0]} Expected it to be there all the "
            "time; the same command goes on with the sweep."
        ) from error


def place(number: int) -> str:
    """The name of a trial's run directory in that of the sweep."""
    return f"trial-{number:04}"


def _is_of_search(line: str, macros: Collection[str] = ()) -> bool:
    """Whether a gin line is for the search, and not for the experiment.

    Args:
        line: of the command line.
        macros: that the search alone has.

    Raises:
        UserError: it is for both.
    """
    found = {
        (key_of(each) or ("", ""))[1] in _SEARCH
        if each.name
        else each.scope in macros
        for each in parse([line]).bindings()
    }
    if len(found) > 1:
        raise UserError(
            f"--gin_param={line!r} binds something of the search and "
            "something of the experiment. Expected a --gin_param for each."
        )
    return found == {True}


def _macros(gin_file: str) -> set[str]:
    text, _ = read(gin_file, ())
    return {each.scope for each in text.bindings() if not each.name}


def search_of(configuration: Configuration) -> Search:
    """The search that a gin file asks for.

    Raises:
        UserError: it makes no sense.
    """
    for (scope, *what), binding in configuration.bound().items():
        options = configuration.resolved(binding.value)
        if tuple(what) == _CHOICE and isinstance(options, (list, tuple)):
            # As written, or names would become what they name.
            configuration.rebind(
                scoped(scope, "choice.options"),
                tuple(Written(repr(each)) for each in options),
            )
    return configuration.make("search")


def _check_names(search: Search, lines: Sequence[str]) -> None:
    """Raises a UserError where a parameter is searched and bound, or twice."""
    given = {key_of(each): each.key for each in parse(lines).bindings()}
    searched: dict[Key | None, str] = {}
    for name in search.space:
        key = key_of(binding_of(name))
        if key is None:  # Unknown; the check of the trials tells more.
            continue
        if key == _FOLDS:
            raise UserError(
                "search.space has train.folds; expected none in a sweep, "
                "whose trials are judged epoch by epoch."
            )
        if key in given:
            raise UserError(
                f"--gin_param binds {given[key]}, and search.space is to try "
                f"values of {name}, which is the same. Leave one of them out."
            )
        if key in searched:
            raise UserError(
                f"search.space has {searched[key]} and {name}, which are one "
                "parameter. Leave one of them out."
            )
        searched[key] = name


def _read(
    gin_file: str,
    space: str,
    lines: Sequence[str],
    imports: Sequence[str],
    workdir: str | None,
) -> Asked:
    """Both gin files, as far as they can be checked without data."""
    macros = _macros(space) - _macros(gin_file)
    of_search = [line for line in lines if _is_of_search(line, macros)]
    own = tuple(line for line in lines if line not in of_search)
    # The experiment first: what it imports, the space may name.
    configuration = Configuration(gin_file, own, imports)
    name, text = configuration.name, configuration.asked
    whole = configuration.whole()
    facts = bindings(whole)
    facts["imports"] = " ".join(re.findall(r"^import (.*)$", whole, re.M))
    bound = configuration.bound()
    folds = bound.get(_FOLDS)
    if folds and (count := configuration.resolved(folds.value)) is not None:
        raise UserError(
            f"{folds.place}: train.folds is {count}; expected None in a "
            "sweep, whose trials are judged epoch by epoch."
        )
    for key, each in bound.items():
        if key[1] in _SEARCH:
            raise UserError(
                f"{each.place}: {each.key} is bound in the experiment, where "
                f"no sweep reads it. Expected it in {space}."
            )
    configuration = Configuration(space, of_search, imports)
    if not configuration.binds("search.space"):
        raise UserError(
            f"{space} does not bind search.space. Expected what to try, by "
            "parameter, as in gin/sweeps/smoke.gin."
        )
    for key, each in configuration.bound().items():
        # A trial is given what `search` draws, and nothing else of the space.
        if key[1] and key[1] not in _SEARCH:
            raise UserError(
                f"{each.place}: {each.key} is bound in a sweep's space, where "
                "no trial would see it. Expected search and its distributions "
                f"there; bind it in {gin_file} or with --gin_param, with "
                f"'# {MAY_BE_UNUSED}' where only some options read it."
            )
    search = search_of(configuration)
    facts |= search.facts()
    _check_names(search, own)
    directory = workdir or os.path.join("sweeps", name)
    if "://" in directory:
        raise UserError(
            f"--workdir is {directory}; expected a directory on a file "
            "system: trials are locked while a process is at them."
        )
    held = os.listdir(directory) if os.path.isdir(directory) else []
    if os.path.isfile(directory) or (held and LOCKS not in held):
        raise UserError(
            f"{directory} is a file or holds something else than a sweep. "
            "Expected an empty or a new directory, or that of a sweep to go "
            "on with; choose another --workdir."
        )
    return Asked(gin_file, own, tuple(imports), directory, search, facts, text)


def _make(directory: str) -> None:
    try:
        for name in (LOCKS, LOGS):
            os.makedirs(os.path.join(directory, name), exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{directory} can't be written: {error}. Expected a directory "
            "with room; choose another --workdir."
        ) from error


def _check_values(asked: Asked, space: str) -> None:
    """Checks each value that there is, or the least and the largest.

    Raises:
        UserError: one of them is none for its parameter.
    """
    possible = {n: what.extremes for n, what in asked.search.space.items()}
    values = {name: each[0] for name, each in possible.items()}
    tried = [{**values, n: v} for n, each in possible.items() for v in each]
    problems = {}
    for each in tried:
        text, found = read(asked.gin_file, asked.job(each, None).bindings)
        for problem in found or check(text):
            # Where the trial's own lines stand, nobody can look.
            is_own = problem.place.file == COMMAND_LINE
            problems[problem.text if is_own else str(problem)] = None
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(
            f"{space} has trials made that {asked.gin_file} can't be:{lines}"
        )


def _check_first(asked: Asked, values: dict, console: Console) -> None:
    """Builds the first trial, and trains nothing.

    Raises:
        UserError: it can't be built, or has not what it would be judged by.
    """
    job = asked.job(values, None)
    say(console, "Building the first trial, to find what doesn't fit ...")
    process = _Process(job, log=None)
    try:
        told: dict = {}
        while (message := process.wait_for_message()) is not None:
            told = message
        process.process.wait()
    finally:
        process.kill()
    if told.get("end") == "failed":
        raise UserError(
            f"The first trial ({'; '.join(asked.search.lines(values))}) "
            f"can't be built. {told['reason']}"
        )
    if told.get("end") != "rehearsed":
        raise UserError(
            "The first trial can't be built: its process "
            f"{process.how_it_ended()}. Expected it to end by itself; "
            "--dry_run of framework.main shows more."
        )
    split = asked.search.monitor.partition(".")[0]
    if split not in told["splits"]:
        raise UserError(
            f"search.monitor is {asked.search.monitor!r}, and the task has no "
            f"{split} split, only {', '.join(told['splits'])}. Expected the "
            "task's validation fraction to be more than 0, or search.monitor "
            "= 'train.loss'."
        )
    used = bindings(told["used"])
    for name in asked.search.space:
        if not any(name == u or name.endswith(f".{u}") for u in used):
            say(
                console,
                f"WARNING: nothing in the first trial reads {name}: what is "
                "tried there changes nothing, unless another trial's parts "
                "read it.",
            )


class _Process:
    """The process of a trial, and what it says.

    Args:
        job: what it is to do.
        log: the file that takes what it prints; None for nowhere.
        lock: a file descriptor that it is to hold open.
        gpus: as CUDA_VISIBLE_DEVICES has them; None for all.
    """

    def __init__(
        self,
        job: Job,
        log: str | None,
        lock: int | None = None,
        gpus: str | None = None,
    ):
        ours, theirs = socket.socketpair()
        self.connection = ours
        self._unread = b""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpus
        handed = [theirs.fileno(), *([] if lock is None else [lock])]
        with contextlib.ExitStack() as closing:
            closing.enter_context(theirs)
            output = subprocess.DEVNULL
            if log is not None:
                output = closing.enter_context(open(log, "ab"))
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-c", WRAPPER),
                    *(str(os.getpid()), sys.executable, *_TRIAL),
                    *map(str, handed),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=handed,
                # Ctrl-C reaches the sweep alone, which passes it on once; and
                # what a trial started can be killed with it.
                process_group=0,
            )
        self._send(dataclasses.asdict(job))

    def _send(self, message: dict) -> None:
        with contextlib.suppress(OSError):  # It is gone; its end tells.
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def answer(self, go_on: bool) -> None:
        """Says whether to go on after an epoch."""
        self._send({"go_on": go_on})

    def messages(self) -> tuple[list[dict], bool]:
        """What can be read now, and whether there may be more later."""
        try:
            read = self.connection.recv(1 << 20)
        except ConnectionResetError:
            read = b""
        *lines, self._unread = (self._unread + read).split(b"\n")
        return list(map(json.loads, lines)), bool(read)

    def wait_for_message(self) -> dict | None:
        """The next one; None when there is none to come."""
        while True:
            found, is_open = self.messages()
            if found:
                return found[-1]
            if not is_open:
                return None

    def how_it_ended(self) -> str:
        code = self.process.returncode
        if code >= 0:
            return f"ended with status {code}"
        return f"died of {signal.Signals(-code).name}"

    def kill(self) -> None:
        """Ends it at once, if it still runs, and all that it has started."""
        kill_group(self.process.pid)
        self.process.wait()
        self.connection.close()


@dataclasses.dataclass(eq=False)
class _Slot:
    """A place for one trial at a time.

    Attributes:
        gpus: that it may use.
        trial: in hand.
        process: at work on it.
        deaths: of processes at this trial.
        end: how the trial has ended, as far as is known.
    """

    gpus: str | None
    trial: "Trial | None" = None
    process: _Process | None = None
    deaths: int = 0
    end: dict | None = None


class _Work:
    """Gives trials to processes until all are finished."""

    def __init__(
        self,
        asked: Asked,
        ledger: "Ledger",
        gpus: Sequence[str | None],
        console: Console,
    ):
        self._asked = asked
        self._ledger = ledger
        self._console = console
        self._slots = [_Slot(each) for each in gpus]
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._failures: list[str] = []
        # Whether some trial has not failed.
        self._has_one = any(
            trial.state.name in ("COMPLETE", "PRUNED")
            for trial in ledger.trials
        )
        self._deadline: float | None = None
        self._waits = False
        self._beaten = self._written = time.monotonic()

    def do(self) -> Swept:
        is_done = False
        try:
            with self._listening():
                while self._go_on():
                    self._look()
            is_done = True
        finally:
            for slot in self._slots:
                if slot.process is not None:
                    slot.process.kill()
                if slot.trial is not None:
                    slot.trial.let_go()
            if not is_done:
                # The error that ends it is what is to be told.
                with contextlib.suppress(Exception):
                    self._write()
        swept = self._write(tell=True)
        if self._are_alike():
            raise UserError(
                f"The first {_ALIKE} trials all failed alike, and so the sweep "
                f"stopped. {self._failures[0]} What they printed lies in "
                f"{os.path.join(self._asked.directory, LOGS)}; begin anew in "
                "another --workdir."
            )
        if self._signals and swept.unfinished:
            number = self._signals[0]
            raise Stopped(
                f"Stopped by {signal.Signals(number).name}; "
                f"{swept.unfinished} trials are left. The same command goes "
                "on with them.",
                128 + number,
            )
        return swept

    def _write(self, tell: bool = False) -> Swept:
        from framework.sweeping import results

        self._written = time.monotonic()
        swept, lines = results.write(self._asked, self._ledger)
        if tell:
            for line in lines:
                say(self._console, line)
        return swept

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        def note(number, frame):
            self._signals.append(number)

        before = {}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # nohup, or a shell's `&`, has it ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _go_on(self) -> bool:
        """Starts what there is to start; whether to look on."""
        busy = [slot for slot in self._slots if slot.process is not None]
        if self._signals or self._are_alike():
            self._stop(busy)
            return bool(busy)
        for slot in self._slots:
            if slot.process is None:
                slot.trial = self._ledger.take()
                if slot.trial is None:
                    break
                slot.deaths = 0
                self._start(slot)
        if any(slot.process is not None for slot in self._slots):
            return True
        left = [t for t in self._ledger.trials if not t.state.is_finished()]
        if left and not self._waits:
            self._waits = True
            say(
                self._console,
                f"Another process is at {len(left)} trials; waiting for them.",
            )
        return bool(left)

    def _stop(self, busy: list[_Slot]) -> None:
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + _GRACE
            if busy:
                say(self._console, "Stopping; trials under way are saved ...")
            for slot in busy:
                with contextlib.suppress(ProcessLookupError):
                    slot.process.process.terminate()
        # Whoever asks twice is in a hurry.
        if len(self._signals) > 1 or now > self._deadline:
            for slot in busy:
                kill_group(slot.process.process.pid)

    def _start(self, slot: _Slot) -> None:
        trial, asked = slot.trial, self._asked
        path = asked.place(trial.number)
        if not slot.deaths:
            again = "taken up again, " if trial.starts > 1 else ""
            self._say(trial, f"{again}{asked.search.brief(trial.values)}")
        log = os.path.join(asked.directory, LOGS, f"{place(trial.number)}.log")
        slot.end = None
        slot.process = _Process(
            asked.job(trial.values, path), log, trial.lock, slot.gpus
        )
        self._selector.register(
            slot.process.connection, selectors.EVENT_READ, slot
        )

    def _look(self) -> None:
        """Hears what trials say, for a moment."""
        for key, _ in self._selector.select(_TICK):
            slot = key.data
            found, is_open = slot.process.messages()
            for message in found:
                if "epoch" in message:
                    self._judge(slot, message["epoch"], message["value"])
                else:
                    slot.end = message
            if not is_open:
                self._ended(slot)
        now = time.monotonic()
        if now - self._beaten > _BEAT:
            self._beaten = now
            for slot in self._slots:
                if slot.trial is not None:
                    slot.trial.beat()

    def _judge(self, slot: _Slot, epoch: int, value: float) -> None:
        goes_on = slot.trial.report(epoch, value)
        if not goes_on and not self._signals:
            # Before it is told, so that it can't be given out again.
            slot.trial.prune()
            slot.end = {"end": "pruned"}
            self._has_one = True
            self._say(
                slot.trial,
                f"given up after epoch {epoch}, {self._asked.search.monitor} "
                f"{value:.4f}",
            )
        slot.process.answer(goes_on or bool(self._signals))

    def _ended(self, slot: _Slot) -> None:
        """Takes in that a trial's process has closed its socket."""
        process, trial, end = slot.process, slot.trial, slot.end or {}
        self._selector.unregister(process.connection)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.process.wait(10)
        process.kill()
        slot.process = None
        kind = end.get("end")
        if kind == "complete":
            value, best = end["value"], end["best_epoch"]
            trial.complete(value, best, end["figures"])
            self._say(
                trial,
                f"{self._asked.search.monitor} {value:.4f} at epoch {best} of "
                f"{len(end['figures'])}, {trial.seconds:.0f} s",
            )
            self._has_one = True
        elif kind == "failed":
            self._fail(trial, end["reason"])
        elif kind != "pruned" and not self._signals and not self._are_alike():
            how = process.how_it_ended()
            slot.deaths += 1
            if slot.deaths < _DEATHS:
                self._say(trial, f"its process {how}; starting it again")
                self._start(slot)
                return
            self._fail(
                trial,
                f"Its process {how}, the last of {_DEATHS}, without a word. "
                "Is there memory enough?",
            )
        trial.let_go()
        slot.trial = None
        if time.monotonic() - self._written > _BETWEEN_PAGES:
            self._write()

    def _fail(self, trial: "Trial", reason: str) -> None:
        trial.fail(reason)
        self._failures.append(reason)
        self._say(trial, f"failed: {reason}")

    def _are_alike(self) -> bool:
        """Whether the first trials have failed, and all for one reason."""
        if self._has_one or len(self._failures) < _ALIKE:
            return False
        # The first sentence, whatever the numbers in it.
        kinds = {
            re.sub(r"[\d.]+", "", re.split(r"[.;:] ", reason)[0])
            for reason in self._failures[:_ALIKE]
        }
        return len(kinds) == 1

    def _say(self, trial: "Trial", text: str) -> None:
        say(self._console, f"Trial {trial.number}: {text}")
