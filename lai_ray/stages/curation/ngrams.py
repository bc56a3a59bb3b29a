"""13-grams of words as 64-bit hashes, and those that identify one question.  texts -> hashes

The hashes are the same on every machine. A 13-gram that ten or more questions of a set have, or that consists of their
stock phrases ("which of the following is the most likely cause of this patient's …"), identifies none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

N = 13
"""Words in a row that two texts rarely share by chance (GPT-3, appendix C)."""
PHRASE = 3
"""Words of a phrase; all numbers count as equal."""
OWN = 6
"""Of the 11 phrases in a 13-gram, how many must be in fewer than COMMON questions for it to identify one."""
COMMON = 10
"""What this many questions of a set share is a stock phrase."""

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


@lru_cache(maxsize=1 << 18)
def _number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


_FACTORS = [np.uint64(_number(f"place {i}") | 1) for i in range(N)]
_ANY_NUMBER = "#"


def numbers_of(tokens: Sequence[str]) -> Hashes:
    """A 64-bit hash of each word."""
    return np.fromiter(map(_number, tokens), np.uint64, len(tokens))


def runs(numbers: Hashes, n: int = N) -> Hashes:
    """A hash of each n words in a row, in order; empty for a shorter text."""
    count = max(len(numbers) - n + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for i in range(n):
        hashes += numbers[i : i + count] * _FACTORS[i]  # modulo 2^64
    return hashes


def identifying(texts: Sequence[Sequence[str]], framed: Hashes) -> tuple[Hashes, Rows]:
    """The 13-grams of a set of questions that identify one, sorted, each with the row of the first text that has it.

    framed: 13-grams of prompt frames, which identify none.
    """
    lengths = np.fromiter((len(text) for text in texts), np.int64, len(texts))
    whose = np.repeat(np.arange(len(texts)), lengths)
    # All texts in one array; `left`: how many words the text still has from each word on.
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(whose))
    at_run, at_phrase = np.flatnonzero(left >= N), np.flatnonzero(left >= PHRASE)
    grams = runs(numbers_of([word for text in texts for word in text]))[at_run]
    folded = numbers_of([_ANY_NUMBER if word[0].isdigit() else word for text in texts for word in text])
    phrases = runs(folded, PHRASE)[at_phrase]
    own = np.zeros(len(whose) + 1, np.int64)
    own[at_phrase + 1] = ~np.isin(phrases, _common(phrases, whose[at_phrase]))
    own = np.cumsum(own)
    identifies = own[at_run + N - PHRASE + 1] - own[at_run] >= OWN
    identifies &= ~np.isin(grams, _common(grams, whose[at_run])) & ~np.isin(grams, framed)
    kept, first = np.unique(grams[identifies], return_index=True)
    return kept, whose[at_run][identifies][first]


def _common(hashes: Hashes, whose: Rows) -> Hashes:
    """The hashes that COMMON or more texts have."""
    order = np.lexsort((whose, hashes))
    hashes, whose = hashes[order], whose[order]
    fresh = np.ones(len(hashes), bool)
    fresh[1:] = (hashes[1:] != hashes[:-1]) | (whose[1:] != whose[:-1])
    kept, counts = np.unique(hashes[fresh], return_counts=True)
    return kept[counts >= COMMON]
