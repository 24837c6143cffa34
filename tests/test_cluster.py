"""The files in cluster/: what can be held to without a cluster."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from framework.errors import UserError
from framework.training.distribution import cluster_resolver

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "cluster"
ENTRY = CLUSTER / "kubernetes_entry.py"


def write_program(path, text):
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)


# SLURM


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Sets the environment of one task of a step; no nvidia-smi may be run."""
    write_program(tmp_path / "nvidia-smi", f"touch {tmp_path}/asked; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TF_CONFIG", "")
    for name in [n for n in os.environ if n.startswith("SLURM_")]:
        monkeypatch.delenv(name)

    def task(number, nodes, tasks_per_node, tasks, gpus=None, visible=None):
        environment = {
            "SLURM_PROCID": number,
            "SLURM_STEP_NODELIST": nodes,
            "SLURM_STEP_TASKS_PER_NODE": tasks_per_node,
            "SLURM_STEP_NUM_TASKS": tasks,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        # Set before it is deleted, so that it is put back as it was.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        if gpus is not None:
            monkeypatch.setenv("SLURM_GPUS_ON_NODE", str(gpus))
        return cluster_resolver()

    yield task
    assert not (tmp_path / "asked").exists()


def addresses(resolver):
    spec = resolver.cluster_spec().as_dict()
    assert list(spec) == ["worker"]
    return spec["worker"]


def test_slurm_without_gpus(slurm):
    for number in range(4):
        resolver = slurm(number, "node[1-2]", "2(x2)", 4)
        node1, node1_too, node2, node2_too = addresses(resolver)
        assert node1.startswith("node1:")
        assert node1_too.startswith("node1:")
        assert node2.startswith("node2:")
        assert node1 != node1_too
        assert node2 != node2_too
        assert (resolver.task_type, resolver.task_id) == ("worker", number)
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_slurm_divides_the_gpus_of_a_node_among_its_tasks(slurm):
    for number, expected in enumerate(["0,1", "2,3", "0,1", "2,3"]):
        resolver = slurm(
            number, "node[1-2]", "2(x2)", 4, gpus=4, visible="0,1,2,3"
        )
        assert len(addresses(resolver)) == 4
        assert resolver.task_id == number
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_slurm_numbers_its_tasks_in_the_order_of_the_nodes(slurm):
    """As texts, n10 sorts before n9."""
    for number in range(2):
        resolver = slurm(number, "n[9-10]", "1(x2)", 2)
        n9, n10 = addresses(resolver)
        assert n9.startswith("n9:")
        assert n10.startswith("n10:")
        assert resolver.task_id == number


def test_slurm_with_one_task_is_no_cluster(slurm):
    assert slurm(0, "node1", "1", 1) is None


def run_slurm_script(tmp_path, *arguments, srun="exit 0", **environment):
    """Status, what srun and scontrol were called with, standard error."""
    programs = tmp_path / "programs"
    programs.mkdir(exist_ok=True)
    write_program(
        programs / "srun", f"echo srun $@ >> {tmp_path}/calls; {srun}"
    )
    write_program(
        programs / "scontrol", f"echo scontrol $@ >> {tmp_path}/calls"
    )
    calls = tmp_path / "calls"
    calls.write_text("")
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm.sh"), *arguments],
        cwd=tmp_path,
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "SLURM_JOB_ID": "77",
            "SLURM_CPUS_PER_TASK": "4",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.returncode, calls.read_text().splitlines(), done.stderr


def test_the_slurm_script_is_sound():
    subprocess.run(
        ["bash", "-n", str(CLUSTER / "slurm.sh")], check=True, timeout=20
    )
    lines = (CLUSTER / "slurm.sh").read_text().splitlines()
    # sbatch reads no further than the first command.
    code = [i for i, line in enumerate(lines) if line and line[0] != "#"]
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert max(options) < min(code)
    chosen = {lines[i].removeprefix("#SBATCH --") for i in options}
    assert {"requeue", "signal=TERM@120", "nodes=2"} <= chosen
    assert os.access(CLUSTER / "slurm.sh", os.X_OK)


def test_the_slurm_script_runs_the_main_program(tmp_path):
    flags = ["--gin_file=gin/smoke.gin", "--gin_param=train.epochs = 3"]
    status, calls, err = run_slurm_script(tmp_path, *flags)
    assert (status, err) == (0, "")
    (call,) = calls
    assert call.endswith(
        f"{sys.executable} -m framework.main {' '.join(flags)}"
    )
    assert "--cpus-per-task=4 " in call
    assert "--gpu-bind" not in call
    _, (call,), _ = run_slurm_script(tmp_path, *flags, SLURM_GPUS_PER_TASK="1")
    assert "--gpu-bind=none " in call


@pytest.mark.parametrize(("restarts", "new"), [("0", True), ("1", False)])
def test_the_slurm_script_continues_what_it_began_anew(tmp_path, restarts, new):
    flags = ["--gin_file=x", "--new"]
    _, (call,), _ = run_slurm_script(
        tmp_path, *flags, SLURM_RESTART_COUNT=restarts
    )
    assert call.endswith("--new") == new
    assert "--gin_file=x" in call


@pytest.mark.parametrize(
    ("ends_with", "restarts", "again"),
    [
        (143, "50", True),
        (75, "0", True),
        (137, "9", True),
        (137, "10", False),
        (2, "0", False),
    ],
)
def test_the_slurm_script_queues_again(tmp_path, ends_with, restarts, again):
    status, calls, err = run_slurm_script(
        tmp_path,
        "--gin_file=x",
        srun=f"exit {ends_with}",
        SLURM_RESTART_COUNT=restarts,
    )
    assert status == ends_with
    assert ("scontrol requeue 77" in calls) == again
    assert ("to be continued" in err) == again


def test_mistakes_with_the_slurm_script(tmp_path):
    status, calls, err = run_slurm_script(tmp_path)
    assert (status, calls) == (2, [])
    assert "nothing to run" in err
    status, calls, err = run_slurm_script(tmp_path, "--x", PYTHON="missing")
    assert (status, calls) == (2, [])
    assert "there is no missing" in err


# Kubernetes


@pytest.fixture(scope="module")
def manifest():
    documents = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


# The oldest version that it claims, and a new one.
@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_the_manifest_is_valid(manifest, version):
    assert set(manifest) == {"Service", "Job"}
    for document in manifest.values():
        used = kubernetes_validate.validate(document, version, strict=True)
        assert used == version


def test_the_validation_finds_mistakes(manifest):
    job = json.loads(json.dumps(manifest["Job"]))
    job["spec"]["completion"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.37", strict=True)


def test_the_manifest_agrees_with_itself(manifest):
    service, job = manifest["Service"], manifest["Job"]
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {e["name"]: e["value"] for e in container["env"]}
    workers = spec["completions"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == workers
    assert environment["WORKERS"] == str(workers)

    name, address = job["metadata"]["name"], service["metadata"]["name"]
    (port,) = [p["containerPort"] for p in container["ports"]]
    assert pod["subdomain"] == address
    assert [p["port"] for p in service["spec"]["ports"]] == [port]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    expected = f"{name}-{{index}}.{address}:{port}"
    assert environment["WORKER_HOSTS"] == expected

    # Without it the API server refuses a podFailurePolicy.
    assert pod["restartPolicy"] == "Never"
    rules = spec["podFailurePolicy"]["rules"]
    by_status = {
        status: rule["action"]
        for rule in rules
        for status in rule.get("onExitCodes", {}).get("values", [])
    }
    assert by_status == {2: "FailJob", 143: "Ignore"}
    for rule in rules:
        codes = rule.get("onExitCodes", {"containerName": container["name"]})
        assert codes["containerName"] == container["name"]

    assert {m["name"] for m in container["volumeMounts"]} == {
        v["name"] for v in pod["volumes"]
    }
    mounts = [m["mountPath"] for m in container["volumeMounts"]]
    (workdir,) = [a for a in container["args"] if a.startswith("--workdir=")]
    assert any(workdir.startswith(f"--workdir={m}/") for m in mounts)
    assert (ROOT / container["command"][1]).is_file()


@pytest.fixture(scope="module")
def entry():
    spec = importlib.util.spec_from_file_location("kubernetes_entry", ENTRY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PODS = {
    "WORKERS": "2",
    "JOB_COMPLETION_INDEX": "1",
    "WORKER_HOSTS": "train-{index}.train:2222",
}


def test_a_pods_task_config(entry):
    assert entry.task_config(PODS) == {
        "cluster": {"worker": ["train-0.train:2222", "train-1.train:2222"]},
        "task": {"type": "worker", "index": 1},
    }
    listed = entry.task_config({**PODS, "WORKER_HOSTS": "a:1, b:2"})
    assert listed["cluster"] == {"worker": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"WORKERS": None}, "WORKERS is not set; expected 2"),
        ({"WORKERS": "two"}, "WORKERS is 'two'"),
        ({"WORKERS": "0"}, "WORKERS is 0; expected 1 or more"),
        ({"JOB_COMPLETION_INDEX": None}, "completionMode: Indexed"),
        ({"JOB_COMPLETION_INDEX": "2"}, "expected an index from 0 to 1"),
        ({"WORKER_HOSTS": None}, "WORKER_HOSTS is ''; expected host:port"),
        ({"WORKER_HOSTS": "train-{index}"}, "expected host:port"),
        ({"WORKER_HOSTS": "a:1,b:2,c:3"}, "as many different addresses"),
        ({"WORKER_HOSTS": "a:1,a:1"}, "as many different addresses"),
    ],
)
def test_mistakes_in_a_pods_environment(entry, change, message):
    environment = {
        name: value
        for name, value in {**PODS, **change}.items()
        if value is not None
    }
    with pytest.raises(UserError, match=re.escape(message)):
        entry.task_config(environment)


def test_it_waits_until_all_pods_have_a_name(entry, monkeypatch, capsys):
    asked = []

    def getaddrinfo(host, port):
        asked.append(host)
        if host == "never" or (host == "late" and asked.count("late") < 3):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(entry.socket, "getaddrinfo", getaddrinfo)
    assert entry.wait_for_names(["here:1", "late:1"], 10, 0.01) == []
    assert capsys.readouterr().out == "Waiting for late.\n"
    assert asked.count("here") == 1
    assert entry.wait_for_names(["here:1", "never:1"], 0.1, 0.01) == ["never"]


def test_a_pod_that_never_comes_is_named(entry, monkeypatch, capsys):
    for name, value in PODS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(entry.signal, "signal", lambda *_: None)
    monkeypatch.setattr(entry, "wait_for_names", lambda _: ["train-0.train"])
    assert entry.main(["--gin_file=x"]) == 75
    assert "no address for train-0.train after" in capsys.readouterr().err


def run_entry(*arguments, index=0, hosts="127.0.0.1:1", workers=1):
    return subprocess.Popen(
        [sys.executable, str(ENTRY), *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "-1",
            "WORKERS": str(workers),
            "WORKER_HOSTS": hosts,
            "JOB_COMPLETION_INDEX": str(index),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, seconds=60):
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return process.returncode, out, err


def test_the_entry_becomes_the_main_program():
    status, _, err = finish(run_entry())
    assert status == 2
    assert "Nothing to run. Expected --gin_file=" in err


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["--"], {}, "received nothing after '--'"),
        (["--", "no-such-program"], {}, "no-such-program can't be run"),
        ([], {"index": 1}, "JOB_COMPLETION_INDEX is 1 and WORKERS is 1"),
    ],
)
def test_mistakes_at_the_entry(arguments, options, message):
    status, out, err = finish(run_entry(*arguments, **options))
    assert (status, out) == (2, "")
    assert err.startswith("\nError: ")
    assert message in err


