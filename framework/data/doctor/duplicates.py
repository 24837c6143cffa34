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
# How many thumbnails are looked up at a time, and how many pairs are compared:
# bounds on memory, of some 100 MB.
_CHUNK = 512
_PAIRS = 100_000


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
    edges = [np.zeros((2, 0), int)]
    for start in range(0, len(shown), batch):
        found = tree.query_ball_point(
            coordinates[start : start + batch],
            radius,
            return_sorted=False,
            workers=-1,
        )
        first = np.repeat(
            np.arange(start, start + len(found)), [len(f) for f in found]
        )
        second = np.concatenate([np.asarray(f, int) for f in found])
        first, second = first[first < second], second[first < second]
        for begin in range(0, len(first), _PAIRS):
            one = first[begin : begin + _PAIRS]
            other = second[begin : begin + _PAIRS]
            alike = np.einsum(
                "ij,ij->i",
                _normalized(pixels[shown[one]]),
                _normalized(pixels[shown[other]]),
            )
            edges.append(np.stack([one, other])[:, alike >= likeness])
    return [shown[c] for c in components(len(shown), np.concatenate(edges, 1))]


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
