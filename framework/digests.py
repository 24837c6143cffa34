"""Turns arrays and settings into a short fingerprint."""

import hashlib
import json
from typing import Any

import numpy as np


def digest(*values: Any) -> str:
    """A short fingerprint of arrays and of what JSON can hold."""
    whole = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            # Texts have lengths of their own: by their representation.
            value = value.tolist() if value.dtype == object else value
        if isinstance(value, np.ndarray):
            whole.update(np.ascontiguousarray(value).tobytes())
        else:
            whole.update(json.dumps(value, default=repr).encode())
    return whole.hexdigest()[:16]
