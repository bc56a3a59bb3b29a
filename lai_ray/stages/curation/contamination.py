"""Finds copies of evaluation questions, and the nearest one by ROUGE-L.  problems, evaluation sets -> copies

A copy has the same question (`duplicates.fingerprint`); or contains a whole evaluation question of 13 words or more,
symbols included; or has 13 words in a row in common that identify a question (`ngrams`). ROUGE-L is a measure (Table 5
of arXiv 2407.00497), not a rule: most templated word problems exceed 0.7 against some test question.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lai_ray.records import Problem
from lai_ray.stages.curation.duplicates import fingerprint, fingerprint_of
from lai_ray.stages.curation.ngrams import COMMON, Hashes, N, Rows, identifying, numbers_of, runs
from lai_ray.stages.curation.rouge import Map, References
from lai_ray.stages.curation.words import normalised, options, whole, words

SAME = "same question"
INSIDE = "whole question inside"
OVERLAP = f"{N} words in common"


@dataclass(frozen=True)
class Copy:
    """An evaluation question found in another text."""

    set: str
    question: str
    """Its id."""
    why: str
    """SAME, INSIDE or OVERLAP."""
    words: str = ""
    """The first words in common."""


@dataclass(frozen=True)
class Near:
    """The question of one set nearest to a text, by ROUGE-L F1."""

    set: str
    question: str
    """Its id."""
    rouge_l: float


def frame(parts: Iterable[str], problem: Problem) -> list[str]:
    """The parts of rendered prompts that are not the problem's own text: instructions, formats, lead-ins."""
    texts = list(parts)
    for own in sorted([problem.question, *options(problem)], key=len, reverse=True):
        if own.strip():
            texts = [piece for text in texts for piece in text.split(own)]
    return texts


