"""Turns one list of augmentation layers into those in and before the model.

Keras's own layers run in the model's graph and are the identity unless it is
called with `training=True`. KerasCV's (0.9) ignore `training` and would
augment in `predict` too; they run in the pipeline, on training batches only,
and so do Keras's that XLA can't compile where the training step is compiled.

In the pipeline every random number is a pure function of (seed, layer,
position), so that a picture looks the same whenever and wherever it is made.
"""

import contextlib
import hashlib
import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from framework.errors import UserError
from framework.model import affine, colour, erasing, policy
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

# Pictures of a batch under way at a time, where each is augmented for itself.
_PARALLEL = 32
# Those that XLA can't compile (Keras 3.15, TensorFlow 2.21): most for want of
# a kernel for ImageProjectiveTransformV3, RandomElasticTransform for a range
# whose length it can't know.
NOT_COMPILED = frozenset(
    (
        "AugMix",
        "RandAugment",
        "RandomElasticTransform",
        "RandomPerspective",
        "RandomRotation",
        "RandomShear",
        "RandomTranslation",
        "RandomZoom",
    )
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
    layers: Sequence[keras.layers.Layer], compiled: bool = False
) -> tuple[tuple[keras.layers.Layer, ...], tuple[keras.layers.Layer, ...]]:
    """Tells layers that run in the model from those that run before it.

    The order is kept: what comes before a layer that can't run in the model
    runs in the pipeline too.

    Args:
        layers: in the order in which the user wants them applied.
        compiled: whether XLA compiles the model, as on a TPU.

    Returns:
        (in the model, in the pipeline).

    Raises:
        UserError: something is not a layer.
    """
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise UserError(
                f"classifier.augmentation holds {layer!r}; expected layers, "
                "in a gin file @keras.RandomFlip() with parentheses."
            )
    first = 0
    for number, layer in enumerate(layers, start=1):
        if why_not_in_model(layer, compiled):
            first = number
    return tuple(layers[first:]), tuple(layers[:first])


def why_not_in_model(
    layer: keras.layers.Layer, compiled: bool = False
) -> str | None:
    """Why a layer must run in the pipeline; None where it need not."""
    if type(layer).__module__.startswith("keras_cv."):
        return "augments in predict too"
    kinds = tuple(
        getattr(keras.layers, name)
        for name in NOT_COMPILED
        if hasattr(keras.layers, name)
    )
    if compiled and isinstance(layer, kinds):
        return "XLA can't compile it"
    return None


def identity_in_inference(layer: keras.layers.Layer) -> bool:
    """Whether a layer augments in training and else leaves pictures alone.

    True of Keras's own and ours, but for those that may change the size.
    """
    kinds = [
        affine.RandomAffine,
        affine.RandomResizedCrop,
        colour.RandomColor,
        erasing.RandomErase,
        policy.RandomPolicy,
    ]
    kinds += [
        getattr(keras.layers, name)
        for name in _KERAS_LAYERS
        if name not in ("CenterCrop", "RandomCrop")
        and hasattr(keras.layers, name)
    ]
    return type(layer) in kinds


