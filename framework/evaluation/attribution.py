"""Turns a classifier and a picture into a map of what spoke for a class."""

import itertools
import warnings
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from framework.evaluation.chain import Chain

# Below this rank correlation Grad-CAM and occlusion count as disagreeing. It is
# no proof of agreement: objects are in the middle, and of Grad-CAM maps paired
# with the occlusion of *another* photograph 22 in 100 pass (at 0.3: 41).
LEAST_AGREEMENT = 0.5
# Places on a side where a patch is put, and the least pixels between them.
_PLACES = 7
_LEAST_STEP = 4


def grad_cam(
    chain: Chain, pixels: np.ndarray, classes: Sequence[int]
) -> np.ndarray:
    """Where the last feature map speaks for a class, coarsely.

    The channels are weighted with the mean gradient of the class's logit and
    added up; what speaks against the class is cut off: Selvaraju et al. 2017,
    https://arxiv.org/abs/1610.02391, equations 1 and 2.

    Args:
        chain: of the classifier.
        pixels: uint8 `[B, S, S, 3]`, 0..255.
        classes: whose logit it is about, one a picture.

    Returns:
        float32 `[B, h, w]` of the feature map's size, 0..1: each map is
        divided by its largest value. All 0 where nothing speaks for the class.
    """
    features = chain.features(pixels)  # [B, h, w, C]
    with tf.GradientTape() as tape:
        tape.watch(features)
        logits = chain.head(features)
        # In inference mode pictures don't depend on each other.
        picked = tf.gather(logits, tf.constant(classes), axis=1, batch_dims=1)
    slopes = tape.gradient(picked, features)
    weights = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)
    maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))
    largest = tf.reduce_max(maps, axis=(1, 2), keepdims=True)
    return tf.math.divide_no_nan(maps, largest).numpy()


def why_not_grad_cam(chain: Chain) -> str:
    """Why Grad-CAM is known to mislead with a head; "" where it is not.

    It gives a channel one weight, wherever in the picture. That is what a head
    with average pooling does too. Where it is not, places may be shown that the
    model did not use: Draelos and Carin 2020,
    https://arxiv.org/abs/2011.08891.
    """
    pooling = chain.pooling
    if isinstance(pooling, keras.layers.GlobalAveragePooling2D):
        return ""
    if isinstance(pooling, keras.layers.Flatten):
        return (
            "The head flattens the feature map and weighs each place by "
            "itself; Grad-CAM takes one weight for all places."
        )
    if isinstance(pooling, keras.layers.GlobalMaxPooling2D):
        return (
            "The head takes each channel's largest value and no other place; "
            "Grad-CAM shows all places where the channel is active."
        )
    return (
        f"The head begins with a layer of the class {type(pooling).__name__}; "
        "Grad-CAM is made for heads that average over all places."
    )


def occlusion(chain: Chain, pixels: np.ndarray) -> np.ndarray:
    """By how much the logits fall when a part of a picture is covered.

    A patch of the picture's mean colour is put on one place after another:
    Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901, section 4.2. It
    knows nothing of how the model is built, and so is a check of what does.

    Args:
        chain: of the classifier.
        pixels: uint8 `[S, S, 3]`, 0..255: one picture.

    Returns:
        float32 `[n, n, num_classes]`, what the logit of each class loses by
        the patch in each place. n is 7, or less where pictures are small.
    """
    patches = list(_patches(chain.image_size))
    covered = np.repeat(pixels[None], len(patches) + 1, axis=0)
    colour = pixels.mean((0, 1)).round()
    for picture, (rows, columns) in zip(covered, patches, strict=False):
        picture[rows, columns] = colour
    logits = chain.logits(covered)  # The last one is as it was.
    side = places(chain.image_size)
    return (logits[-1] - logits[:-1]).reshape(side, side, -1)


def places(image_size: int) -> int:
    """How many places a patch is put on, on each side."""
    return max(1, min(_PLACES, image_size // _LEAST_STEP))


def agreement(
    heat: np.ndarray, drops: np.ndarray, image_size: int
) -> float | None:
    """How much Grad-CAM and occlusion agree on where it matters.

    Args:
        heat: `[h, w]`, of `grad_cam`.
        drops: `[n, n]`, of `occlusion`, for the same class.
        image_size: side of the picture in pixels.

    Returns:
        Spearman's rank correlation, -1..1, of the drop with the mean heat
        under each patch; None where either is the same everywhere. A logit that
        rises counts as one that stays, since Grad-CAM cuts that off too.
    """
    whole = enlarged(heat, image_size)
    means = [whole[patch].mean() for patch in _patches(image_size)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        correlation = stats.spearmanr(
            means, np.maximum(drops, 0).ravel()
        ).statistic
    return None if np.isnan(correlation) else float(correlation)


def enlarged(heat: np.ndarray, size: int) -> np.ndarray:
    """A map `[h, w]`, bilinearly, to `[size, size]`."""
    return tf.image.resize(heat[..., None], [size, size])[..., 0].numpy()


def _patches(image_size: int) -> list[tuple[slice, slice]]:
    """Rows and columns that a patch covers, row by row.

    It is three steps wide. What hides less changes so little that noise ranks
    the places: of photographs of cats and dogs at 160 pixels, 6 in 10 have
    Grad-CAM and occlusion disagree with two steps, 2 in 10 with three.
    """
    count = places(image_size)
    step = image_size / count
    ranges = [
        slice(
            max(0, round((place - 1) * step)),
            min(image_size, round((place + 2) * step)),
        )
        for place in range(count)
    ]
    return list(itertools.product(ranges, ranges))
