"""Exact nearest neighbours over FAISS shards on actors.  vectors -> the k nearest rows

Shards load FAISS and encoders (`embed`) torch, never both in one process: two OpenMP runtimes hang it or slow it down.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import ray

from lai_ray.config.settings import ClusterSettings
from lai_ray.contracts import Neighbours
from lai_ray.distributed.actors import RESTARTED, name_for, outcomes, to_log
from lai_ray.distributed.neighbours import topk

SHARD_CPUS = 0.1
"""A search is short, and a whole run must fit on two logical CPUs."""
SHARD_BYTES = 1 << 29
"""Bytes of vectors in one shard, at most: 170,000 rows of 768."""
SHARD_BASE = 1 << 28
"""Bytes of a shard's process without vectors."""
PRODUCTS_PER_SHARD = 2 * 10**11
"""Multiplications (queries x rows x width) that justify another shard: some 4 s of a core, against an actor's start of
1 to 2 s."""


def nearest(
    queries: np.ndarray, corpus: np.ndarray, k: int, *, cluster: ClusterSettings, logs: str | None
) -> Neighbours:
    """The k corpus rows closest to each query by squared L2 distance (eq. 2 of arXiv 2407.00497).

    queries: (n_queries, dim).  corpus: (n_corpus, dim).  ids (n_queries, k) int64 and distances (n_queries, k) float32,
    ascending, ties by row: the same for any number of shards. k above n_corpus is clamped.
    Raises DataError for NaN or two widths, ValueError for k < 1, StageError when a shard fails.
    """
    queries, corpus = topk.checked(queries, corpus, k)
    if not len(queries) or not len(corpus):
        shape = len(queries), min(k, len(corpus))
        return Neighbours(np.zeros(shape, np.int64), np.zeros(shape, np.float32))
    cores = int(ray.cluster_resources().get("CPU", 1))
    wanted = cluster.index_shards or shards_for(len(queries), *corpus.shape, cores=cores)
    cuts = np.linspace(0, len(corpus), min(wanted, len(corpus)) + 1).astype(int)
    # `memory` places a shard on a node that can hold its rows.
    needs = {"num_cpus": SHARD_CPUS, "memory": SHARD_BASE + corpus.nbytes // (len(cuts) - 1)}
    # DEFAULT: shards may be started inside a Ray Tune trial, whose placement group has no room for them.
    actor = ray.remote(**needs, **RESTARTED, scheduling_strategy="DEFAULT")(_Shard)
    # Kept for as long as the shards are: Ray does not keep an actor's arguments, and a restart needs them again.
    rows = [ray.put(corpus[a:b]) for a, b in itertools.pairwise(cuts)]
    pool = [
        actor.options(name=name_for("shard")).remote(part, int(first), logs)
        for part, first in zip(rows, cuts[:-1], strict=True)
    ]
    try:
        shared = ray.put(queries)
        calls = ((shard.nearest, shared, k) for shard in pool)
        parts = dict(outcomes(calls, at_once=len(pool), stall=cluster.stall_seconds, what="neighbours", needs=needs))
    finally:
        for shard in pool:
            ray.kill(shard)
    return topk.merge([parts[i] for i in range(len(pool))], min(k, len(corpus)))


def shards_for(queries: int, rows: int, width: int, *, cores: int) -> int:
    """The number of shards for a search: each within SHARD_BYTES, and as many more as its speed justifies."""
    for_size = math.ceil(rows * width * 4 / SHARD_BYTES)
    for_speed = min(cores, queries * rows * width // PRODUCTS_PER_SHARD)
    return max(1, for_size, for_speed)


class _Shard:
    """Some rows of the corpus in a flat FAISS index."""

    def __init__(self, rows: np.ndarray, first: int, logs: str | None) -> None:
        to_log(logs, "shard")
        import faiss

        faiss.omp_set_num_threads(1)
        self._first, self._index = first, faiss.IndexFlatL2(rows.shape[1])
        self._index.add(rows)
        # A view of the index's own copy, so that the rows are held once.
        self._rows = faiss.rev_swig_ptr(self._index.get_xb(), rows.size).reshape(rows.shape)
        self._length = topk.longest(rows)

    def nearest(self, queries: np.ndarray, k: int) -> Neighbours:
        """This shard's k nearest: ids are rows of the whole corpus, distances float64."""
        found = topk.nearest_in(queries, self._rows, k, self._index.search, self._length)
        return Neighbours(found.ids + self._first, found.distances)
