"""Turns what libraries write to standard error into what is worth reading."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence

# What TensorFlow says on every start on a machine without a GPU, whatever the
# log level.
STARTUP = (
    b"absl::InitializeLog()",
    b"oneDNN custom operations are on",
    b"Could not find cuda drivers",
    b"failed call to cuInit",
)


@contextlib.contextmanager
def standard_error_without(noise: Sequence[bytes]) -> Iterator[None]:
    """Passes on what is written meanwhile, but for lines with any of `noise`.

    All lines have b"" in them. What is meant comes from C and C++, so that
    the file descriptor is what must be redirected. Lines come when all is over.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            caught.seek(0)
            for line in caught:
                if not any(part in line for part in noise):
                    os.write(2, line)
