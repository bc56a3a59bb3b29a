"""Embeddings and exact nearest neighbours on actors.  texts -> vectors -> the k nearest rows

Encoders hold torch, shards hold FAISS, and never one process both: two OpenMP runtimes in one process hang or slow it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import ray

from lai_ray.contracts import Model, Neighbours
from lai_ray.distributed.actors import outcomes, to_log
from lai_ray.settings import ClusterSettings
from lai_ray.similarity import topk

TEXTS_PER_ENCODER = 2000
"""Fewer texts than this for each are not worth another encoder's start."""
LONGEST = 512
"""Tokens of a text that are looked at, as in the paper."""
TOKENS_AT_ONCE = 8192
SHARD_CPUS = 0.1
"""A search is short, and two logical CPUs must do for a whole run."""


def embed(texts: Sequence[str], encoder: Model, *, cluster: ClusterSettings, logs: str | None) -> np.ndarray:
    """(n, dim) float32, in the order of `texts`: masked mean of the last hidden state, L2-normalised.

    A text's vector is the one it would have alone, to 1e-5. No texts give shape (0, 0) and start nothing.
    Encoders are as large as target replicas (`cluster.target_replicas` of them at most). Raises StageError when one
    fails or `cluster.stall_seconds` pass without a batch.
    """
    if not texts:
        return np.zeros((0, 0), dtype=np.float32)
    batches = list(_batches(texts))
    size = max(1, min(cluster.target_replicas, len(texts) // TEXTS_PER_ENCODER, len(batches)))
    needs = {"num_cpus": cluster.cpus_per_replica, "num_gpus": cluster.gpus_per_replica}
    start = _actor(_Encoder, needs)
    pool = [start(encoder, logs) for _ in range(size)]
    calls = ((pool[i % size].embed, [texts[row] for row in rows]) for i, rows in enumerate(batches))
    vectors: np.ndarray | None = None
    try:
        for i, part in outcomes(calls, at_once=3 * size, stall=cluster.stall_seconds, what="embedding", needs=needs):
            vectors = np.empty((len(texts), part.shape[1]), dtype=np.float32) if vectors is None else vectors
            vectors[batches[i]] = part
    finally:
        _kill(pool)
    assert vectors is not None
    return vectors


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


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Rows of texts of like length together, a bounded number of characters in each batch: little is padded."""
    batch: list[int] = []
    for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
        # Tokens are mostly longer than a character, so this bounds the padded batch whatever the tokenizer.
        if batch and (len(batch) + 1) * min(len(texts[row]), LONGEST) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _actor(cls: type, needs: dict[str, float]) -> Callable[..., Any]:
    """Starts an actor of a class when called with its arguments."""
    # DEFAULT: these may be started inside a Ray Tune trial, whose placement group has no room for them.
    options = {"scheduling_strategy": "DEFAULT", "max_restarts": 2, "max_task_retries": 2}
    start: Callable[..., Any] = ray.remote(**needs, **options)(cls).remote
    return start


def _kill(pool: list[Any]) -> None:
    for actor in pool:
        ray.kill(actor)


class _Encoder:
    """A transformer that turns texts into vectors; any model that AutoModel loads, a causal one included."""

    def __init__(self, encoder: Model, logs: str | None) -> None:
        to_log(logs, "encoder")
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(1)
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(encoder.path)
        # float32 everywhere: the distances of near neighbours differ by less than bfloat16 can tell.
        model = AutoModel.from_pretrained(encoder.path, dtype=torch.float32)
        self._model = model.eval().to(self._device)
        self._longest = min(LONGEST, getattr(model.config, "max_position_embeddings", LONGEST))

    def embed(self, texts: list[str]) -> np.ndarray:
        """(n, dim) float32, normalised rows."""
        torch = self._torch
        ids = self._tokenizer(texts, truncation=True, max_length=self._longest)["input_ids"]
        ids = [row or [0] for row in ids]  # An empty text still has a place to look at.
        width = max(map(len, ids))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=self._device)
        with torch.inference_mode():
            states = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
            total = (states * mask[..., None]).sum(dim=1)
            vectors = torch.nn.functional.normalize(total / mask.sum(dim=1, keepdim=True), dim=1)
        return np.asarray(vectors.cpu().numpy(), dtype=np.float32)


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
