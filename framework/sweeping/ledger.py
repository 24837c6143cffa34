"""Turns Optuna's study into trials that are given out once and never lost.

All that a sweep knows of its trials is in Optuna's storage: their values, how
they ended, each epoch's figure. Beside it, a lock file says whether somebody is
at a trial: it is held from the moment the trial is given out, and Linux lets go
of it with the last process that has it open. So a trial that is under way and
whose lock is free has lost its worker, and is given out again.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from framework.console import some
from framework.errors import UserError
from framework.sweeping.space import Distribution, Search
from framework.sweeping.sweep import LOCKS

DATABASE = "sweep.db"
# Of what the study and its trials remember.
FACTS, TOKEN = "facts", "token"
STARTS, SECONDS, REASON, BEST_EPOCH = "starts", "seconds", "reason", "best"
_HOST, _BEAT = "host", "beat"
# After so many seconds without a sign a trial on another host is given up: its
# lock may not be seen from here.
_SILENCE = 180.0
_BUSY_SECONDS = 60
# TPE chooses at random until there is something to learn from.
_AT_RANDOM = 10


class Ledger:
    """The trials of a sweep.

    Args:
        directory: of the sweep; there already.
        search: how values are chosen.
        facts: what must not change while the sweep goes on, by name.
        storage: Optuna's; None is a file in `directory`.

    Raises:
        UserError: the storage can't be had, or holds another sweep.
    """

    def __init__(
        self,
        directory: str,
        search: Search,
        facts: Mapping[str, str],
        storage: str | None = None,
    ):
        self._directory = directory
        self._search = search
        self._host = socket.gethostname()
        self._signs: dict[int, tuple[Any, float]] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._exclusive():
            self._study = self._open(storage)
            self._check(dict(facts))

    @property
    def study(self) -> optuna.Study:
        """Optuna's own; to be read only."""
        return self._study

    @property
    def trials(self) -> list[FrozenTrial]:
        """All of them; the place of each is its number."""
        return self._study.get_trials(deepcopy=False)

    def _open(self, storage: str | None) -> optuna.Study:
        path = os.path.join(os.path.abspath(self._directory), DATABASE)
        url = storage or f"sqlite:///{path}"
        options = {}
        if url.startswith("sqlite"):
            options = {"connect_args": {"timeout": _BUSY_SECONDS}}
        try:
            with _quiet():
                return optuna.create_study(
                    storage=optuna.storages.RDBStorage(url, options),
                    study_name=_name(self._directory),
                    direction=(
                        "minimize"
                        if self._search.is_lower_better
                        else "maximize"
                    ),
                    sampler=_Seeded(self._search),
                    pruner=_pruner(self._search),
                    load_if_exists=True,
                )
        except Exception as error:
            # SQLAlchemy's own, or those of the database's package.
            reason = str(error).splitlines()[0]
            raise UserError(
                f"The sweep's storage {storage or path} can't be opened: "
                f"{type(error).__name__}: {reason}. Expected a place to write "
                "to, or a URL of Optuna's: "
                "--storage=postgresql://user@host/database, whose database "
                "and Python package are there."
            ) from error

    def _check(self, facts: dict[str, str]) -> None:
        """Refuses a study that is not this sweep's; marks a new one as its."""
        path = os.path.join(self._directory, LOCKS, TOKEN)
        token = ""
        if os.path.exists(path):
            with open(path) as file:
                token = file.read()
        known = self._study.user_attrs
        if FACTS not in known:
            token = token or secrets.token_hex(8)
            with open(path, "w") as file:
                file.write(token)
            self._study.set_user_attr(TOKEN, token)
            # Last: it marks the study as begun.
            self._study.set_user_attr(FACTS, json.dumps(facts))
            return
        before = json.loads(known[FACTS])
        differing = [
            f"{name} was {before.get(name, 'not bound')}, now "
            f"{facts.get(name, 'not bound')}"
            for name in sorted({*before, *facts})
            if before.get(name) != facts.get(name)
        ]
        if differing:
            raise UserError(
                f"{self._directory} holds another sweep. Where they differ: "
                f"{some(differing)}. Ask for the same, but for more --trials, "
                "or choose another --workdir."
            )
        if known[TOKEN] != token:
            raise UserError(
                f"The storage holds a sweep called {_name(self._directory)!r} "
                f"already, whose directory is not {self._directory}. Expected "
                "a --workdir with another name, or the sweep's own."
            )

    def provide(self, count: int) -> int:
        """Sees to it that there are so many trials; how many there are.

        They wait in the storage to be given out, so that no two processes can
        give out one too many.
        """
        grid = _grid(self._search)
        count = count if grid is None else min(count, len(grid))
        with self._exclusive(), _quiet():
            there = len(self.trials)
            for number in range(there, count):
                self._study.enqueue_trial({} if grid is None else grid[number])
        return max(there, count)

    def take(self) -> "Trial | None":
        """A trial to work on: one that lost its worker, or the next one.

        None where all are finished, or others are at them.
        """
        with self._exclusive(), _quiet():
            for frozen in self.trials:
                if frozen.state == TrialState.RUNNING:
                    lock = self._claim(frozen)
                    if lock is not None:
                        return self._given(frozen._trial_id, lock)
            if not any(t.state == TrialState.WAITING for t in self.trials):
                return None
            asked = self._study.ask()
            lock = self._lock(asked.number)
            return self._given(asked._trial_id, lock)

    def _given(self, trial_id: int, lock: BinaryIO) -> "Trial":
        # Also those of a trial whose worker died before it had all of them.
        trial = optuna.Trial(self._study, trial_id)
        for name, what in self._search.space.items():
            _suggest(trial, name, what)
        starts = trial.user_attrs.get(STARTS, 0) + 1
        trial.set_user_attr(_HOST, self._host)
        trial.set_user_attr(STARTS, starts)
        return Trial(self, trial, lock)

    def _claim(self, frozen: FrozenTrial) -> BinaryIO | None:
        """The lock of a trial that is under way; None where it is in hand."""
        lock = self._lock(frozen.number)
        if lock is None:
            return None
        if frozen.user_attrs.get(_HOST, self._host) != self._host:
            # Clocks differ from host to host: it counts when this one last
            # saw a new sign.
            sign = (
                frozen.user_attrs.get(_BEAT),
                len(frozen.intermediate_values),
            )
            seen, since = self._signs.get(frozen.number, (None, 0.0))
            if seen != sign:
                since = time.monotonic()
                self._signs[frozen.number] = (sign, since)
            if time.monotonic() - since < _SILENCE:
                lock.close()
                return None
        return lock

    def is_in_hand(self, number: int) -> bool:
        """Whether some process on this host is at the trial."""
        lock = self._lock(number)
        if lock is None:
            return True
        lock.close()
        return False

    def _lock(self, number: int) -> BinaryIO | None:
        path = os.path.join(self._directory, LOCKS, f"{number:04}")
        return _locked(path, fcntl.LOCK_NB)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One process at a time, on this host and where locks reach."""
        lock = _locked(os.path.join(self._directory, LOCKS, "all"))
        with contextlib.closing(lock):
            yield


class Trial:
    """A trial in hand, from `Ledger.take` until it is finished or let go.

    Attributes:
        number: from 0.
        values: by parameter, a number or an option's text.
        starts: how often it was given out, this time included.
    """

    def __init__(self, ledger: Ledger, trial: optuna.Trial, lock: BinaryIO):
        self._ledger = ledger
        self._trial = trial
        self._lock = lock
        self._began = time.monotonic()
        self._before = trial.user_attrs.get(SECONDS, 0.0)
        self.number = trial.number
        self.values = dict(trial.params)
        self.starts = trial.user_attrs[STARTS]

    @property
    def lock(self) -> int:
        """The lock's file descriptor, for the process that does the work."""
        return self._lock.fileno()

    @property
    def seconds(self) -> float:
        """Spent on it so far, in all its starts."""
        return self._before + time.monotonic() - self._began

    def report(self, epoch: int, value: float) -> bool:
        """Takes in an epoch's figure; says whether to go on.

        An epoch that a trial reports again, since it was taken up again, was
        judged then, unless it is the last one that there was.
        """
        known = self._frozen.intermediate_values
        with self._ledger._exclusive(), _quiet():
            if epoch not in known:
                self._trial.report(value, epoch)
            self._trial.set_user_attr(SECONDS, self.seconds)
            return epoch < max(known, default=0) or (
                not self._trial.should_prune()
            )

    def beat(self) -> None:
        """Leaves a sign of life, for other hosts, while it is under way."""
        with self._ledger._exclusive():
            if not self._frozen.state.is_finished():
                self._trial.set_user_attr(_BEAT, secrets.token_hex(4))

    def complete(
        self, value: float, best_epoch: int, figures: list[float]
    ) -> None:
        """Finishes it.

        Args:
            value: what it is judged by.
            best_epoch: from 1, whose value it is.
            figures: of all epochs, if some were not reported.
        """
        with self._ledger._exclusive(), _quiet():
            for epoch, told in enumerate(figures, 1):
                if epoch not in self._frozen.intermediate_values:
                    self._trial.report(told, epoch)
            self._trial.set_user_attr(BEST_EPOCH, best_epoch)
            self._end(TrialState.COMPLETE, value)

    def prune(self) -> None:
        """Finishes it before its time."""
        with self._ledger._exclusive(), _quiet():
            self._end(TrialState.PRUNED)

    def fail(self, reason: str) -> None:
        """Finishes it without a value."""
        with self._ledger._exclusive(), _quiet():
            self._trial.set_user_attr(REASON, reason)
            self._end(TrialState.FAIL)

    def let_go(self) -> None:
        """Leaves it as it is, finished or to be given out again."""
        self._lock.close()

    @property
    def _frozen(self) -> FrozenTrial:
        return self._ledger.trials[self.number]

    def _end(self, state: TrialState, value: float | None = None) -> None:
        self._trial.set_user_attr(SECONDS, self.seconds)
        self._ledger.study.tell(self._trial, value, state)


