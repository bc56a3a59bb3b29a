"""Exact ROUGE-L.  token lists -> F1 of the nearest reference

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
"""A token that is in no reference: it matches nothing."""
MOST = 0x10FFFF
"""Most distinct tokens: the characters there are."""
PAIRS = 100_000
"""Pairs per item of work: a few hundredths of a second."""


def code_of(references: Iterable[Iterable[str]]) -> dict[str, str]:
    """A character for each token, frequent ones first (they are faster). Raises DataError for too many tokens."""
    counts = Counter(token for reference in references for token in reference)
    if len(counts) > MOST:
        raise DataError(f"{len(counts)} distinct tokens, more than the {MOST} possible. Compare with fewer texts.")
    return {token: chr(number) for number, (token, _) in enumerate(counts.most_common(), 1)}


def coded(tokens: Iterable[str], code: Mapping[str, str]) -> str:
    """A text as one character per token."""
    return "".join([code.get(token, UNKNOWN) for token in tokens])


def rouge_l(queries: Sequence[str], references: Sequence[str]) -> Scores:
    """F1 of every coded query with every coded reference, (n_queries, n_references); 0 where both are empty."""
    common = process.cdist(queries, references, scorer=LCSseq.similarity, dtype=np.uint32, workers=1)
    m, n = (np.array([*map(len, texts)], np.int64) for texts in (queries, references))
    scores: Scores = 2.0 * common / np.maximum(m[:, None] + n, 1)
    return scores


@dataclass(frozen=True)
class References:
    """Named sets of coded texts to compare with; picklable, for workers."""

    code: dict[str, str]
    sets: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, sets: Mapping[str, Iterable[Sequence[str]]]) -> References:
        """From token lists, by name of set."""
        lists = {name: [list(text) for text in texts] for name, texts in sets.items()}
        code = code_of(text for texts in lists.values() for text in texts)
        return cls(code, {name: tuple(coded(text, code) for text in texts) for name, texts in lists.items()})

    def __len__(self) -> int:
        return sum(map(len, self.sets.values()))

    def nearest(self, texts: Iterable[Sequence[str]], each: Map = map) -> Iterator[dict[str, tuple[float, int]]]:
        """For each token list, in order: by set, the greatest F1 and its row there (the first of equals).

        each: spreads the work, a few texts per item. Texts are drawn only when needed. Empty sets are left out.
        """
        at_once = max(1, PAIRS // max(1, len(self)))
        for chunk in each(self._nearest, self._chunks(texts, at_once)):
            yield from chunk

    def _chunks(self, texts: Iterable[Sequence[str]], size: int) -> Iterator[list[str]]:
        drawn = (coded(text, self.code) for text in texts)
        while chunk := list(islice(drawn, size)):
            yield chunk

    def _nearest(self, chunk: list[str]) -> list[dict[str, tuple[float, int]]]:
        nearest: list[dict[str, tuple[float, int]]] = [{} for _ in chunk]
        for name, references in self.sets.items():
            if references:
                scores = rouge_l(chunk, references)
                for row, best in enumerate(scores.argmax(axis=1)):
                    nearest[row][name] = (float(scores[row, best]), int(best))
        return nearest
