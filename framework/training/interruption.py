"""Turns SIGTERM and Ctrl-C into a run that is saved before it ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator


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
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
