"""Measures a few sequences before and after a training.  an engine of DeepSpeed, sequences -> canaries

Every worker measures: with ZeRO 3 a forward pass needs them all.
"""

from __future__ import annotations

from typing import Any

import torch

from lai_ray.storage.canaries import Canary
from lai_ray.training.sequences import Sequences

COUNT = 4
"""Sequences, spread over the training set."""
LONGEST = 64
"""Tokens of each, its last ones: what is learned stands at the end, and any engine of the model can read so many."""


class Proof:
    """What the base model finds of a few sequences; to be made before the first step, or a checkpoint's, is loaded."""

    def __init__(self, engine: Any, sequences: Sequences) -> None:
        rows = range(0, len(sequences.ids), max(1, len(sequences.ids) // COUNT))
        self._ids = [list(sequences.ids[row][-LONGEST:]) for row in rows][:COUNT]
        self._before = log_probabilities(engine, self._ids)

    def of(self, engine: Any) -> list[Canary]:
        """The sequences with what the engine's model finds now."""
        after = log_probabilities(engine, self._ids)
        return [Canary(*each) for each in zip(self._ids, self._before, after, strict=True)]


def log_probabilities(engine: Any, sequences: list[list[int]]) -> list[list[float]]:
    """Of each sequence's tokens but the first, given those before it. One by one: a pad would need a mask."""
    found = []
    engine.eval()
    for sequence in sequences:
        ids = torch.tensor([sequence], device=engine.device)
        with torch.no_grad():
            logits = engine(input_ids=ids, use_cache=False).logits[0, :-1].float()
        chosen = logits.log_softmax(-1).gather(1, ids[0, 1:, None])
        found.append(chosen[:, 0].tolist())
    engine.train()
    return found
