"""Fine-tuning on answers that correct themselves: what comes from the first feedback on weighs 1.5 times as much.

As in TriPosT (arXiv 2310.13522): an answer whose first attempt is right keeps its weights, so that the target does not
learn above all to say that it was right. The weights of the turns stay: a wrong attempt of weight 0 is not learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lai_ray.common.chat_template import Example, Tokens
from lai_ray.common.self_correction import ALL_RIGHT, FEEDBACK
from lai_ray.training.objectives.sft import Sft

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHT = 1.5


class SelfCorrection(Sft):
    """As `sft`, with other weights."""

    def tokens(self, tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int) -> Tokens:
        """The prompt as an engine gets it, then the turns; those from the first feedback on weigh more."""
        return super().tokens(tokenizer, example._replace(turns=_weighted(example.turns)), max_length)


def _weighted(turns: list[tuple[str, float]]) -> list[tuple[str, float]]:
    feedback = next((i for i, (text, _) in enumerate(turns) if text.lstrip().startswith(FEEDBACK)), len(turns))
    if feedback == len(turns) or turns[feedback][0].strip().startswith(f"{FEEDBACK} {ALL_RIGHT}"):
        return turns
    return [(text, weight * WEIGHT if i >= feedback else weight) for i, (text, weight) in enumerate(turns)]


OBJECTIVE = SelfCorrection()
