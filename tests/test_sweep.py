"""Sweeps; a small script stands in for trials that need not train."""

import contextlib
import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import optuna
import pytest
from rich.console import Console

import framework
from framework.configuration import Configuration
from framework.errors import UserError
from framework.sweeping import ledger, results
from framework.sweeping import sweep as sweeping
from framework.sweeping.space import Search
from framework.sweeping.sweep import Stopped, sweep

ROOT = pathlib.Path(__file__).resolve().parent.parent

SPACE = """
search.space = {
    'keras.Adam.learning_rate': @rate/log_uniform(),
    'softmax_head.hidden': @hidden/choice(),
    'train.batch_size': @integer(),
}
rate/log_uniform.low = 1e-4
rate/log_uniform.high = 1e-2
hidden/choice.options = [[], [16], [16, 8]]
integer.low = 8
integer.high = 16
search.trials = 12
"""

# In place of framework.sweeping.trial: says the same, and trains nothing.
STAND_IN = """
import os, pathlib, re, signal, socket, sys, time
from framework.sweeping.trial import Channel, Job
numbers = [int(n) for n in sys.argv[1:]]
channel = Channel(socket.socket(fileno=numbers[0]))
job = Job(**channel.hear())
if job.workdir is None:
    used = "".join(f"{{b.partition('=')[0].removeprefix('keras.')}}= 1\\n"
                   for b in job.bindings)
    channel.tell(end="rehearsed", splits=["train", "validation"], used=used)
    sys.exit()
place = pathlib.Path(job.workdir)
place.mkdir(exist_ok=True)
trial = int(place.name[-4:])
starts = place / "starts"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
start = len(starts.read_text())
with open(place / "bindings", "a") as file:
    print(*job.bindings, sep=";", file=file)
rate = float(re.search("(?i)rate = ([^;]*)", ";".join(job.bindings))[1])
figures = []
for epoch in range(1, 5):
    {each}
    figures.append(rate * epoch)
    channel.tell(epoch=epoch, value=figures[-1])
    if not channel.hear()["go_on"]:
        channel.tell(end="pruned")
        sys.exit()
channel.tell(end="complete", value=figures[-1], best_epoch=4, figures=figures)
"""

DRIVER = """
import sys
from framework.sweeping import sweep
sweep._TRIAL = (sys.argv[1],)
try:
    sweep.sweep(*eval(sys.argv[2]), **eval(sys.argv[3]))
except sweep.Stopped as error:
    sys.exit(error.status)
"""


@pytest.fixture
def stand_in(in_tmp, monkeypatch):
    """Makes trials that do what a line says in each epoch."""

    def make(each="pass"):
        (in_tmp / "trial.py").write_text(STAND_IN.format(each=each))
        monkeypatch.setattr(sweeping, "_TRIAL", (str(in_tmp / "trial.py"),))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))

    (in_tmp / "space.gin").write_text(SPACE)
    return make


def quiet(*bindings, **options):
    options = {"console": Console(quiet=True), "workdir": "here", **options}
    return sweep("gin/smoke.gin", "space.gin", bindings, **options)


def rows(directory="here"):
    with open(pathlib.Path(directory, "sweep.csv")) as file:
        return list(csv.DictReader(file))


def space(text, in_tmp):
    (in_tmp / "own.gin").write_text(text)
    return sweeping.search_of(Configuration(str(in_tmp / "own.gin")))


def test_a_sweep_trains_and_its_best_trial_can_be_repeated(in_tmp):
    """With nothing standing in: a trial and the check before it."""
    (in_tmp / "space.gin").write_text(SPACE)
    asked = ["shapes.examples = 90", "train.epochs = 2"]
    found = quiet(*asked, trials=1)
    assert [row["state"] for row in rows()] == ["complete"]
    assert (found.best, found.unfinished) == (0, 0)
    best = rows()[found.best]
    assert float(best["validation.accuracy"]) == found.value
    place = in_tmp / "here" / f"trial-{found.best:04}"
    lines = (place / "metrics.jsonl").read_text().splitlines()
    kept = json.loads(lines[int(best["best_epoch"]) - 1])
    assert kept["validation"]["accuracy"] == found.value
    assert not (place / "report.html").exists()
    again = framework.run("here/best.gin", workdir="again")
    summary = json.loads((place / "summary.json").read_text())
    assert again.summary["weights_sha256"] == summary["weights_sha256"]
    page = (in_tmp / "here" / "sweep.html").read_text()
    assert "--gin_file=here/best.gin" in page
    assert f"trial-{found.best:04}/" in page
    # Nothing is left to do.
    assert quiet(*asked, trials=1) == found


