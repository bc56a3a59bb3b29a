"""When two questions count as the same."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from lai_ray.records import Problem


def normalised(text: str) -> str:
    """Case, spacing, punctuation and Unicode forms folded away; words and numbers stay."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"[^\W_]+(?:[.,]\d+)*", folded))


def fingerprint(problem: Problem) -> bytes:
    """Eight bytes that two problems share when they ask the same: question and, where there are any, options."""
    choices = problem.extra.get("choices", [])
    options = choices.values() if isinstance(choices, dict) else choices
    text = "\n".join(normalised(part) for part in [problem.question, *map(str, options)])
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
