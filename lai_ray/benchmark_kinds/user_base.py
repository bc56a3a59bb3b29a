"""What all kinds of a user's own data share: rows, columns, the question.  [[benchmark]] table -> rows"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lai_ray.benchmark_kinds import columns
from lai_ray.benchmark_kinds.table_files import Row
from lai_ray.benchmark_kinds.user_rows import user_rows
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
        """A column's value, as `columns.column`."""
        return columns.column(record, name, f"benchmark {self.name}")

    def text(self, record: Mapping[str, Any], name: str, *, of: Literal["user", "assistant"] = "user") -> str:
        """A column's value as text, as `columns.text`."""
        return columns.text(record, name, f"benchmark {self.name}", of=of)

    def question(self, record: Mapping[str, Any]) -> str:
        """The question of one row, as `columns.question`."""
        return columns.question(record, self.settings.question, f"benchmark {self.name}")

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
