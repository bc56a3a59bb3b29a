"""Samples in a user's file: question, answer or response, options or tests.  row -> GivenSample -> reply

A sample is read from its row by way of a reply in the form that the benchmark asks of an instructor, so that the
benchmark's own parser and checks apply to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lai_ray.benchmark_kinds import columns
from lai_ray.benchmark_kinds.code_tests import read_tests, unfenced
from lai_ray.benchmark_kinds.column_values import is_missing
from lai_ray.benchmark_kinds.table_files import Row
from lai_ray.benchmark_kinds.user_choice import LETTERS, read_choices
from lai_ray.benchmark_kinds.user_rows import rows_of
from lai_ray.config.settings import Section
from lai_ray.errors import ConfigError, DataError
from lai_ray.grading.numbers import MARKER, final_number
from lai_ray.instructor.parsing.headings import HEAD

OWNER = "strategy.given"


class SampleColumns(Section):
    """Where the samples are, and the columns that hold their parts."""

    files: str | list[str] | dict[str, str | list[str]] = ""
    """A file or several, relative to the current folder, in any format of `docs/benchmarks.md`; or a table with the
    files of each benchmark."""
    question: str | list[str] = "question"
    """The column with the question, or those that make it; of a conversation the user's turn."""
    response: str | None = None
    """The column with the text to learn; of a conversation the assistant's turn. None: "response", if there is one."""
    answer: str | None = None
    """The column with the right answer alone. None: "answer" where a row has no response."""
    options: str | None = None
    """Choices: the column with a list or an object of them."""
    tests: str | None = None
    """Programs: the column with the asserts."""
    add_final_line: bool = False
    """Numbers: end a response that has no "####" line with one of the last number that it states."""

    def of(self, dataset: str) -> list[str]:
        """The files of one dataset. Raises ConfigError where there are none."""
        named = self.files.get(dataset, []) if isinstance(self.files, dict) else self.files
        if not named:
            raise ConfigError(
                f'{OWNER}.files names no file for {dataset}: set files = "samples.jsonl" in [strategy.given], or '
                f'files = {{ {dataset} = "samples.jsonl" }}'
            )
        return [named] if isinstance(named, str) else named


@dataclass(frozen=True)
class GivenSample:
    """The parts of one row, as texts."""

    question: str
    response: str
    """"" where the row has an answer alone."""
    answer: str
    """"" where the row has a response alone; of a choice its letter."""
    options: dict[str, str]
    tests: str
    where: str
    """The row's place, "<file>:<line>"."""


def given_samples(settings: SampleColumns, dataset: str) -> Iterator[GivenSample]:
    """The samples of one dataset, in the order of the files.

    Raises ConfigError for a missing file or column, DataError with file and row for a row that has no sample.
    """
    for file in settings.of(dataset):
        for row in rows_of(file, OWNER):
            yield _sample(settings, row)


def _sample(settings: SampleColumns, row: Row) -> GivenSample:
    record = row.record
    try:
        response, answer = _answer_columns(settings, record)
        options = _options(settings, record)
        return GivenSample(
            question=columns.question(record, settings.question, OWNER),
            response=columns.text(record, response, OWNER, of="assistant") if response else "",
            answer=_answer(columns.text(record, answer, OWNER, of="assistant"), options) if answer else "",
            options=options,
            tests=read_tests(columns.column(record, settings.tests, OWNER)).source if settings.tests else "",
            where=row.where,
        )
    except ConfigError as error:
        raise ConfigError(f"{row.where}: {error} Name the columns in [strategy.given].") from error
    except DataError as error:
        raise DataError(f"{row.where}: {error}. Mend or remove this row.") from error


def _answer_columns(settings: SampleColumns, record: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The columns of response and answer that a row is read by; at least one."""
    if settings.response or settings.answer:
        return settings.response, settings.answer
    if not is_missing(record.get("response")):
        return "response", None
    if "answer" in record:
        return None, "answer"
    return "response", None


def _options(settings: SampleColumns, record: Mapping[str, Any]) -> dict[str, str]:
    if settings.options is None:
        return {}
    texts = read_choices(columns.column(record, settings.options, OWNER), settings.options).texts
    if not 2 <= len(texts) <= len(LETTERS):
        raise DataError(f"column {settings.options!r} holds {len(texts)} choices, not 2 to {len(LETTERS)}")
    return dict(zip(LETTERS, texts, strict=False))


def _answer(answer: str, options: Mapping[str, str]) -> str:
    """An answer; of a choice the letter, where it is given as the choice's text. Raises DataError for none of them."""
    bare = answer.strip()
    if not options or bare in options:
        return bare
    letters = [letter for letter, text in options.items() if text.strip() == bare]
    if len(letters) != 1:
        raise DataError(f"the answer {bare[:60]!r} is neither a letter of {', '.join(options)} nor one choice's text")
    return letters[0]


def as_reply(sample: GivenSample, *, numbers: bool, add_final_line: bool) -> str:
    """A sample in the form of an instructor's reply. numbers: the benchmark's answers end in a "####" line."""
    question = sample.question.strip()
    if sample.tests:
        return _program(question, sample)
    head = "" if HEAD.match(question) else "Question: "
    choices = "".join(f"\n{letter}. {text}" for letter, text in sample.options.items())
    return f"{head}{question}{choices}\nAnswer: {_worked(sample, numbers=numbers, add_final_line=add_final_line)}"


def _worked(sample: GivenSample, *, numbers: bool, add_final_line: bool) -> str:
    answer, response = sample.answer, sample.response.strip()
    if sample.options:
        return f"{answer} - {response}" if answer and response else answer or response
    if not numbers:
        return answer or response
    text = response or answer
    stated = final_number(answer) if answer else final_number(text) if add_final_line else None
    return f"{text}\n{MARKER} {stated.text}" if stated and MARKER not in text else text


def _program(question: str, sample: GivenSample) -> str:
    shown = f"```python\n{question}\n```" if "def " in question and "```" not in question else question
    code = unfenced(sample.response or sample.answer).strip("\n")
    fenced = code if "```" in code else f"```python\n{code}\n```"
    return f"Question:\n{shown}\nAnswer:\n{fenced}\nTests:\n```python\n{sample.tests}\n```"
