"""Turns an architecture in figures into one of KerasCV's backbones.

The figures are bound in a gin file, under KerasCV's own names:

    classifier.backbone = @keras_cv.ResNetV2Backbone
    keras_cv.ResNetV2Backbone.stackwise_filters = [64, 128, 256, 512]
    keras_cv.ResNetV2Backbone.stackwise_blocks = [2, 2, 2, 2]
    keras_cv.ResNetV2Backbone.stackwise_strides = [1, 2, 2, 2]

Weights are random or come from a run: KerasCV's presets are downloads without
an end to their waiting, and keras.applications has the like with weights.

Here are those that are, or can be taken apart into, Keras's own layers under
names that are the same whenever they are built, so that a run's model.keras
loads without KerasCV and its weights can be taken by name. KerasCV 0.9 can't
load again what it saved of MobileNetV3, CSPDarkNet and MiT, and names the
layers of ViTDet anew each time. KerasCV is loaded when a backbone is built.
"""

import contextlib
import inspect
import itertools
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

import keras

from framework.errors import UserError
from framework.model.backbones.backbone import (
    Backbone,
    load_optional,
    zero_to_one,
)
from framework.registry import BACKBONES

_NEEDED = inspect.Parameter.empty
_EFFICIENTNET = {
    "width_coefficient": _NEEDED,
    "depth_coefficient": _NEEDED,
    "stackwise_kernel_sizes": _NEEDED,
    "stackwise_num_repeats": _NEEDED,
    "stackwise_input_filters": _NEEDED,
    "stackwise_output_filters": _NEEDED,
    "stackwise_expansion_ratios": _NEEDED,
    "stackwise_strides": _NEEDED,
    "depth_divisor": 8,
}
# What decides each architecture, with KerasCV's defaults. Written down, since
# gin wants to know before KerasCV is loaded.
_ARCHITECTURES = {
    "DenseNetBackbone": {
        "stackwise_num_repeats": _NEEDED,
        "compression_ratio": 0.5,
        "growth_rate": 32,
    },
    "EfficientNetLiteBackbone": {
        **_EFFICIENTNET,
        "drop_connect_rate": 0.2,
        "activation": "relu6",
    },
    "EfficientNetV1Backbone": {
        **_EFFICIENTNET,
        "stackwise_squeeze_and_excite_ratios": _NEEDED,
        "drop_connect_rate": 0.2,
        "activation": "swish",
    },
    "EfficientNetV2Backbone": {
        **_EFFICIENTNET,
        "stackwise_squeeze_and_excite_ratios": _NEEDED,
        "stackwise_conv_types": _NEEDED,
        "skip_connection_dropout": 0.2,
        "min_depth": 8,
        "activation": "swish",
    },
    "ResNetBackbone": {
        "stackwise_filters": _NEEDED,
        "stackwise_blocks": _NEEDED,
        "stackwise_strides": _NEEDED,
        "block_type": "block",
    },
    "ResNetV2Backbone": {
        "stackwise_filters": _NEEDED,
        "stackwise_blocks": _NEEDED,
        "stackwise_strides": _NEEDED,
        "stackwise_dilations": None,
        "block_type": "block",
    },
    "YOLOV8Backbone": {
        "stackwise_channels": _NEEDED,
        "stackwise_depth": _NEEDED,
        "activation": "swish",
    },
}


