"""Turns the name of a precision into what Keras computes with."""

import contextlib
from collections.abc import Iterator

import keras

from framework.errors import UserError

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Layers made inside compute so; what was before comes back.

    Args:
        name: "float32"; "mixed_bfloat16" (TPUs, newer GPUs) and
            "mixed_float16" (GPUs) compute in 16 bits and keep weights in 32;
            "float64" is for comparing runs.

    Raises:
        UserError: it is none of these.
    """
    check_precision(name)
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64" if name == "float64" else "float32")
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def check_precision(name: str) -> None:
    """Raises a UserError where `precision` would."""
    if name not in PRECISIONS:
        raise UserError(
            f"train.precision is {name!r}; expected one of "
            f"{', '.join(PRECISIONS)}."
        )
