"""A training objective: every example counts the same, however long its response is.

    [train]
    objective = "equal_examples:OBJECTIVE"

The loop divides a step's loss by its number of targets, so under `sft` a long response weighs more than a short one.
"""

from __future__ import annotations

from dataclasses import replace

from lai_ray.common.chat_template import Tokens
from lai_ray.training.objectives.sft import Sft

TYPICAL = 32
"""Targets of a response whose tokens keep their weight."""


class EqualExamples(Sft):
    """What is a target stays as in `sft`; its weight is divided by the response's length."""

    def tokens(self, tokenizer, example, max_length: int) -> Tokens:
        """Weights that sum to TYPICAL in each example."""
        tokens = super().tokens(tokenizer, example, max_length)
        total = sum(tokens.weights)
        return replace(tokens, weights=[w * TYPICAL / total for w in tokens.weights]) if total else tokens


OBJECTIVE = EqualExamples()