ALL_REDUCE = """
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
total = strategy.run(tf.function(lambda: tf.distribute.get_replica_context()
    .all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(1.0))))
print("total", float(total), strategy.cluster_resolver.task_id, flush=True)
"""


def test_two_pods_form_a_cluster():
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (one, other)]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    pods = [
        run_entry(
            *("--", sys.executable, "-c", ALL_REDUCE),
            index=index,
            hosts=hosts,
            workers=2,
        )
        for index in range(2)
    ]
    try:
        for index, pod in enumerate(pods):
            status, out, err = finish(pod, seconds=120)
            assert (status, out) == (0, f"total 2.0 {index}\n"), err
    finally:
        for pod in pods:
            if pod.poll() is None:
                pod.kill()
                pod.communicate()


# Documents


@pytest.mark.parametrize(
    "name", sorted(p.name for p in CLUSTER.iterdir() if p.is_file())
)
def test_the_files_that_are_named_exist(name):
    text = (CLUSTER / name).read_text()
    paths = re.findall(r"\b(?:cluster|gin|framework|tasks)/[\w./-]*\w", text)
    for path in paths:
        assert (ROOT / path).exists(), path
    for module in re.findall(r"-m (framework[.\w]*\w)", text):
        file = ROOT / (module.replace(".", "/") + ".py")
        assert file.is_file(), module
    for target in re.findall(r"\bmake (\w+)", text):
        if target in ("install", "train", "test", "smoke"):
            assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_the_commands_of_the_documents_parse():
    assert shutil.which("bash")
    for name in ("README.md", "tpu_vm.md"):
        text = (CLUSTER / name).read_text()
        indented = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
        inline = re.findall(r"`((?:python|sbatch|kubectl) [^`]*)`", text)
        assert indented or inline
        for command in (*indented, *inline):
            subprocess.run(
                ["bash", "-n", "-c", command], check=True, timeout=20
            )
