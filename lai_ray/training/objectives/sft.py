"""Supervised fine-tuning: cross-entropy of the response's tokens, each times the weight of its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lai_ray.common import chat_template

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Sft:
    """The prompt is never a target; the end of the response is."""

    def tokens(
        self, tokenizer: PreTrainedTokenizerBase, example: chat_template.Example, max_length: int
    ) -> chat_template.Tokens:
        """The prompt as an engine gets it, then the turns."""
        return chat_template.render_example(tokenizer, example.messages, example.turns, max_length)

    def losses(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(targets,) float32."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, labels, reduction="none") * weights


OBJECTIVE = Sft()
