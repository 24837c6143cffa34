"""Turns a backbone, a head and augmentation layers into one Keras model.

    uint8 [B, S, S, 3] -> augmentation -> rescaling -> backbone -> head

The model takes pixels 0..255, whatever the backbone wants inside, so that
nobody who uses it later can rescale wrongly.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.model.affine import fuse as fuse_layers
from framework.model.affine import parts
from framework.model.augmentation import (
    exactly_resumable,
    place,
    why_not_in_model,
)
from framework.model.backbones import Backbone, cuts, split_at
from framework.model.folding import fold, foldable
from framework.model.heads import Head
from framework.ranges import Count, Share
from framework.registry import PARTS

# Layers of a head that have nothing to train and nothing to draw.
_FIXED = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Flatten,
)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model, and what training it needs to know beside.

    Attributes:
        model: uint8 `[B, S, S, 3]`, pixels 0..255, to outputs `[B, units]`.
            Random only when called with `training=True`.
        head: how its outputs are judged and read.
        augmentation_in_model: layers that augment inside of it.
        augmentation_in_pipeline: layers that can't run in the model's graph
            and are applied to training batches before they reach it.
        description: sentences on what was built, for the start-up text.
        features: what the lower part of `model` computes, from pixels to the
            first layer that is trained, or None where nothing is frozen. Its
            output depends on the picture and its augmentation alone. Batch
            normalisation is folded into convolutions, so that it takes less
            time and differs by rounding.
        trained: the layers that follow, in order; all of the model where
            nothing is frozen.
        backbone: the whole of it, frozen and trained.
        folded: which layer of `features` has the frozen part's weights as
            they are after folding, and that part, as it is in `model`; or
            None where they share their weights.
    """

    model: keras.Model
    head: Head
    augmentation_in_model: tuple[keras.layers.Layer, ...]
    augmentation_in_pipeline: tuple[keras.layers.Layer, ...]
    description: tuple[str, ...]
    features: keras.Model | None
    trained: tuple[keras.layers.Layer, ...]
    backbone: keras.Model
    folded: tuple[keras.Model, keras.Model] | None

    @property
    def image_size(self) -> int:
        """Side S of the images in pixels."""
        return self.model.input_shape[1]

    @property
    def weights(self) -> list[keras.Variable]:
        """Of backbone and head, in an order that `freeze` does not change."""
        return [
            weight
            for layer in (self.backbone, *self.head.layers)
            for weight in layer.weights
        ]

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the values of `weights`."""
        return [np.array(weight.numpy()) for weight in self.weights]

    def set_weights(self, values: Sequence[np.ndarray]) -> None:
        """Gives `weights` these values, be they of another phase's model."""
        lower = [] if self.folded is None else self.folded[1].get_weights()
        for weight, value in zip(self.weights, values, strict=True):
            weight.assign(value)
        if lower and not all(
            map(np.array_equal, lower, self.folded[1].get_weights())
        ):
            self.refold()

    def refold(self) -> None:
        """Has `features` compute with the weights that `model` has now."""
        if self.folded is not None:
            copy, lower = self.folded
            copy.set_weights(fold(lower).get_weights())

    def depths(self) -> list[float]:
        """How deep each of the model's trainable variables lies.

        From 0, the backbone's lowest layer that is trained, to 1, the head.
        """
        layers = self.backbone.layers
        position = {
            id(variable): number
            for number, layer in enumerate(layers)
            for variable in layer.trainable_variables
        }
        first = min(position.values(), default=0)
        return [
            (position.get(id(variable), len(layers)) - first)
            / (len(layers) - first)
            for variable in self.model.trainable_variables
        ]

    def from_features(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """What `model` makes of pixels that `features` turned into `x`.

        Where there is no such part, `x` are the pixels.
        """
        for layer in self.trained:
            x = layer(x, training=training)
        return x


@PARTS.register(given=["num_classes", "compiled"])
def classifier(
    num_classes: int,
    backbone: Callable[..., Backbone],
    head: Callable[..., Head],
    image_size: Count | None = None,
    freeze: str | Share = "none",
    batch_norm: Literal["auto", "frozen", "trained"] = "auto",
    augmentation: Sequence[keras.layers.Layer] = (),
    fuse: bool = True,
    compiled: bool = False,
) -> Classifier:
    """Builds the model. Call it inside the strategy's scope.

    Args:
        num_classes: how many classes the data has.
        backbone: called with `image_size`; in a gin file `@efficientnet_lite0`.
        head: called with `num_classes`; in a gin file `@softmax_head`.
        image_size: side of the images in pixels; the backbone's own default
            if None.
        freeze: how much of the backbone keeps its weights: "all", "none",
            the name of a layer up to and including which it is frozen
            ("block4c_add"), or the share of its layers, from below, of which
            no more than that is frozen (0.5). The frozen part runs in
            inference mode.
        batch_norm: "frozen" keeps the batch normalisations of the backbone's
            trained part in inference mode, weights and all; "trained" trains
            them; "auto" freezes them where the backbone is pretrained, since
            statistics of small batches ruin what was learned
            (https://keras.io/guides/transfer_learning/).
        augmentation: layers in order; each runs in the model where it can
            and in the pipeline where it, or one after it, can't.
        fuse: whether neighbours among Keras's RandomFlip, RandomRotation,
            RandomZoom, RandomShear and RandomTranslation that fill and
            interpolate alike resample once, together. What they draw and how
            they are saved is the same as without it.
        compiled: whether XLA compiles the training step, as on a TPU.

    Raises:
        UserError: the arguments don't fit together.
    """
    if image_size is not None and image_size < 1:
        raise UserError(
            f"classifier.image_size is {image_size}; expected a number of "
            "pixels, at least 1, or None."
        )
    if batch_norm not in ("auto", "frozen", "trained"):
        raise UserError(
            f"classifier.batch_norm is {batch_norm!r}; expected 'auto', "
            "'frozen' or 'trained'."
        )
    built = backbone(image_size=image_size)
    made_head = head(num_classes)
    for name, part, kind in (
        ("backbone", built, Backbone),
        ("head", made_head, Head),
    ):
        if not isinstance(part, kind):
            raise UserError(
                f"classifier.{name} makes a {type(part).__name__}; expected "
                f"one that makes a {kind.__name__}."
            )
    if fuse:
        augmentation = fuse_layers(augmentation)
    in_model, in_pipeline = place(augmentation, compiled)
    size = built.model.input_shape[1]

    inputs = keras.Input((size, size, 3), dtype="uint8", name="image")
    x = keras.ops.cast(inputs, "float32")  # [B, S, S, 3], 0..255
    for layer in in_model:
        x = layer(x)
        if x.shape != inputs.shape:
            raise UserError(
                f"{type(layer).__name__} in classifier.augmentation makes "
                f"{inputs.shape[1:]} pixels {x.shape[1:]}; expected a layer "
                "that keeps the image's size."
            )
        if layer.trainable_weights:
            raise UserError(
                f"{type(layer).__name__} in classifier.augmentation has "
                "weights to train; expected a layer that only augments."
            )
    x = built.prepare(x)

    freeze = _named(built.model, freeze)
    lower, upper = _frozen_and_trained(built.model, freeze)
    pixels = x  # As the backbone wants them.
    if lower is not None:
        _freeze(lower)
        x = lower(x)
    if upper is not None and (
        batch_norm == "frozen" or (batch_norm == "auto" and built.pretrained)
    ):
        for layer in upper._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    above = [*([upper] if upper is not None else ()), *made_head.layers]
    below = x
    fixed = []
    while lower is not None and above and isinstance(above[0], _FIXED):
        fixed.append(above.pop(0))
    for layer in (*fixed, *above):
        x = layer(x)
    model = keras.Model(inputs, x, name="classifier")
    features = folded = None
    if lower is not None:
        features, folded = _features(inputs, pixels, below, lower, fixed)

    return Classifier(
        model,
        made_head,
        in_model,
        in_pipeline,
        (
            f"{built.model.name} at {size}x{size} px, input {built.input_range}"
            f", {'pretrained' if built.pretrained else 'random'} weights, "
            f"frozen: {freeze}.",
            *_placement(in_model, in_pipeline, compiled, size),
        ),
        features,
        (model,) if features is None else tuple(above),
        built.model,
        folded,
    )


def _named(backbone: keras.Model, freeze: str | float) -> str:
    """`freeze` in words, where it is a share of the layers."""
    if isinstance(freeze, str):
        return freeze
    if isinstance(freeze, bool) or not 0 <= freeze <= 1:
        raise UserError(
            f"classifier.freeze is {freeze!r}; expected 'all', 'none', the "
            "name of a layer, or a share of the backbone's layers, from 0 to "
            "1."
        )
    if freeze == 1:
        return "all"
    last = freeze * len(backbone.layers) - 1
    position = {layer.name: i for i, layer in enumerate(backbone.layers)}
    places = cuts(backbone)
    below = [name for name in places if position[name] <= last]
    if freeze and not below:
        lowest = min((position[name] + 1 for name in places), default=None)
        least = f"{lowest / len(backbone.layers):.2f}" if lowest else "1"
        raise UserError(
            f"classifier.freeze is {freeze}, and {backbone.name} can be cut "
            f"nowhere so low; expected at least {least}, or 'none'."
        )
    return below[-1] if below else "none"


def _frozen_and_trained(
    backbone: keras.Model, freeze: str
) -> tuple[keras.Model | None, keras.Model | None]:
    if freeze == "all":
        return backbone, None
    if freeze == "none":
        return None, backbone
    return split_at(backbone, freeze)


def _freeze(part: keras.Model) -> None:
    """Fixes weights and makes the part the same function in training.

    Batch normalisation that is not trainable runs in inference mode. Dropout
    inside (EfficientNet drops whole blocks) must be switched off at its rate:
    `part(x, training=False)` does not help, since Keras 3.15 overrides it with
    the argument that the outer model is called with.
    """
    part.trainable = False
    for layer in part._flatten_layers():  # Other libraries' layers have some.
        for rate in ("rate", "drop_path_rate"):
            if hasattr(layer, rate):
                setattr(layer, rate, 0.0)


def _features(
    inputs: keras.KerasTensor,
    prepared: keras.KerasTensor,
    below: keras.KerasTensor,
    lower: keras.Model,
    fixed: Sequence[keras.layers.Layer],
) -> tuple[keras.Model, tuple[keras.Model, keras.Model] | None]:
    """The frozen part, folded where that helps, and what follows at once.

    Beside it, where it is folded: that copy, and what it is a copy of.
    """
    folded = None
    # Models of other kinds than `fold` knows do without.
    with contextlib.suppress(UserError):
        if foldable(lower):
            copy = fold(lower)
            copy.trainable = False
            below = copy(prepared)
            folded = copy, lower
    for layer in fixed:
        # Another one: a layer that is used twice has no one output.
        below = type(layer).from_config(layer.get_config())(below)
    return keras.Model(inputs, below, name="features"), folded


def _placement(
    in_model: Sequence[keras.layers.Layer],
    in_pipeline: Sequence[keras.layers.Layer],
    compiled: bool,
    image_size: int,
) -> Iterator[str]:
    """Says where each augmentation layer runs, and why."""
    if in_pipeline:
        names = ", ".join(
            f"{_name(layer)} "
            f"({why_not_in_model(layer, compiled) or 'comes before such'})"
            for layer in in_pipeline
        )
        yield f"Augmentation in the pipeline, not in the model: {names}."
    if in_model:
        names = ", ".join(map(_name, in_model))
        yield f"Augmentation in the model: {names}."
    for layer in (*in_pipeline, *in_model):
        if parts(layer):
            names = ", ".join(map(_name, parts(layer)))
            yield f"{names} fused into one resampling."
    stateful = [
        type(layer).__name__
        for layer in in_pipeline
        if not exactly_resumable(layer, image_size)
    ]
    if stateful:
        yield (
            f"Not exactly resumable: {', '.join(stateful)} draws random "
            "numbers that depend on more than the seed and the position."
        )


def _name(layer: keras.layers.Layer) -> str:
    names = [type(part).__name__ for part in parts(layer) or (layer,)]
    return "+".join(names)
