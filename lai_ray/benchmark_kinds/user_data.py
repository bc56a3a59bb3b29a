"""A user's own data as a benchmark, from a job's [[benchmark]] table.  settings -> Benchmark

    [[benchmark]]
    name = "reviews"
    kind = "label"                 # choice | number | label | exact | code
    train = "reviews_train.jsonl"  # JSON lines or array, CSV, Parquet; or, with hub = "owner/name", a split there
    test = "reviews_test.jsonl"
    question = "text"              # columns
    answer = "sentiment"

choice: `choices` names the column that holds the list, or the columns that hold one each; the answer is a letter, an
index counted from 0, or the choice's text (`answer_as` says which, where a row is ambiguous). number: the answer is a
number, or a solution that ends in one. label: one of `labels`, or of the answers in the file. exact: any short text.
code: the answer is a Python function, `tests` the column with its asserts (a list or a text).

For another prompt or verdict than these, write your own benchmark: inherit the kind, or `UserBenchmark` for a new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from lai_ray.benchmark_kinds.choice import ChoiceBenchmark, check_label
from lai_ray.benchmark_kinds.code import CodeBenchmark
from lai_ray.benchmark_kinds.math import MathBenchmark
from lai_ray.benchmark_kinds.user_rows import check_labels, labels_in, user_rows
from lai_ray.common.plugins import suggestion
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.contracts import DEFAULT_GRADING, Benchmark, Grading
from lai_ray.errors import ConfigError, DataError, LaiError
from lai_ray.grading.answer_part import narrow, own_answer
from lai_ray.grading.numbers import MARKER, final_number, marked_number
from lai_ray.grading.numerals import in_digits
from lai_ray.grading.programs import defined_names
from lai_ray.instructor.parsing.code_samples import header
from lai_ray.instructor.parsing.text_samples import answer_pieces, choice_pieces
from lai_ray.records import Grade, Message, Piece, Problem

LETTERS = "ABCDEFGHIJ"
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


def user_benchmark(settings: BenchmarkSettings) -> Benchmark:
    """The benchmark that a [[benchmark]] table describes."""
    benchmark: Benchmark = KINDS[settings.kind](settings)
    return benchmark


@dataclass(frozen=True)
class UserBenchmark:
    """Rows and columns of a [[benchmark]] table; the kinds below add prompts and verdicts."""

    settings: BenchmarkSettings
    runs_code: ClassVar[bool] = False

    @property
    def source(self) -> None:
        """Its files are named by the job's [[benchmark]] table, not by [data]."""
        return None

    @property
    def name(self) -> str:
        """As in the job."""
        return self.settings.name

    @property
    def domain(self) -> str:
        """As in the job: "in" or "out"."""
        return self.settings.domain

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits for which the job names a file."""
        return tuple(split for split in ("train", "dev", "test") if getattr(self.settings, split))

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The rows of one split. Raises ConfigError for a missing file or column, DataError for a row with a fault."""
        if split not in self.splits:
            raise ConfigError(f"{self.name} has no split {split!r}. It has: {', '.join(self.splits)}.")
        for number, row in enumerate(user_rows(self.settings, split)):
            try:
                self.problem(row.record, split, 0)
            except LaiError as error:
                if isinstance(error, ConfigError) and not number:  # A fault of the settings, not of this row.
                    raise
                raise DataError(f"{row.where}: {error}") from error
            yield row.record

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row; each kind implements it."""
        raise NotImplementedError

    def column(self, record: Mapping[str, Any], name: str) -> Any:
        """A column's value. Raises ConfigError with the columns that exist."""
        if name not in record:
            names = [str(key) for key in record]
            raise ConfigError(
                f"benchmark {self.name}: no column {name!r}. {suggestion(name, names)}There are: {', '.join(names)}."
            )
        return record[name]

    def text(self, record: Mapping[str, Any], name: str) -> str:
        """A column's value as text. Raises DataError for an empty one, and for a value that is no text."""
        value = self.column(record, name)
        if value is None or not str(value).strip() or value != value:  # pandas writes NaN for a missing value.
            raise DataError(f"column {name!r} is empty")
        if isinstance(value, Mapping | list | tuple | set | bytes):
            raise DataError(f"column {name!r} holds no text but a {type(value).__name__}: {value!r:.60}")
        text = str(value)
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise DataError(
                f"column {name!r} holds half a character (a lone surrogate), which is no UTF-8: {text!r:.60}"
            )
        return text

    def build(self, record: Mapping[str, Any], split: str, row: int, answer: str, **extra: Any) -> Problem:
        """The Problem of one row, its question and subject read from the job's columns."""
        if self.settings.subject is not None:
            extra["subject"] = str(self.column(record, self.settings.subject))
        question = self.text(record, self.settings.question)
        return Problem(f"{self.name}/{split}/{row:05d}", self.name, split, question, answer, extra)

    def ask(self, question: str, form: str) -> list[Message]:
        """The prompt: the job's instruction, the question, the form of the answer."""
        parts = [self.settings.instruction, question, form]
        return [{"role": "user", "content": "\n\n".join(part for part in parts if part)}]

    def group(self, problem: Problem) -> str:
        """The subject, where the job names a column for it; else one group."""
        return str(problem.extra.get("subject", "all"))


