"""Turns one list of augmentation layers into those in and before the model.

Keras's own layers run in the model's graph and are the identity unless it is
called with `training=True`. KerasCV's (0.9) ignore `training` and would
augment in `predict` too; they run in the pipeline, on training batches only.
"""

import inspect
import random
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from framework.errors import UserError
from framework.registry import AUGMENTATIONS

_KERAS_LAYERS = (
    "AugMix",
    "CenterCrop",
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
)

_KERAS_CV_LAYERS = (
    "AutoContrast",
    "ChannelShuffle",
    "Equalization",
    "GridMask",
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


def _random_shear(*args, **kwargs) -> keras.layers.RandomShear:
    """keras.layers.RandomShear, mended: a saved model of it can be loaded.

    Keras 3.15 writes factors down as (-0.2, 0.2) and refuses to read what is
    below 0; here they are written as they were given.
    """
    layer = keras.layers.RandomShear(*args, **kwargs)
    given = inspect.signature(keras.layers.RandomShear).bind(*args, **kwargs)
    factors = {
        name: given.arguments.get(name, 0.0)
        for name in ("x_factor", "y_factor")
    }
    as_keras_has_it = layer.get_config
    layer.get_config = lambda: {**as_keras_has_it(), **factors}
    return layer


def _random_flip(*args, **kwargs) -> keras.layers.RandomFlip:
    """keras.layers.RandomFlip, mended: refuses a mode that there is not.

    Keras 3.15 takes any mode and, where it doesn't know it, never flips.
    """
    layer = keras.layers.RandomFlip(*args, **kwargs)
    modes = ("horizontal", "vertical", "horizontal_and_vertical")
    if layer.mode not in modes:
        raise ValueError(
            f"mode is {layer.mode!r}; expected one of {', '.join(modes)}."
        )
    return layer


_MENDED = {"RandomFlip": _random_flip, "RandomShear": _random_shear}

for _name in _KERAS_LAYERS:
    if not hasattr(keras.layers, _name):
        continue  # It came with a later version.
    _layer = _MENDED.get(_name, getattr(keras.layers, _name))
    AUGMENTATIONS.adopt("keras", _layer, _name)


def _keras_cv_layer(name: str) -> Callable[..., keras.layers.Layer]:
    def make(*args, **kwargs):
        import keras_cv

        # They take TensorFlow's global generator, which must have been set
        # where operations are to be deterministic. Python's `random` is what
        # keras.utils.set_random_seed seeds.
        seed = random.getrandbits(31)
        tf.random.set_global_generator(tf.random.Generator.from_seed(seed))
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
    dataset: tf.data.Dataset, layers: Sequence[keras.layers.Layer]
) -> tf.data.Dataset:
    """Augments batches: the same from run to run, given the seed.

    KerasCV draws from operations that keep their state to themselves, so
    that a run that is continued draws other numbers than one that never
    stopped.

    Args:
        dataset: batches with "image" uint8 `[B, S, S, 3]`, 0..255.
        layers: KerasCV's.

    Returns:
        The same batches with augmented images, uint8.
    """
    if not layers:
        return dataset

    def augment(example):
        image = tf.cast(example["image"], tf.float32)
        for layer in layers:
            image = layer(image, training=True)
        image = tf.clip_by_value(tf.round(image), 0, 255)
        return {**example, "image": tf.cast(image, tf.uint8)}

    batch_size = dataset.element_spec["image"].shape[0]
    # One picture at a time: in parallel, and KerasCV treats the pictures of a
    # batch so, which of them draws first is chance.
    dataset = dataset.unbatch().map(augment)
    return dataset.batch(batch_size, drop_remainder=True)
