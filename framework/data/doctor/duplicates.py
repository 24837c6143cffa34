"""Turns digests and thumbnails of pictures into clusters of duplicates."""

from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.sparse
import scipy.spatial

# Thumbnails with less contrast than this (standard deviation in levels of 255)
# are all alike: blank pictures, whose noise is compared with noise.
_FLAT = 2.0
# Coordinates of the tree: the coarsest of a thumbnail's frequencies, where
# photographs differ most.
_COORDINATES = 16
# How many thumbnails are looked up, how many pairs of neighbours are held, and
# how many of them are compared at a time: bounds on memory, of some 100 MB.
_CHUNK = 512
_PAIRS = 1_000_000
_COMPARED = 50_000


def exact(digests: Sequence[bytes]) -> list[np.ndarray]:
    """Clusters of equal digests.

    Args:
        digests: `[N]`; an empty one equals none.

    Returns:
        of each cluster the indices, ascending; clusters by their first.
    """
    places: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        if digest:
            places.setdefault(digest, []).append(index)
    return [np.array(p) for p in places.values() if len(p) > 1]


def near(
    thumbnails: np.ndarray, likeness: float, batch: int = _CHUNK
) -> list[np.ndarray]:
    """Clusters of pictures that look the same.

    Two pictures do whose thumbnails, brightness and contrast aside, correlate
    by `likeness` or more. What looks like the same third picture is in one
    cluster, so that the ends of a long one may differ. All pairs are found:
    the tree compares few of the thumbnails' frequencies (an orthonormal
    discrete cosine transform), in which two are never further apart than they
    are in all of them.

    Args:
        thumbnails: uint8 `[N, S, S]`.
        likeness: a correlation, 0 < likeness < 1.
        batch: how many are looked up at a time.

    Returns:
        of each cluster the indices, ascending; clusters by their first.
    """
    size = thumbnails.shape[-1]
    pixels = thumbnails.reshape(-1, size * size)
    (shown,) = np.nonzero(pixels.std(axis=1) >= _FLAT)
    if len(shown) < 2:
        return []
    coordinates = np.concatenate(
        [
            _coarse(_normalized(pixels[part]), size)
            for part in np.array_split(shown, -(-len(shown) // batch))
        ]
    )
    tree = scipy.spatial.cKDTree(coordinates)
    # Of vectors of length 1: |a - b|^2 = 2 - 2 a.b; and what rounding takes.
    radius = np.sqrt(2 * (1 - likeness)) + 1e-4
    # By picture: the cluster found so far. Pairs inside of one are not compared
    # again, so that a thousand frames of one scene cost no million comparisons.
    cluster = np.arange(len(shown))
    for start in range(0, len(shown), batch):
        rows = np.arange(start, min(start + batch, len(shown)))
        count = tree.query_ball_point(
            coordinates[rows], radius, return_length=True, workers=-1
        )
        # Itself each of them finds.
        rows, count = rows[count > 1], count[count > 1]
        if not len(rows):
            continue
        parts = np.cumsum(count) // _PAIRS
        for part in np.split(rows, np.flatnonzero(np.diff(parts)) + 1):
            pairs = _alike(tree, coordinates, radius, part, cluster)
            one, other = shown[pairs]
            alike = _correlation(pixels, one, other) >= likeness
            if alike.any():
                cluster = _merged(cluster, pairs[:, alike])
    own = np.arange(len(shown))
    return [shown[c] for c in components(len(shown), np.stack([cluster, own]))]


def _alike(
    tree: scipy.spatial.cKDTree,
    coordinates: np.ndarray,
    radius: float,
    rows: np.ndarray,
    cluster: np.ndarray,
) -> np.ndarray:
    """`[2, E]` pairs that may be alike, of different clusters so far."""
    found = tree.query_ball_point(
        coordinates[rows], radius, return_sorted=False, workers=-1
    )
    first = np.repeat(rows, [len(f) for f in found])
    second = np.concatenate([np.asarray(f, int) for f in found])
    new = (first < second) & (cluster[first] != cluster[second])
    return np.stack([first[new], second[new]])


def _correlation(
    pixels: np.ndarray, one: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """`[E]`, of uint8 `[N, S * S]`, between `one` and `other`."""
    return np.concatenate(
        [
            np.einsum(
                "ij,ij->i",
                _normalized(pixels[one[at : at + _COMPARED]]),
                _normalized(pixels[other[at : at + _COMPARED]]),
            )
            for at in range(0, max(len(one), 1), _COMPARED)
        ]
    )


def _merged(cluster: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The clusters, by picture, when these pairs are in one each."""
    edges = np.concatenate([pairs, [cluster, np.arange(len(cluster))]], axis=1)
    graph = scipy.sparse.coo_matrix(
        (np.ones(edges.shape[1], bool), tuple(edges)), (len(cluster),) * 2
    )
    _, part = scipy.sparse.csgraph.connected_components(graph, directed=False)
    # Named by its first picture, as at the beginning.
    first = np.full(part.max() + 1, len(cluster))
    np.minimum.at(first, part, np.arange(len(cluster)))
    return first[part]


def components(count: int, pairs: np.ndarray) -> list[np.ndarray]:
    """The connected parts, of two and more, of a graph.

    Args:
        count: of the nodes.
        pairs: `[2, E]` nodes that belong together.

    Returns:
        of each part the nodes, ascending; parts by their first.
    """
    graph = scipy.sparse.coo_matrix(
        (np.ones(pairs.shape[1], bool), tuple(pairs)), (count, count)
    )
    _, part = scipy.sparse.csgraph.connected_components(graph, directed=False)
    order = np.argsort(part, kind="stable")
    ends = np.cumsum(np.bincount(part))[:-1]
    found = [nodes for nodes in np.split(order, ends) if len(nodes) > 1]
    return sorted(found, key=lambda nodes: nodes[0])


def _normalized(pixels: np.ndarray) -> np.ndarray:
    """uint8 `[n, S * S]` -> float32, each of mean 0 and length 1."""
    values = pixels.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _coarse(values: np.ndarray, size: int) -> np.ndarray:
    """float32 `[n, S * S]` -> `[n, _COORDINATES]`."""
    frequencies = scipy.fft.dctn(
        values.reshape(-1, size, size), axes=(1, 2), norm="ortho"
    )
    rows, columns = np.divmod(np.arange(size * size), size)
    # By frequency, but for the mean, which is 0 for all.
    order = np.argsort(rows + columns, kind="stable")[1 : 1 + _COORDINATES]
    return frequencies.reshape(-1, size * size)[:, order]