def augment_in_pipeline(
    layers: Sequence[keras.layers.Layer], seed: int, image_size: int
) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Makes the function that augments one picture, for `Dataset.map`.

    What it makes of a picture is determined by the seed and the picture's
    position; it may run in parallel, anywhere, from any position on.

    Args:
        layers: Keras's and KerasCV's, in order.
        seed: of the run.
        image_size: side S of the images in pixels.

    Returns:
        A function of `{"image": uint8 [S, S, 3], 0..255, "position": int64,
        ...}`; it replaces the image by another such.

    Raises:
        UserError: a layer changes the image's size.
    """
    if not layers:
        return lambda example: example
    augment = _traced(layers, seed, image_size)
    return lambda example: {
        **example,
        "image": augment(example["image"], example["position"]),
    }


def augment_one_by_one(
    layers: Sequence[keras.layers.Layer], seed: int, image_size: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Makes the function that augments a batch's pictures, each for itself.

    Args:
        layers, seed, image_size: as for `augment_in_pipeline`.

    Returns:
        From uint8 `[b, S, S, 3]` and positions, int64 `[b]`, to another such
        batch; what a picture gets hangs on its position alone.

    Raises:
        UserError: as for `augment_in_pipeline`.
    """
    augment = augment_in_pipeline(layers, seed, image_size)

    def one(picture):
        image, position = picture
        return augment({"image": image, "position": position})["image"]

    return tf.function(
        lambda images, positions: tf.map_fn(
            one,
            (images, positions),
            parallel_iterations=_PARALLEL,
            fn_output_signature=tf.TensorSpec(images.shape[1:], tf.uint8),
        ),
        autograph=False,
        reduce_retracing=True,
    )


def exactly_resumable(layer: keras.layers.Layer, image_size: int) -> bool:
    """Whether what a layer draws in the pipeline is a function of position.

    All that have a name here are so. One of somebody else's may draw from an
    operation that keeps its state to itself.
    """
    ours = ("keras.", "keras_cv.", "framework.model.")
    if all(
        type(part).__module__.startswith(ours)
        for part in layer._flatten_layers()
    ):
        return True  # Tested, and some take seconds to trace.
    graph = _traced([layer], 0, image_size).graph.as_graph_def()
    functions = [f.node_def for f in graph.library.function]
    return not any(
        node.op in _STATEFUL
        for nodes in (graph.node, *functions)
        for node in nodes
    )


# Operations that draw from a state of their own, or read one.
_STATEFUL = frozenset(
    (
        "EagerPyFunc",
        "Multinomial",
        "ParameterizedTruncatedNormal",
        "PyFunc",
        "RandomGammaV3",
        "RandomGamma",
        "RandomPoissonV2",
        "RandomShuffle",
        "RandomStandardNormal",
        "RandomUniform",
        "RandomUniformInt",
        "ReadVariableOp",
        "RngReadAndSkip",
        "StatefulRandomBinomial",
        "TruncatedNormal",
    )
)


def _traced(
    layers: Sequence[keras.layers.Layer], seed: int, image_size: int
) -> Any:
    """The concrete function of an image and its position, both as above."""
    shapes = []
    for layer in layers:
        for part in layer._flatten_layers():
            # Under mixed precision too: pixels 0..255 need it, and CPUs lack
            # some of these operations in others.
            part.dtype_policy = keras.DTypePolicy("float32")

    def augment(image, position):
        pixels = tf.cast(image, tf.float32)
        for number, layer in enumerate(layers):
            pixels = _keyed(layer, pixels, seed, number, position)
            shapes.append(pixels.shape)
        pixels = tf.clip_by_value(tf.round(tf.cast(pixels, tf.float32)), 0, 255)
        return tf.cast(pixels, tf.uint8)

    signature = (
        tf.TensorSpec((image_size, image_size, 3), tf.uint8),
        tf.TensorSpec([], tf.int64),
    )
    # Traced in vain first: on their first call layers with others inside run
    # once more, to build these, which shifts what is drawn after that.
    tf.function(augment).get_concrete_function(*signature)
    # Not where it happens: AutoGraph makes any error one of its own.
    for layer, shape in zip(layers, shapes, strict=True):
        if shape != signature[0].shape:
            raise UserError(
                f"{type(layer).__name__} in classifier.augmentation makes "
                f"{signature[0].shape} pixels {shape}; expected a layer that "
                "keeps the image's size."
            )
    # A function of its own, since KerasCV needs AutoGraph, which it would not
    # get inside of `Dataset.interleave`.
    return tf.function(augment).get_concrete_function(*signature)


