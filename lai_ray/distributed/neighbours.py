"""Exact nearest neighbours over FAISS shards on actors.  vectors -> the k nearest rows

Shards hold FAISS, encoders (`embed`) torch, and never one process both: two OpenMP runtimes in one process hang or slow
it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import ray

from lai_ray.contracts import Neighbours
from lai_ray.distributed.actors import outcomes, to_log
from lai_ray.settings import ClusterSettings
from lai_ray.similarity import topk

SHARD_CPUS = 0.1
"""A search is short, and two logical CPUs must do for a whole run."""


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
    cuts = np.linspace(0, len(corpus), min(cluster.index_shards, len(corpus)) + 1).astype(int)
    needs = {"num_cpus": SHARD_CPUS}
    start = _actor(_Shard, needs)
    pool = [start(corpus[a:b], int(a), logs) for a, b in itertools.pairwise(cuts)]
    try:
        asked = ray.put(queries)
        calls = ((shard.nearest, asked, k) for shard in pool)
        found = outcomes(calls, at_once=len(pool), stall=cluster.stall_seconds, what="neighbours", needs=needs)
        parts = dict(found)
    finally:
        _kill(pool)
    return topk.merge([parts[i] for i in range(len(pool))], min(k, len(corpus)))


def _actor(cls: type, needs: dict[str, float]) -> Callable[..., Any]:
    """Starts an actor of a class when called with its arguments."""
    # DEFAULT: these may be started inside a Ray Tune trial, whose placement group has no room for them.
    options = {"scheduling_strategy": "DEFAULT", "max_restarts": 2, "max_task_retries": 2}
    start: Callable[..., Any] = ray.remote(**needs, **options)(cls).remote
    return start


def _kill(pool: list[Any]) -> None:
    for actor in pool:
        ray.kill(actor)


class _Shard:
    """Some rows of the corpus in a flat FAISS index."""

    def __init__(self, rows: np.ndarray, first: int, logs: str | None) -> None:
        to_log(logs, "shard")
        import faiss

        faiss.omp_set_num_threads(1)
        self._first, self._index = first, faiss.IndexFlatL2(rows.shape[1])
        self._index.add(rows)
        # The index has its own copy; ours is a view of that, so that the rows are held once.
        self._rows = faiss.rev_swig_ptr(self._index.get_xb(), rows.size).reshape(rows.shape)
        self._length = topk.longest(rows)

    def nearest(self, queries: np.ndarray, k: int) -> Neighbours:
        """This shard's k nearest, ids counted in the whole corpus, distances float64."""
        found = topk.nearest_in(queries, self._rows, k, self._index.search, self._length)
        return Neighbours(found.ids + self._first, found.distances)
