"""Turns the name of a precision into what Keras computes with."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from framework.errors import UserError

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Layers made inside compute so; what was before comes back.

    Args:
        name: as `choose_precision` returns it.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64" if name == "float64" else "float32")
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def choose_precision(name: str) -> str:
    """What `name` stands for on this machine.

    Args:
        name: "float32"; "mixed_bfloat16" (TPUs, newer GPUs) and
            "mixed_float16" (GPUs) compute in 16 bits and keep weights in 32;
            "float64" is for comparing runs; "auto" takes 16 bits where all
            devices are made for it: mixed_bfloat16 on TPUs and GPUs of
            compute capability 8.0 or more, mixed_float16 from 7.0 on
            (https://docs.nvidia.com/deeplearning/performance/mixed-precision-training/).

    Raises:
        UserError: it is none of these.
    """
    if name in PRECISIONS:
        return name
    if name != "auto":
        raise UserError(
            f"train.precision is {name!r}; expected 'auto' or one of "
            f"{', '.join(PRECISIONS)}."
        )
    if tf.config.list_physical_devices("TPU"):
        return "mixed_bfloat16"
    gpus = tf.config.list_physical_devices("GPU")
    capability = min(
        (
            tf.config.experimental.get_device_details(gpu).get(
                "compute_capability", (0, 0)
            )
            for gpu in gpus
        ),
        default=(0, 0),
    )
    if capability >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if capability >= (7, 0) else "float32"
