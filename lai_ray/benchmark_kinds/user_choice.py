"""A user's own multiple-choice questions, in the shapes that people publish.  row -> Problem

The choices of a row are a list of texts; a list of objects (key and value, label and text); an object of two lists
(label, text), as ARC has it; an object with a text under each letter; or several columns. A text that writes one of
these, as CSV files hold it, is read too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lai_ray.benchmark_kinds.choice import ChoiceBenchmark, check_label
from lai_ray.benchmark_kinds.column_values import is_missing, unpacked
from lai_ray.benchmark_kinds.table_files import Row
from lai_ray.benchmark_kinds.user_base import UserBenchmark
from lai_ray.benchmark_kinds.user_rows import user_rows
from lai_ray.errors import DataError
from lai_ray.instructor.parsing.choice_samples import choice_pieces
from lai_ray.instructor.structure import Structure, choice_problem, structure_of
from lai_ray.records import Message, Piece, Problem
from lai_ray.storage.keys import number_of

LETTERS = "ABCDEFGHIJ"
_LABEL, _TEXT = ("label", "key", "letter", "id"), ("text", "value", "content")
MANY = 30
"""Answers by number of which one should be the first choice, where they count from 0."""
_CURE = 'Set how this column names a choice: answer_as = "letter", "place" (counted from 0), "place_from_1" or "text"'
_READ = "a list of texts, of objects with label and text, or an object of these two lists"


@dataclass(frozen=True)
class Choices:
    """The choices of one row, without empty ones at the end."""

    texts: list[str]
    labels: list[str] | None
    """The row's own names of them; None where it has none."""


