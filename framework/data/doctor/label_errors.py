"""Turns pictures and their labels into labels that are probably wrong.

Confident learning: a classifier on pretrained features predicts every picture
without having seen it, and what it thinks of each class on average says from
which probability on it counts as sure. Northcutt, Jiang & Chuang, Confident
Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021,
https://arxiv.org/abs/1911.00068; the library is cleanlab.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from framework.data.pipeline import Pipeline
from framework.data.source import Examples, IndexedExamples
from framework.model.backbones import Backbone
from framework.registry import BACKBONES

# So many principal components find as many errors as all 1280 features do, in
# a tenth of the time.
_COMPONENTS = 256

# Told how many examples are behind, and of how many.
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Suspect:
    """An example that a classifier which has not seen it takes for another.

    Attributes:
        index: which one.
        suggested: the class it looks like.
        probability: of that class, 0..1.
        score: the probability of the class it is labelled with, 0..1: the
            lower, the more suspect.
        decided: whether confident learning counts the label as wrong. It
            errs on the side of saying too little.
    """

    index: int
    suggested: int
    probability: float
    score: float
    decided: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """What a backbone makes of all readable examples.

    Attributes:
        values: float32 `[N, D]`.
        labels: int64 `[N]`.
        indices: int64 `[N]`, ascending: which examples these are, counted
            through all splits. Those that do not decode are missing.
    """

    values: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


@dataclasses.dataclass(frozen=True)
class LabelChecker:
    """Looks for wrong labels among the examples of all splits together.

    Attributes:
        most: of how many examples to check the labels at most; of more, so
            many are drawn at random (of streamed splits the first are taken,
            which TFDS has shuffled).
        backbone: its name in the registry.
        weights: of the backbone; see there.
        image_size: side of the backbone's input in pixels.
        folds: in how many parts the examples are predicted, each by what was
            learned from the others.
        seed: of the folds and of what is drawn.
    """

    most: int = 20_000
    backbone: str = "efficientnet_lite0"
    weights: str | None = "imagenet"
    image_size: int = 224
    folds: int = 5
    seed: int = 0

    def check(
        self,
        splits: Mapping[str, Examples],
        class_names: Sequence[str],
        groups: np.ndarray,
        pipeline: Pipeline,
        progress: Progress = lambda done, total: None,
    ) -> tuple[list[Suspect], list[str]]:
        """Finds suspects.

        Args:
            splits: the examples by split.
            class_names: in the order of the labels.
            groups: integers `[N]`, counted through all splits: examples of
                one number are predicted together.
            pipeline: decodes and resizes.
            progress: called as pictures pass through the backbone.

        Returns:
            the suspects, the worst first, and what was left out, in
            sentences. Twice as many as confident learning counts, since it
            misses up to a third of those that the ranking has next.
        """
        remarks = []
        total = sum(map(len, splits.values()))
        share = min(1.0, self.most / max(total, 1))
        drawn, positions, start = {}, [np.zeros(0, np.int64)], 0
        for name, examples in splits.items():
            drawn[name], chosen = _draw(examples, share, self.seed)
            positions.append(start + chosen)
            start += len(examples)
        if share < 1:
            checked = sum(map(len, drawn.values()))
            remarks.append(
                f"Labels were checked of {checked:,} examples out of "
                f"{total:,} (doctor.most_labels)."
            )
        found = features(
            drawn,
            pipeline,
            self.image_size,
            self.backbone,
            self.weights,
            progress=progress,
        )
        indices = np.concatenate(positions)[found.indices]
        groups = groups[indices]
        small = too_small(found.labels, len(class_names), groups, self.folds)
        if len(np.setdiff1d(found.labels, small)) < 2:
            remarks.append(
                f"Labels were not checked: fewer than two classes have "
                f"{self.folds} readable pictures that differ."
            )
        elif len(small):
            names = ", ".join(class_names[label] for label in small)
            remarks.append(
                f"Labels were not checked in classes of fewer than "
                f"{self.folds} readable pictures that differ: {names}."
            )
        ranked = suspects(
            found.values,
            found.labels,
            len(class_names),
            groups,
            self.folds,
            self.seed,
        )
        most = 2 * sum(suspect.decided for suspect in ranked)
        return [
            dataclasses.replace(suspect, index=int(indices[suspect.index]))
            for suspect in ranked[:most]
        ], remarks


def features(
    splits: Mapping[str, Examples],
    pipeline: Pipeline,
    image_size: int = 224,
    backbone: str = "efficientnet_lite0",
    weights: str | None = "imagenet",
    batch_size: int = 32,
    progress: Progress = lambda done, total: None,
) -> Features:
    """Passes all examples through a backbone and averages over the map.

    Args:
        splits: the examples by split.
        pipeline: decodes and resizes, as in training.
        image_size: side of the backbone's input in pixels.
        backbone: its name in the registry.
        weights: of the backbone; see there.
        batch_size: hardly matters on a processor, where 8 is as fast as 128.
        progress: called after every batch.

    Raises:
        UserError: there is no such backbone, or its weights can't be had.
    """
    built = BACKBONES[backbone](image_size=image_size, weights=weights)
    extract = _extractor(built, image_size)
    total = sum(map(len, splits.values()))
    values = [np.zeros((0, built.model.output_shape[-1]), np.float32)]
    labels, indices = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    start = 0
    for examples in splits.values():
        if not len(examples):
            continue
        for batch in pipeline.evaluation(examples, image_size, batch_size):
            (read,) = np.nonzero(batch["weight"].numpy())
            values.append(extract(batch["image"]).numpy()[read])
            labels.append(batch["label"].numpy()[read])
            position = batch["position"].numpy()
            indices.append(start + position[read])
            progress(min(start + int(position[-1]) + 1, total), total)
        start += len(examples)
    return Features(
        np.concatenate(values), np.concatenate(labels), np.concatenate(indices)
    )


def _extractor(
    backbone: Backbone, image_size: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    """uint8 `[B, S, S, 3]` -> float32 `[B, C]`."""
    inputs = keras.Input((image_size, image_size, 3), dtype="uint8")
    x = backbone.prepare(keras.ops.cast(inputs, "float32"))
    x = keras.layers.GlobalAveragePooling2D(dtype="float32")(backbone.model(x))
    model = keras.Model(inputs, x)
    # Not compiled by XLA, which on a processor takes ten times as long.
    return tf.function(lambda images: model(images, training=False))


def _draw(
    examples: Examples, share: float, seed: int
) -> tuple[Examples, np.ndarray]:
    """A share of a split, and which of its examples these are, ascending."""
    if share == 1:
        return examples, np.arange(len(examples))
    if not isinstance(examples, IndexedExamples):
        part = examples.slice(0.0, share)
        return part, np.arange(len(part))
    count = round(share * len(examples))
    chosen = np.random.default_rng(seed).permutation(len(examples))[:count]
    chosen.sort()
    return examples.select(chosen), chosen


def suspects(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
) -> list[Suspect]:
    """Ranks the examples that look like another class than their own.

    A logistic regression on standardised features, of which the principal
    components are taken, predicts each fold from the others. The result
    depends on the arguments alone.

    Args:
        features: float `[N, D]`.
        labels: integers `[N]`, 0..num_classes-1.
        num_classes: how many classes there are.
        groups: integers `[N]`; examples of one number are predicted together,
            so that no copy of a picture gives its label away. None where all
            may be parted.
        folds: at least 2.
        seed: of who is predicted with whom.

    Returns:
        Those whose predicted class is not their label, the most suspect
        first. Classes that `too_small` names are neither judged nor
        suggested; of fewer than two others there is nothing to tell.
    """
    # These bring pandas and more, which few other modes need.
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    from threadpoolctl import threadpool_limits

    small = too_small(labels, num_classes, groups, folds)
    (judged,) = np.nonzero(~np.isin(labels, small))
    classes, y = np.unique(labels[judged], return_inverse=True)
    if len(classes) < 2:
        return []
    if groups is None:
        split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    else:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        groups = groups[judged]
    probabilities = np.zeros((len(y), len(classes)))
    # On one thread, since several wait for each other at so small products:
    # on a busy machine that takes ten times as long.
    with threadpool_limits(1):
        x = _components(features[judged])
        for train, test in split.split(x, y, groups):
            if len(np.unique(y[train])) < len(classes):
                continue  # One large group held all of a class.
            # So strong that logits are of the order of 1 before anything is
            # learned, whatever the number of features. Ten times weaker, it
            # learns from wrong labels; ten times stronger, it is never sure.
            model = LogisticRegression(C=1 / features.shape[1], max_iter=1000)
            model.fit(x[train], y[train])
            probabilities[test] = model.predict_proba(x[test])
    (told,) = np.nonzero(probabilities.any(axis=1))
    if not len(told):
        return []
    judged, y, probabilities = judged[told], y[told], probabilities[told]
    predicted = probabilities.argmax(axis=1)
    # Of the library's rankings the one that did best with many classes (with
    # two they are the same); of its filters the one that accuses the fewest
    # wrongly. With more than one job it would fork under TensorFlow.
    scores = get_label_quality_scores(
        y, probabilities, method="self_confidence"
    )
    with warnings.catch_warnings():
        # It warns of classes of which nothing is left to judge.
        warnings.simplefilter("ignore")
        decided = find_label_issues(
            y, probabilities, filter_by="both", n_jobs=1
        )
    (listed,) = np.nonzero(predicted != y)
    return [
        Suspect(
            index=int(judged[at]),
            suggested=int(classes[predicted[at]]),
            probability=float(probabilities[at, predicted[at]]),
            score=float(scores[at]),
            decided=bool(decided[at]),
        )
        for at in listed[np.argsort(scores[listed], kind="stable")]
    ]


def too_small(
    labels: np.ndarray,
    num_classes: int,
    groups: np.ndarray | None = None,
    folds: int = 5,
) -> np.ndarray:
    """The classes of which not every fold can have an example.

    Args:
        labels: integers `[N]`, 0..num_classes-1.
        num_classes: how many classes there are.
        groups: integers `[N]`, or None; of a group a class counts once.
        folds: how many.

    Returns:
        int64, ascending. Classes without any example are not among them.
    """
    if groups is None:
        groups = np.arange(len(labels))
    units = np.unique(np.stack([labels, groups]), axis=1)[0]
    count = np.bincount(units, minlength=num_classes)
    return np.flatnonzero((count > 0) & (count < folds))


def _components(features: np.ndarray) -> np.ndarray:
    """Standardised, and the largest principal components: float64 `[N, d]`."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    # No label is looked at, so that folds need not be kept apart here.
    x = StandardScaler().fit_transform(features)
    if min(x.shape) > _COMPONENTS:
        x = PCA(_COMPONENTS, svd_solver="covariance_eigh").fit_transform(x)
    return x.astype(np.float64)
