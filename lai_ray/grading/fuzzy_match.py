"""The text that is most similar to a response, by the score of the paper's fuzzy matcher.  texts -> index

A score from 0 to 100 by the published description of the "weighted ratio" of fuzzy string matching, on the standard
library's SequenceMatcher: the maximum of plain, sorted-word and shared-word similarity; where one text is much longer
than the other, of their best-matching windows, scaled by 0.9 (by 0.6 beyond 8 times the length), words by 0.95.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

_MAX_CHARACTERS = 4_000
"""Compared: the matcher takes quadratic time, and no recorded reply that needed it was longer."""
_NO_WORD = re.compile(r"\W")


def closest(text: str, others: Sequence[str]) -> int:
    """Index of the most similar of `others`, the first of equals."""
    bare = _bare(text[:_MAX_CHARACTERS])
    scores = [weighted(bare, _bare(other[:_MAX_CHARACTERS])) for other in others]
    return scores.index(max(scores))


def weighted(one: str, other: str) -> int:
    """The weighted ratio of two bare texts."""
    if not one or not other:
        return 0
    whole, lengths = _ratio(one, other), sorted((len(one), len(other)))
    sorted_words = [" ".join(sorted(text.split())) for text in (one, other)]
    if lengths[1] < 1.5 * lengths[0]:
        return round(max(whole, 0.95 * _ratio(*sorted_words), 0.95 * _shared(one, other, _ratio)))
    scale = 0.6 if lengths[1] > 8 * lengths[0] else 0.9
    windows = max(_window(one, other), 0.95 * _window(*sorted_words), 0.95 * _shared(one, other, _window))
    return round(max(whole, scale * windows))


def _bare(text: str) -> str:
    return _NO_WORD.sub(" ", text).lower().strip()


def _ratio(one: str, other: str) -> int:
    return round(100 * SequenceMatcher(None, one, other).ratio())


def _window(one: str, other: str) -> int:
    """The similarity of the shorter text to the best window of the longer, windows starting where runs match."""
    shorter, longer = sorted((one, other), key=len)
    best = 0.0
    for run in SequenceMatcher(None, shorter, longer).get_matching_blocks():
        start = max(0, run.b - run.a)
        similarity = SequenceMatcher(None, shorter, longer[start : start + len(shorter)]).ratio()
        if similarity > 0.995:
            return 100
        best = max(best, similarity)
    return round(100 * best)


def _shared(one: str, other: str, similarity: Callable[[str, str], int]) -> int:
    """The similarity of the shared words, alone and together with those of only one text."""
    first, second = set(one.split()), set(other.split())
    both = " ".join(sorted(first & second))
    left, right = (f"{both} {' '.join(sorted(own))}".strip() for own in (first - second, second - first))
    pairs = [(both, left), (both, right)] if both else []
    return max(similarity(a, b) for a, b in [*pairs, (left, right)])
