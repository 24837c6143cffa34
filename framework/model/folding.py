"""Turns a trained model into an equal one that does less work in inference.

    convolution -> batch normalisation   becomes   convolution

There a batch normalisation is an affine map of each channel with constant
coefficients, and so is part of the kernel and the bias before it. What acts in
training only, augmentation and dropout, is gone too.
"""

import collections
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional

from framework.errors import UserError
from framework.model.augmentation import identity_in_inference

# How many kernels each has; the last one makes the channels that come out.
_KERNELS = {
    keras.layers.Conv2D: 1,
    keras.layers.Dense: 1,
    keras.layers.DepthwiseConv2D: 1,
    keras.layers.SeparableConv2D: 2,
}
_NOISES = (
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)


def fold(model: keras.Model) -> keras.Model:
    """Makes a model for inference that computes what `model` computes there.

    Each batch normalisation that directly follows a Conv2D, DepthwiseConv2D,
    SeparableConv2D or Dense without activation, whose output nothing else
    uses, is multiplied into that layer's kernel and bias: Jacob et al. 2018,
    https://arxiv.org/abs/1712.05877, section 3.2. Products are formed in
    float64; what comes out differs by rounding only.

    The new model is what `predict` and `model(x, training=False)` make of the
    old one, however it is called: Keras augments in a bare `model(x)`, and so
    in what is exported. Augmentation and dropout are left out, and what else
    might act differently in training is told that it is not.

    Models inside the model are treated alike. Classes that are not Keras's own
    are copied as they are. A layer that several inner models share is one in
    each of them afterwards.

    Args:
        model: functional or sequential and built; it stays as it is. Its
            variables must have values.

    Returns:
        A functional model, not compiled, that shares nothing with `model`.
        Layers keep their names; those that were folded are gone.

    Raises:
        UserError: the model is of another kind.
    """
    copies: list[tuple] = []
    folded = _copied(_checked(model), copies)
    for layer, made, norm in copies:
        if norm is None:
            made.set_weights(layer.get_weights())
        else:
            made.set_weights(_folded_weights(layer, norm))
        if isinstance(made, keras.layers.Normalization):
            made.finalize_state()  # It computes with a copy of its weights.
    return folded


def foldable(model: keras.Model) -> list[str]:
    """The batch normalisations that `fold` does without: "tiny_cnn/bn1".

    Args:
        model: as for `fold`.

    Returns:
        Their names behind those of the models they are in.

    Raises:
        UserError: as `fold`.
    """
    return _foldable(_checked(model))


def _foldable(model: keras.Model) -> list[str]:
    names = [norm.name for norm in _pairs(model).values()]
    for layer in model.layers:
        inner = _graph_of(layer)
        if inner is not None:
            names += [f"{layer.name}/{name}" for name in _foldable(inner)]
    return names


def _checked(model: keras.Model) -> keras.Model:
    graph = _graph_of(model)
    if graph is None:
        raise UserError(
            f"{getattr(model, 'name', model)} is a {type(model).__name__}; "
            "expected a functional model or a Sequential that is built. If its "
            "class does no more than name one, take "
            "keras.Model(model.inputs, model.outputs)."
        )
    return graph


def _graph_of(layer: keras.Operation) -> keras.Model | None:
    """The same layers as a plain functional model; None for what is none.

    A subclass may compute something else than its graph says. The copy of a
    model that is compiled would come with an optimizer and its variables.
    """
    if type(layer) is Functional:
        return keras.Model(layer.input, layer.output, name=layer.name)
    if type(layer) is keras.Sequential and layer.built:
        return keras.Model(layer.inputs[0], layer.outputs[0], name=layer.name)
    return None


def _copied(model: keras.Model, copies: list[tuple]) -> keras.Model:
    """A folded copy of a graph, without its weights.

    Args:
        model: from `_graph_of`.
        copies: takes (layer, its copy, the normalisation folded into it or
            None) of all that have weights to be given.
    """
    pairs = _pairs(model)
    norms = {norm.name for norm in pairs.values()}
    # What stands for layers that are left out: of each the dtype that it makes
    # of floats, None for that which comes in, and the layer.
    left_out: dict[Any, tuple] = {}
    # Keras 3.13 knows no model whose output is its input.
    idle = _idle(model)

    def copy(layer):
        inner = _graph_of(layer)
        if inner is not None:
            made = _copied(inner, copies)
            if _idle(inner):
                left_out[made] = (made.inputs[0].dtype, layer)
            return made
        policy = _casts_only(layer)
        if layer.name in norms:
            made = keras.layers.Identity()
            left_out[made] = (None, layer)
        elif policy is not None:
            made = keras.layers.Identity(dtype=policy, name=layer.name)
            left_out[made] = (policy.compute_dtype, layer)
        else:
            made = _cloned(layer, bias=layer.name in pairs)
            if isinstance(layer, keras.layers.Layer):
                copies.append((layer, made, pairs.get(layer.name)))
        return made

    def call(layer, *args, **kwargs):
        given = [*args, *kwargs.values()]
        given = [x for x in given if isinstance(x, keras.KerasTensor)]
        if layer in left_out:
            dtype, original = left_out[layer]
            if len(given) == 1 and dtype in (None, given[0].dtype):
                return layer(given[0]) if idle else given[0]
            if len(given) == 1 and "float" in given[0].dtype:
                return layer(given[0])
            # Some layers cast integers and some do not; of pictures with
            # labels they change both.
            if not isinstance(layer, keras.Model):
                layer = _cloned(original)
        if _heeds_training(layer):
            # Keras writes down `training=True` of a RandomFlip that was called
            # without, and heeds it where the model is called without.
            kwargs["training"] = False
        return layer(*args, **kwargs)

    return keras.models.clone_model(
        model, clone_function=copy, call_function=call
    )