def test_the_shipped_space_fits_its_experiment():
    search = sweeping.search_of(Configuration("gin/sweeps/smoke.gin"))
    assert search.trials == 12
    Configuration("gin/smoke.gin", search.bindings(ledger.first_values(search)))


def test_a_macro_can_be_searched(stand_in, in_tmp):
    stand_in()
    (in_tmp / "mine.gin").write_text(
        "include 'gin/smoke.gin'\nRATE = 0.1\n"
        "keras.Adam.learning_rate = %RATE\n"
    )
    (in_tmp / "space.gin").write_text(
        "search.space = {'RATE': @uniform()}\n"
        "uniform.low = 1e-4\nuniform.high = 1e-2\nsearch.trials = 1\n"
    )
    sweep("mine.gin", "space.gin", console=Console(quiet=True), workdir="here")
    (row,) = rows()
    assert row["state"] == "complete"
    assert 1e-4 <= float(row["RATE"]) <= 1e-2


def test_references_are_written_as_gin_has_them(in_tmp):
    search = space(
        "search.space = {'train.optimizer': @choice()}\n"
        "choice.options = [@keras.Adam, @keras.SGD]\n"
        "search.sampler = 'grid'",
        in_tmp,
    )
    assert search.combinations == 2
    values = ledger.first_values(search)
    assert search.bindings(values) == ["train.optimizer = @keras.Adam"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("uniform.low = 2.0\nuniform.high = 1.0", "uniform.low is 2.0"),
        ("log_uniform.low = 0\nlog_uniform.high = 1", "expected more than 0"),
        ("choice.options = [1]", "at least two"),
        ("choice.options = [1, 1]", "each of them once"),
        ("integer.low = 1.5\nintegr.high = 2", "Did you mean 'integer'"),
        ("integer.low = 1.5\ninteger.high = 2", "integer.low is 1.5"),
        ("uniform.low = 0", "uniform.high"),
    ],
)
def test_a_space_without_sense_is_refused(in_tmp, text, message):
    kind = text.partition(".")[0]
    with pytest.raises(UserError, match=message):
        space(f"search.space = {{'a.b': @{kind}()}}\n{text}", in_tmp)


