"""Turns a trained classifier and pictures into what shows how it sees them.

`seen.html.j2` prints it, in a run's report and in that of `--mode=explain`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from framework.errors import UserError
from framework.evaluation import attribution, tiles
from framework.evaluation.attribution import LEAST_AGREEMENT
from framework.evaluation.chain import Chain, Stage

# The label of a picture of which nobody says what it is.
UNKNOWN = -1
# Pictures on the map of embeddings.
MOST_ON_MAP = 150
# With fewer, t-SNE has no neighbourhoods to keep, and no map is worth a look.
_LEAST_FOR_TSNE = 30
_LEAST_ON_MAP = 6
_COMPONENTS = 50
_GREY = (150, 150, 150)
_MOST_PROBABILITIES = 3
_MOST_FILTERS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Heat:
    """What spoke for one class in a picture.

    Attributes:
        class_name: which.
        role: what the class is to the picture: "predicted", "true", or
            "predicted and true".
        grad_cam: JPEG of the picture with the map on it.
        occlusion: the same of the occlusion map, or None where Grad-CAM can be
            trusted.
        correlation: Spearman's, of the two maps; None where it has no value.
        largest_drop: by how much the class's logit falls at most when a part
            of the picture is covered; 0 where it only rises.
        remark: why Grad-CAM is not to be trusted here; "" where it is.
    """

    class_name: str
    role: str
    grad_cam: bytes
    occlusion: bytes | None
    correlation: float | None
    largest_drop: float
    remark: str


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One picture, what it was taken for, and why.

    Attributes:
        id: of the example.
        picture: JPEG, as the model gets it.
        label: the true class's name; None where it is not known.
        predicted: the name of the class with the highest probability.
        right: whether the two are the same; None where it is not known.
        probabilities: the highest ones, with the classes' names.
        heats: of the predicted class, and of the true one if it is another.
    """

    id: str
    picture: bytes
    label: str | None
    predicted: str
    right: bool | None
    probabilities: tuple[tuple[str, float], ...]
    heats: tuple[Heat, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """A feature map, a channel a tile.

    Attributes:
        stage: which layer's.
        shown: how many of its channels are shown.
        picture: PNG.
    """

    stage: Stage
    shown: int
    picture: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """The feature maps of one picture, layer by layer.

    Attributes:
        id: of the example.
        picture: JPEG, as the model gets it.
        layers: in the order of computation, or as they were asked for.
    """

    id: str
    picture: bytes
    layers: tuple[Channels, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Filters:
    """The filters of the first convolution.

    Attributes:
        layer: its name.
        height: of a filter, in pixels.
        width: likewise.
        count: how many there are.
        shown: how many of them are shown.
        picture: PNG.
    """

    layer: str
    height: int
    width: int
    count: int
    shown: int
    picture: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Key:
    """An entry of the legend of the map.

    Attributes:
        number: of the class, from 1.
        class_name: its name.
        colour: "#rrggbb" of its border; None where there are more classes than
            colours, and pictures bear the number.
        examples: how many pictures of it are on the map.
    """

    number: int
    class_name: str
    colour: str | None
    examples: int


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """Pictures laid out so that those lie near that the model finds alike.

    Attributes:
        picture: JPEG.
        examples: how many are on it.
        wrong: how many of them are classified wrongly, and crossed.
        dimensions: D of the embedding.
        method: "t-SNE" or "PCA".
        by: what is meant by an example's class: the "true" or, where labels
            are not known, the "predicted" one.
        alike: the share of examples whose nearest neighbour, of all D
            dimensions, is of the same class.
        keys: the legend.
    """

    picture: bytes
    examples: int
    wrong: int
    dimensions: int
    method: str
    by: str
    alike: float
    keys: tuple[Key, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """What the section "What it sees" shows; plain values and pictures.

    Attributes:
        examples: explained pictures.
        doubt: why Grad-CAM is known to mislead with this model's head; "" where
            it is not.
        last_map: height and width of the feature map that Grad-CAM is of.
        places: on how many places a side a patch was put.
        least_agreement: the rank correlation below which Grad-CAM is not
            trusted.
        maps: feature maps of the first pictures.
        filters: of the first layer; None where there are none to see.
        embeddings: the map, or None where there are too few pictures or all
            are alike.
    """

    examples: tuple[Example, ...]
    doubt: str
    last_map: tuple[int, int]
    places: int
    least_agreement: float
    maps: tuple[Maps, ...]
    filters: Filters | None
    embeddings: EmbeddingMap | None


def look(
    model: keras.Model,
    probabilities: Callable[[np.ndarray], np.ndarray],
    class_names: Sequence[str],
    pixels: np.ndarray,
    labels: Sequence[int],
    ids: Sequence[str],
    *,
    layers: Sequence[str] = (),
    with_maps: int = 1,
    many: tuple[np.ndarray, Sequence[int]] | None = None,
) -> Seen:
    """Looks at pictures as the model does, and keeps what it takes them for.

    A picture at 160 pixels takes EfficientNet-Lite0 a quarter of a second on
    two processors. The same arguments give the same bytes.

    Args:
        model: the classifier, as a run saves it: uint8 `[B, S, S, 3]`, 0..255,
            to outputs `[B, units]`. It stays as it is.
        probabilities: what reads its outputs, `Head.probabilities`: maps
            outputs `[N, units]` to probabilities `[N, num_classes]`, both numpy
            arrays; `reader(model)` where there is no head.
        class_names: in the order of the labels.
        pixels: uint8 `[N, S, S, 3]`, of the pictures to explain, a dozen or
            so; right and wrong ones, in the order in which to show them.
        labels: their true classes, or `UNKNOWN`; `[N]`.
        ids: their names, for readers.
        layers: whose feature maps to show; a choice of them by default.
        with_maps: of how many pictures, the first ones, to show feature maps.
        many: pixels `[M, S, S, 3]` and labels `[M]` of the pictures for the map
            of embeddings, of which the first `MOST_ON_MAP` are taken; the
            pictures to explain by default. Choose them at random.

    Raises:
        UserError: the model can't be looked into, or has no layer of a name in
            `layers`.
    """
    chain = Chain(model)
    names = list(layers) or chain.chosen()
    for name in names:
        chain.stage(name)
    judge = functools.partial(_judge, chain, probabilities, class_names)
    scores = judge(pixels)[1]
    doubt = attribution.why_not_grad_cam(chain)
    explain = functools.partial(_explained, chain, class_names, doubt)
    of_many = (pixels, labels) if many is None else many
    on_map = [part[:MOST_ON_MAP] for part in of_many]
    return Seen(
        examples=tuple(
            explain(*row)
            for row in zip(pixels, labels, ids, scores, strict=True)
        ),
        doubt=doubt,
        last_map=chain.last_map,
        places=attribution.places(chain.image_size),
        least_agreement=LEAST_AGREEMENT,
        maps=tuple(
            _maps(chain, names, *row)
            for row in zip(pixels[:with_maps], ids, strict=False)
        ),
        filters=_filters(chain),
        embeddings=_embedding_map(*on_map, *judge(on_map[0]), class_names),
    )


def spread(classes: Sequence[int], most: int) -> np.ndarray:
    """Places of some, the first of each class, then the second ones, ...

    Args:
        classes: of each place `[N]`, in the order of preference.
        most: how many.
    """
    seen: dict[int, int] = {}
    turns = []
    for place, label in enumerate(classes):
        turns.append((seen.get(int(label), 0), place))
        seen[int(label)] = turns[-1][0] + 1
    return np.array([place for _, place in sorted(turns)[:most]], int)


def reader(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """What reads the outputs of a model whose head is not at hand.

    One output is the probability of the second of two classes; several are a
    probability each.
    """
    if model.output_shape[-1] == 1:
        return lambda outputs: np.concatenate([1 - outputs, outputs], axis=-1)
    return lambda outputs: outputs


def _judge(
    chain: Chain,
    probabilities: Callable[[np.ndarray], np.ndarray],
    class_names: Sequence[str],
    pixels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings `[N, D]` and probabilities `[N, num_classes]`."""
    embeddings, outputs = chain.judge(pixels)
    scores = np.asarray(probabilities(outputs))
    if not np.isfinite(scores).all():
        raise UserError(
            "The model answers with what is no number: training has diverged. "
            "Expected a lower learning rate (--mode=lr_find suggests one)."
        )
    if scores.shape[-1] != len(class_names):
        raise UserError(
            f"The model tells {scores.shape[-1]} classes apart, and "
            f"{len(class_names)} names are given; expected one each."
        )
    return embeddings, scores


# Why.


def _explained(
    chain: Chain,
    class_names: Sequence[str],
    doubt: str,
    pixels: np.ndarray,
    label: int,
    name: str,
    scores: np.ndarray,
) -> Example:
    predicted = int(scores.argmax())
    known = label != UNKNOWN
    roles = {predicted: "predicted"}
    if known:
        right = label == predicted
        roles[int(label)] = "predicted and true" if right else "true"
    drops = attribution.occlusion(chain, pixels)
    heats = attribution.grad_cam(
        chain, np.stack([pixels] * len(roles)), list(roles)
    )
    highest = np.argsort(-scores, kind="stable")[:_MOST_PROBABILITIES]
    return Example(
        id=name,
        picture=tiles.picture(pixels),
        label=class_names[label] if known else None,
        predicted=class_names[predicted],
        right=right if known else None,
        probabilities=tuple(
            (class_names[place], float(scores[place])) for place in highest
        ),
        heats=tuple(
            _heat(pixels, heat, drops[..., place], doubt, class_names[place], r)
            for heat, (place, r) in zip(heats, roles.items(), strict=True)
        ),
    )


def _heat(
    pixels: np.ndarray,
    heat: np.ndarray,
    drops: np.ndarray,
    doubt: str,
    class_name: str,
    role: str,
) -> Heat:
    correlation = attribution.agreement(heat, drops, len(pixels))
    remark = _remark(heat, correlation) or doubt
    largest = max(0.0, float(drops.max()))
    shown = np.maximum(drops, 0) / (largest or 1)
    return Heat(
        class_name=class_name,
        role=role,
        grad_cam=tiles.overlay(pixels, heat),
        occlusion=tiles.overlay(pixels, shown) if remark else None,
        correlation=correlation,
        largest_drop=largest,
        remark=remark,
    )


def _remark(heat: np.ndarray, correlation: float | None) -> str:
    if not heat.any():
        return "Grad-CAM is 0 everywhere: it finds nothing for this class."
    if correlation is None:
        return "One of the two maps is the same everywhere."
    if correlation < LEAST_AGREEMENT:
        return (
            f"Grad-CAM and occlusion disagree: their rank correlation is "
            f"{correlation:.2f}, below {LEAST_AGREEMENT}."
        )
    return ""


# What its layers make of a picture.


def _maps(
    chain: Chain, names: Sequence[str], pixels: np.ndarray, name: str
) -> Maps:
    found = chain.feature_maps(names, pixels[None])
    layers = []
    for layer, values in found.items():
        picture, shown = tiles.channels(values[0])
        layers.append(Channels(chain.stage(layer), len(shown), picture))
    return Maps(name, tiles.picture(pixels), tuple(layers))


def _filters(chain: Chain) -> Filters | None:
    found = chain.first_filters()
    if found is None:
        return None
    layer, kernel = found
    height, width, _, count = kernel.shape
    shown = min(count, _MOST_FILTERS)
    picture = tiles.filters(kernel[..., :shown])
    return Filters(layer, height, width, count, shown, picture)


# What it finds alike.


def _embedding_map(
    pixels: np.ndarray,
    labels: Sequence[int],
    embeddings: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
) -> EmbeddingMap | None:
    count = len(pixels)
    # Where all are alike, there is nothing to lay out.
    if count < _LEAST_ON_MAP or not np.ptp(embeddings, 0).any():
        return None
    predicted, labels = scores.argmax(-1), np.asarray(labels)
    known = bool((labels != UNKNOWN).all())
    classes = labels if known else predicted
    points, method = _laid_out(embeddings)
    wrong = (labels != UNKNOWN) & (labels != predicted)
    # A neighbour for each, beside itself.
    near = NearestNeighbors(n_neighbors=1).fit(embeddings)
    near = near.kneighbors(return_distance=False)[:, 0]
    there, groups = np.unique(classes, return_inverse=True)
    # Colours tell only so many apart; the numbers tell the rest.
    coloured = len(there) <= len(tiles.COLOURS)
    colours = tiles.COLOURS if coloured else [_GREY] * len(there)
    return EmbeddingMap(
        picture=tiles.scatter(
            points, pixels, classes + 1, [colours[g] for g in groups], wrong
        ),
        examples=count,
        wrong=int(wrong.sum()),
        dimensions=embeddings.shape[-1],
        method=method,
        by="true" if known else "predicted",
        alike=float((classes[near] == classes).mean()),
        keys=tuple(
            Key(
                number=int(place) + 1,
                class_name=class_names[place],
                colour=f"#{bytes(colour).hex()}" if coloured else None,
                examples=int((classes == place).sum()),
            )
            for place, colour in zip(there, colours, strict=False)
        ),
    )


def _laid_out(embeddings: np.ndarray) -> tuple[np.ndarray, str]:
    """Embeddings `[N, D]` in the plane, `[N, 2]`, and how they came there.

    t-SNE after PCA: van der Maaten and Hinton 2008,
    https://jmlr.org/papers/v9/vandermaaten08a.html.
    """
    count, dimensions = embeddings.shape
    reduced = PCA(
        min(_COMPONENTS, count, dimensions), random_state=0
    ).fit_transform(embeddings.astype(np.float64))
    if dimensions == 1:
        reduced = np.pad(reduced, ((0, 0), (0, 1)))
    if count < _LEAST_FOR_TSNE:
        return reduced[:, :2], "PCA"
    points = TSNE(
        perplexity=min(30, count / 6),
        max_iter=500,  # So few points have come to rest by then.
        method="exact",  # Sums in parallel may differ from time to time.
        random_state=0,
    ).fit_transform(reduced)
    return points, "t-SNE"
