"""Answers that got no fair verdict: their counts, in words.  counts -> "7 unparsed, 2 cut off", advice"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ADVICE = {
    "unparsed": "Unparsed: no answer was found in the response, which counts as not right.",
    "cut_off": "Cut off: the response ended at target.max_new_tokens; raise it (in a job with another name).",
    "error": "Failed: no response, or the grader failed; it counts as not right.",
}
"""By the count of scores.json that it explains."""
WORDS = {"unparsed": "unparsed", "cut_off": "cut off", "error": "failed"}


def unread(counts: Mapping[str, Any]) -> str:
    """The counts of one part (as in scores.json) that are not 0; "" where all answers were whole and read."""
    return ", ".join(f"{counts[name]:,} {word}" for name, word in WORDS.items() if counts.get(name))


def advice(parts: Iterable[Mapping[str, Any]]) -> str:
    """A sentence for each kind that occurs in these parts: what it is, and what to raise."""
    found = {name for counts in parts for name in WORDS if counts.get(name)}
    return " ".join(text for name, text in ADVICE.items() if name in found)