def first_values(search: Search) -> dict[str, Any]:
    """The values that the first trial of a sweep gets."""
    grid = _grid(search)
    if grid is not None:
        return grid[0]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _quiet():
        study = optuna.create_study(sampler=_Seeded(search))
        trial = study.ask()
        for name, what in search.space.items():
            _suggest(trial, name, what)
        return trial.params


class _Seeded(optuna.samplers.BaseSampler):
    """The sampler that was chosen, seeded by each trial's number.

    What a trial gets must not depend on which process asks for it, and since
    when it runs: a sampler that begins anew would choose the same values again.
    """

    def __init__(self, search: Search):
        self._search = search
        self._made: tuple[int, optuna.samplers.BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        if self._made is None or self._made[0] != trial.number:
            text = f"{self._search.seed} {trial.number}".encode()
            seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
            self._made = trial.number, self._make(seed)
        return self._made[1]

    def _make(self, seed: int) -> optuna.samplers.BaseSampler:
        if self._search.sampler != "tpe":
            return optuna.samplers.RandomSampler(seed)
        at_random = max(1, min(_AT_RANDOM, self._search.trials // 3))
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=at_random,
            # What others are at is not tried again meanwhile.
            constant_liar=True,
        )

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._of(trial).sample_independent(
            study, trial, param_name, param_distribution
        )


def _grid(search: Search) -> list[dict[str, Any]] | None:
    """All combinations; None where the sampler is no grid."""
    if search.sampler != "grid":
        return None
    names = list(search.space)
    columns = [what.values for what in search.space.values()]
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*columns)
    ]


def _suggest(trial: optuna.Trial, name: str, what: Distribution) -> None:
    if what.options:
        trial.suggest_categorical(name, what.options)
    elif what.is_whole:
        trial.suggest_int(name, int(what.low), int(what.high), log=what.is_log)
    else:
        trial.suggest_float(name, what.low, what.high, log=what.is_log)


def _pruner(search: Search) -> optuna.pruners.BasePruner:
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(
            search.startup_trials, search.warmup_epochs
        )
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=max(1, search.warmup_epochs)
        )
    return optuna.pruners.NopPruner()


def _name(directory: str) -> str:
    return os.path.basename(os.path.abspath(directory))


def _locked(path: str, flags: int = 0) -> BinaryIO | None:
    """A file, locked until it is closed; None where somebody else has it.

    Some network file systems have no locks: there nobody has.
    """
    file = open(path, "ab")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | flags)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        pass
    return file


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings that a part of it is new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
