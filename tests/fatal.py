"""Turns files that say so into the end of the process that examines them.

A module of its own: worker processes import it, and should not wait for
TensorFlow.
"""

import os
import pathlib
import signal

from framework.data.doctor import examine


def examine_many(batch, max_pixels, measure):
    for content, _ in batch:
        if b"fatal" in pathlib.Path(content).read_bytes():
            os.kill(os.getpid(), signal.SIGKILL)
    return examine.examine_many(batch, max_pixels, measure)
