"""Turns a trained classifier into what lies between its pixels and its logits.

    uint8 [B, S, S, 3] -> feature maps [B, h, w, C] -> embedding [B, D]
        -> logits [B, num_classes]

Everything is computed in inference mode: augmentation and dropout do nothing,
batch normalisation uses its moving averages.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras.src.models.functional import Functional
from keras.src.ops.node import Node

from framework.errors import UserError
from framework.registry import nearest

# Of layers that a page shows, unless it is told which.
MOST_STAGES = 8
# Pictures that the model is given at a time.
_BATCH = 32
_MARGINS = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)
_SQUASHING = (keras.activations.softmax, keras.activations.sigmoid)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A layer whose output is a feature map `[B, height, width, channels]`.

    Attributes:
        name: of the layer; behind those of the models that it is in where
            several layers are called so ("lower/conv1").
        kind: its class, "Conv2D".
        height: of the map, in positions.
        width: likewise.
        channels: how many there are.
    """

    name: str
    kind: str
    height: int
    width: int
    channels: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """Where in a model, and in the models inside of it, an operation stands.

    Attributes:
        operation: the layer.
        inputs: what it is given.
        output: what it makes.
        route: the models that it is in, the outermost first, without the
            chain's own: each with the tensor that enters it.
    """

    operation: keras.Operation
    inputs: tuple[keras.KerasTensor, ...]
    output: keras.KerasTensor
    route: tuple[tuple[keras.Model, keras.KerasTensor], ...]

    @property
    def path(self) -> str:
        names = [graph.name for graph, _ in self.route]
        return "/".join([*names, self.operation.name])


