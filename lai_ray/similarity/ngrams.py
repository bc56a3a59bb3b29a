"""Runs of 13 words as 64-bit hashes, and which of them tell one question from all others.  texts -> hashes

The hashes are the same on every machine. A run tells nothing when ten or more questions of a set have it, or when it is
put together from their stock phrases ("which of the following is the most likely cause of this patient's …").
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

N = 13
"""Words in a row that two texts seldom share by chance (GPT-3, appendix C)."""
PHRASE = 3
"""Words of a phrase; a number counts as any number."""
OWN = 6
"""Of the 11 phrases in a run, those that must be fewer than COMMON questions' for the run to tell anything."""
COMMON = 10
"""Questions of one set from which on what they share is a manner of speaking."""

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
    found = np.zeros(count, np.uint64)
    for place in range(n):
        found += numbers[place : place + count] * _FACTORS[place]  # modulo 2^64
    return found


def phrases(tokens: Sequence[str]) -> Hashes:
    """A hash of each 3 words in a row, any number being as good as another."""
    return runs(numbers_of([_ANY_NUMBER if token[0].isdigit() else token for token in tokens]), PHRASE)


def telling(texts: Sequence[Sequence[str]], framed: Hashes) -> tuple[Hashes, Rows]:
    """The runs of a set of questions that tell which one they are from, sorted, each with the first text that has it.

    framed: runs that are part of a prompt and never tell anything.
    """
    everything = [runs(numbers_of(text)) for text in texts]
    of_phrases = [phrases(text) for text in texts]
    stock = _common(of_phrases)
    own = [_own(found, stock) for found in of_phrases]
    grams = np.concatenate([np.zeros(0, np.uint64), *everything])
    whose = np.repeat(np.arange(len(texts)), [len(found) for found in everything])
    tells = np.concatenate([np.zeros(0, np.int64), *own]) >= OWN
    tells &= ~np.isin(grams, _common(everything)) & ~np.isin(grams, framed)
    kept, first = np.unique(grams[tells], return_index=True)
    return kept, whose[tells][first]


def _common(found: Sequence[Hashes]) -> Hashes:
    """The hashes that COMMON or more texts have."""
    once_a_text = np.concatenate([np.zeros(0, np.uint64), *map(np.unique, found)])
    kept, counts = np.unique(once_a_text, return_counts=True)
    return kept[counts >= COMMON]


def _own(of_text: Hashes, stock: Hashes) -> Rows:
    """For each run of a text, how many of its phrases are not stock."""
    width = N - PHRASE + 1
    if len(of_text) < width:
        return np.zeros(0, np.int64)
    sums = np.concatenate([[0], np.cumsum(~np.isin(of_text, stock))])
    return np.asarray(sums[width:] - sums[:-width], np.int64)
