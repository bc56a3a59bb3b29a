"""Tokens of a call: estimated before it is sent, counted by the provider after.  request, completion -> tokens"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lai_ray.instructor.spending.budget import Amount
from lai_ray.records import Completion, Message, Request

CHARACTERS_PER_TOKEN = 4
AROUND_A_MESSAGE = 16
"""Tokens at most that a chat template puts around one message."""
AROUND_A_REQUEST = 64
"""And around all of them: a date, the model's default system prompt."""


def estimate(messages: Sequence[Message], max_tokens: int) -> int:
    """Tokens that a call uses at most, roughly: one for every 4 characters sent, and the longest reply allowed.

    The longest reply, because providers count it while a call is in flight; the difference is freed afterwards.
    """
    return -(-characters(messages) // CHARACTERS_PER_TOKEN) + max_tokens


def characters(messages: Sequence[Message]) -> int:
    """Characters of a prompt."""
    return sum(len(message["content"]) for message in messages)


def worst_case(messages: Sequence[Message], max_tokens: int, response_format: dict[str, Any] | None = None) -> Amount:
    """What one call can cost at most: no tokenizer in use makes more tokens than there are bytes.

    For English about four times the prompt's tokens, so that a budget holds in any language, in code and in digits.
    """
    sent = sum(len(message["content"].encode("utf-8", "surrogatepass")) for message in messages)
    sent += len(json.dumps(response_format)) if response_format else 0
    return Amount(1, sent + AROUND_A_MESSAGE * len(messages) + AROUND_A_REQUEST, max_tokens)


def worst_of(request: Request) -> Amount:
    """What this request can cost at most."""
    return worst_case(request.messages, request.max_tokens, request.response_format)


def used(completion: Completion) -> int | None:
    """Tokens that the provider counted, prompt and reply together; None where it did not report them."""
    return (completion.prompt_tokens + completion.completion_tokens) or None


def amount_used(completion: Completion) -> Amount | None:
    """The same as the amount of one call."""
    return Amount(1, completion.prompt_tokens, completion.completion_tokens) if used(completion) else None