def _keyed(
    layer: keras.layers.Layer,
    image: tf.Tensor,
    seed: int,
    number: int,
    position: tf.Tensor,
) -> tf.Tensor:
    """Applies the layer; its draws are keyed by what else is given.

    Keras and KerasCV draw from variables and from operations with a state.
    While the layer is traced, both are replaced by operations without one.
    """
    own = getattr(layer, "seed", None)
    text = f"{seed}:{number}:{own if isinstance(own, int) else None}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    key = tf.random.stateless_uniform(
        [2],
        tf.stack([int.from_bytes(digest, "little", signed=True), position]),
        minval=None,
        maxval=None,
        dtype=tf.int32,
    )
    with _drawing_from(_Draws(key)), _python_seed(digest):
        # Layers treat a picture without a batch each in their own way; a
        # batch of one all treat alike.
        return layer(image[tf.newaxis], training=True)[0]


def _gaussian(stateless: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A method of `_Draws`, called as `tf.random.normal` is."""

    def draw(
        self,
        shape,
        mean=0.0,
        stddev=1.0,
        dtype=tf.float32,
        seed=None,
        name=None,
    ):
        return stateless(shape, self.seed(), mean, stddev, dtype)

    return draw


class _Draws:
    """Seeds for the draws of one picture, another for each draw.

    Args:
        key: int32 `[2]`, well mixed.
    """

    def __init__(self, key: tf.Tensor):
        self._key = key
        self._count = 0

    def seed(self) -> tf.Tensor:
        """int32 `[2]`."""
        self._count += 1
        # Spread, so that two pictures' keys have no seed in common but by
        # chance; the rest TensorFlow's operations do.
        step = self._count * 0x9E3779B1 & 0xFFFFFFFF
        return self._key + tf.constant([0, step - (step >> 31 << 32)])

    def uniform(
        self,
        shape,
        minval=0,
        maxval=None,
        dtype=tf.float32,
        seed=None,
        name=None,
    ):
        return tf.random.stateless_uniform(
            shape, self.seed(), minval, maxval, dtype
        )

    normal = _gaussian(tf.random.stateless_normal)
    truncated_normal = _gaussian(tf.random.stateless_truncated_normal)

    def gamma(
        self, shape, alpha, beta=None, dtype=tf.float32, seed=None, name=None
    ):
        alpha = tf.convert_to_tensor(alpha, dtype)
        beta = tf.convert_to_tensor(1 if beta is None else beta, dtype)
        # Without a state the whole shape is asked for.
        shape = tf.concat([shape, tf.shape(alpha + beta)], 0)
        shape = tf.cast(shape, tf.int32)
        return tf.random.stateless_gamma(shape, self.seed(), alpha, beta, dtype)

    def shuffle(self, value, seed=None, name=None):
        return tf.random.experimental.stateless_shuffle(value, self.seed())

    def categorical(
        self, logits, num_samples, dtype=None, seed=None, name=None
    ):
        return tf.random.stateless_categorical(
            logits, num_samples, self.seed(), dtype or tf.int64
        )


@contextlib.contextmanager
def _drawing_from(draws: _Draws) -> Iterator[None]:
    """Has Keras and KerasCV take `draws` for their own sources of chance."""
    of_tensorflow = (
        "uniform",
        "normal",
        "truncated_normal",
        "gamma",
        "shuffle",
        "categorical",
    )

    def as_method(draw):
        return lambda generator, *args, **kwargs: draw(*args, **kwargs)

    replaced: list[tuple[Any, str, Any]] = [
        *((tf.random, name, getattr(draws, name)) for name in of_tensorflow),
        *(
            (tf.random.Generator, name, as_method(getattr(draws, name)))
            for name in ("uniform", "normal", "truncated_normal")
        ),
        (
            keras.random.SeedGenerator,
            "next",
            lambda generator, ordered=True: draws.seed(),
        ),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, draw in replaced:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, draw)
        yield


@contextlib.contextmanager
def _python_seed(seed: bytes) -> Iterator[None]:
    """Seeds Python's `random`, which Keras's AugMix draws its chains from."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
