"""Caches embeddings by encoder and text, so that an iteration embeds only new texts.  texts -> vectors"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lai_ray.contracts import Executor, Model
from lai_ray.storage.keys import key_of
from lai_ray.storage.store import Store

DIGEST = 16


class EmbeddingCache:
    """An executor that writes every vector it computes to a store: `<store>/<encoder>/00000.npz`, …

    A file holds `digests` (n, 16) uint8, of the texts, and `vectors` (n, dim) float32. Other methods: the executor.
    """

    def __init__(self, executor: Executor, store: Store, others: Sequence[Store] = ()) -> None:
        """others: further such stores, only read."""
        self._executor, self._store, self._others = executor, store, others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def embed(self, texts: Sequence[str], encoder: Model) -> np.ndarray:
        """(n, dim) float32, in the order of `texts`. Each distinct text is embedded once."""
        name = key_of(encoder.identity)
        digests = [
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest() for text in texts
        ]
        known = {
            digest: vector for store in (self._store, *self._others) for digest, vector in _read(store.inside(name))
        }
        fresh = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in known}
        if fresh:
            vectors = self._executor.embed(list(fresh.values()), encoder)
            _write(self._store.inside(name), list(fresh), vectors)
            known.update(zip(fresh, vectors, strict=True))
        return np.stack([known[digest] for digest in digests]) if texts else np.zeros((0, 0), np.float32)


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
