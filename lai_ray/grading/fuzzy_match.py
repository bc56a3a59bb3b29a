"""Which of some texts a long one is most like, as the fuzzy matcher of the paper's release scored it.  texts -> index

A score from 0 to 100 after the published description of the "weighted ratio" of fuzzy string matching, over the
standard library's SequenceMatcher: the best of plain, sorted-word and shared-word likeness; where one text is much
longer than the other, of their best-matching windows, scaled by 0.9 (0.6 beyond 8 times as long), words by 0.95.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

_SIGHT = 4_000
"""Characters compared: the matcher takes quadratic time, and no recorded reply that needed it was longer."""
_NO_WORD = re.compile(r"\W")


def closest(text: str, others: Sequence[str]) -> int:
    """Index of the most similar of `others`, the first of equals."""
    bare = _bare(text[:_SIGHT])
    scores = [weighted(bare, _bare(other[:_SIGHT])) for other in others]
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
    """The likeness of the shorter text to the windows of the longer that begin where matching runs line up."""
    shorter, longer = sorted((one, other), key=len)
    best = 0.0
    for run in SequenceMatcher(None, shorter, longer).get_matching_blocks():
        start = max(0, run.b - run.a)
        likeness = SequenceMatcher(None, shorter, longer[start : start + len(shorter)]).ratio()
        if likeness > 0.995:
            return 100
        best = max(best, likeness)
    return round(100 * best)


def _shared(one: str, other: str, likeness: Callable[[str, str], int]) -> int:
    """The likeness of the words that both have, alone and with those that only one has."""
    first, second = set(one.split()), set(other.split())
    both = " ".join(sorted(first & second))
    left, right = (f"{both} {' '.join(sorted(own))}".strip() for own in (first - second, second - first))
    pairs = [(both, left), (both, right)] if both else []
    return max(likeness(a, b) for a, b in [*pairs, (left, right)])
