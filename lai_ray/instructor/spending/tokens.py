"""Tokens of a call: a guess before it is sent, the provider's count after.  request, completion -> tokens"""

from __future__ import annotations

from collections.abc import Sequence

from lai_ray.instructor.spending.budget import Amount
from lai_ray.records import Completion, Message

CHARACTERS_PER_TOKEN = 4
AROUND_A_MESSAGE = 16
"""Tokens at most that a chat template puts around one message."""
AROUND_A_REQUEST = 64
"""And around all of them: a date, a system prompt of the model's own."""


def estimate(messages: Sequence[Message], max_tokens: int) -> int:
    """Tokens that a call may use at most, roughly: a token for every 4 characters sent, and the longest reply allowed.

    The longest reply, because providers count it while a call is under way; the difference is given back afterwards.
    """
    return tokens_in(characters(messages)) + max_tokens


def characters(messages: Sequence[Message]) -> int:
    """Characters sent."""
    return sum(len(message["content"]) for message in messages)


def tokens_in(characters: int) -> int:
    """Tokens that so many characters are, roughly."""
    return -(-characters // CHARACTERS_PER_TOKEN)


def worst_case(messages: Sequence[Message], max_tokens: int) -> Amount:
    """What one call can use at most, for money: no tokenizer in use makes more tokens than there are bytes.

    About four times the prompt of English text, so that a budget is kept in any language, in code and in digits.
    """
    sent = sum(len(message["content"].encode("utf-8", "surrogatepass")) for message in messages)
    return Amount(1, sent + AROUND_A_MESSAGE * len(messages) + AROUND_A_REQUEST, max_tokens)


def used(completion: Completion) -> int | None:
    """Tokens that the provider counted, prompt and reply together; None where it did not say."""
    return (completion.prompt_tokens + completion.completion_tokens) or None


def amount_used(completion: Completion) -> Amount | None:
    """The same as one call's amount."""
    return Amount(1, completion.prompt_tokens, completion.completion_tokens) if used(completion) else None
