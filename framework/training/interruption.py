"""Turns SIGTERM and Ctrl-C into a run that is saved before it ends."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

# How long a second request waits for Python to notice it.
_PATIENCE_SECONDS = 3.0


class Interrupted(Exception):
    """Training was asked to stop, and has saved where it was.

    Attributes:
        message: what to tell the user.
        status: for the process to exit with, as a shell would have it.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.message = message
        self.status = 128 + signal_number


class Interruption:
    """Whether somebody has asked training to stop.

    Attributes:
        signal_number: of the signal that did, or 0.
    """

    def __init__(self):
        self.signal_number = 0

    def request(self, signal_number: int, frame: object = None) -> None:
        """Asks; a second Ctrl-C stops at once, without saving."""
        del frame
        if self.signal_number and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = signal_number


@contextlib.contextmanager
def interruption() -> Iterator[Interruption]:
    """Listens for SIGTERM and SIGINT, in place of what did so before.

    Only a process's main thread can; elsewhere nothing is listened for.
    """
    asked = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {
        number: signal.signal(number, asked.request)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        with _insistence():
            yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked.signal_number:  # Nobody has looked since.
        signal.raise_signal(asked.signal_number)


@contextlib.contextmanager
def _insistence() -> Iterator[None]:
    """Ends the process at a second request that Python doesn't get to hear.

    While TensorFlow waits for its input, no handler runs; the number of a
    signal is written to a socket all the same.
    """
    told, hears = socket.socketpair()
    told.setblocking(False)
    done = threading.Event()

    def listen() -> None:
        requests = 0
        while number := hears.recv(1):
            if number[0] not in (signal.SIGTERM, signal.SIGINT):
                continue
            requests += 1
            if requests > 1 and not done.wait(_PATIENCE_SECONDS):
                os._exit(128 + number[0])

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        told.close()
        listener.join()
        hears.close()
