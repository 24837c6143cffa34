"""Turns a process into a part of a tf.data service, which makes batches.

    python -m framework.data_service --role=dispatcher --port=5050
    python -m framework.data_service --role=worker --dispatcher=127.0.0.1:5050

A run takes its training batches from there with

    pipeline.service = "grpc://127.0.0.1:5050"

TensorFlow 2.21 listens on all of the machine's addresses, whatever --host
says, encrypts nothing and asks nobody who they are; whoever reaches the ports
can have them run TensorFlow graphs. Keep them inside a closed network.
"""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

_ROLE = flags.DEFINE_enum(
    "role",
    None,
    ["dispatcher", "worker"],
    "One dispatcher deals out the work; any number of workers do it.",
    required=True,
)
_PORT = flags.DEFINE_integer(
    "port", 0, "Port to listen at; 0 takes a free one.", 0, 65535
)
_HOST = flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Name or address by which the training processes reach this one.",
)
_DISPATCHER = flags.DEFINE_string(
    "dispatcher",
    None,
    "Address of the dispatcher as it prints it; workers need it.",
)

# How long a worker looks for its dispatcher before it gives up.
_DISPATCHER_TIMEOUT_MS = 60_000


def main(argv: list[str]) -> None:
    """Serves until it is told to end (SIGTERM, Ctrl-C)."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    if (_ROLE.value == "worker") != bool(_DISPATCHER.value):
        raise app.UsageError(
            "Workers need --dispatcher=host:port; a dispatcher takes none."
        )
    # No handler of Python's runs while a worker looks for its dispatcher.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    # Not before the flags are known to be in order: it takes seconds.
    import tensorflow as tf

    service = tf.data.experimental.service
    if _ROLE.value == "dispatcher":
        server = service.DispatchServer(
            service.DispatcherConfig(port=_PORT.value)
        )
        port = server.target.rpartition(":")[2]
        print(f"Dispatcher at grpc://{_HOST.value}:{port}", flush=True)
    else:
        server = service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=_DISPATCHER.value.removeprefix("grpc://"),
                worker_address=f"{_HOST.value}:%port%",
                port=_PORT.value,
                dispatcher_timeout_ms=_DISPATCHER_TIMEOUT_MS,
            )
        )
        print(f"Worker of {_DISPATCHER.value}", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        # At once: stopping in order can wait for ever for those served, who
        # must cope with a lost worker anyway.
        signal.signal(number, lambda *_: os._exit(0))
    while server:
        signal.pause()


if __name__ == "__main__":
    app.run(main)
