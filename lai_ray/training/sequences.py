"""Token sequences to train on.  examples -> ids and weights of each -> padded batches"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lai_ray.common import chat_template
from lai_ray.common.chat_template import Example
from lai_ray.errors import DataError
from lai_ray.training.recipe import Recipe

if TYPE_CHECKING:
    from lai_ray.contracts import Objective


@dataclass(frozen=True)
class Sequences:
    """Every sequence, in the order given. The same on every worker, so counts need no communication."""

    names: list[str]
    ids: list[array[int]]
    weights: list[array[float]]
    dropped: int
    """Examples whose prompt left no room to learn anything."""
    truncated: int
    """Examples whose response was cut."""

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.ids]

    def tokens(self, rows: Iterable[int]) -> int:
        """How many tokens these rows have."""
        return sum(len(self.ids[row]) for row in rows)

    def targets(self, rows: Iterable[int]) -> int:
        """How many tokens of these rows are learned. The first of a sequence cannot be: nothing predicts it."""
        return sum(sum(weight != 0 for weight in self.weights[row][1:]) for row in rows)

    def padded(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """ids (rows, length) and weights (rows, length), padded on the right with weight 0.

        A pad is never seen by a real token (attention looks left only), so no mask is needed. No rows: one dummy pair
        of tokens with nothing to learn.
        """
        if not rows:
            return torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2)
        longest = max(len(self.ids[row]) for row in rows)
        ids, weights = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest)
        for i, row in enumerate(rows):
            ids[i, : len(self.ids[row])] = torch.tensor(self.ids[row])
            weights[i, : len(self.weights[row])] = torch.tensor(self.weights[row])
        return ids, weights


def tokenized(recipe: Recipe, objective: Objective, examples: Iterable[Example]) -> Sequences:
    """The examples as the objective wants them learned. Raises DataError when nothing is left to learn."""
    tokenizer = chat_template.load_tokenizer(recipe.model)
    names, ids, weights, dropped, truncated = [], [], [], 0, 0
    for example in examples:
        try:
            tokens = objective.tokens(tokenizer, example, recipe.max_length)
        except DataError as error:
            raise DataError(f"{example.id}: {error}") from error
        if len(tokens.ids) != len(tokens.weights):
            counts = f"{len(tokens.ids)} ids and {len(tokens.weights)} weights"
            raise DataError(f"{example.id}: the objective {recipe.objective} made {counts}, not one weight an id")
        if not tokens.learns:
            dropped += 1
            continue
        truncated += tokens.truncated
        names.append(example.id)
        ids.append(array("i", tokens.ids))
        weights.append(array("f", tokens.weights))
    if not names:
        raise DataError(
            f"nothing to learn: {dropped} examples, none with room for a response in {recipe.max_length} tokens"
        )
    return Sequences(names, ids, weights, dropped, truncated)
