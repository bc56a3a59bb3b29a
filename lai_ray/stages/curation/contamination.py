"""Copies of evaluation questions, and how near everything else comes to them.  problems, evaluation sets -> copies

Three rules say "copy": the same question (`duplicates.fingerprint`); an evaluation question of 13 words or more that
stands whole inside the text, symbols and all; and 13 words in a row in common that tell which question they are from
(`ngrams`). ROUGE-L is a measure (Table 5 of arXiv 2407.00497), not a rule: most templated word problems exceed 0.7
against some test question.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from lai_ray.records import Problem
from lai_ray.stages.curation.duplicates import fingerprint, fingerprint_of
from lai_ray.stages.curation.ngrams import COMMON, Hashes, N, Rows, numbers_of, runs, telling
from lai_ray.stages.curation.rouge import Map, References
from lai_ray.stages.curation.words import normalised, options, whole, words

SAME = "same question"
INSIDE = "whole question inside"
OVERLAP = f"{N} words in common"


@dataclass(frozen=True)
class Copy:
    """An evaluation question that stands in another text."""

    set: str
    question: str
    """Its id."""
    why: str
    """SAME, INSIDE or OVERLAP."""
    words: str = ""
    """The first words in common."""


@dataclass(frozen=True)
class Near:
    """The question of one set that a text comes nearest to, by ROUGE-L F1."""

    set: str
    question: str
    """Its id."""
    rouge_l: float


def frame(parts: Iterable[str], problem: Problem) -> list[str]:
    """What is left of rendered prompts without the problem's own words: instructions, formats, lead-ins."""
    texts = list(parts)
    for own in sorted([problem.question, *options(problem)], key=len, reverse=True):
        if own.strip():
            texts = [piece for text in texts for piece in text.split(own)]
    return texts


