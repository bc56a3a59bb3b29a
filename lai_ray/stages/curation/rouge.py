"""ROUGE-L, exactly: how much of one text stands, in order, in another.  token lists -> F1 of the nearest reference

F1 = 2 LCS / (m + n), LCS the longest common subsequence of m and n tokens: the `fmeasure` of the rouge-score package.
Each distinct token becomes one character, so that rapidfuzz's bit-parallel LCS compares whole texts at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from lai_ray.errors import DataError

Scores = npt.NDArray[np.float64]
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""`map`, or an executor's: a function of each item, in order."""

UNKNOWN = "\0"
"""A token that no reference has: it matches nothing."""
MOST = 0x10FFFF
"""Distinct tokens that there are characters for."""
PAIRS = 100_000
"""Pairs in one item of work: a few hundredths of a second."""


def code_of(references: Iterable[Iterable[str]]) -> dict[str, str]:
    """A character for each token, the frequent first (they are the fastest). Raises DataError for too many tokens."""
    counts = Counter(token for reference in references for token in reference)
    if len(counts) > MOST:
        raise DataError(f"{len(counts)} distinct tokens; {MOST} at most can be told apart. Compare with fewer texts.")
    return {token: chr(number) for number, (token, _) in enumerate(counts.most_common(), 1)}


def coded(tokens: Iterable[str], code: Mapping[str, str]) -> str:
    """One text as characters, one a token."""
    return "".join([code.get(token, UNKNOWN) for token in tokens])


def rouge_l(queries: Sequence[str], references: Sequence[str]) -> Scores:
    """F1 of every coded query with every coded reference, (n_queries, n_references); 0 where both are empty."""
    common = process.cdist(queries, references, scorer=LCSseq.similarity, dtype=np.uint32, workers=1)
    return _f1(common, _lengths(queries)[:, None], _lengths(references)[None, :])


def rouge_l_of_pairs(queries: Sequence[str], references: Sequence[str]) -> Scores:
    """F1 of each coded query with the reference at the same place, (n,)."""
    common = process.cpdist(queries, references, scorer=LCSseq.similarity, dtype=np.uint32, workers=1)
    return _f1(common, _lengths(queries), _lengths(references))


def _f1(common: npt.NDArray[np.uint32], m: npt.NDArray[np.int64], n: npt.NDArray[np.int64]) -> Scores:
    found: Scores = 2.0 * common / np.maximum(m + n, 1)
    return found


def _lengths(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.fromiter((len(text) for text in texts), np.int64, len(texts))


@dataclass(frozen=True)
class References:
    """Named sets of texts to compare with, coded with one code; picklable, so that workers can have it."""

    code: dict[str, str]
    sets: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, sets: Mapping[str, Iterable[Sequence[str]]]) -> References:
        """From token lists, by name of set."""
        held = {name: [list(text) for text in texts] for name, texts in sets.items()}
        code = code_of(text for texts in held.values() for text in texts)
        return cls(code, {name: tuple(coded(text, code) for text in texts) for name, texts in held.items()})

    def __len__(self) -> int:
        return sum(map(len, self.sets.values()))

    def nearest(self, texts: Iterable[Sequence[str]], each: Map = map) -> Iterator[dict[str, tuple[float, int]]]:
        """For each token list the greatest F1 in every set and its row there (the first of equals), in order.

        `each` spreads the work, a few texts an item; texts are drawn only as they are needed. Empty sets are left out.
        """
        at_once = max(1, PAIRS // max(1, len(self)))
        yield from (found for chunk in each(self._nearest, self._chunks(texts, at_once)) for found in chunk)

    def _chunks(self, texts: Iterable[Sequence[str]], size: int) -> Iterator[list[str]]:
        drawn = (coded(text, self.code) for text in texts)
        while chunk := list(islice(drawn, size)):
            yield chunk

    def _nearest(self, chunk: list[str]) -> list[dict[str, tuple[float, int]]]:
        found: list[dict[str, tuple[float, int]]] = [{} for _ in chunk]
        for name, references in self.sets.items():
            if references:
                scores = rouge_l(chunk, references)
                for row, best in enumerate(scores.argmax(axis=1)):
                    found[row][name] = (float(scores[row, best]), int(best))
        return found
