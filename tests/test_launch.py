"""The launcher's processes; small Python scripts stand in for workers."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from framework import launch
from framework.errors import UserError
from framework.launch import Launcher, share_gpus, task_config, visible_gpus

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What every stand-in begins with: who it is, and a file per start.
WHO = """
import json, os, pathlib, signal, sys, time
config = json.loads(os.environ["TF_CONFIG"])
me = config["task"]["index"]
starts = pathlib.Path(f"starts{me}")
start = len(starts.read_text()) if starts.exists() else 0
starts.write_text("x" * (start + 1))
"""

DRIVER = """
import sys
from framework.launch import Launcher
launcher = Launcher(
    [sys.executable, "-c", sys.argv[1]], pause=0, **eval(sys.argv[2])
)
sys.exit(launcher.run())
"""


@pytest.fixture
def driver(tmp_path):
    """Starts a launcher of a script; whatever is left is killed."""
    started = []

    def start(script, *, environment=None, **options):
        options = {"workers": 2, "kill_after": 5, **options}
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, WHO + script, repr(options)],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "CUDA_VISIBLE_DEVICES": "",
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell has ignored Ctrl-C for what it runs in the background,
            # these tests perhaps among it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def finish(process):
    """Status, standard output and standard error, by sorted lines."""
    out, err = process.communicate(timeout=20)
    return process.returncode, sorted(out.splitlines()), err.splitlines()


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_running(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def test_lines_are_prefixed_and_keep_their_stream(driver):
    status, out, err = finish(
        driver(
            "print('one', 'two', sep='\\n')\n"
            "print('no newline', end='')\n"
            "print('oh', file=sys.stderr)\n"
        )
    )
    assert status == 0
    assert out == [
        *("[0] no newline", "[0] one", "[0] two"),
        *("[1] no newline", "[1] one", "[1] two"),
    ]
    assert sorted(err) == ["[0] oh", "[1] oh"]


def test_a_line_is_passed_on_when_it_is_printed(driver):
    process = driver("print('here')\ntime.sleep(30)", workers=1)
    assert process.stdout.readline() == "[0] here\n"
    assert process.poll() is None


def test_each_worker_is_told_the_cluster(driver):
    status, out, _ = finish(
        driver(
            "print(json.dumps(config))\n"
            "print(sys.stdin.read() == '')\n"
            "print(os.environ['PYTHONUNBUFFERED'])\n",
            workers=3,
        )
    )
    assert status == 0
    assert [line for line in out if "True" in line] == [
        f"[{i}] True" for i in range(3)
    ]
    configs = [json.loads(line[4:]) for line in out if "cluster" in line]
    assert [c["task"] for c in configs] == [
        {"type": "worker", "index": i} for i in range(3)
    ]
    (cluster,) = {json.dumps(c["cluster"]) for c in configs}
    addresses = json.loads(cluster)["worker"]
    assert list(json.loads(cluster)) == ["worker"]
    assert len(set(addresses)) == 3
    for address in addresses:
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", address)


def test_task_config():
    assert json.loads(task_config(["a:1", "b:2"], 1)) == {
        "cluster": {"worker": ["a:1", "b:2"]},
        "task": {"type": "worker", "index": 1},
    }


def test_one_death_ends_all_and_all_start_anew_on_fresh_ports(driver):
    status, out, err = finish(
        driver(
            "print(start, ' '.join(config['cluster']['worker']))\n"
            "if start == 0:\n"
            "    if me == 1:\n"
            "        other = pathlib.Path('starts0')\n"
            "        while not other.exists(): time.sleep(0.01)\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    time.sleep(60)\n"
        )
    )
    assert status == 0
    assert err == [
        "[launch] worker 1 died of SIGKILL; starting all anew, 1 of 3"
    ]
    ports = {line.split(" ", 2)[1]: line.split(" ", 2)[2] for line in out}
    assert set(ports) == {"0", "1"}
    assert ports["0"] != ports["1"]


def test_restarts_are_counted_and_the_first_death_gives_the_status(driver):
    status, _, err = finish(
        driver(
            "time.sleep(0 if me == 0 else 30)\nsys.exit(7)\n",
            restarts=2,
        )
    )
    assert status == 7
    assert err == [
        "[launch] worker 0 ended with status 7; starting all anew, 1 of 2",
        "[launch] worker 0 ended with status 7; starting all anew, 2 of 2",
        "[launch] worker 0 ended with status 7; no restarts are left",
    ]


def test_death_by_a_signal_is_a_status_as_in_a_shell(driver):
    status, _, err = finish(
        driver("os.kill(os.getpid(), signal.SIGSEGV)", workers=1, restarts=0)
    )
    assert status == 128 + signal.SIGSEGV
    assert err == ["[launch] worker 0 died of SIGSEGV; no restarts are left"]


def test_a_worker_that_does_not_leave_is_killed(driver):
    begin = time.monotonic()
    status, _, err = finish(
        driver(
            "if me == 1:\n"
            "    while not pathlib.Path('deaf').exists(): time.sleep(0.01)\n"
            "    sys.exit(1)\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "pathlib.Path('deaf').touch()\n"
            "time.sleep(60)\n",
            restarts=0,
            kill_after=0.3,
        )
    )
    assert status == 1
    assert err[0] == "[launch] killing what did not leave in time: 0"
    assert time.monotonic() - begin < 15


def test_a_users_mistake_is_told_once_and_not_tried_again(driver, tmp_path):
    status, out, err = finish(
        driver(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "here = pathlib.Path('.')\n"
            "while len(list(here.glob('starts*'))) < 3: time.sleep(0.01)\n"
            "message = '\\nError: no such thing.\\nTry another.'\n"
            "print(message, file=sys.stderr)\n"
            "sys.exit(2)\n",
            workers=3,
        )
    )
    assert (status, out) == (2, [])
    assert sorted(line[4:] for line in err) == [
        "Error: no such thing.",
        "Try another.",
    ]
    assert [p.read_text() for p in tmp_path.glob("starts*")] == ["x"] * 3


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_is_passed_on_and_waited_for(driver, tmp_path, number, status):
    process = driver(
        "def save(number, frame):\n"
        "    time.sleep(0.3)\n"
        "    pathlib.Path(f'saved{me}').touch()\n"
        "    sys.exit(128 + number)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready')\n"
        "time.sleep(60)\n"
    )
    for _ in range(2):
        process.stdout.readline()
    process.send_signal(number)
    received, _, err = finish(process)
    assert received == status
    assert err == [f"[launch] {number.name}: stopping the workers"]
    assert (tmp_path / "saved0").exists()
    assert (tmp_path / "saved1").exists()
    assert (tmp_path / "starts0").read_text() == "x"


def test_what_does_not_save_in_time_is_killed(driver):
    process = driver(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready')\n"
        "time.sleep(60)\n",
        grace=0.3,
    )
    for _ in range(2):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 143
    assert err[-1] == "[launch] killing what did not leave in time: 0, 1"


def test_asked_to_stop_twice_it_does_not_wait(driver):
    process = driver(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready')\n"
        "time.sleep(60)\n"
    )
    for _ in range(2):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    # Sent before that, the second one might not be told from the first.
    assert "SIGINT: stopping" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_workers_do_not_outlive_a_killed_launcher(driver):
    process = driver(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid())\n"
        "time.sleep(60)\n"
    )
    pids = [int(process.stdout.readline().split()[1]) for _ in range(2)]
    assert all(map(is_running, pids))
    process.kill()
    process.wait(timeout=10)
    wait_for(lambda: not any(map(is_running, pids)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_worker_started_does_not_outlive_it(driver):
    process = driver(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print(child.pid)\n",
        workers=1,
    )
    status, (line,), _ = finish(process)
    assert status == 0
    wait_for(lambda: not is_running(int(line.split()[1])))


def test_it_stops_when_nobody_reads_any_more(driver):
    process = driver("while True:\n    print('x' * 1000)\n    time.sleep(0.01)")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == 143
    assert "stopping the workers" in process.stderr.read()


def test_gpus_are_split_evenly(driver):
    status, out, err = finish(
        driver(
            "print(os.environ['CUDA_VISIBLE_DEVICES'])",
            environment={"CUDA_VISIBLE_DEVICES": "4,5,GPU-a,7,8"},
        )
    )
    assert (status, out) == (0, ["[0] 4,5", "[1] GPU-a,7"])
    assert err == [
        "[launch] left unused, to give all workers the same number of GPUs: 8"
    ]


def test_the_gpus_that_are_there(tmp_path):
    assert visible_gpus({}, tmp_path) == []
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "1"]
    assert visible_gpus({}, tmp_path / "missing") == []
    for none in ("", "-1", "-1,0"):
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": none}, tmp_path) == []
    some = {"CUDA_VISIBLE_DEVICES": "3, 5"}
    assert visible_gpus(some, tmp_path) == ["3", "5"]


def test_fewer_gpus_than_workers_are_an_error():
    assert share_gpus([], 2) == [None, None]
    assert share_gpus(["0", "1"], 1) == ["0,1"]
    with pytest.raises(UserError, match="there are 1 GPUs: 0"):
        share_gpus(["0"], 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: --workers. Expected python -m"),
        (["--workers=0", "--", "--gin_file=x"], "--workers is 0; expected 1"),
        (["--workers=two", "--"], "invalid int value: 'two'"),
        (["--workers=2", "--gin_file=x"], "after the '--'"),
        (["--workers=2"], "no '--' with the flags"),
        (["--workers=2", "--"], "received no flags after '--'"),
        (["--workers=2", "--", "--workdir=x"], "Expected --gin_file"),
        (["--workers=2", "--restarts=-1", "--", "--gin_file=x"], "is -1"),
        (["--workers=2", "--grace=nan", "--", "--gin_file=x"], "is nan"),
    ],
)
def test_mistakes_in_the_flags(arguments, message, capsys):
    assert launch.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("\nError: ")
    assert message in err


def test_it_runs_the_main_program_and_drops_new_in_a_restart(monkeypatch):
    seen = {}

    def run(self):
        seen.update(vars(self))
        return 0

    monkeypatch.setattr(Launcher, "run", run)
    flags = ["--gin_file=x", "--new", "--new=1", "--workdir=y"]
    assert launch.main(["--workers", "2", "--grace=5", "--", *flags]) == 0
    program = [sys.executable, "-m", "framework.main"]
    assert seen["_command"] == [*program, *flags]
    assert seen["_command_again"] == [
        *program,
        "--gin_file=x",
        "--workdir=y",
    ]
    assert (seen["_workers"], seen["_restarts"], seen["_grace"]) == (2, 3, 5)


def test_it_does_not_import_tensorflow():
    code = (
        "import sys, framework.launch\n"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30)
    assert done.returncode == 0
