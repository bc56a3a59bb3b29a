"""A user's own data as a benchmark, from a job's [[benchmark]] table.  settings -> Benchmark

    [[benchmark]]
    name = "reviews"
    kind = "label"                 # choice | number | label | exact | code
    train = "reviews_train.jsonl"  # docs/benchmarks.md lists the formats; or, with hub = "owner/name", a split there
    test = "reviews_test.jsonl"
    question = "text"              # columns
    answer = "sentiment"

choice: `choices` names the column that holds the list, or the columns that hold one each; the answer is a letter, an
index counted from 0, or the choice's text (`answer_as` says which, where a row is ambiguous). number: the answer is a
number, or a solution that ends in one. label: one of `labels`, or of the answers in the file. exact: any short text.
code: the answer is a Python function, `tests` the column with its asserts (a list or a text); the function must pass
them in the sandbox, and one that returns None, a text or a new object must not. In a conversation (messages) the user's
turn is the question and the assistant's the answer.

For another prompt or verdict than these, write your own benchmark: inherit the kind, or `UserBenchmark` for a new one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from lai_ray.benchmark_kinds.math import MathBenchmark
from lai_ray.benchmark_kinds.user_base import UserBenchmark
from lai_ray.benchmark_kinds.user_choice import UserChoice
from lai_ray.benchmark_kinds.user_code import UserCode
from lai_ray.benchmark_kinds.user_rows import check_labels, labels_in, whole
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.contracts import DEFAULT_GRADING, Benchmark, Grading
from lai_ray.errors import DataError
from lai_ray.grading.answer_part import narrow, own_answer
from lai_ray.grading.numbers import MARKER, PLAIN, final_number, marked_number, read_number
from lai_ray.grading.numerals import in_digits
from lai_ray.instructor.parsing.text_samples import answer_pieces
from lai_ray.instructor.structure import ShortProblem, Structure, label_problem, structure_of
from lai_ray.records import Grade, Message, Piece, Problem

_NOT = r"(?<!\bnot )(?<!n't )(?<!n’t )(?<!\bnever )(?<!\bnot an )(?<!\bnot a )"
_COMMITTED = re.compile(r"(?:\banswer(?:\s+is)?|答案(?:是|为)?)[\s*_]*[:=][\s*_\"'`]*([^\n]+)", re.I)

LABEL_BRIEF = """\
Return a numbered list and nothing else. Each item is one new problem in this form:
1. Question: <a new text of the same kind>
Answer: <one of: {labels}>"""
EXACT_BRIEF = """\
Return a numbered list and nothing else. Each item is one new problem in this form:
1. Question: <a new question with one short right answer>
Answer: <the answer alone>"""


def user_benchmark(settings: BenchmarkSettings, min_tier: str = DEFAULT_GRADING.min_tier) -> Benchmark:
    """The benchmark that a [[benchmark]] table describes.

    min_tier: the weakest isolation level in which the programs of its rows may run where they are checked.
    """
    benchmark: Benchmark = KINDS[settings.kind](settings, min_tier)
    return benchmark


class UserNumber(UserBenchmark, MathBenchmark):
    """A question whose answer is one number, graded like GSM8K."""

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row; the answer's column holds the number, or a solution that ends in it."""
        solution = _number_text(self.text(record, self.settings.answer, of="assistant"), self.settings.answer)
        final = final_number(solution)
        if final is None:
            raise DataError(f"no number in column {self.settings.answer!r}: {solution[:60]!r}")
        if two := _two_numbers(solution, final.text):
            raise DataError(f"column {self.settings.answer!r} ends in two numbers, {two!r}; keep the one that is right")
        if marked_number(solution) is None:
            working = "" if solution.strip() == final.text else f"{solution}\n"
            solution = f"{working}{MARKER} {final.text}"
        return self.build(record, split, row, final.text, solution=solution)

    def prompt(self, problem: Problem) -> list[Message]:
        """The question and the form of the answer, as GSM8K asks for it."""
        return self.ask(
            self.show(problem), f"Work it out step by step, then end with a line of its own: {MARKER} and the result."
        )


class UserText(UserBenchmark):
    """A question with a short text as answer."""

    def gold(self, record: Mapping[str, Any]) -> str:
        """The right answer of a row; 42.0, which pandas makes of 42 where some are missing, is 42."""
        value = self.column(record, self.settings.answer)
        if isinstance(value, float) and value.is_integer():
            return whole(value)
        return self.text(record, self.settings.answer, of="assistant")

    def show(self, problem: Problem) -> str:
        """The question."""
        return problem.question

    def reference(self, problem: Problem) -> str:
        """The gold answer, in the form the prompt asks for."""
        return f"Answer: {problem.answer}"