class UserNumber(UserBenchmark, MathBenchmark):
    """A question whose answer is one number, graded like GSM8K."""

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row; the answer's column holds the number, or a solution that ends in it."""
        solution = _number_text(self.text(record, self.settings.answer), self.settings.answer)
        final = final_number(solution)
        if final is None:
            raise DataError(f"no number in column {self.settings.answer!r}: {solution[:60]!r}")
        if marked_number(solution) is None:
            working = "" if solution.strip() == final.text else f"{solution}\n"
            solution = f"{working}{MARKER} {final.text}"
        return self.build(record, split, row, final.text, solution=solution)

    def prompt(self, problem: Problem) -> list[Message]:
        """The question and the form of the answer, as GSM8K asks for it."""
        return self.ask(
            self.show(problem), f"Work it out step by step, then end with a line of its own: {MARKER} and the result."
        )


class UserChoice(UserBenchmark, ChoiceBenchmark):
    """Labelled choices, one of them right."""

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row; the answer is a letter, an index from 0, or the text of a choice."""
        texts = self._texts(record)
        if len(texts) > len(LETTERS):
            raise DataError(f"{len(texts)} choices; at most {len(LETTERS)} are possible")
        choices = dict(zip(LETTERS, texts, strict=False))
        return self.build(record, split, row, check_label(self._letter(record, choices), choices), choices=choices)

    def _texts(self, record: Mapping[str, Any]) -> list[str]:
        named = self.settings.choices
        assert named is not None
        if isinstance(named, list):
            return [self.text(record, column) for column in named]
        value = self.column(record, named)
        if isinstance(value, Mapping) and isinstance(value.get("text"), list):  # ARC's format.
            value = value["text"]
        if not isinstance(value, list):
            raise DataError(f"column {named!r} must hold a list of choices, not {value!r:.60}")
        return [str(text) for text in value]

    def _letter(self, record: Mapping[str, Any], choices: Mapping[str, str]) -> str:
        answer, how = self.text(record, self.settings.answer).strip(), self.settings.answer_as
        raw = record[self.settings.answer]
        if how is None and isinstance(raw, int | float) and not isinstance(raw, bool):
            how = "place"  # A number is an index: 2 is the third choice, also where the first one's text is "2".
        place = re.sub(r"\.0$", "", answer)  # Where some are missing, pandas makes all of them floats.
        readings = {
            "text": [letter for letter, text in choices.items() if text.strip() == answer],
            "place": [LETTERS[int(place)]] if place.isdecimal() and int(place) < len(choices) else [],
            "letter": [answer.upper()] if answer.upper() in choices else [],
        }
        possible = {letter: way for way, letters in readings.items() for letter in letters if how in (None, way)}
        if len(possible) > 1:
            ways = ", ".join(f"{letter} by its {way}" for letter, way in possible.items())
            raise DataError(
                f'the answer {answer!r} may be {ways}. Set how this column names a choice: answer_as = "letter", '
                '"place" (counted from 0) or "text"'
            )
        return next(iter(possible), answer)

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

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply; each must have as many choices as the data."""
        return choice_pieces(reply, self._letters())

    def _letters(self) -> str:
        first = next(user_rows(self.settings, self.splits[0]), None)
        return LETTERS[: len(self._texts(first.record))] if first else LETTERS[:4]


class UserText(UserBenchmark):
    """A question with a short text as answer."""

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
        answer = self.text(record, self.settings.answer).strip()
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
        return self.build(record, split, row, self.text(record, self.settings.answer).strip())

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

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply, each with the first line of its answer."""
        return [
            piece if piece.rejected else Piece(piece.question, piece.answer, f"Answer: {piece.answer}")
            for piece in answer_pieces(reply)
        ]


class UserCode(UserBenchmark, CodeBenchmark):
    """A Python function, judged by its tests in the sandbox."""

    runs_code: ClassVar[bool] = True

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row; the function that the tests call is the last one of the reference that they name."""
        assert self.settings.tests is not None
        code, value = self.text(record, self.settings.answer), self.column(record, self.settings.tests)
        tests = [str(test) for test in value] if isinstance(value, list) else str(value).splitlines()
        tests = [test.strip() for test in tests if test.strip()]
        names = [name for name in defined_names(code) if any(re.search(rf"\b{name}\(", test) for test in tests)]
        if not names:
            raise DataError(f"no test in column {self.settings.tests!r} calls a function of the answer")
        question = self.text(record, self.settings.question)
        prompt = question if "def " in question else header(question, code, names[-1], tests)
        extra = {"entry": names[-1], "test": "\n".join(tests), "check": False}
        problem = self.build(record, split, row, code, **extra)
        return Problem(problem.id, problem.benchmark, split, prompt, code, problem.extra)

    def prompt(self, problem: Problem) -> list[Message]:
        """The job's instruction, then the prompt of every code benchmark."""
        (message,) = CodeBenchmark.prompt(self, problem)
        extra = f"{self.settings.instruction}\n\n" if self.settings.instruction else ""
        return [{**message, "content": extra + message["content"]}]


KINDS: dict[str, type[Any]] = {
    "number": UserNumber, "choice": UserChoice, "label": UserLabel, "exact": UserExact, "code": UserCode,
}  # fmt: skip


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