class UserChoice(UserBenchmark, ChoiceBenchmark):
    """Labelled choices, one of them right."""

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row; the answer is a letter or the row's own label, an index from 0, or the text of a choice."""
        read = self._choices(record)
        if len(read.texts) > len(LETTERS):
            raise DataError(f"{len(read.texts)} choices; at most {len(LETTERS)} are possible")
        choices = dict(zip(LETTERS, read.texts, strict=False))
        answer = check_label(self._letter(record, choices, read.labels), choices)
        return self.build(record, split, row, answer, choices=choices)

    def _choices(self, record: Mapping[str, Any]) -> Choices:
        named = self.settings.choices
        assert named is not None
        if isinstance(named, str):
            return read_choices(self.column(record, named), named)
        texts = _texts([self.column(record, column) for column in named], " and ".join(named))
        if self._holds_answer:  # Else the right one would always have the same letter.
            question = self.question(record)
            texts.sort(key=lambda text: number_of("choices", question, text))
        return Choices(texts, None)

    @property
    def _holds_answer(self) -> bool:
        return isinstance(self.settings.choices, list) and self.settings.answer in self.settings.choices

    def _letter(self, record: Mapping[str, Any], choices: Mapping[str, str], labels: list[str] | None) -> str:
        answer = self.text(record, self.settings.answer, of="assistant").strip()
        own = [_bare(label) for label in labels or ()]
        possible = {
            letter: way
            for way, letters in _readings(answer, choices, own, self._way(record)).items()
            for letter in letters
        }
        if len(possible) > 1:
            ways = ", ".join(f"{letter} by its {way}" for letter, way in possible.items())
            raise DataError(f"the answer {answer!r} may be {ways}. {_CURE}")
        if not possible and _place(answer) == len(choices):
            raise DataError(
                f"the answer {answer!r} is none of the choices {', '.join(choices)}, which are counted from 0; where "
                'this column counts from 1, set answer_as = "place_from_1"'
            )
        return next(iter(possible), answer)

    def _way(self, record: Mapping[str, Any]) -> str | None:
        """How the answer names a choice, where that is known before it is read."""
        if self._holds_answer:
            return "text"
        raw = self.column(record, self.settings.answer)
        number = isinstance(raw, int | float) and not isinstance(raw, bool)
        # A number is an index: 2 is the third choice, also where the first one's text is "2".
        return self.settings.answer_as or ("number" if number else None)

    def checked(self, read: Iterable[tuple[Row, Problem]]) -> Iterator[tuple[Row, Problem]]:
        """The same rows. Raises DataError where it is in doubt from what a column of numbers counts."""
        if self.settings.answer_as or self._holds_answer:
            yield from read
            return
        lettered, places = "", Counter[int]()
        for row, problem in read:
            place = _place(self.text(row.record, self.settings.answer, of="assistant").strip())
            if place is None:
                lettered = lettered or row.where
            elif self._counts(row.record, place):
                places[place] += 1
            if lettered and places:
                raise DataError(
                    f"{row.where}: some answers of this file are numbers and some are not (as in {lettered}), which "
                    f"leaves open from what the numbers count. {_CURE}"
                )
            yield row, problem
        if places.total() >= MANY and not places[0]:
            raise DataError(
                f"benchmark {self.name}: none of {places.total()} answers is 0, the first choice, as if column "
                f"{self.settings.answer!r} counted from 1. {_CURE}"
            )

    def _counts(self, record: Mapping[str, Any], place: int) -> bool:
        """Whether a number is an index, and neither a label of the row's own nor the text of a choice."""
        read = self._choices(record)
        return not read.labels and (self._way(record) == "number" or str(place) not in read.texts)

    def prompt(self, problem: Problem) -> list[Message]:
        """The question with its choices."""
        return self.ask(
            self.show(problem),
            'Start your reply with "Answer:" and the letter of the right choice, then say why in a sentence.',
        )

    def brief(self) -> str:
        """The numbered list that `parse` reads, with as many choices as the data has."""
        choices = "\n".join(f"{letter}. <choice>" for letter in self._letters())
        return (
            "Return a numbered list and nothing else. Each item is one new multiple-choice problem in this form:\n"
            f"1. Question: <the question>\n{choices}\n"
            "Answer: <the letter of the one right choice> - <why it is right, in one paragraph>"
        )

    def structure(self) -> Structure:
        """The form of a reply in JSON, with as many choices as the data has."""
        return structure_of(choice_problem(self._letters()))

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply; each must have as many choices as the data."""
        return choice_pieces(reply, self._letters())

    def _letters(self) -> str:
        first = next(user_rows(self.settings, self.splits[0]), None)
        return LETTERS[: len(self._choices(first.record).texts)] if first else LETTERS[:4]


def _readings(answer: str, choices: Mapping[str, str], own: list[str], how: str | None) -> dict[str, list[str]]:
    """Every way in which the answer may name a choice -> the letters of those that it names.

    own: the row's own labels. how: one of `answer_as`, "number" for a value that is no text, or None.
    """
    named = [letter for letter, label in zip(choices, own, strict=False) if label == _bare(answer)]
    place, first = _place(answer), how == "place_from_1"
    at = -1 if place is None else place - first
    placed = [LETTERS[at]] if 0 <= at < len(choices) else []
    if how in ("place", "place_from_1"):
        return {how: placed}
    numbered, lettered = any(map(str.isdecimal, own)), any(len(label) == 1 for label in own)
    if how == "number":
        return {"place": named or ([] if numbered else placed)}
    ways = {
        "text": [letter for letter, text in choices.items() if text.strip() == answer],
        "place": [] if numbered else placed,
        "letter": named or ([_bare(answer)] if _bare(answer) in choices and not lettered else []),
    }
    return ways if how is None else {how: ways[how]}


def _place(answer: str) -> int | None:
    """The number that an answer is; where some are missing, pandas makes all of them floats."""
    bare = re.sub(r"\.0$", "", answer)
    return int(bare) if bare.isdecimal() else None


def read_choices(value: Any, column: str) -> Choices:
    """The choices in a column's value. Raises DataError for what cannot be read as choices, and for an empty one that
    others follow."""
    try:
        found = unpacked(value)
    except DataError as error:
        raise DataError(f"column {column!r} {error}") from error
    if isinstance(found, list) and found and any(isinstance(item, Mapping) for item in found):
        return _labelled([_pair(item, column) for item in found], column)
    if isinstance(found, list):
        return Choices(_texts(found, column), None)
    if isinstance(found, Mapping):
        return _of_object(found, column)
    raise DataError(f"column {column!r} must hold a list of choices, not {value!r:.60}")


def _of_object(value: Mapping[str, Any], column: str) -> Choices:
    """{"label": ["A", …], "text": [ …]}, or {"A": …, "B": …}."""
    texts = next((unpacked(value[name]) for name in (*_TEXT, "texts", "choices") if name in value), None)
    labels = next((unpacked(value[name]) for name in (*_LABEL, "labels") if name in value), None)
    if isinstance(texts, list) and labels is None:
        return Choices(_texts(texts, column), None)
    if isinstance(texts, list) and isinstance(labels, list) and len(texts) == len(labels):
        return _labelled(list(zip(labels, texts, strict=True)), column)
    if all(re.fullmatch(r"\(?[A-Za-z0-9]\)?", str(key)) for key in value):
        return _labelled(sorted(value.items(), key=lambda pair: _bare(pair[0])), column)
    raise DataError(f"column {column!r} holds an object with {', '.join(map(str, value))}; it must hold {_READ}")


def _pair(item: Any, column: str) -> tuple[Any, Any]:
    """(label, text) of one choice that is an object."""
    fields = set(item) if isinstance(item, Mapping) else set()
    label, text = ([name for name in names if name in fields] for names in (_LABEL, _TEXT))
    if len(text) != 1 or len(label) > 1:
        raise DataError(f"column {column!r} holds the choice {item!r:.60}; it must hold {_READ}")
    return item[label[0]] if label else None, item[text[0]]


def _labelled(pairs: list[tuple[Any, Any]], column: str) -> Choices:
    texts = _texts([text for _, text in pairs], column)
    labels = [str(label).strip() for label, _ in pairs[: len(texts)] if not is_missing(label)]
    if labels and len(set(map(_bare, labels))) < len(texts):
        raise DataError(f"column {column!r}: its labels are {', '.join(labels)}; each choice needs one of its own")
    if sorted(map(_bare, labels)) == list(LETTERS[: len(texts)]):  # A question may mention a choice by its letter.
        ordered = sorted(zip(labels, texts, strict=True), key=lambda pair: _bare(pair[0]))
        labels, texts = [label for label, _ in ordered], [text for _, text in ordered]
    return Choices(texts, labels or None)


def _texts(values: list[Any], column: str) -> list[str]:
    """The texts of the choices; nulls and empty texts at the end only fill a table up."""
    while values and is_missing(values[-1]):
        values = values[:-1]
    for number, value in enumerate(values, 1):
        if is_missing(value):
            raise DataError(f"column {column!r}: choice {number} of {len(values)} is empty")
        if isinstance(value, Mapping | list | tuple | set | bytes):
            raise DataError(f"column {column!r} holds the choice {value!r:.60}; it must hold {_READ}")
    return [str(value) for value in values]


def _bare(label: Any) -> str:
    """A label without brackets and points: "(b)", "B." and "b" name the same choice."""
    return str(label).strip().strip("().: ").upper() or str(label).strip()