class UserLabel(UserText):
    """One of a few labels."""

    def labels(self) -> tuple[str, ...]:
        """Those the job lists, or those in the file. Raises ConfigError for too many, or two that differ in case."""
        labels = tuple(self.settings.labels or labels_in(self.settings, self.splits[0]))
        check_labels(self.name, labels)
        return labels

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row."""
        answer = self.gold(record).strip()
        if answer not in self.labels():
            raise DataError(f"the answer {answer!r} is none of the labels {', '.join(self.labels())}")
        return self.build(record, split, row, answer)

    def prompt(self, problem: Problem) -> list[Message]:
        """The text and the possible labels."""
        return self.ask(self.show(problem), f'Reply with "Answer:" and one of: {", ".join(self.labels())}.')

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """1.0 for the gold label: the last one after "Answer:", else the only one that the response mentions."""
        text = own_answer(response, lambda part: bool(_COMMITTED.search(part) or self._mentioned(part)))
        for stated in reversed(_COMMITTED.findall(text)):
            named = [label for label in self.labels() if re.match(rf"{_word(label)}", stated.strip(), re.I)]
            if named:
                label = max(named, key=len)
                return Grade(float(label == problem.answer), label, "answer", "graded")
        mentioned = self._mentioned(text)
        if len(mentioned) == 1:
            (label,) = mentioned
            return Grade(float(label == problem.answer), label, "only_label", "graded")
        note = "no label in the response" if not mentioned else f"several labels: {', '.join(sorted(mentioned))}"
        return Grade(0.0, None, "none", "unparsed", note)

    def _mentioned(self, text: str) -> set[str]:
        """The labels in a text; "not positive" does not mention one."""
        return {label for label in self.labels() if re.search(rf"{_NOT}{_word(label)}", text, re.I)}

    def brief(self) -> str:
        """The numbered list that `parse` reads."""
        return LABEL_BRIEF.format(labels=", ".join(self.labels()))

    def structure(self) -> Structure:
        """The form of a reply in JSON, for `instructor.format`."""
        return structure_of(label_problem(tuple(self.labels())))

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply; an answer that is no label is rejected."""
        return [self._labelled(piece) for piece in answer_pieces(reply)]

    def _labelled(self, piece: Piece) -> Piece:
        if piece.rejected:
            return piece
        label = next((x for x in self.labels() if x.casefold() == piece.answer.casefold().strip(" .*\"'")), None)
        if label is None:
            return Piece(piece.question, "", "", rejected=f"its answer is none of the labels: {piece.answer[:40]!r}")
        return Piece(piece.question, label, f"Answer: {label}")


class UserExact(UserText):
    """A short text, compared without regard to case, spacing and closing punctuation."""

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row."""
        return self.build(record, split, row, self.gold(record).strip())

    def prompt(self, problem: Problem) -> list[Message]:
        """The question and the form of the answer."""
        return self.ask(self.show(problem), 'End your reply with a line of its own: "Answer:" and the answer alone.')

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """1.0 when the text after the last "Answer:", else the last line, equals the reference."""
        text = own_answer(response, lambda part: bool(_COMMITTED.search(part)))
        stated, rule = [answer.strip() for answer in _COMMITTED.findall(text)], "answer"
        if not stated:
            stated, rule = [line.strip() for line in text.splitlines() if line.strip()], "last_line"
        if not stated or not _folded(stated[-1]):
            return Grade(0.0, None, "none", "unparsed", "no answer in the response")
        return Grade(float(_folded(stated[-1]) == _folded(problem.answer)), stated[-1], rule, "graded")

    def brief(self) -> str:
        """The numbered list that `parse` reads."""
        return EXACT_BRIEF

    def structure(self) -> Structure:
        """The form of a reply in JSON, for `instructor.format`."""
        return structure_of(ShortProblem)

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply, each with the first line of its answer."""
        return [
            piece if piece.rejected else Piece(piece.question, piece.answer, f"Answer: {piece.answer}")
            for piece in answer_pieces(reply)
        ]


KINDS: dict[str, type[Any]] = {
    "number": UserNumber, "choice": UserChoice, "label": UserLabel, "exact": UserExact, "code": UserCode,
}  # fmt: skip


_ONE = rf"-?\$?(?:{PLAIN})(?:/\d+)?"
_TWO = re.compile(
    rf"(?P<first>{_ONE})(?:\s?%|\s?[^\W\d_]+){{0,2}}?(?:\s*\(?\s*\b(?:or|to|and)\b|\s*[-–—~]|,(?=\s*[a-z]\s*=))"
    rf"\s*(?:[a-z]\s*=\s*)?(?P<second>{_ONE})(?=[^\d]*$)",
    re.I,
)
_UNITS = "(?:year|month|week|day|hour|minute|foot|feet|ft|yard|mile|km|metre|meter|pound|lb|kg|dollar|euro)s?"
_COMPOUND = re.compile(rf"(?P<first>{_ONE})\s?{_UNITS},?\s(?P<second>{_ONE})\s?[^\W\d_]+\.?", re.I)


def _two_numbers(solution: str, final: str) -> str | None:
    """The end of a gold answer that leaves open which number is right: "12 or 13", "3 to 5", "2 hours 30 minutes"."""
    end = in_digits(solution.rpartition(MARKER)[2].strip().rpartition("\n")[2])
    found = _TWO.search(end) or _COMPOUND.fullmatch(end)
    if found is None:
        return None
    values = [number.value for text in found.group("first", "second") if (number := read_number(text))]
    chosen = read_number(in_digits(final))
    return found[0] if len(set(values)) > 1 and chosen and abs(chosen.value) in map(abs, values) else None


def _number_text(answer: str, column: str) -> str:
    """A bare number as plain digits; a worked solution as it is. Raises DataError for what is neither."""
    bare = re.sub(r"^([-+−]?)\s*[$€£¥₹]\s*", r"\1", answer.strip().removesuffix("%").strip())
    bare = re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", bare)
    if re.fullmatch(r"[-+−]?(\d+\.?\d*|\.\d+)[eE][-+]?\d{1,2}", bare):
        return f"{Decimal(bare.replace('−', '-')):f}"
    bare = in_digits(bare).strip()
    alone = "=" not in bare and "\n" not in bare and MARKER not in bare and not re.search(r"[^\W\d_]", bare)
    if alone and not re.fullmatch(r"[-+−]?(\d+\.?\d*|\.\d+)(\s*/\s*[-−]?\d+)?", bare):
        raise DataError(f"column {column!r} holds {answer[:60]!r}, which is not one number, as 1234.5 is")
    return answer


def _word(label: str) -> str:
    return rf"(?<!\w){re.escape(narrow(label))}(?!\w)"


def _folded(text: str) -> str:
    return " ".join(narrow(text).casefold().split()).strip(" .!?*_\"'`")
