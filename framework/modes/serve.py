"""Turns a trained model into a server on this machine."""

import os

from rich.console import Console

from framework.console import say
from framework.errors import UserError
from framework.inference.loaded import load

HOST, PORT = "127.0.0.1", 8501
# What this machine calls itself.
_OWN = ("127.0.0.1", "localhost", "[::1]", "::1")
# For what was accepted when it is told to stop.
_SECONDS_TO_STOP = 35


def serve(
    model: str | os.PathLike,
    *,
    host: str = HOST,
    port: int = PORT,
    console: Console | None = None,
) -> None:
    """Answers requests until it is told to stop (SIGTERM, SIGINT).

    What was accepted before is answered then.

    Args:
        model: a run's directory or an artifact, see `framework.load`.
        host: on which address to listen; by default this machine alone can
            ask. It knows neither users nor encryption: to be reached from
            elsewhere it belongs behind a server that does.
        port: likewise; 0 takes a free one.
        console: where to report; standard output by default.

    Raises:
        UserError: there is no such model, the extra `serve` is not installed,
            or the address is taken.
    """
    console = console or Console()
    if not 0 <= port < 65536:
        raise UserError(f"--port is {port}; expected 0 to 65535.")
    try:
        import uvicorn

        from framework.serving.server import MODEL, application
    except ImportError as error:
        raise UserError(
            f"The server can't start: {error}. Expected the packages of this "
            "package's extra 'serve': pip install starlette uvicorn "
            "prometheus-client."
        ) from error
    loaded = load(model)
    configuration = uvicorn.Config(
        application(loaded, hosts=_OWN if host in _OWN else ("*",)),
        host,
        port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_SECONDS_TO_STOP,
    )
    try:
        socket = configuration.bind_socket()
    except SystemExit as error:
        raise UserError(
            f"{host}:{port} can't be listened on. Expected an address of this "
            "machine and a port that is free; choose another --port."
        ) from error
    name = f"[{host}]" if ":" in host else host
    base = f"http://{name}:{socket.getsockname()[1]}/"
    say(console, f"{loaded.path}: {base}")
    say(console, f"Requests go to {base}v1/models/{MODEL}:predict")
    uvicorn.Server(configuration).run(sockets=[socket])
