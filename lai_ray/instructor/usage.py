"""Tokens of a call: a guess before it is sent, the provider's count after.  request, completion -> tokens"""

from __future__ import annotations

from collections.abc import Sequence

from lai_ray.records import Completion, Message

CHARACTERS_PER_TOKEN = 4


def estimate(messages: Sequence[Message], max_tokens: int) -> int:
    """Tokens that a call may use at most, roughly: a token for every 4 characters sent, and the longest reply allowed.

    The longest reply, because providers count it while a call is under way; the difference is given back afterwards.
    """
    characters = sum(len(message["content"]) for message in messages)
    return -(-characters // CHARACTERS_PER_TOKEN) + max_tokens


def used(completion: Completion) -> int | None:
    """Tokens that the provider counted, prompt and reply together; None where it did not say."""
    return (completion.prompt_tokens + completion.completion_tokens) or None
