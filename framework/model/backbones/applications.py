"""Turns a network of keras.applications into a backbone."""

import contextlib
import os
import unittest.mock
from collections.abc import Callable

import keras

from framework.data import network
from framework.errors import UserError
from framework.model.backbones.backbone import (
    Backbone,
    check_stochastic_depth,
    load_weights,
    minus_one_to_one,
    rescaling,
)
from framework.registry import BACKBONES


def _caffe(pixels: keras.KerasTensor) -> keras.KerasTensor:
    # Blue first, the means of ImageNet taken off: as Caffe's models, from
    # which these weights came, had it.
    offset = [-103.939, -116.779, -123.68]
    return rescaling(1.0, offset)(pixels[..., ::-1])


def _torch() -> keras.layers.Layer:
    # ImageNet's mean and standard deviation by channel, as torchvision has.
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return rescaling(
        [1 / (255 * s) for s in std],
        [-m / s for m, s in zip(mean, std, strict=True)],
    )


# How each family of keras.applications wants its pixels, from the
# preprocess_input of its module. Those with a rescaling of their own take
# 0..255 as they are.
_AS_IT_IS = (lambda: lambda pixels: pixels, "0..255", {})
_BUILT_IN = (
    lambda: lambda pixels: pixels,
    "0..255",
    {"include_preprocessing": True},
)
_TF = (minus_one_to_one, "-1..1", {})
_CAFFE = (lambda: _caffe, "BGR less ImageNet's mean", {})
_TORCH = (_torch, "ImageNet's mean and deviation", {})
_APPLICATIONS = {
    **dict.fromkeys(("MobileNet", "MobileNetV2"), (_TF, 224)),
    **dict.fromkeys(("MobileNetV3Small", "MobileNetV3Large"), (_BUILT_IN, 224)),
    **dict.fromkeys(("InceptionV3", "InceptionResNetV2"), (_TF, 299)),
    "Xception": (_TF, 299),
    **dict.fromkeys(("VGG16", "VGG19"), (_CAFFE, 224)),
    **dict.fromkeys(("ResNet50", "ResNet101", "ResNet152"), (_CAFFE, 224)),
    **dict.fromkeys(("ResNet50V2", "ResNet101V2", "ResNet152V2"), (_TF, 224)),
    **dict.fromkeys(
        ("DenseNet121", "DenseNet169", "DenseNet201"), (_TORCH, 224)
    ),
    "NASNetMobile": (_TF, 224),
    "NASNetLarge": (_TF, 331),
    **{
        f"EfficientNetB{number}": (_AS_IT_IS, size)
        for number, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    **{
        f"EfficientNetV2B{number}": (_BUILT_IN, size)
        for number, size in enumerate((224, 240, 260, 300))
    },
    "EfficientNetV2S": (_BUILT_IN, 384),
    "EfficientNetV2M": (_BUILT_IN, 480),
    "EfficientNetV2L": (_BUILT_IN, 480),
    **{
        f"ConvNeXt{size}": (_BUILT_IN, 224)
        for size in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
}


# How often the last block is dropped in training where nobody says; the other
# families drop none.
_STOCHASTIC_DEPTH = {
    **{name: 0.2 for name in _APPLICATIONS if "EfficientNet" in name},
    **{name: 0.0 for name in _APPLICATIONS if "ConvNeXt" in name},
}


def _application(name: str) -> Callable[..., Backbone]:
    _, default_size = _APPLICATIONS[name]
    doc = f"""keras.applications.{name} without its top.

    https://keras.io/api/applications/

    Args:
        image_size: side of the images in pixels, {default_size} by default.
        weights: "imagenet" (downloaded once by Keras), None for random ones,
            or a path (see `load_weights`).
    """
    if name not in _STOCHASTIC_DEPTH:

        def backbone(
            image_size: int | None = None, weights: str | None = "imagenet"
        ) -> Backbone:
            return _build(name, image_size, weights)

    else:
        default_rate = _STOCHASTIC_DEPTH[name]
        doc += f"""    stochastic_depth: how often training drops the residual
            branch of a block, picture by picture: so often at the network's
            end, falling evenly to 0 at its beginning; {default_rate} by
            default. Huang et al. 2016, https://arxiv.org/abs/1603.09382
    """

        def backbone(
            image_size: int | None = None,
            weights: str | None = "imagenet",
            stochastic_depth: float = default_rate,
        ) -> Backbone:
            check_stochastic_depth(stochastic_depth, f"keras.{name}")
            return _build(name, image_size, weights, stochastic_depth)

    backbone.__name__ = backbone.__qualname__ = name
    backbone.__doc__ = doc
    return backbone


def _build(
    name: str,
    image_size: int | None,
    weights: str | None,
    stochastic_depth: float | None = None,
) -> Backbone:
    (make_prepare, input_range, arguments), default_size = _APPLICATIONS[name]
    size = image_size or default_size
    with _imagenet_or_error(name):
        try:
            model = getattr(keras.applications, name)(
                include_top=False,
                weights="imagenet" if weights == "imagenet" else None,
                input_shape=(size, size, 3),
                **arguments,
            )
        except ValueError as error:
            raise UserError(
                f"keras.{name} at classifier.image_size = {size}: {error}"
            ) from error
    if stochastic_depth != _STOCHASTIC_DEPTH.get(name):
        model = _with_stochastic_depth(model, stochastic_depth)
    if weights not in (None, "imagenet"):
        load_weights(model, weights)
    return Backbone(model, make_prepare(), input_range, weights is not None)


def _with_stochastic_depth(model: keras.Model, rate: float) -> keras.Model:
    """The same network and weights, its blocks dropped at another rate.

    Keras knows this rate, but not where weights are chosen too. EfficientNet's
    blocks have a Dropout of whole pictures, ConvNeXt's an identity in its
    place; Keras's own layer for it there draws from a generator that is none
    of the model's, and would not be resumed.
    """
    end = "_identity" if "convnext" in model.name else "drop"
    blocks = [layer for layer in model.layers if layer.name.endswith(end)]
    if end == "drop":
        highest = _STOCHASTIC_DEPTH["EfficientNetB0"]
        for layer in blocks:
            layer.rate *= rate / highest
        return model
    numbers = {layer.name: i for i, layer in enumerate(blocks)}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name not in numbers:
            return type(layer).from_config(layer.get_config())
        return keras.layers.Dropout(
            rate * numbers[layer.name] / (len(blocks) - 1),
            noise_shape=(None, 1, 1, 1),
            name=layer.name,
        )

    dropping = keras.models.clone_model(model, clone_function=clone)
    dropping.set_weights(model.get_weights())
    return dropping


for _name in _APPLICATIONS:
    BACKBONES.adopt("keras", _application(_name))


@contextlib.contextmanager
def _imagenet_or_error(name: str):
    """Makes a download without a network fail at once, and helpfully.

    Keras fetches weights through `file_utils.get_file`, which waits for
    minutes; only there are the file's name and address known.
    """
    from keras.src.utils import file_utils

    get_file = file_utils.get_file

    def probe_first(fname=None, origin=None, cache_subdir="models", **kwargs):
        folder = os.path.join(file_utils.config.keras_home(), cache_subdir)
        path = os.path.join(folder, fname)
        if not os.path.exists(path) and not network.reachable([origin]):
            raise UserError(
                f"The ImageNet weights of keras.{name} are not on this "
                f"machine, and {origin} can't be reached. Either fetch that "
                f"file elsewhere and put it at {path}, or choose other "
                f"weights (keras.{name}.weights = None, or a path), or use "
                "@efficientnet_lite0, whose weights are installed."
            )
        return get_file(
            fname=fname, origin=origin, cache_subdir=cache_subdir, **kwargs
        )

    with unittest.mock.patch.object(file_utils, "get_file", probe_first):
        yield