class Chain:
    """What a classifier computes on the way from pixels to logits.

    Up to the last feature map the model may branch as it likes; from there on,
    in its head, it must be one layer after another.

    Args:
        model: uint8 `[B, S, S, 3]`, pixels 0..255, to outputs `[B, units]`, as
            `classifier` makes it; functional, models inside of it too. It
            stays as it is.

    Attributes:
        image_size: S, in pixels.
        last_map: height and width of the last feature map, in positions.
        pooling: the layer that it goes into.

    Raises:
        UserError: the model is of another kind.
    """

    def __init__(self, model: keras.Model):
        graph = _graph(model)
        if (
            graph is None
            or len(graph.inputs) != 1
            or len(graph.outputs) != 1
            or len(graph.inputs[0].shape) != 4
            or len(graph.outputs[0].shape) != 2
        ):
            raise UserError(
                f"{getattr(model, 'name', model)!r} can't be looked into; "
                "expected a functional model from pictures [B, S, S, 3] to "
                "outputs [B, units], as a run saves it."
            )
        self._graph = graph
        self.image_size: int = graph.inputs[0].shape[1]
        self._places = list(_places(graph))
        self._stages = _stages(self._places)
        self._last, head = _head(graph)
        self.last_map: tuple[int, int] = tuple(self._last.shape[1:3])
        self.pooling = head[0]
        self._activation, self._to_embedding, self._to_logits = _undone(head)
        below = _part(graph, self._last)
        pixels = tf.TensorSpec([None, *graph.inputs[0].shape[1:]], tf.uint8)
        self._features = tf.function(
            lambda x: tf.cast(below(x, training=False), tf.float32),
            input_signature=[pixels],
            autograph=False,
        )
        self._scores = tf.function(
            lambda x: self.head(self._features(x)),
            input_signature=[pixels],
            autograph=False,
        )

    def stages(self) -> list[Stage]:
        """The layers that make feature maps, in the order of computation.

        What only prepares the pixels, which have three channels, is none of
        them, nor is what has a single position.
        """
        return [stage for stage, _ in self._stages.values()]

    def chosen(self, most: int = MOST_STAGES) -> list[str]:
        """Names of a few stages that show how maps get smaller and deeper.

        They are the last ones before each change of size, as of a plain
        network are its convolutions and poolings (Chollet, Deep Learning with
        Python, section 5.4.1, 2017).
        """
        last = {}
        for name, (stage, place) in self._stages.items():
            # A margin more or less is no change that shows.
            if not isinstance(place.operation, _MARGINS):
                last[stage.height, stage.width] = name
        # In the order of the last ones: a branch may come back to a size.
        names = [name for name in self._stages if name in last.values()]
        if len(names) <= most:
            return names
        places = np.linspace(0, len(names) - 1, most).round().astype(int)
        return [names[place] for place in places]

    def stage(self, name: str) -> Stage:
        """The stage called so.

        Raises:
            UserError: there is none; lists the nearest names.
        """
        if name not in self._stages:
            some = f"Some that it has: {', '.join(self.chosen())}."
            hint = " ".join(filter(None, [nearest(name, self._stages), some]))
            raise UserError(
                f"The model has no feature map of a layer {name!r}. {hint}"
            )
        return self._stages[name][0]

    def feature_map(self, name: str, pixels: np.ndarray) -> np.ndarray:
        """What the layer called `name` makes of pictures.

        Args:
            name: of one of the `stages`.
            pixels: uint8 `[B, S, S, 3]`, 0..255.

        Returns:
            float32 `[B, h, w, C]`.

        Raises:
            UserError: as `stage`.
        """
        return self.feature_maps([name], pixels)[name]

    def feature_maps(
        self, names: Sequence[str], pixels: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What several layers make of pictures, each as `feature_map` has it.

        Raises:
            UserError: as `stage`.
        """
        for name in names:
            self.stage(name)
        return self._values(
            {name: self._stages[name][1].output for name in names},
            {name: self._stages[name][1].route for name in names},
            pixels,
        )

    def features(self, pixels: np.ndarray) -> tf.Tensor:
        """The last feature map, which is what `head` takes.

        Args:
            pixels: uint8 `[B, S, S, 3]`, 0..255.

        Returns:
            float32 `[B, h, w, C]`.
        """
        return self._features(tf.convert_to_tensor(pixels, tf.uint8))

    def head(self, features: tf.Tensor) -> tf.Tensor:
        """The logits of what `features` returned; differentiable.

        Args:
            features: float32 `[B, h, w, C]`.

        Returns:
            float32 `[B, num_classes]`: what goes into the softmax. A model
            with one output gives the logit of the second of two classes; the
            first one's is its negative. Of a model that ends without softmax
            or sigmoid, it is what the model returns.
        """
        logits = tf.cast(
            self._to_logits(self._to_embedding(features)), tf.float32
        )
        if logits.shape[-1] == 1:
            return tf.concat([-logits, logits], axis=-1)
        return logits

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """What `head` makes of pictures: float32 `[B, num_classes]`.

        Args:
            pixels: uint8 `[B, S, S, 3]`, 0..255, any number of them.
        """
        return _batched(self._scores, pixels)

    def judge(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the last dense layer gets of pictures, and what is made of it.

        Args:
            pixels: uint8 `[B, S, S, 3]`, 0..255, any number of them.

        Returns:
            embeddings, float32 `[B, D]`; and the model's outputs, float32
            `[B, units]`. Where the model doesn't end with a dense layer, the
            embeddings are its logits.
        """

        def call(batch: tf.Tensor) -> tf.Tensor:
            embeddings = self._to_embedding(self._features(batch))
            outputs = self._activation(self._to_logits(embeddings))
            flat = tf.reshape(embeddings, [len(batch), -1])
            return tf.concat(
                [tf.cast(part, tf.float32) for part in (flat, outputs)], -1
            )

        both = _batched(call, pixels)
        units = self._graph.outputs[0].shape[-1]
        return both[:, :-units], both[:, -units:]

    def first_filters(self) -> tuple[str, np.ndarray] | None:
        """The filters of the first convolution, as they weigh pixels.

        Some models want blue first, or channels scaled differently: what comes
        before the convolution is applied to the filters, so that their
        channels are those of the pictures.

        Returns:
            the layer's name, and float32 `[height, width, 3, filters]`, red
            first; None where no convolution sees three channels.
        """
        for place in self._places:
            layer = place.operation
            if (
                isinstance(layer, keras.layers.Conv2D)
                and layer.kernel.shape[2] == 3
            ):
                break
        else:
            return None
        # Black, and each colour alone.
        probes = np.zeros((4, self.image_size, self.image_size, 3), np.uint8)
        probes[[1, 2, 3], :, :, [0, 1, 2]] = 255
        seen = self._values({"": place.inputs[0]}, {"": place.route}, probes)
        means = seen[""].mean((1, 2))  # [4, 3]: what goes in, what comes out.
        kernel = np.asarray(layer.kernel, np.float32)
        return place.operation.name, np.einsum(
            "hwcf,rc->hwrf", kernel, means[1:] - means[0]
        )

    def _values(
        self,
        tensors: Mapping[str, keras.KerasTensor],
        routes: Mapping[str, tuple],
        pixels: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """What becomes of symbolic tensors: float32, by the same names."""
        by_route = collections.defaultdict(list)
        for name, route in routes.items():
            by_route[route].append(name)
        found = {}
        for route, names in by_route.items():
            graph, x = self._graph, tf.convert_to_tensor(pixels, tf.uint8)
            for inner, entering in route:
                x = _part(graph, entering)(x, training=False)
                graph = inner
            for name in names:
                value = _part(graph, tensors[name])(x, training=False)
                found[name] = np.asarray(value, np.float32)
        return {name: found[name] for name in tensors}


def _graph(layer: keras.Operation) -> keras.Model | None:
    """The layers of a model, of what computes as its graph says; else None."""
    if isinstance(layer, keras.Sequential) and layer.built:
        return keras.Model(layer.inputs[0], layer.outputs[0], name=layer.name)
    if isinstance(layer, Functional) and type(layer).call is Functional.call:
        return layer
    return None


def _part(
    graph: keras.Model, output: keras.KerasTensor
) -> Callable[..., tf.Tensor]:
    """What computes a tensor of a graph from its input."""
    if output is graph.inputs[0]:
        return lambda x, training: x
    return keras.Model(graph.inputs[0], output)


def _nodes(graph: keras.Model) -> list[Node]:
    """The calls of layers that make up a graph.

    Not all that the layers know of: one may have been called in other models.
    """
    return [n for nodes in graph._nodes_by_depth.values() for n in nodes]


def _places(graph: keras.Model, route: tuple = ()) -> Iterator[_Place]:
    """All that a model computes, in order, that of models inside included."""
    nodes = {node.operation: node for node in _nodes(graph)}
    for operation in graph.operations:
        node = nodes[operation]
        if node.is_input:
            continue
        inner = _graph(operation)
        if inner is not None and len(node.input_tensors) == 1:
            yield from _places(inner, (*route, (inner, node.input_tensors[0])))
        else:
            yield _Place(
                operation, tuple(node.input_tensors), node.outputs[0], route
            )


def _stages(places: Sequence[_Place]) -> dict[str, tuple[Stage, _Place]]:
    names = collections.Counter(place.operation.name for place in places)
    found = {}
    for place in places:
        shape = place.output.shape
        if len(shape) != 4 or None in shape[1:]:
            continue
        height, width, channels = shape[1:]
        if (not found and channels == 3) or height * width == 1:
            continue
        name = place.operation.name
        name = place.path if names[name] > 1 else name
        kind = type(place.operation).__name__
        found[name] = Stage(name, kind, height, width, channels), place
    return found


def _head(
    graph: keras.Model,
) -> tuple[keras.KerasTensor, list[keras.layers.Layer]]:
    """The last feature map, and the layers that follow it."""
    nodes = {id(node.outputs[0]): node for node in _nodes(graph)}
    tensor, layers = graph.outputs[0], []
    while len(tensor.shape) != 4:
        node = nodes.get(id(tensor))
        if (
            node is None
            or node.is_input
            or len(node.input_tensors) != 1
            or not isinstance(node.operation, keras.layers.Layer)
        ):
            raise UserError(
                f"The head of {graph.name!r} can't be looked into: expected "
                "one layer after another from a feature map [B, h, w, C] to "
                "the outputs."
            )
        layers.insert(0, node.operation)
        tensor = node.input_tensors[0]
    return tensor, layers


def _undone(layers: Sequence[keras.layers.Layer]) -> tuple[Callable, ...]:
    """A head without the softmax or sigmoid that it ends with.

    Returns:
        that activation, what goes from the feature map to the embedding, and
        what goes from there to the logits.
    """
    *before, last = layers
    activation = keras.activations.linear
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation)
        and last.activation in _SQUASHING
    ):
        activation = last
    else:
        before = layers
    to_logits = keras.activations.linear
    if before and isinstance(before[-1], keras.layers.Dense):
        *before, dense = before
        to_logits = dense
        if dense.activation in _SQUASHING:
            activation = dense.activation

            def to_logits(x: tf.Tensor) -> tf.Tensor:
                x = tf.matmul(tf.cast(x, dense.kernel.dtype), dense.kernel)
                return x if dense.bias is None else x + dense.bias

    def to_embedding(x: tf.Tensor) -> tf.Tensor:
        for layer in before:
            x = layer(x, training=False)
        return x

    return activation, to_embedding, to_logits


def _batched(
    function: Callable[[tf.Tensor], tf.Tensor], pixels: np.ndarray
) -> np.ndarray:
    parts = np.array_split(pixels, max(1, math.ceil(len(pixels) / _BATCH)))
    return np.concatenate(
        [np.asarray(function(tf.constant(part, tf.uint8))) for part in parts]
    )