def _idle(model: keras.Model) -> bool:
    """Whether nothing of a graph from `_graph_of` would be left."""
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        return False
    for layer in model.operations:
        inner = _graph_of(layer)
        policy = _casts_only(layer)
        if not (
            isinstance(layer, keras.layers.InputLayer)
            or (inner is not None and _idle(inner))
            or (policy and policy.compute_dtype == model.inputs[0].dtype)
        ):
            return False
    return True


def _cloned(layer: keras.Operation, bias: bool = False) -> keras.Operation:
    config = layer.get_config()
    if bias:
        config["use_bias"] = True
    if type(layer) is keras.layers.Lambda:
        # No function is unpacked from a file that somebody else wrote.
        return type(layer).from_config(config, safe_mode=False)
    return type(layer).from_config(config)


def _casts_only(layer: keras.Operation) -> keras.DTypePolicy | None:
    """To what dtype a layer casts floats, if in inference it does no more."""
    parts = [layer]
    if type(layer) is keras.layers.Pipeline:
        parts = layer.layers
    if not parts or not all(
        type(part) in _NOISES or identity_in_inference(part) for part in parts
    ):
        return None
    # Several would round more than the last alone; integers are rounded to.
    dtypes = {part.compute_dtype for part in parts}
    if len(dtypes) > 1 or "float" not in parts[0].compute_dtype:
        return None
    return parts[0].dtype_policy


def _heeds_training(layer: keras.Operation) -> bool:
    if not isinstance(layer, keras.layers.Layer):
        return False
    # Layers inside of one that takes no such argument hear of it all the same.
    built_in = type(layer).__module__.startswith("keras.")
    return (
        not built_in or "training" in inspect.signature(layer.call).parameters
    )


def _pairs(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The normalisations to fold, by the names of the layers before them.

    The graph is read from what Keras saves of it, since nodes are private, and
    a layer may have nodes of other models.
    """
    config = model.get_config()
    calls = {
        entry["name"]: entry["inbound_nodes"] for entry in config["layers"]
    }
    uses = collections.Counter(
        _sources([config["output_layers"], *calls.values()])
    )
    layers = {layer.name: layer for layer in model.layers}
    pairs = {}
    for norm in model.layers:
        if type(norm) is not keras.layers.BatchNormalization:
            continue
        # One for each call and each tensor: layers that are shared have more.
        sources = list(_sources(calls[norm.name]))
        before = layers.get(sources[0])
        if (
            len(sources) == 1
            and uses[sources[0]] == 1
            and type(before) in _KERNELS
            and _compatible(before, norm)
        ):
            pairs[before.name] = norm
    return pairs


def _sources(part: Any) -> Iterator[str]:
    """Whose outputs a part of a model's configuration speaks of."""
    if isinstance(part, dict):
        part = list(part.values())
    if not isinstance(part, list | tuple):
        return
    # Keras's way to name a tensor: (layer, number of its call, of its output).
    if [type(item) for item in part] == [str, int, int]:
        yield part[0]
        return
    for item in part:
        yield from _sources(item)


def _compatible(layer: keras.layers.Layer, norm: keras.layers.Layer) -> bool:
    """Whether normalising can be part of a layer, as far as the two go."""
    rank = norm.input_spec.ndim
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    return (
        layer.activation is keras.activations.linear
        and norm.axis % rank == (1 if channels_first else rank - 1)
        # Else what comes out would be of another dtype, or the products be
        # rounded to 16 bits once more than they are now.
        and layer.compute_dtype == norm.compute_dtype
        and layer.variable_dtype in ("float32", "float64")
        # Adapters (LoRA) and quantisation add weights.
        and len(layer.weights) == _KERNELS[type(layer)] + layer.use_bias
    )


def _folded_weights(
    layer: keras.layers.Layer, norm: keras.layers.Layer
) -> list[np.ndarray]:
    """The kernels and the bias of both in one."""

    def value(variable):
        return keras.ops.convert_to_numpy(variable).astype(np.float64)

    scale = 1 / np.sqrt(value(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * value(norm.gamma)
    shift = -value(norm.moving_mean) * scale  # [channels out]
    if norm.center:
        shift = shift + value(norm.beta)
    if layer.use_bias:
        shift = shift + value(layer.bias) * scale
    *others, kernel = map(value, layer.weights[: _KERNELS[type(layer)]])
    if type(layer) is keras.layers.DepthwiseConv2D:
        # [h, w, channels in, multiplier]; the last two make those out.
        kernel = kernel * scale.reshape(kernel.shape[-2:])
    else:
        kernel = kernel * scale  # [..., channels out]
    return [*others, kernel, shift]
