"""Turns one list of augmentation layers into those in and before the model.

Keras's own layers run in the model's graph and are the identity unless it is
called with `training=True`. KerasCV's (0.9) ignore `training` and would
augment in `predict` too; they run in the pipeline, on training batches only.
"""

import functools
from collections.abc import Sequence

import keras
import tensorflow as tf

from framework.errors import UserError
from framework.registry import AUGMENTATIONS

_KERAS_LAYERS = (
    "AugMix",
    "CenterCrop",
    "GaussianNoise",
    "RandAugment",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomCrop",
    "RandomElasticTransform",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterization",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
    "Solarization",
)

_KERAS_CV_LAYERS = (
    "AutoContrast",
    "ChannelShuffle",
    "Equalization",
    "FourierMix",
    "GridMask",
    "JitteredResize",
    "Posterization",
    "RandomAugmentationPipeline",
    "RandomBrightness",
    "RandomChannelShift",
    "RandomChoice",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomCutout",
    "RandomHue",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandAugment",
)

for _name in _KERAS_LAYERS:
    if hasattr(keras.layers, _name):  # Some came with later versions.
        AUGMENTATIONS.adopt("keras", getattr(keras.layers, _name))


def _keras_cv_layer(name: str) -> type:
    def make(*args, **kwargs):
        import keras_cv

        return getattr(keras_cv.layers, name)(*args, **kwargs)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"keras_cv.layers.{name}, loaded when it is asked for."
    return make


for _name in _KERAS_CV_LAYERS:
    AUGMENTATIONS.adopt("keras_cv", _keras_cv_layer(_name))


def place(
    layers: Sequence[keras.layers.Layer],
) -> tuple[tuple[keras.layers.Layer, ...], tuple[keras.layers.Layer, ...]]:
    """Tells layers that run in the model from those that must run before it.

    Args:
        layers: in the order in which the user wants them applied.

    Returns:
        (in the model, in the pipeline).

    Raises:
        UserError: something is not a layer, or the order can't be kept: a
            layer that must run in the pipeline follows one in the model.
    """
    in_model, in_pipeline = [], []
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise UserError(
                f"classifier.augmentation holds {layer!r}; expected layers, "
                "in a gin file @keras.RandomFlip() with parentheses."
            )
        if not type(layer).__module__.startswith("keras_cv."):
            in_model.append(layer)
            continue
        if in_model:
            raise UserError(
                f"KerasCV's {type(layer).__name__} runs in the pipeline, "
                f"before {type(in_model[-1]).__name__}, which runs in the "
                "model. Put KerasCV's layers first in "
                "classifier.augmentation."
            )
        in_pipeline.append(layer)
    return tuple(in_model), tuple(in_pipeline)


def apply_in_pipeline(
    dataset: tf.data.Dataset,
    layers: Sequence[keras.layers.Layer],
    seed: int,
) -> tf.data.Dataset:
    """Augments batches reproducibly, each as a function of its position.

    Args:
        dataset: batches with "image" uint8 `[B, S, S, 3]`, 0..255, and
            "position" int64 `[B]`.
        layers: KerasCV's.
        seed: of the run.

    Returns:
        The same batches with augmented images, uint8.
    """
    if not layers:
        return dataset
    restart = [
        functools.partial(_restart, generator)
        for generator in _generators(layers)
    ]

    def augment(batch):
        fresh = [
            assign(seed, number, batch["position"][0])
            for number, assign in enumerate(restart)
        ]
        with tf.control_dependencies(fresh):
            images = tf.cast(batch["image"], tf.float32)
        for layer in layers:
            images = layer(images, training=True)
        images = tf.clip_by_value(tf.round(images), 0, 255)
        return {**batch, "image": tf.cast(images, tf.uint8)}

    # One batch at a time: the generators are shared, and their state is what
    # makes a batch's augmentation repeatable.
    return dataset.map(augment)


def _generators(layers: Sequence[keras.layers.Layer]) -> list:
    """Every generator of random numbers that the layers may draw from."""
    found = [
        tf.random.get_global_generator(),
        keras.src.random.seed_generator.global_seed_generator(),
    ]
    for layer in layers:
        for part in layer._flatten_layers():
            found.extend(
                value
                for value in vars(part).values()
                if isinstance(
                    value, (tf.random.Generator, keras.random.SeedGenerator)
                )
            )
    return list({id(generator): generator for generator in found}.values())


def _restart(generator, seed: int, number: int, position: tf.Tensor):
    if isinstance(generator, keras.random.SeedGenerator):
        variable = generator.state.value
        state = tf.stack([seed + 7919 * number, position])
        return variable.assign(tf.cast(state, variable.dtype))
    # Philox's state: a 128-bit counter and a 64-bit key.
    state = tf.stack([position, tf.zeros_like(position), seed + 7919 * number])
    return generator.state.assign(tf.cast(state, tf.int64))