@pytest.mark.parametrize(
    "bindings, options, message",
    [
        (["search.monitor = 'validation.acuracy'"], {}, "Did you mean"),
        (["search.sampler = 'grid'"], {}, "may be any number"),
        (["search.trials = 0"], {}, "search.trials is 0"),
        (["train.folds = 3"], {}, "train.folds is 3"),
        (["train.batch_size = 4"], {}, "Leave one of them out"),
        (["search.space = {'pipeline.resiz': @integer()}"], {}, "'resize'"),
        (["search.space = {'sotfmax_head.bias': @integer()}"], {}, "softmax_"),
        (["search.space = {'nothing': @integer()}"], {}, "uses %nothing"),
        (["search.space = {'a b': @integer()}"], {}, "a parameter as"),
        (
            ["search.space = {'softmax_head.dropout': @integer()}"],
            {},
            r"space\.gin has trials made [^:]*:\s+softmax_head\.dropout is 8",
        ),
        (["hidden/choice.options = [[], 'none']"], {}, "hidden is 'none'"),
        (
            [
                "search.space = {'keras.Adam.learning_rate': @integer(), "
                "'Adam.learning_rate': @integer()}"
            ],
            {},
            "Adam.learning_rate, which are one parameter",
        ),
        (["Adam.learning_rate = 0.1"], {}, "binds Adam.learning_rate"),
        (["search.space = {'a..b': @integer()}"], {}, "a parameter as"),
        (["search.space = {'3': @integer()}"], {}, "a parameter as"),
        (["search.space = {'train.folds': @integer()}"], {}, "train.folds"),
        (["f = 3", "train.folds = %f"], {}, "train.folds is 3"),
        (
            ["train.seed = 1\nframework.search.trials = 3"],
            {},
            "Expected a --gin_param for each",
        ),
        (
            [
                "search.space = {'train.seed': @integer()}",
                "search.sampler = 'grid'",
                "integer.high = 9223372036854775807",
            ],
            {},
            "expected at most 100,000",
        ),
        (["integer.high = 1" + "0" * 400], {}, "integer.high is 1000"),
        (["search.space = {'a.b': 3}"], {}, "expected @uniform"),
        ([], {"workers": 0}, "--workers is 0"),
        ([], {"trials": 0}, "--trials is 0"),
        ([], {"workdir": "."}, "something else than a sweep"),
        ([], {"workdir": "gs://bucket/sweep"}, "on a file system"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    stand_in, in_tmp, bindings, options, message
):
    stand_in()
    before = sorted(in_tmp.rglob("*"))
    with pytest.raises(UserError, match=message):
        quiet(*bindings, **options)
    assert sorted(in_tmp.rglob("*")) == before


def test_settings_of_the_search_have_one_place(stand_in, in_tmp):
    stand_in()
    (in_tmp / "mine.gin").write_text(
        "include 'gin/smoke.gin'\nframework.search.trials = 3\n"
    )
    with pytest.raises(UserError, match=r"gin:2: .* Expected it in space\.gin"):
        sweep("mine.gin", "space.gin", workdir="here")
    # However it is written.
    assert sweeping._is_of_search("search:\n  trials = 3")
    assert sweeping._is_of_search("framework.search.trials = 3")
    assert not sweeping._is_of_search("train.epochs = 3")
    assert sweeping._is_of_search("low = 3", {"low"})


def test_a_macro_of_the_space_is_given_like_its_settings(stand_in, in_tmp):
    stand_in()
    (in_tmp / "space.gin").write_text(
        "search.space = {'keras.Adam.learning_rate': @uniform()}\n"
        "low = %gin.REQUIRED\nuniform.low = %low\nuniform.high = 1e-2\n"
    )
    found = quiet("low = 0.005", trials=1)
    assert found.value >= 0.005


def test_options_stand_for_what_the_experiment_makes_of_them(stand_in, in_tmp):
    stand_in("rate = 0.1")
    script = (in_tmp / "trial.py").read_text()
    (in_tmp / "trial.py").write_text(script.replace("rate = float", "0 and "))
    (in_tmp / "mine.gin").write_text(
        "include 'gin/smoke.gin'\nkeras.RandomRotation.factor = 0.1\n"
        "classifier.augmentation = [@keras.RandomRotation()]\n"
    )
    (in_tmp / "space.gin").write_text(
        "search.space = {'classifier.augmentation': @choice()}\n"
        "choice.options = %o\no = [%none, [@keras.RandomRotation()]]\n"
        "none = []\nsearch.sampler = 'grid'\nsearch.trials = 2\n"
    )
    sweep("mine.gin", "space.gin", console=Console(quiet=True), workdir="here")
    assert [row["classifier.augmentation"] for row in rows()] == [
        "[]",
        "[@keras.RandomRotation()]",
    ]


def test_what_no_trial_would_see_is_refused(stand_in, in_tmp):
    stand_in()
    (in_tmp / "space.gin").write_text(
        "search.space = {'train.optimizer': @choice()}\n"
        "choice.options = [@a/keras.SGD, @b/keras.SGD]\n"
        "a/keras.SGD.momentum = 0.1\n"
    )
    with pytest.raises(UserError, match=r"space\.gin:3: a/keras\.SGD\.mome"):
        quiet()
    assert not (in_tmp / "here").exists()


def test_a_monitor_needs_its_split(stand_in, in_tmp):
    stand_in()
    script = (in_tmp / "trial.py").read_text()
    (in_tmp / "trial.py").write_text(script.replace(', "validation"', ""))
    with pytest.raises(UserError, match="the task has no validation split"):
        quiet()
    assert not (in_tmp / "here").exists()


def test_a_storage_that_can_not_be_had_is_refused(stand_in):
    stand_in()
    for url in ("sqlite:////nowhere/at/all.db", "nonsense", "mysql://u@h/x"):
        with pytest.raises(UserError, match="can't be opened"):
            quiet(storage=url)


def test_trials_are_given_up_and_chosen_by_what_was_before(
    stand_in, monkeypatch
):
    # Also between a trial's end and that of its process.
    monkeypatch.setattr(sweeping, "_BEAT", 0.0)
    stand_in()
    # With two workers, what another one has done can end a last epoch, too.
    found = quiet()
    states = [row["state"] for row in rows()]
    assert len(states) == 12
    assert set(states) == {"complete", "given up"}
    complete = [r for r in rows() if r["state"] == "complete"]
    assert found.value == max(float(r["validation.accuracy"]) for r in complete)
    given_up = [r for r in rows() if r["state"] == "given up"]
    assert all(r["epochs"] < "4" for r in given_up)
    assert all(
        pathlib.Path("here", f"trial-{n:04}").is_dir() for n in range(12)
    )
    text = pathlib.Path("here/sweep.html").read_text()
    assert "How much each parameter matters" in text


def test_more_trials_may_be_asked_for_and_nothing_else(stand_in, in_tmp):
    stand_in()
    quiet(trials=3)
    before = rows()
    quiet(trials=5)
    assert rows()[:3] == before and len(rows()) == 5
    # What there is already stays.
    quiet(trials=2)
    assert len(rows()) == 5
    for binding, message in (
        ("train.epochs = 3", "train.epochs was 20, now 3"),
        ("search.seed = 1", "search.seed was 0, now 1"),
        ("integer.high = 17", "was a whole number, 8 to 16, now"),
    ):
        with pytest.raises(UserError, match=message):
            quiet(binding)
    assert len(rows()) == 5


def test_a_grid_has_each_combination_once(stand_in):
    stand_in()
    found = quiet(
        "search.space = {'keras.Adam.learning_rate': @rate/choice(), "
        "'train.batch_size': @integer()}",
        "rate/choice.options = [0.2, 0.1]",
        "integer.high = 10",
        "search.sampler = 'grid'",
        "search.pruner = 'none'",
        "search.monitor = 'train.loss'",
    )
    names = ("keras.Adam.learning_rate", "train.batch_size")
    tried = {tuple(row[name] for name in names) for row in rows()}
    assert len(rows()) == len(tried) == 6
    # Less is better of a loss; the first of equals.
    assert (found.best, found.value) == (3, 0.4)


def test_trials_that_fail_are_told_and_the_sweep_goes_on(stand_in):
    stand_in(
        "if trial == 1: channel.tell(end='failed', reason='<b> is nan.'); "
        "sys.exit()"
    )
    found = quiet(trials=4)
    states = [row["state"] for row in rows()]
    assert states[1] == "failed" and states.count("failed") == 1
    assert rows()[1]["reason"] == "<b> is nan."
    assert "&lt;b&gt; is nan." in pathlib.Path(found.page).read_text()


def test_a_sweep_whose_first_trials_all_fail_alike_stops(stand_in):
    stand_in(
        "channel.tell(end='failed', reason=f'No room at {trial}. So.'); "
        "sys.exit()"
    )
    with pytest.raises(UserError, match="No room at 0"):
        quiet()
    assert [row["state"] for row in rows()] == ["failed"] * 3


def test_a_process_that_dies_is_started_again(stand_in):
    stand_in("if trial > start or trial == 3: os.kill(os.getpid(), 9)")
    quiet(trials=4)
    states = [row["state"] for row in rows()]
    assert states == ["complete"] * 3 + ["failed"]
    assert "died of SIGKILL" in rows()[3]["reason"]
    place = pathlib.Path("here/trial-0002")
    assert (place / "starts").read_text() == "xx"
    lines = (place / "bindings").read_text().splitlines()
    assert len(lines) == 2 and len(set(lines)) == 1


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@contextlib.contextmanager
def started(command, **options):
    """A process in a group of its own, which is gone in the end."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        # A shell has ignored Ctrl-C for what it runs in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def by_driver(in_tmp, **options):
    """The command that sweeps in another process, with the stand-in."""
    return [
        *(sys.executable, "-c", DRIVER, str(in_tmp / "trial.py")),
        repr(("gin/smoke.gin", "space.gin")),
        repr({"workdir": "here", "trials": 8, "workers": 2, **options}),
    ]


def study_in(place):
    return optuna.load_study(
        study_name=place.name, storage=f"sqlite:///{place}/sweep.db"
    )


def killed_midway(in_tmp):
    """Kills a sweep's process, and no other; what was under way, and done."""
    with started(by_driver(in_tmp), stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: (in_tmp / "here" / "trial-0003" / "starts").exists())
        process.kill()
        process.wait()
    trials = study_in(in_tmp / "here").trials
    lost = [t for t in trials if t.state.name == "RUNNING"]
    assert lost
    # Some may have been killed before they wrote that they start.
    begun = [t.number for t in lost if starts_of(in_tmp, t.number) == "x"]
    return lost, begun, [t for t in trials if t.state.is_finished()]


def starts_of(in_tmp, number):
    path = in_tmp / "here" / f"trial-{number:04}" / "starts"
    return path.read_text() if path.exists() else ""


def assert_each_was_done_once(in_tmp, lost, begun, before):
    found = study_in(in_tmp / "here").trials
    assert [t.number for t in found] == list(range(8))
    assert {t.state.name for t in found} <= {"COMPLETE", "PRUNED"}
    for number in range(8):
        place = in_tmp / "here" / f"trial-{number:04}"
        starts = len(starts_of(in_tmp, number))
        assert starts == (2 if number in begun else 1)
        lines = (place / "bindings").read_text().splitlines()
        assert len(set(lines)) == 1
    for trial in before:
        assert found[trial.number] == trial
    for trial in lost:
        assert found[trial.number].params == trial.params
        assert found[trial.number].user_attrs["starts"] == 2


def test_what_is_killed_is_gone_on_with(stand_in, in_tmp):
    stand_in("time.sleep(0.15)")
    lost, begun, before = killed_midway(in_tmp)
    quiet(trials=8, workers=2)
    assert_each_was_done_once(in_tmp, lost, begun, before)


@pytest.mark.slow
def test_two_processes_go_on_with_the_same_sweep(stand_in, in_tmp):
    stand_in("time.sleep(0.3)")
    lost, begun, before = killed_midway(in_tmp)
    with started(by_driver(in_tmp), stdout=subprocess.DEVNULL) as other:
        quiet(trials=8, workers=2)
        assert other.wait(60) == 0
    assert_each_was_done_once(in_tmp, lost, begun, before)


@pytest.mark.slow
def test_ctrl_c_ends_all_and_leaves_a_page(stand_in, in_tmp, request):
    stand_in("time.sleep(2)")
    # Who started the tests behind `nohup` or "&" has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupt():
        wait_for(lambda: (in_tmp / "here" / "trial-0001" / "starts").exists())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Stopped, match="The same command") as stopped:
        quiet(workers=2, trials=4)
    thread.join()
    assert stopped.value.status == 130
    assert "interrupted" in [row["state"] for row in rows()]
    assert "interrupted" in (in_tmp / "here" / "sweep.html").read_text()
    with pytest.raises(UserError, match="epochs was 20"):
        quiet("train.epochs = 3")
    assert quiet(trials=4, workers=2).unfinished == 0


def test_what_is_chosen_depends_on_the_trial_alone(in_tmp):
    """Not on which process asks, and since when it runs."""
    search = Search(
        {"a.b": space_of("uniform", 0.0, 1.0)}, sampler="random", trials=6
    )
    values = {}
    for name, at_a_time in (("one", 6), ("many", 1)):
        (in_tmp / name / "locks").mkdir(parents=True)
        while len(values.get(name, [])) < 6:
            found = ledger.Ledger(name, search, {})
            assert found.provide(6) == 6
            for _ in range(at_a_time):
                trial = found.take()
                values.setdefault(name, []).append(trial.values["a.b"])
                trial.complete(0.5, 1, [0.5])
                trial.let_go()
        assert found.take() is None
    assert values["one"] == values["many"]
    assert len(set(values["one"])) == 6


def space_of(kind, low, high):
    from framework.sweeping import space as made

    return getattr(made, kind)(low, high)


def test_an_epoch_told_again_is_judged_once(in_tmp):
    (in_tmp / "here" / "locks").mkdir(parents=True)
    search = Search(
        {"a.b": space_of("uniform", 0.0, 1.0)},
        startup_trials=1,
        warmup_epochs=2,
    )
    found = ledger.Ledger("here", search, {})
    found.provide(2)
    good = found.take()
    for epoch in (1, 2, 3):
        assert good.report(epoch, 0.9)
    good.complete(0.9, 1, [0.9] * 3)
    bad = found.take()
    assert bad.report(1, 0.5)
    assert not bad.report(2, 0.5)
    # Its process dies before it is told so; another one takes it up.
    bad.let_go()
    again = ledger.Ledger("here", search, {}).take()
    assert again.number == bad.number and again.values == bad.values
    assert again.starts == 2
    assert again.report(1, 0.5)
    assert not again.report(2, 0.5)


def test_a_trial_on_another_host_is_left_until_it_is_silent(
    in_tmp, monkeypatch
):
    """Its lock may not be seen from here; its signs are."""
    (in_tmp / "here" / "locks").mkdir(parents=True)
    search = Search({"a.b": space_of("uniform", 0.0, 1.0)})
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    other = ledger.Ledger("here", search, {})
    other.provide(1)
    trial = other.take()
    trial.let_go()
    monkeypatch.undo()
    monkeypatch.chdir(in_tmp)
    mine = ledger.Ledger("here", search, {})
    assert mine.take() is None
    clock = time.monotonic() + 170
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    trial.beat()
    assert mine.take() is None
    clock += 170
    assert mine.take() is None
    clock += 20
    taken = mine.take()
    assert (taken.number, taken.starts) == (0, 2)
    assert taken.values == trial.values


def test_a_directory_of_the_same_name_is_not_the_same_sweep(stand_in, in_tmp):
    stand_in()
    url = f"sqlite:///{in_tmp}/shared.db"
    quiet(trials=1, storage=url, workdir="one/name")
    quiet(trials=2, storage=url, workdir="one/name")
    assert len(rows("one/name")) == 2
    with pytest.raises(UserError, match="already, whose directory is not"):
        quiet(trials=2, storage=url, workdir="two/name")


def test_optuna_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "framework.sweeping.ledger", None)
    with pytest.raises(UserError, match="pip install 'optuna>=4'"):
        sweep("gin/smoke.gin", "gin/sweeps/smoke.gin")


