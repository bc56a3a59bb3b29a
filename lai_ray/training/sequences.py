"""Token sequences to train on.  examples -> ids and weights of each -> padded batches"""

from __future__ import annotations

import itertools
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from lai_ray.common import chat_template
from lai_ray.common.chat_template import Example, Tokens
from lai_ray.errors import DataError
from lai_ray.training.recipe import Recipe

if TYPE_CHECKING:
    from lai_ray.contracts import Objective

NAMED = 100
"""Examples left out that a lineage names."""


@dataclass
class Sequences:
    """Every sequence, in the order given. The same on every worker, so counts need no communication."""

    names: list[str] = field(default_factory=list)
    ids: list[array[int]] = field(default_factory=list)
    weights: list[array[float]] = field(default_factory=list)
    dropped: int = 0
    """Examples whose prompt left no room to learn anything."""
    truncated: int = 0
    """Examples whose response was cut."""
    refused: dict[str, str] = field(default_factory=dict)
    """Examples left out, by name, with the reason: the model's chat template refuses or rewrites them."""

    def add(self, name: str, tokens: Tokens) -> None:
        """One more sequence, or one more of those dropped."""
        if not tokens.learns:
            self.dropped += 1
            return
        self.truncated += tokens.truncated
        self.names.append(name)
        self.ids.append(array("i", tokens.ids))
        self.weights.append(array("f", tokens.weights))

    def lost(self) -> dict[str, float]:
        """How many examples were not learned whole, for the metrics."""
        refused = {"refused": float(len(self.refused))} if self.refused else {}
        return {"dropped": float(self.dropped), "truncated": float(self.truncated)} | refused

    def left_out(self) -> dict[str, dict[str, str]]:
        """The first of those refused, each with the reason, for the lineage; nothing where none was."""
        return {"left_out": dict(itertools.islice(self.refused.items(), NAMED))} if self.refused else {}

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


def tokenized(
    recipe: Recipe, objective: Objective, examples: Iterable[Example], positions: int | None = None
) -> Sequences:
    """The examples as the objective wants them learned. positions: tokens that the model can read, at most.

    An example that the model's chat template refuses is left out and counted. Raises DataError when more than
    `recipe.max_failed_fraction` are, or nothing is left to learn.
    """
    tokenizer, length = chat_template.load_tokenizer(recipe.model), min(recipe.max_length, positions or sys.maxsize)
    made, total = Sequences(), 0
    for example in examples:
        total += 1
        try:
            tokens = objective.tokens(tokenizer, example, length)
        except DataError as error:
            made.refused[example.id] = str(error)
            continue
        if len(tokens.ids) != len(tokens.weights):
            counts = f"{len(tokens.ids)} ids and {len(tokens.weights)} weights"
            raise DataError(f"{example.id}: the objective {recipe.objective} made {counts}, not one weight an id")
        made.add(example.id, tokens)
    _check(made, total, recipe, length)
    return made


def _check(made: Sequences, total: int, recipe: Recipe, length: int) -> None:
    """Raises DataError for too many refused examples, or none to learn."""
    if len(made.refused) > recipe.max_failed_fraction * total:
        name, reason = next(iter(made.refused.items()))
        raise DataError(
            f"{len(made.refused)} of {total} examples cannot be learned, more than limits.max_failed_fraction = "
            f"{recipe.max_failed_fraction:g} allows. The first is {name}: {reason}. All samples are kept: raise the "
            "limit to leave these out, and start the same command again."
        )
    if not made.names:
        raise DataError(
            f"nothing to learn: {total} examples, {made.dropped} without room for a response in {length} tokens, "
            f"{len(made.refused)} refused by the chat template. Raise train.max_length if they are too long."
        )
