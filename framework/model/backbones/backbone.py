"""Turns a Keras model and the pixels it wants into a feature extractor.

A backbone maps images to a feature map `[B, h, w, C]`. It is a plain
`keras.Model` of built-in layers, and it says what pixels it wants. What is
here serves all of them: preparing pixels, taking weights, cutting in two.
"""

import dataclasses
import math
import numbers
import os
import tempfile
from collections.abc import Callable

import keras
import tensorflow as tf

from framework.errors import UserError
from framework.registry import nearest


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


def rescaling(
    scale: float | list[float], offset: float | list[float]
) -> keras.layers.Layer:
    """Pixels times `scale` plus `offset`, by channel where these are lists."""
    return keras.layers.Rescaling(scale, offset, name="rescaling")


def zero_to_one() -> keras.layers.Layer:
    """Pixels 0..255 to 0..1."""
    return rescaling(1 / 255, 0.0)


def minus_one_to_one() -> keras.layers.Layer:
    """Pixels 0..255 to -1..1."""
    return rescaling(1 / 127.5, -1.0)


def check_stochastic_depth(rate: float, name: str) -> None:
    """Refuses what is no share of the blocks.

    Raises:
        UserError: `rate` is not a number from 0 to below 1.
    """
    if (
        isinstance(rate, bool)
        or not isinstance(rate, numbers.Real)
        or not 0 <= rate < 1
    ):
        raise UserError(
            f"{name}.stochastic_depth is {rate!r}; expected a number from 0 "
            "to below 1: how often the last block is dropped."
        )


def load_optional(model: keras.Model, weights: str | None, name: str) -> None:
    """Loads `weights`, if any, into a backbone that has none of ImageNet.

    Raises:
        UserError: they are "imagenet", or can't be loaded.
    """
    if weights == "imagenet":
        raise UserError(
            f"{name} has no ImageNet weights. Expected None or a path."
        )
    if weights is not None:
        load_weights(model, weights)


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
    known = {layer.name: layer for layer in leaves(given)}
    for layer in leaves(model):
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


def leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers inside of `model`, however deep, that are no models."""
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
    # Not all of them are layers: `+` leads round some too.
    operations = model.operations
    position = {operation: i for i, operation in enumerate(operations)}
    # Where the furthest layer fed from what came before is the next one,
    # nothing leads round.
    reach, found = 0, []
    for i, operation in enumerate(operations[:-1]):
        if i == reach and i and isinstance(operation, keras.layers.Layer):
            found.append(operation.name)
        for node in operation._outbound_nodes:
            if node.operation in position:
                reach = max(reach, position[node.operation])
    return found


def _some_cuts(model: keras.Model, most: int = 12) -> str:
    """A few of them, evenly chosen, for a message."""
    found = cuts(model)
    step = math.ceil(len(found) / most) or 1
    return ", ".join(found[step - 1 :: step])
