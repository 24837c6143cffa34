"""Turns a trained model into functions that hold its weights and no more."""

import keras
import tensorflow as tf

from framework.model.folding import fold, foldable


class Frozen:
    """A model for inference alone.

    Batch normalisation is folded into convolutions where that changes nothing
    but the rounding of float32; the model given stays as it is.

    Args:
        model: uint8 `[B, S, S, 3]`, pixels 0..255, to probabilities: one a
            class, or that of the second of two classes.

    Attributes:
        model: an equal one that does less.
        folded: how many batch normalisations are.
        module: holds the weights, which nobody can train.
    """

    def __init__(self, model: keras.Model):
        self.model, self.folded = model, 0
        # In 16 bits the products in another order are other results.
        if all(
            layer.compute_dtype in ("float32", "float64", "uint8")
            for layer in model._flatten_layers()
        ):
            self.model, self.folded = fold(model), len(foldable(model))
        self._weights = {
            id(variable): tf.Variable(variable.numpy(), trainable=False)
            for variable in self.model.variables
        }
        self.module = tf.Module()
        # What a SavedModel refers to must be found from its root.
        self.module.weights = list(self._weights.values())

    @property
    def image_size(self) -> int:
        """Side S of the images in pixels."""
        return self.model.input_shape[1]

    @property
    def num_classes(self) -> int:
        """How many classes it tells apart."""
        return max(self.model.output_shape[-1], 2)

    def apply(self, part: keras.Model, images: tf.Tensor) -> tf.Tensor:
        """What `model`, or a part of it that gets pixels, makes of them."""
        values = [
            [self._weights[id(variable)] for variable in variables]
            for variables in (
                part.trainable_variables,
                part.non_trainable_variables,
            )
        ]
        return part.stateless_call(*values, images, training=False)[0]

    def probabilities(self, images: tf.Tensor) -> tf.Tensor:
        """Of uint8 `[B, S, S, 3]`: float32 `[B, num_classes]`."""
        outputs = self.apply(self.model, images)
        if outputs.shape[-1] == 1:
            outputs = tf.concat([1 - outputs, outputs], axis=-1)
        return tf.cast(outputs, tf.float32)
