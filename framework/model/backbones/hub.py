"""Turns a KerasHub preset into a backbone.

KerasHub (https://keras.io/keras_hub/) is the extra `hub`; it is loaded when a
backbone of it is built.
"""

import importlib
import importlib.util
import inspect
import os
import types

import keras

from framework.data import network
from framework.errors import UserError
from framework.model.backbones.backbone import (
    Backbone,
    load_weights,
    rescaling,
)
from framework.registry import BACKBONES, nearest

_HOSTS = {
    "hf": "https://huggingface.co",
    "kaggle": "https://www.kaggle.com",
    "modelscope": "https://modelscope.cn",
}


@BACKBONES.register(given=["image_size"])
def hub_backbone(
    image_size: int | None = None,
    preset: str | None = None,
    weights: str | None = "preset",
) -> Backbone:
    """An image backbone of KerasHub, by preset.

    The preset's image converter says how pixels are scaled; that is done
    inside the classifier. It says nothing of how pictures are resized: the
    pipeline does that.

    Where the backbone has layers of KerasHub's own, as MobileNet, a run's
    `model.keras` needs KerasHub to be loaded; ResNet, DenseNet, EfficientNet,
    VGG and Xception have none.

    Args:
        image_size: side of the images in pixels; by default that of the
            preset's image converter, or 224 where it has none.
        preset: a name ("resnet_18_imagenet"), a handle ("kaggle://...",
            "hf://...") or a directory that holds the preset: `config.json`,
            `model.weights.h5` and `image_converter.json`.
            https://keras.io/keras_hub/presets/
        weights: "preset", None for random ones, or a path (see
            `load_weights`).

    Raises:
        UserError: KerasHub or the preset is not there, or it does not make a
            feature map of images.
    """
    if preset is None:
        raise UserError(
            "hub_backbone.preset is not set; expected a name of "
            "https://keras.io/keras_hub/presets/ "
            "('resnet_18_imagenet') or a directory that holds a preset."
        )
    hub = _keras_hub()
    place = _place(hub, preset)
    try:
        scaling = hub.layers.ImageConverter.from_preset(place)
    except Exception as error:  # They raise of many kinds.
        raise UserError(
            f"hub_backbone.preset = {preset!r} does not say how it wants its "
            "pixels; expected the preset of an image backbone with an image "
            "converter (ImageConverter.save_to_preset adds one to a "
            f"directory). KerasHub says: {error}"
        ) from error
    size = image_size or (scaling.image_size or [224])[0]
    shape = _shape_argument(scaling.backbone_cls, size)
    try:
        built = hub.models.Backbone.from_preset(
            place, load_weights=weights == "preset", **shape
        )
    except Exception as error:
        raise UserError(
            f"KerasHub can't build hub_backbone.preset = {preset!r} at "
            f"classifier.image_size = {size}: {error}"
        ) from error
    model = _unwrapped(built, preset, size)
    if weights not in (None, "preset"):
        load_weights(model, weights)
    scale = 1.0 if scaling.scale is None else scaling.scale
    offset = 0.0 if scaling.offset is None else scaling.offset
    return Backbone(
        model,
        rescaling(scale, offset),
        f"pixel * {_in_words(scale)} + {_in_words(offset)}",
        weights is not None,
    )


def _keras_hub() -> types.ModuleType:
    if importlib.util.find_spec("keras_hub") is None:
        raise UserError(
            "hub_backbone needs KerasHub, which is not installed. Install "
            "it: pip install keras-hub, or this package's extra 'hub'."
        )
    return importlib.import_module("keras_hub")


def _place(hub: types.ModuleType, preset: str) -> str:
    """What KerasHub is to load: a directory, or what it can download.

    Raises:
        UserError: nothing is called so, or it can't be reached.
    """
    if os.path.isdir(preset):
        return preset
    handle = preset
    if "://" not in preset:
        known = hub.models.Backbone.presets
        if preset not in known:
            raise UserError(
                f"hub_backbone.preset is {preset!r}, which is neither a "
                f"directory nor known to KerasHub {hub.__version__}. "
                f"{nearest(preset, known)} See "
                "https://keras.io/keras_hub/presets/."
            )
        handle = known[preset]["kaggle_handle"]
    scheme, _, path = handle.partition("://")
    address = _HOSTS.get(scheme, handle)
    reason = network.unreachable([address])
    if reason is None:
        return preset
    # Asked for by name, a preset that was downloaded is searched the network
    # for the files that it does not have.
    if scheme == "kaggle":
        from kagglehub.config import get_cache_folder

        folder = os.path.join(get_cache_folder(), "models", path)
        if os.path.exists(os.path.join(folder, "config.json")):
            return folder
    raise UserError(
        f"The preset {handle} is not on this machine, and {address} can't be "
        f"reached ({reason}). Either fetch it elsewhere "
        "(keras_hub.models.Backbone.from_preset(...).save_to_preset(folder), "
        "and so with keras_hub.layers.ImageConverter) and set "
        "hub_backbone.preset to that folder, or use @efficientnet_lite0, "
        "whose weights are installed."
    )


def _shape_argument(kind: type, size: int) -> dict[str, tuple[int, int, int]]:
    """The images' shape, by the name that this kind of backbone gives it."""
    parameters = inspect.signature(kind.__init__).parameters
    for name in ("image_shape", "input_shape"):
        if name in parameters:
            return {name: (size, size, 3)}
    return {}


def _unwrapped(built: keras.Model, preset: str, size: int) -> keras.Model:
    """A plain model of its layers, which can be cut at, frozen and folded."""
    received = [tuple(x.shape) for x in built.inputs]
    made = [tuple(x.shape) for x in built.outputs]
    expected = [(None, size, size, 3)]
    if received != expected or len(made) != 1 or len(made[0]) != 4:
        raise UserError(
            f"hub_backbone.preset = {preset!r} is a {type(built).__name__}, "
            f"which makes {made} of {received}; expected one that makes a "
            f"feature map [B, h, w, C] of images {expected[0]}, such as "
            "ResNet, DenseNet, EfficientNet or MobileNet."
        )
    return keras.Model(built.inputs[0], built.outputs[0], name=built.name)


def _in_words(value: float | list[float]) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(f'{x:.4g}' for x in value)})"
    return f"{value:.4g}"