def _keras_cv_backbone(name: str) -> Callable[..., Backbone]:
    architecture = _ARCHITECTURES[name]

    def backbone(
        image_size: int | None = None,
        weights: str | None = None,
        **given: Any,
    ) -> Backbone:
        key = f"keras_cv.{name}"
        _check(key, architecture, given)
        import keras_cv  # Takes a moment to load, and few need it.

        size = image_size or 224
        try:
            with _in_built_in_layers():
                cv_model = getattr(keras_cv.models, name)(
                    include_rescaling=False,
                    input_shape=(size, size, 3),
                    **given,
                )
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise UserError(
                f"KerasCV can't build {key} with {given} at "
                f"classifier.image_size = {size}: {error}"
            ) from error
        # Unwrapped, so that model.keras loads without KerasCV.
        model = keras.Model(cv_model.inputs[0], cv_model.outputs[0], name=name)
        load_optional(model, weights, key)
        return Backbone(model, zero_to_one(), "0..1", weights is not None)

    backbone.__name__ = backbone.__qualname__ = name
    backbone.__doc__ = f"""keras_cv.models.{name}, by its architecture.

    https://github.com/keras-team/keras-cv/tree/master/keras_cv/src/models

    Args:
        image_size: side of the images in pixels, 224 by default.
        weights: None for random ones, or a path (see `load_weights`).
        {", ".join(architecture)}: as KerasCV has
            them. Lists have an item for each stack.

    Raises:
        UserError: something is missing or does not fit together.
    """
    # gin reads here what may be bound: a misspelt name is refused.
    keyword = inspect.Parameter.KEYWORD_ONLY
    backbone.__signature__ = inspect.Signature(
        [
            inspect.Parameter("image_size", keyword, default=None),
            inspect.Parameter("weights", keyword, default=None),
            *(
                inspect.Parameter(parameter, keyword, default=default)
                for parameter, default in architecture.items()
            ),
        ]
    )
    return backbone


def _check(
    key: str, architecture: dict[str, Any], given: dict[str, Any]
) -> None:
    unknown = [p for p in given if p not in architecture]
    if unknown:
        raise UserError(
            f"{key} has no {' and no '.join(unknown)}; expected of "
            f"{', '.join(architecture)}."
        )
    missing = [
        parameter
        for parameter, default in architecture.items()
        if default is _NEEDED and given.get(parameter) is None
    ]
    if missing:
        raise UserError(
            f"{key} needs {', '.join(missing)}. Bind them in a gin file, as "
            f"in {key}.{missing[0]} = ..."
        )
    lists = {
        parameter: value
        for parameter, value in given.items()
        if parameter.startswith("stackwise_") and value is not None
    }
    for parameter, value in lists.items():
        if not isinstance(value, (list, tuple)) or not value:
            raise UserError(
                f"{key}.{parameter} is {value!r}; expected a list with an "
                "item for each stack."
            )
    # KerasCV goes by one of them, and drops what others have beyond it.
    if len({len(value) for value in lists.values()}) > 1:
        raise UserError(
            f"The lists of {key} differ in length: "
            + ", ".join(f"{p} has {len(v)}" for p, v in lists.items())
            + ". Expected an item for each stack in all of them."
        )


@contextlib.contextmanager
def _in_built_in_layers() -> Iterator[None]:
    """Makes EfficientNetV2's blocks leave their layers and not themselves.

    They are Keras layers that call Keras's layers. As layers of a model they
    would hide their batch normalisations and dropout from what freezes, folds
    and cuts, and need KerasCV to be loaded.
    """
    from keras_cv.src.layers.fusedmbconv import FusedMBConvBlock
    from keras_cv.src.layers.mbconv import MBConvBlock

    def call(block, x: keras.KerasTensor) -> keras.KerasTensor:
        block.build(x.shape)
        numbers = itertools.count(1)

        # Theirs is one layer for several places, and where a model is cut a
        # layer must have one output.
        def activate(x: keras.KerasTensor) -> keras.KerasTensor:
            return keras.layers.Activation(
                block.activation, name=f"{block.name}act{next(numbers)}"
            )(x)

        block.act = activate
        return block.call(x)

    with contextlib.ExitStack() as stack:
        for kind in (FusedMBConvBlock, MBConvBlock):
            stack.enter_context(
                unittest.mock.patch.object(kind, "__call__", call)
            )
        yield


for _name in _ARCHITECTURES:
    BACKBONES.adopt("keras_cv", _keras_cv_backbone(_name))
