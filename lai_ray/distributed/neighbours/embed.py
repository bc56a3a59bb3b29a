"""Ray Data over encoder actors.  texts -> vectors

Each block is a batch of texts of similar length, bounded in tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lai_ray.config.settings import ClusterSettings
from lai_ray.contracts import Model
from lai_ray.distributed.actors import RESTARTED, to_log
from lai_ray.distributed.datasets import blocks, quiet
from lai_ray.storage import model_folders

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS_PER_ENCODER = 2000
"""An encoder's start is worth this many texts: fewer than that for each use fewer encoders."""
LONGEST = 512
"""Tokens of a text that are encoded, as in the paper."""
TOKENS_AT_ONCE = 8192


def embed(texts: Sequence[str], encoder: Model, *, cluster: ClusterSettings, logs: str | None) -> np.ndarray:
    """(n, dim) float32, in the order of `texts`: masked mean of the last hidden state, L2-normalised.

    Batching changes a vector by at most 1e-5. No texts give shape (0, 0) and start nothing. Encoders ask for the
    resources of target replicas, at most `cluster.target_replicas` of them. Raises StageError when one fails or no
    batch finishes for `cluster.stall_seconds`.
    """
    if not texts:
        return np.zeros((0, 0), dtype=np.float32)
    import pyarrow as pa
    from ray.data import ActorPoolStrategy, from_arrow

    tables = [pa.table({"row": rows, "text": [texts[row] for row in rows]}) for rows in _batches(texts)]
    size = max(1, min(cluster.target_replicas, len(texts) // TEXTS_PER_ENCODER, len(tables)))
    needs = {"num_cpus": cluster.cpus_per_replica, "num_gpus": cluster.gpus_per_replica}
    mapped = quiet(from_arrow(tables), cluster.stall_seconds).map_batches(
        _Encoder,
        fn_constructor_kwargs={"encoder": encoder, "logs": logs},
        compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=3),
        batch_size=None,
        batch_format="pyarrow",
        **RESTARTED,
        **needs,
    )
    vectors: np.ndarray | None = None
    for block in blocks(mapped, "embedding", cluster.stall_seconds, needs, logs):
        part = block["vector"].combine_chunks()
        batch = part.flatten().to_numpy().reshape(len(part), -1)
        vectors = np.empty((len(texts), batch.shape[1]), dtype=np.float32) if vectors is None else vectors
        vectors[block["row"].to_numpy()] = batch
    assert vectors is not None
    return vectors


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Rows of texts of similar length, a bounded number of characters in each batch: little padding."""
    batch: list[int] = []
    for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
        # Tokens are mostly longer than a character, so this bounds the padded batch for any tokenizer.
        if batch and (len(batch) + 1) * min(len(texts[row]), LONGEST) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class _Encoder:
    """A transformer that turns texts into vectors; any model that AutoModel loads, a causal one included."""

    def __init__(self, encoder: Model, logs: str | None) -> None:
        to_log(logs, "encoder")
        self._failed: Exception | None = None
        try:
            self._open(encoder)
        except Exception as error:  # Raised at the first batch instead: a constructor would be run again.
            self._failed = error

    def _open(self, encoder: Model) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(1)
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        path = model_folders.local_path(encoder.path)
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        # float32: distances of near neighbours differ by less than bfloat16 resolves.
        model = AutoModel.from_pretrained(path, dtype=torch.float32)
        self._model = model.eval().to(self._device)
        self._longest = min(LONGEST, getattr(model.config, "max_position_embeddings", LONGEST))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """row, text -> row, vector (float32, of length 1)."""
        import pyarrow as pa

        if self._failed is not None:
            raise self._failed
        vectors = self._embed(batch["text"].to_pylist())
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        return pa.table({"row": batch["row"], "vector": flat})

    def _embed(self, texts: list[str]) -> np.ndarray:
        torch = self._torch
        ids = self._tokenizer(texts, truncation=True, max_length=self._longest)["input_ids"]
        ids = [row or [0] for row in ids]  # An empty text is one token.
        width = max(map(len, ids))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=self._device)
        with torch.inference_mode():
            states = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
            total = (states * mask[..., None]).sum(dim=1)
            vectors = torch.nn.functional.normalize(total / mask.sum(dim=1, keepdim=True), dim=1)
        return np.asarray(vectors.cpu().numpy(), dtype=np.float32)
