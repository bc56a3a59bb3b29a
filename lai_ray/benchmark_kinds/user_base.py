"""What all kinds of a user's own data share: rows, columns, the question.  [[benchmark]] table -> rows"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lai_ray.benchmark_kinds.column_values import is_missing, of_conversation
from lai_ray.benchmark_kinds.table_files import Row
from lai_ray.benchmark_kinds.user_rows import user_rows
from lai_ray.common.plugins import suggestion
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.contracts import DEFAULT_GRADING
from lai_ray.errors import ConfigError, DataError, LaiError
from lai_ray.records import Message, Problem


@dataclass(frozen=True)
class UserBenchmark:
    """Rows and columns of a [[benchmark]] table; the kinds add prompts and verdicts."""

    settings: BenchmarkSettings
    min_tier: str = DEFAULT_GRADING.min_tier
    """The weakest isolation level in which the rows' own programs may run."""
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
        for row, _ in self.checked(self._read(split)):
            yield row.record

    def _read(self, split: str) -> Iterator[tuple[Row, Problem]]:
        for number, row in enumerate(user_rows(self.settings, split)):
            try:
                yield row, self.problem(row.record, split, 0)
            except LaiError as error:
                if isinstance(error, ConfigError) and not number:  # A fault of the settings, not of this row.
                    raise
                raise DataError(f"{row.where}: {error}") from error

    def checked(self, read: Iterable[tuple[Row, Problem]]) -> Iterator[tuple[Row, Problem]]:
        """The same rows, after checks of many rows at once. Raises DataError for a row with a fault."""
        yield from read

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row; each kind implements it."""
        raise NotImplementedError

    def column(self, record: Mapping[str, Any], name: str) -> Any:
        """A column's value; "question.stem" is the field of an object. Raises ConfigError with the columns that exist,
        and where another column's name differs from this one in spaces or case alone."""
        names = [str(key) for key in record]
        alike = [key for key in names if _folded(key) == _folded(name)]
        if len(alike) > 1:
            raise ConfigError(
                f"benchmark {self.name}: the columns {' and '.join(map(repr, alike))} differ in spaces or case alone; "
                "rename or remove one of them"
            )
        if name in record:
            return record[name]
        outer, _, inner = name.partition(".")
        if inner and isinstance(record.get(outer), Mapping):
            return self.column(record[outer], inner)
        raise ConfigError(
            f"benchmark {self.name}: no column {name!r}. {suggestion(name, names)}There are: {', '.join(names)}."
        )

    def text(self, record: Mapping[str, Any], name: str, *, of: Literal["user", "assistant"] = "user") -> str:
        """A column's value as text; of a conversation, what the user or the assistant says.

        Raises DataError for an empty one, and for a value that is no text.
        """
        value = of_conversation(self.column(record, name), of, name)
        if is_missing(value):
            raise DataError(f"column {name!r} is empty")
        if isinstance(value, Mapping | list | tuple | set | bytes):
            raise DataError(f"column {name!r} holds no text but a {type(value).__name__}: {value!r:.60}")
        text = str(value)
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise DataError(
                f"column {name!r} holds half a character (a lone surrogate), which is no UTF-8: {text!r:.60}"
            )
        return text

    def question(self, record: Mapping[str, Any]) -> str:
        """The question of one row: its column, or the texts of several that are not empty, a blank line between them.

        Raises DataError where all are empty, and for Alpaca's `instruction` alone where the row has an `input` too.
        """
        named = self.settings.question
        if isinstance(named, str):
            if named == "instruction" and "output" in record and not is_missing(record.get("input")):
                raise DataError(
                    f"column 'input' belongs to the question too: {str(record['input'])!r:.60}. Set "
                    'question = ["instruction", "input"]'
                )
            return self.text(record, named)
        filled = [name for name in named if not is_missing(self.column(record, name))]
        return "\n\n".join(self.text(record, name) for name in filled or named)

    def build(self, record: Mapping[str, Any], split: str, row: int, answer: str, **extra: Any) -> Problem:
        """The Problem of one row, its question and subject read from the job's columns."""
        if self.settings.subject is not None:
            extra["subject"] = str(self.column(record, self.settings.subject))
        question = self.question(record)
        return Problem(f"{self.name}/{split}/{row:05d}", self.name, split, question, answer, extra)

    def ask(self, question: str, form: str) -> list[Message]:
        """The prompt: the job's instruction, the question, the form of the answer."""
        parts = [self.settings.instruction, question, form]
        return [{"role": "user", "content": "\n\n".join(part for part in parts if part)}]

    def group(self, problem: Problem) -> str:
        """The subject, where the job names a column for it; else one group."""
        return str(problem.extra.get("subject", "all"))


def _folded(name: str) -> str:
    return re.sub(r"[\s\ufeff]+", " ", name).strip().casefold()