@dataclass(frozen=True)
class EvaluationSets:
    """The questions to keep clear of, as hashes; the texts are read again where they are needed, never held."""

    problems: Mapping[str, Iterable[Problem]]
    """By set, "gsm8k.test"; re-iterable."""
    sizes: dict[str, int]
    exact: dict[bytes, int] = field(repr=False)
    """fingerprint -> place in `ids` of the first question that has it."""
    written: dict[bytes, int] = field(repr=False)
    """The same for questions with options, by their words as one text, labels and all."""
    openings: dict[int, list[tuple[int, bytes, int]]] = field(repr=False)
    """First run of 13 words and symbols -> (runs, hash of them all, place in `ids`) of each question that begins so."""
    grams: Hashes = field(repr=False)
    """Sorted."""
    owners: Rows = field(repr=False)
    """For each run, the place in `ids` of the first question that has it."""
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
        """frames: texts whose runs of words never count.  shown: the same questions, set by set, as they are written
        down with their options in the text, so that a copy in that form is known as one too.
        """
        made = cls(problems, {}, {}, {}, {}, np.zeros(0, np.uint64), np.zeros(0, np.int64), [])
        framed = np.concatenate([np.zeros(0, np.uint64), *(runs(numbers_of(words(text))) for text in frames)])
        parts = [made._added(name, questions, framed) for name, questions in problems.items()]
        for name, texts in (shown or {}).items():
            first = next((place for place, (owner, _) in enumerate(made.ids) if owner == name), 0)
            for place, text in enumerate(texts, first):
                made.written.setdefault(_as_written(text), place)
        grams = np.concatenate([made.grams, *(grams for grams, _ in parts)])
        owners = np.concatenate([made.owners, *(owners for _, owners in parts)])
        order = np.argsort(grams, kind="stable")
        return cls(problems, made.sizes, made.exact, made.written, made.openings, grams[order], owners[order], made.ids)

    def _added(self, name: str, questions: Iterable[Problem], framed: Hashes) -> tuple[Hashes, Rows]:
        """Take one set in; its telling runs and whose they are."""
        first, texts, stems = len(self.ids), [], []
        for problem in questions:
            self.exact.setdefault(fingerprint(problem), len(self.ids))
            self.ids.append((name, problem.id))
            # Symbols count here: without them, a hundred questions about brackets would be one.
            stems.append(normalised(problem.question).split(" "))
            texts.append(words(whole(problem)))
        often = Counter(map(tuple, stems))
        for place, stem in enumerate(stems, first):
            found = runs(numbers_of(stem))
            if len(found) and often[tuple(stem)] < COMMON:
                self.openings.setdefault(int(found[0]), []).append((len(found), _hash(found), place))
        self.sizes[name] = len(texts)
        grams, owners = telling(texts, framed)
        return grams, owners + first

    def only(self, split: str) -> EvaluationSets:
        """Those sets whose name ends in ".<split>"."""
        mine = [name.endswith(f".{split}") for name, _ in self.ids]
        rows = np.asarray(mine, bool)[self.owners] if mine else np.zeros(0, bool)
        openings = {run: [o for o in found if mine[o[2]]] for run, found in self.openings.items()}
        return EvaluationSets(
            {name: found for name, found in self.problems.items() if name.endswith(f".{split}")},
            {name: size for name, size in self.sizes.items() if name.endswith(f".{split}")},
            {mark: place for mark, place in self.exact.items() if mine[place]},
            {mark: place for mark, place in self.written.items() if mine[place]},
            openings, self.grams[rows], self.owners[rows], self.ids,
        )  # fmt: skip

    def copied(self, problem: Problem) -> Copy | None:
        """The evaluation question that stands in this problem, or None."""
        same = self.exact.get(fingerprint(problem))
        if same is None and not options(problem):
            same = self.written.get(_as_written(problem.question))
        if same is not None:
            return Copy(*self.ids[same], SAME)
        return self._inside(normalised(whole(problem)).split(" ")) or self._overlap(words(whole(problem)))

    def _inside(self, tokens: list[str]) -> Copy | None:
        found = runs(numbers_of(tokens))
        for start, run in enumerate(found.tolist()):
            for count, mark, place in self.openings.get(run, ()):
                if start + count <= len(found) and _hash(found[start : start + count]) == mark:
                    return Copy(*self.ids[place], INSIDE, " ".join(tokens[start : start + N]))
        return None

    def _overlap(self, tokens: list[str]) -> Copy | None:
        found = runs(numbers_of(tokens))
        if not len(found) or not len(self.grams):
            return None
        places = np.minimum(np.searchsorted(self.grams, found), len(self.grams) - 1)
        hits = np.flatnonzero(self.grams[places] == found)
        if not len(hits):
            return None
        # Named is the question that most of these runs are from.
        owners = self.owners[places[hits]]
        owner = Counter(owners.tolist()).most_common(1)[0][0]
        start = int(hits[owners == owner][0])
        return Copy(*self.ids[owner], OVERLAP, " ".join(tokens[start : start + N]))

    def references(self) -> References:
        """The questions, ready for ROUGE-L: question only, as in the paper's table. Made at the first call."""
        if not self._references:
            self._references.append(
                References.of({name: (words(p.question) for p in found) for name, found in self.problems.items()})
            )
        return self._references[0]

    def closest(self, questions: Iterable[str], each: Map = map) -> Iterator[dict[str, tuple[float, int]]]:
        """For each question its greatest ROUGE-L F1 with every set, and the row of that question there."""
        return self.references().nearest((words(question) for question in questions), each)

    def nearest(self, question: str) -> list[Near]:
        """The nearest question of every set; remembered, since rounds of instruction ask again."""
        key = fingerprint_of(question).hex()
        if key not in self._nearest:
            first = dict(zip(self.sizes, np.cumsum([0, *self.sizes.values()]).tolist(), strict=False))
            found = next(self.closest([question]))
            self._nearest[key] = [
                Near(name, self.ids[int(first[name]) + row][1], score) for name, (score, row) in found.items()
            ]
        return self._nearest[key]


def _as_written(text: str) -> bytes:
    return hashlib.blake2b(" ".join(words(text)).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _hash(found: Hashes) -> bytes:
    return hashlib.blake2b(found.tobytes(), digest_size=8).digest()