def test_the_command_line(in_tmp):
    def command(*flags):
        return subprocess.run(
            [sys.executable, "-m", "framework.sweep", *flags],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    for flags, message in (
        ([], "Expected --gin_file"),
        (["--workres=2"], "Unknown command line flag"),
    ):
        done = command(*flags)
        assert done.returncode == 2
        assert message in done.stderr and "Traceback" not in done.stderr
    assert list(in_tmp.iterdir()) == []


@pytest.mark.slow
def test_twelve_trials_survive_being_killed(in_tmp):
    """The README's command, killed midway, then gone on with by two."""
    command = [
        *(sys.executable, "-m", "framework.sweep"),
        *("--gin_file=gin/smoke.gin", "--space=gin/sweeps/smoke.gin"),
        "--gin_param=Checkpoints.every_steps = 20",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    place = in_tmp / "sweeps" / "smoke"

    def saved():
        return list(place.glob("trial-0004/checkpoints/*/state.json"))

    with started(command, env=environment) as process:
        wait_for(saved, 600)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    study = study_in(place)
    before = study.get_trials()
    (lost,) = [t for t in before if t.state.name == "RUNNING"]
    assert lost.number == 4
    subprocess.run(
        [*command, "--workers=2"], check=True, env=environment, timeout=1200
    )
    found = study.get_trials()
    assert [t.number for t in found] == list(range(12))
    assert {t.state.name for t in found} <= {"COMPLETE", "PRUNED"}
    assert [t.params for t in found[:5]] == [t.params for t in before[:5]]
    for trial in before[:4]:
        assert found[trial.number].datetime_complete == trial.datetime_complete
    assert [t.user_attrs["starts"] for t in found] == [
        2 if number == 4 else 1 for number in range(12)
    ]
    assert sorted(path.name for path in place.glob("trial-*")) == [
        f"trial-{number:04}" for number in range(12)
    ]
    log = (place / "logs" / "trial-0004.log").read_text()
    assert "Taken up again after step" in log
    best = results.best_of(
        [
            results.Row(
                *(t.number, "complete", t.value, {}, {}, 1, 0.0, 1, "", "", "")
            )
            for t in found
            if t.state.name == "COMPLETE"
        ],
        sweeping.search_of(Configuration("gin/sweeps/smoke.gin")),
    )
    assert f"Trial {best.number} is best" in (place / "sweep.html").read_text()
