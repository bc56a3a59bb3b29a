"""Exact k nearest neighbours for any number of shards.  candidates of each shard -> the k nearest of all

A float32 index finds candidates; float64 distances decide. Squared L2 throughout, ties by corpus row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lai_ray.contracts import Neighbours
from lai_ray.errors import DataError

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Distances = npt.NDArray[np.float64]
Search = Callable[[Vectors, int], tuple[npt.NDArray[np.float32], Rows]]
"""(queries, w) -> squared distances and rows of about the w nearest, each (n_queries, w), ascending."""

MARGIN = 2
"""Candidates beyond k in a shard's first search."""
BLOCK = 1 << 15
"""Numbers in one block of float64 differences: a quarter of a MiB, which fits in the processor's cache."""


def checked(queries: npt.NDArray[np.floating], corpus: npt.NDArray[np.floating], k: int) -> tuple[Vectors, Vectors]:
    """Both as contiguous float32 of one width. Raises DataError for other shapes or a NaN, ValueError for k < 1."""
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    for name, vectors in (("queries", queries), ("corpus", corpus)):
        if vectors.ndim != 2:
            raise DataError(f"the {name} have shape {vectors.shape}; embeddings are (n, dim)")
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise DataError(f"row {bad} of the {name} is not finite: the encoder gave NaN or infinity for it")
    if len(queries) and len(corpus) and queries.shape[1] != corpus.shape[1]:
        raise DataError(f"queries are {queries.shape[1]} wide and the corpus {corpus.shape[1]}: two encoders?")
    return np.ascontiguousarray(queries, dtype=np.float32), np.ascontiguousarray(corpus, dtype=np.float32)


def exact(queries: Vectors, corpus: Vectors, rows: Rows) -> Distances:
    """Squared L2 distances of each query to its candidate rows, (n_queries, w), in float64.

    A pair has the same distance in any shard and any block: each is summed by itself.
    """
    n, width = rows.shape
    distances = np.empty((n, width), dtype=np.float64)
    step = max(1, BLOCK // max(1, width * corpus.shape[1]))
    for i in range(0, n, step):
        part = slice(i, i + step)
        differences = np.subtract(corpus[rows[part]], queries[part, None, :], dtype=np.float64)
        distances[part] = np.square(differences, out=differences).sum(axis=2)
    return distances


def best(candidates: Neighbours, k: int) -> Neighbours:
    """The first k of each query's candidates by (distance, row)."""
    order = np.lexsort((candidates.ids, candidates.distances), axis=-1)[:, :k]
    return Neighbours(
        np.take_along_axis(candidates.ids, order, axis=1), np.take_along_axis(candidates.distances, order, axis=1)
    )


def merge(parts: Sequence[Neighbours], k: int) -> Neighbours:
    """The k nearest of all, from each shard's k nearest (ids are rows of the whole corpus). Distances as float32."""
    joined = Neighbours(
        np.concatenate([part.ids for part in parts], axis=1),
        np.concatenate([part.distances for part in parts], axis=1),
    )
    nearest = best(joined, k)
    return Neighbours(nearest.ids, nearest.distances.astype(np.float32))


def longest(corpus: Vectors) -> float:
    """The length of the longest row; 0 for no rows."""
    return float(np.sqrt(np.einsum("ij,ij->i", corpus, corpus, dtype=np.float64).max(initial=0.0)))


def nearest_in(queries: Vectors, corpus: Vectors, k: int, search: Search, length: float | None = None) -> Neighbours:
    """The k nearest rows of one shard with their float64 distances; k above its rows is clamped.

    `search` may err by float32 rounding and break ties in any way: a query's list is widened until its last candidate
    is farther than the k-th nearest by more than that rounding, so no neighbour can be missing.
    length: that of the longest row, if known.
    """
    k, width = min(k, len(corpus)), min(k + MARGIN, len(corpus))
    ids, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float64)
    todo, slack = np.arange(len(queries)), _rounding(queries, longest(corpus) if length is None else length)
    while len(todo):
        some = queries if len(todo) == len(queries) else queries[todo]
        near, rows = search(some, width)
        found = best(Neighbours(rows, exact(some, corpus, rows)), k)
        ids[todo], distances[todo] = found.ids, found.distances
        if width == len(corpus):
            break
        todo = todo[near[:, -1] <= found.distances[:, -1] + slack[todo]]
        width = min(2 * width, len(corpus))
    return Neighbours(ids, distances)


def _rounding(queries: Vectors, length: float) -> Distances:
    """The largest error of a float32 |q|² - 2qc + |c|², for each query: the usual bound for a sum of dim products."""
    sizes = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1))
    bound: Distances = (queries.shape[1] + 8) * 2.0**-23 * np.square(sizes + length)
    return bound
