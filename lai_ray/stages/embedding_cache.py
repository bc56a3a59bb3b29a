"""Embeddings, remembered by encoder and text, so that an iteration embeds only what is new.  texts -> vectors"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lai_ray.config.settings import InstructorSettings, LimitSettings
from lai_ray.contracts import Again, Executor, Model, Neighbours, Trained, TrainJob
from lai_ray.records import Answer, Request
from lai_ray.storage.store import Store, key_of

DIGEST = 16


class Remembering:
    """An executor that keeps every vector it is given in a store: `<store>/<encoder>/00000.npz`, …

    A file holds `digests` (n, 16) uint8, of the texts, and `vectors` (n, dim) float32. All other verbs pass through.
    """

    def __init__(self, executor: Executor, store: Store, others: Sequence[Store] = ()) -> None:
        """others: stores of the same form that are only read."""
        self._executor, self._store, self._others = executor, store, others

    def embed(self, texts: Sequence[str], encoder: Model) -> np.ndarray:
        """(n, dim) float32, in the order of `texts`. Each text is embedded once, however often it is named."""
        name = key_of(encoder.identity)
        folder = self._store.inside(name)
        digests = [
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest() for text in texts
        ]
        known = {
            digest: vector for store in (self._store, *self._others) for digest, vector in _read(store.inside(name))
        }
        fresh = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in known}
        if fresh:
            vectors = self._executor.embed(list(fresh.values()), encoder)
            _write(folder, list(fresh), vectors)
            known.update(zip(fresh, vectors, strict=True))
        return np.stack([known[digest] for digest in digests]) if texts else np.zeros((0, 0), np.float32)

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        """As it is."""
        return self._executor.generate(requests, target)

    def ask(
        self, requests: Iterable[Request | None], settings: InstructorSettings, limits: LimitSettings, again: Again
    ) -> Iterator[Answer]:
        """As it is."""
        return self._executor.ask(requests, settings, limits, again)

    def nearest(self, queries: np.ndarray, corpus: np.ndarray, k: int) -> Neighbours:
        """As it is."""
        return self._executor.nearest(queries, corpus, k)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """As it is."""
        return self._executor.map(function, items)

    def train(self, job: TrainJob, progress: Callable[[int, int], None] | None = None) -> Trained:
        """As it is."""
        return self._executor.train(job, progress)

    def search(
        self,
        trial: Callable[[dict[str, Any], Executor], dict[str, Any]],
        trials: Sequence[dict[str, Any]],
        folder: str,
        heard: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    ) -> list[dict[str, Any]]:
        """As it is."""
        return self._executor.search(trial, trials, folder, heard)

    def close(self) -> None:
        """As it is."""
        self._executor.close()


def _read(folder: Store) -> Iterator[tuple[bytes, np.ndarray]]:
    for name in folder.names():
        content = folder.get(name)
        assert content is not None
        with np.load(io.BytesIO(content)) as arrays:
            digests, vectors = arrays["digests"], arrays["vectors"]
        yield from zip((digest.tobytes() for digest in digests), vectors, strict=True)


def _write(folder: Store, digests: list[bytes], vectors: np.ndarray) -> None:
    buffer = io.BytesIO()
    rows = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST)
    np.savez(buffer, digests=rows, vectors=np.asarray(vectors, np.float32))
    folder.put(f"{len(folder.names()):05d}.npz", buffer.getvalue())
