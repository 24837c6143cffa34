"""Turns a pod's place in an Indexed Job into TF_CONFIG, then trains there.

    python cluster/kubernetes_entry.py --gin_file=gin/rps_softmax.gin
    python cluster/kubernetes_entry.py -- any other command

The environment says who takes part (see cluster/kubernetes.yaml):

    JOB_COMPLETION_INDEX  this pod's number, from 0; Kubernetes sets it
    WORKERS               how many pods there are
    WORKER_HOSTS          where they listen: train-{index}.train:2222, or as
                          many addresses, with commas between them
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from framework.errors import UserError

_NOT_THERE = 75  # Of framework.main: another worker is missing, try again.


def task_config(environment: Mapping[str, str]) -> dict:
    """TF_CONFIG of this pod.

    Raises:
        UserError: a variable is missing, or they contradict each other.
    """
    workers = _number(environment, "WORKERS", "2, as in spec.completions")
    if workers < 1:
        raise UserError(f"WORKERS is {workers}; expected 1 or more.")
    index = _number(
        environment,
        "JOB_COMPLETION_INDEX",
        "this pod's number. Kubernetes sets it in Jobs with completionMode: "
        "Indexed",
    )
    if not 0 <= index < workers:
        raise UserError(
            f"JOB_COMPLETION_INDEX is {index} and WORKERS is {workers}; "
            f"expected an index from 0 to {workers - 1}. Set WORKERS to the "
            "Job's spec.completions."
        )
    hosts = environment.get("WORKER_HOSTS", "")
    if "{index}" in hosts:
        addresses = [hosts.replace("{index}", str(i)) for i in range(workers)]
    else:
        addresses = [address.strip() for address in hosts.split(",")]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(
                f"WORKER_HOSTS is {hosts!r}; expected host:port, such as "
                "train-{index}.train:2222, <Job>-{index}.<Service>:<port>."
            )
    if len(set(addresses)) != workers:
        raise UserError(
            f"WORKER_HOSTS is {hosts!r} and WORKERS is {workers}; expected "
            "as many different addresses, or {index} in a pattern."
        )
    return {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index},
    }


def wait_for_names(
    addresses: Sequence[str], seconds: float = 300, pause: float = 1
) -> list[str]:
    """Waits until every host has an address: pods get theirs as they start.

    Returns:
        The hosts that still have none when the time is over.
    """
    missing = [address.rpartition(":")[0].strip("[]") for address in addresses]
    end = time.monotonic() + seconds
    told = False
    while True:
        missing = [host for host in missing if not _resolves(host)]
        if not missing or time.monotonic() >= end:
            return missing
        if not told:
            print(f"Waiting for {', '.join(missing)}.", flush=True)
            told = True
        time.sleep(pause)


def main(arguments: Sequence[str]) -> int:
    """Becomes the command that trains; returns only where that fails."""
    # As the first process of a container it would ignore the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        config = task_config(os.environ)
        if arguments[:1] == ["--"]:
            command = list(arguments[1:])
        else:
            command = [sys.executable, "-m", "framework.main", *arguments]
        if not command:
            raise UserError(
                "Nothing to run: received nothing after '--'. Expected a "
                "command there, or the flags of framework.main without '--'."
            )
        missing = wait_for_names(config["cluster"]["worker"])
        if missing:
            print(
                f"\nError: no address for {', '.join(missing)} after 5 "
                "minutes. Expected all pods of the Job to be running, and "
                "WORKER_HOSTS to be <Job>-{index}.<Service>:<port>; see "
                "kubectl get pods.",
                file=sys.stderr,
            )
            return _NOT_THERE
        os.environ["TF_CONFIG"] = json.dumps(config)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            raise UserError(
                f"{command[0]} can't be run: {error.strerror}. Expected a "
                "program of the image after '--'."
            ) from error
    except UserError as error:
        print(f"\nError: {error.message}", file=sys.stderr)
        return 2


def _number(environment: Mapping[str, str], name: str, expected: str) -> int:
    text = environment.get(name)
    if text is None:
        raise UserError(f"{name} is not set; expected {expected}.")
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{name} is {text!r}; expected {expected}.") from error


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