@dataclass(frozen=True)
class EvaluationSets:
    """The questions to keep clear of, as hashes; the texts are read again where needed, not held."""

    problems: Mapping[str, Iterable[Problem]]
    """By set, "gsm8k.test"; re-iterable."""
    sizes: dict[str, int]
    exact: dict[bytes, int] = field(repr=False)
    """fingerprint -> index in `ids` of the first question that has it."""
    written: dict[bytes, int] = field(repr=False)
    """The same for questions with options, by the words of their whole text, labels included."""
    openings: dict[int, list[tuple[int, bytes, int]]] = field(repr=False)
    """First 13-gram of words and symbols -> (count, hash of all, index in `ids`) of each question that begins so."""
    grams: Hashes = field(repr=False)
    """Sorted."""
    owners: Rows = field(repr=False)
    """For each of `grams`, the index in `ids` of the first question that has it."""
    ids: list[tuple[str, str]] = field(repr=False)
    """(set, id) of every question."""
    _references: list[References] = field(default_factory=list, repr=False)
    _nearest: dict[str, list[Near]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        problems: Mapping[str, Iterable[Problem]],
        *,
        frames: Iterable[str] = (),
        shown: Mapping[str, Iterable[str]] | None = None,
    ) -> EvaluationSets:
        """frames: texts whose 13-grams never count.  shown: by set, the questions as shown with their options, so that
        copies in that form are found too.
        """
        sets = cls(problems, {}, {}, {}, {}, np.zeros(0, np.uint64), np.zeros(0, np.int64), [])
        framed = np.concatenate([np.zeros(0, np.uint64), *(runs(numbers_of(words(text))) for text in frames)])
        parts = [sets._added(name, questions, framed) for name, questions in problems.items()]
        for name, texts in (shown or {}).items():
            first = next((index for index, (owner, _) in enumerate(sets.ids) if owner == name), 0)
            for index, text in enumerate(texts, first):
                sets.written.setdefault(_as_written(text), index)
        grams = np.concatenate([sets.grams, *(grams for grams, _ in parts)])
        owners = np.concatenate([sets.owners, *(owners for _, owners in parts)])
        order = np.argsort(grams, kind="stable")
        return replace(sets, grams=grams[order], owners=owners[order])

    def _added(self, name: str, questions: Iterable[Problem], framed: Hashes) -> tuple[Hashes, Rows]:
        """Add one set; returns the 13-grams that identify its questions, and the index of each one's question."""
        first, texts, stems = len(self.ids), [], []
        for problem in questions:
            self.exact.setdefault(fingerprint(problem), len(self.ids))
            self.ids.append((name, problem.id))
            # With symbols: without them, a hundred questions about brackets would be equal.
            stems.append(normalised(problem.question).split(" "))
            texts.append(words(whole(problem)))
        counts = Counter(map(tuple, stems))
        for index, stem in enumerate(stems, first):
            grams = runs(numbers_of(stem))
            if len(grams) and counts[tuple(stem)] < COMMON:
                self.openings.setdefault(int(grams[0]), []).append((len(grams), _hash(grams), index))
        self.sizes[name] = len(texts)
        grams, owners = identifying(texts, framed)
        return grams, owners + first

    def only(self, split: str) -> EvaluationSets:
        """The sets whose name ends in ".<split>"."""
        names = {name for name in self.problems if name.endswith(f".{split}")}
        mine = [name in names for name, _ in self.ids]
        rows = np.asarray(mine, bool)[self.owners] if mine else np.zeros(0, bool)
        return EvaluationSets(
            {name: problems for name, problems in self.problems.items() if name in names},
            {name: size for name, size in self.sizes.items() if name in names},
            {mark: index for mark, index in self.exact.items() if mine[index]},
            {mark: index for mark, index in self.written.items() if mine[index]},
            {gram: [o for o in openings if mine[o[2]]] for gram, openings in self.openings.items()},
            self.grams[rows], self.owners[rows], self.ids,
        )  # fmt: skip

    def copied(self, problem: Problem) -> Copy | None:
        """The evaluation question of which this problem is a copy, or None."""
        same = self.exact.get(fingerprint(problem))
        if same is None and not options(problem):
            same = self.written.get(_as_written(problem.question))
        if same is not None:
            return Copy(*self.ids[same], SAME)
        return self._inside(normalised(whole(problem)).split(" ")) or self._overlap(words(whole(problem)))

    def _inside(self, tokens: list[str]) -> Copy | None:
        grams = runs(numbers_of(tokens))
        for start, gram in enumerate(grams.tolist()):
            for count, mark, index in self.openings.get(gram, ()):
                if start + count <= len(grams) and _hash(grams[start : start + count]) == mark:
                    return Copy(*self.ids[index], INSIDE, " ".join(tokens[start : start + N]))
        return None

    def _overlap(self, tokens: list[str]) -> Copy | None:
        grams = runs(numbers_of(tokens))
        if not len(grams) or not len(self.grams):
            return None
        rows = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        hits = np.flatnonzero(self.grams[rows] == grams)
        if not len(hits):
            return None
        # The question that most of them are from.
        owners = self.owners[rows[hits]]
        owner = Counter(owners.tolist()).most_common(1)[0][0]
        start = int(hits[owners == owner][0])
        return Copy(*self.ids[owner], OVERLAP, " ".join(tokens[start : start + N]))

    def references(self) -> References:
        """The questions coded for ROUGE-L: question only, as in the paper's table. Made at the first call."""
        if not self._references:
            self._references.append(
                References.of({name: (words(p.question) for p in problems) for name, problems in self.problems.items()})
            )
        return self._references[0]

    def closest(self, questions: Iterable[str], each: Map = map) -> Iterator[dict[str, tuple[float, int]]]:
        """For each question, by set, its greatest ROUGE-L F1 and the row of that evaluation question."""
        return self.references().nearest((words(question) for question in questions), each)

    def nearest(self, question: str) -> list[Near]:
        """The nearest question of every set; cached, since rounds of instruction ask again."""
        key = fingerprint_of(question).hex()
        if key not in self._nearest:
            first = dict(zip(self.sizes, np.cumsum([0, *self.sizes.values()]).tolist(), strict=False))
            closest = next(self.closest([question]))
            self._nearest[key] = [
                Near(name, self.ids[int(first[name]) + row][1], score) for name, (score, row) in closest.items()
            ]
        return self._nearest[key]


def _as_written(text: str) -> bytes:
    return hashlib.blake2b(" ".join(words(text)).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _hash(grams: Hashes) -> bytes:
    return hashlib.blake2b(grams.tobytes(), digest_size=8).digest()
