"""Finds duplicates among the samples kept so far.  problem -> the sample it repeats"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from rapidfuzz import process
from rapidfuzz.distance import Indel

from lai_ray.errors import DataError
from lai_ray.records import Problem
from lai_ray.stages.curation.rouge import MOST, UNKNOWN, coded
from lai_ray.stages.curation.words import normalised, options, whole, words

ROUNDING = 1e-9
"""So that a similarity of exactly the threshold counts, however it was rounded."""


def fingerprint(problem: Problem) -> bytes:
    """Eight bytes that two problems share when they ask the same: the question and any options."""
    return fingerprint_of(problem.question, *options(problem))


def fingerprint_of(*texts: str) -> bytes:
    """The same for plain texts."""
    text = "\n".join(map(normalised, texts))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


@dataclass(frozen=True)
class Twin:
    """The earlier sample that a new one repeats, and their similarity (ROUGE-L F1; 1 for the same question)."""

    id: str
    similarity: float
    same: bool = False


@dataclass
class Kept:
    """The samples kept so far, in order. threshold: the ROUGE-L F1 from which a sample is a near-duplicate, or None.

    Texts are held only with a threshold, as one character per word.
    """

    threshold: float | None = None
    _marks: dict[bytes, str] = field(default_factory=dict)
    _code: dict[str, str] = field(default_factory=dict)
    _ids: list[str] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)

    def copy(self) -> Kept:
        """A copy to which further samples can be added."""
        return Kept(self.threshold, dict(self._marks), dict(self._code), list(self._ids), list(self._texts))

    def identity(self) -> str:
        """Hash of the questions, for the key of a stage that depends on them."""
        return hashlib.blake2b(b"".join(sorted(self._marks)), digest_size=8).hexdigest()

    def add(self, sample_id: str, problem: Problem) -> None:
        """Add a kept sample. Raises DataError past 1,114,111 distinct words."""
        self._marks.setdefault(fingerprint(problem), sample_id)
        if self.threshold is None:
            return
        tokens = words(whole(problem))
        for token in tokens:
            if token not in self._code:
                if len(self._code) >= MOST:
                    raise DataError(f"more than {MOST} distinct words in the samples; set curate.near_duplicates off")
                self._code[token] = chr(len(self._code) + 1)
        self._ids.append(sample_id)
        self._texts.append(coded(tokens, self._code))

    def twin(self, problem: Problem) -> Twin | None:
        """The sample with the same question, else (with a threshold) the most similar, the first of equals."""
        same = self._marks.get(fingerprint(problem))
        if same is not None:
            return Twin(same, 1.0, same=True)
        if self.threshold is None or not self._texts:
            return None
        text = coded(words(whole(problem)), self._code)
        if not text.strip(UNKNOWN):
            return None
        # The normalised indel similarity, 1 - (m + n - 2 LCS) / (m + n), is the F1 of ROUGE-L.
        match = process.extractOne(
            text, self._texts, scorer=Indel.normalized_similarity, score_cutoff=self.threshold - ROUNDING
        )
        return None if match is None else Twin(self._ids[match[2]], float(match[1]))
