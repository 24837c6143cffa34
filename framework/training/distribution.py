"""Turns the machine's devices and environment into replicas that train as one.

One code path serves a laptop and a cluster: the same global batch and seed
give the same weights, whatever the number of replicas (random layers
excepted, which draw independently on each).
"""

import contextlib
import dataclasses
import json
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from framework.data.pipeline import Share
from framework.errors import UserError
from framework.ranges import Count
from framework.registry import PARTS

STRATEGIES = ("auto", "one", "mirrored", "multi_worker", "tpu")

_PARTING_SECONDS = 1.0

# Errors that a collective operation ends with where a peer is gone.
_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class WorkerLost(Exception):
    """Another worker of the cluster is gone; this process can't go on.

    After a failed collective operation TensorFlow's runtime is of no more
    use. Start all workers anew: they continue from the last checkpoint.
    """

    status = 75  # EX_TEMPFAIL of sysexits.h: try again.

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message


class World:
    """All replicas that train together, seen from this process.

    Attributes:
        strategy: of `tf.distribute`.
        kind: which of `STRATEGIES` it is.
        workers: processes that take part.
        worker: this one's number, from 0.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        kind: str = "one",
        workers: int = 1,
        worker: int = 0,
    ):
        self.strategy = strategy
        self.kind = kind
        self.workers = workers
        self.worker = worker

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files; one in the world does."""
        return self.worker == 0

    @property
    def replicas(self) -> int:
        """Replicas in all; each has an equal share of every batch."""
        return self.strategy.num_replicas_in_sync

    @property
    def share(self) -> Share:
        """The rows of every batch that this process reads."""
        return Share(self.workers, self.worker, self.replicas // self.workers)

    @property
    def description(self) -> str:
        """One line for the start-up text."""
        if self.replicas == 1:
            return "One device."
        where = f" on {self.workers} workers" if self.workers > 1 else ""
        return (
            f"{self.replicas} replicas{where} ({self.kind}): the weights are "
            "those of one device up to rounding; augmentation and dropout "
            "draw independently on each replica, and the same again at the "
            "same number of replicas."
        )

    def exchange(self, value: Any) -> list[Any]:
        """Everybody's value, by worker; waits for all of them.

        Every worker must call it, in the same order. Meant for what is small
        beside the weights: names, figures, predictions.

        Args:
            value: anything that can be pickled. Workers trust each other, as
                they do in all of `tf.distribute`.
        """
        if self.workers == 1:
            return [value]
        raw = pickle.dumps(value)
        # Collectives know int64, not bytes.
        words = np.frombuffer(raw + bytes(-len(raw) % 8), np.int64)
        lengths = self._gather(np.array([len(words)], np.int64))
        gathered = self._gather(words)
        ends = np.cumsum(lengths)
        return [
            pickle.loads(gathered[end - length : end].tobytes())
            for end, length in zip(ends, lengths, strict=True)
        ]

    def from_chief(self, value: Any) -> Any:
        """The chief's value; the others' are ignored."""
        return self.exchange(value if self.is_chief else None)[0]

    def _gather(self, numbers: np.ndarray) -> np.ndarray:
        if not hasattr(self, "_gathering"):

            def of_one_replica(numbers):
                context = tf.distribute.get_replica_context()
                local = context.replica_id_in_sync_group % (
                    self.replicas // self.workers
                )
                # Once a worker, not once a replica.
                mine = numbers[: tf.where(local == 0, tf.size(numbers), 0)]
                return context.all_gather(mine, axis=0)

            self._gathering = tf.function(
                lambda numbers: self.strategy.experimental_local_results(
                    self.strategy.run(of_one_replica, args=(numbers,))
                )[0],
                input_signature=[tf.TensorSpec([None], tf.int64)],
            )
        return self._gathering(tf.constant(numbers)).numpy()

    def part(self) -> None:
        """Waits for all workers; to be called before leaving them.

        Who leaves while another still fetches the last answer breaks it.
        """
        self.exchange(None)
        if self.workers > 1:
            time.sleep(_PARTING_SECONDS)

    def chief_does(self, work: Callable[[], Any]) -> Any:
        """What `work` returns on the chief, to every worker.

        Raises:
            UserError: what it raised there, on every worker.
        """
        answer = mistake = None
        if self.is_chief:
            try:
                answer = work()
            except UserError as error:
                if self.workers == 1:
                    raise
                mistake = error.message
        sent, mistake = self.from_chief((answer, mistake))
        if mistake is not None:
            self.part()
            raise UserError(mistake)
        return answer if self.is_chief else sent

    def chief_first(self, work: Callable[[], Any]) -> Any:
        """What `work` returns here; the others begin when the chief is done.

        Raises:
            UserError: as `chief_does`, and what it raises here.
        """
        if self.workers == 1:
            return work()
        done = []
        # What it returns need not be anything that can be sent.
        self.chief_does(lambda: done.append(work()))
        return done[0] if self.is_chief else work()

    def check_alike(self, facts: Mapping[str, Any]) -> None:
        """Compares with the other workers.

        Raises:
            UserError: theirs are others.
        """
        everywhere = self.exchange(dict(facts))
        for worker, others in enumerate(everywhere):
            for name, value in everywhere[0].items():
                if others[name] != value:
                    self.part()
                    raise UserError(
                        f"The {name} of worker {worker} and of worker 0 "
                        f"differ: {others[name]} and {value}. Expected the "
                        "same command, files and versions everywhere."
                    )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Turns what a collective operation fails with into `WorkerLost`."""
        try:
            yield
        except _PEER_ERRORS as error:
            if self.workers == 1:
                raise
            raise WorkerLost(
                f"Worker {self.worker} has lost another one: "
                f"{_first_line(error)}\nStart all workers again; the run "
                "continues from its last checkpoint."
            ) from error


@PARTS.register("distribution")
@dataclasses.dataclass(frozen=True)
class Distribution:
    """Which devices train together.

    Attributes:
        strategy: "one" device; "mirrored" over this machine's; "multi_worker"
            over several processes, as TF_CONFIG or SLURM's environment says;
            "tpu", named by TPU_NAME or this host's own. "auto" takes what the
            environment and the devices suggest, in the order multi_worker,
            tpu, mirrored, one.
        replicas: how many of this machine's devices to take; all by default.
            Without GPUs the CPU is divided into so many logical devices, to
            try things out: it does not get faster.
    """

    strategy: Literal[*STRATEGIES] = "auto"
    replicas: Count | None = None

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            raise UserError(
                f"distribution.strategy is {self.strategy!r}; expected one of "
                f"{', '.join(STRATEGIES)}."
            )
        if self.replicas is not None and self.replicas < 1:
            raise UserError(
                f"distribution.replicas is {self.replicas}; expected a number "
                "of devices, at least 1, or None for all."
            )
        if self.strategy in ("one", "tpu") and self.replicas not in (None, 1):
            raise UserError(
                f"distribution.replicas is {self.replicas} with strategy "
                f"{self.strategy!r}; expected strategy 'mirrored' or "
                "'multi_worker', or replicas = None."
            )

    def make(self) -> World:
        """Starts the runtime; call it before anything else uses devices.

        Raises:
            UserError: the devices or the cluster asked for aren't there.
        """
        kind = self._kind()
        if kind == "multi_worker":
            return self._multi_worker()
        if kind == "tpu":
            return _tpu()
        if kind == "mirrored":
            devices = self._local_devices()
            if len(devices) > 1 or self.strategy == "mirrored":
                strategy = tf.distribute.MirroredStrategy(devices)
                return World(strategy, "mirrored")
        # The default strategy: the first GPU, or the CPU.
        return World(tf.distribute.get_strategy())

    def _kind(self) -> str:
        if self.strategy != "auto":
            return self.strategy
        if cluster_resolver() is not None:
            return "multi_worker"
        if "TPU_NAME" in os.environ or tf.config.list_physical_devices("TPU"):
            return "tpu"
        gpus = len(tf.config.list_physical_devices("GPU"))
        return "mirrored" if (self.replicas or gpus) > 1 else "one"

    def _local_devices(self) -> list[str]:
        if not tf.config.list_physical_devices("GPU"):
            return _logical_cpus(self.replicas or 1)
        gpus = tf.config.list_logical_devices("GPU")
        if self.replicas and self.replicas > len(gpus):
            raise UserError(
                f"distribution.replicas is {self.replicas}; this machine has "
                f"{len(gpus)} GPUs. Expected at most as many."
            )
        return [device.name for device in gpus[: self.replicas]]

    def _multi_worker(self) -> World:
        resolver = cluster_resolver()
        if resolver is None:
            raise UserError(
                "distribution.strategy is 'multi_worker', but the environment "
                "names no cluster of several workers. Expected TF_CONFIG, or "
                "to be started by srun. To try it on this machine: python -m "
                "framework.launch --workers=2 -- <flags>."
            )
        if self.replicas:
            if tf.config.list_physical_devices("GPU"):
                raise UserError(
                    "distribution.replicas is for trying things out on CPUs; "
                    "with several workers choose GPUs by CUDA_VISIBLE_DEVICES."
                )
            _divide_cpu(self.replicas)
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy(
                cluster_resolver=resolver
            )
        except RuntimeError as error:
            if "program startup" not in str(error):
                raise
            raise UserError(
                "Several workers must be joined before TensorFlow is used for "
                "anything else; start the run in a process of its own: python "
                "-m framework.main."
            ) from error
        return World(
            strategy,
            "multi_worker",
            *_place_in(resolver),
        )


def cluster_resolver() -> tf.distribute.cluster_resolver.ClusterResolver | None:
    """Who takes part, as TF_CONFIG or SLURM says; None for one process alone.

    Raises:
        UserError: the environment contradicts itself.
    """
    environment = os.environ
    if environment.get("TF_CONFIG"):
        _check_tf_config(environment["TF_CONFIG"])
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        return resolver if _place_in(resolver)[0] > 1 else None
    # A batch script's own environment has no SLURM_STEP_...: only srun's.
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) < 2:
        return None
    return _slurm_resolver(environment)


def _check_tf_config(text: str) -> None:
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        valid = (
            set(cluster) <= {"chief", "worker"}
            and len(cluster.get("chief", ())) <= 1
            and all(
                isinstance(addresses, list) for addresses in cluster.values()
            )
            and task["index"] in range(len(cluster[task["type"]]))
        )
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise UserError(
            f"TF_CONFIG is {text!r}; expected JSON of the form "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            '"worker", "index": 0}}, with the index of a worker that there is, '
            'and no other jobs but one "chief".'
        )


def _place_in(
    resolver: tf.distribute.cluster_resolver.ClusterResolver,
) -> tuple[int, int]:
    """How many processes take part, and which of them this is."""
    cluster = resolver.cluster_spec().as_dict()
    # As tf.distribute has it: the chief, if there is one, and the workers.
    before = len(cluster.get("chief", ()))
    place = 0 if resolver.task_type == "chief" else before + resolver.task_id
    return sum(map(len, cluster.values())), place


def _first_line(error: Exception) -> str:
    """Of a message of TensorFlow's, which goes on with what we can't use."""
    text = getattr(error, "message", None) or str(error)
    return text.strip().splitlines()[0]


def _slurm_resolver(
    environment: Mapping[str, str],
) -> tf.distribute.cluster_resolver.ClusterResolver:
    gpus = int(environment.get("SLURM_GPUS_ON_NODE", 0))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    try:
        per_node = environment["SLURM_STEP_TASKS_PER_NODE"]
        tasks = max(int(n.partition("(")[0]) for n in per_node.split(","))
        # Jobs that share a node must not share ports.
        port = 12000 + int(environment.get("SLURM_JOB_ID", 0)) % 20000
        to_share = gpus >= tasks and (
            visible is None or len(visible.split(",")) >= gpus
        )
        if to_share:
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
                port_base=port, gpus_per_node=gpus
            )
        else:
            # No GPUs, or SLURM has bound each task to its own. The resolver
            # would run nvidia-smi, and can't count to 0: one imaginary GPU a
            # task, which it is not to make visible.
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
                port_base=port,
                gpus_per_node=tasks,
                gpus_per_task=1,
                auto_set_gpu=False,
            )
        addresses = resolver.cluster_spec().as_dict()["worker"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            f"SLURM's environment can't be read as a cluster: {error}. "
            "Expected to be started by srun."
        ) from error
    # The resolver sorts hosts as texts, n10 before n9; SLURM numbers its tasks
    # in the order of the list.
    hosts = list(resolver._resolve_task_configuration())
    in_order = sorted(
        addresses, key=lambda address: hosts.index(address.rpartition(":")[0])
    )
    if in_order == addresses:
        return resolver
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": in_order}),
        task_type="worker",
        task_id=int(environment["SLURM_PROCID"]),
        rpc_layer="grpc",
    )


def _tpu() -> World:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=os.environ.get("TPU_NAME", "local")
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return World(tf.distribute.TPUStrategy(resolver), "tpu")
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(
            "distribution.strategy is 'tpu', but no TPU can be had: "
            f"{_first_line(error)}. Expected a TPU host with tensorflow-tpu "
            "(see cluster/tpu_vm.md), or TPU_NAME in the environment."
        ) from error


def _divide_cpu(count: int) -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError as error:
        raise UserError(
            f"The CPU can't be divided into {count} devices once TensorFlow "
            "has started; start the run in a process of its own."
        ) from error


def _logical_cpus(count: int) -> list[str]:
    (cpu,) = tf.config.list_physical_devices("CPU")
    configured = tf.config.get_logical_device_configuration(cpu)
    if count > 1 and len(configured or ()) != count:
        _divide_cpu(count)
    return [d.name for d in tf.config.list_logical_devices("CPU")][:count]
