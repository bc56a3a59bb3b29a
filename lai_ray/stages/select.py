"""Which problems the target is asked: Algorithm 1, line 4.  config, iteration -> parts"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from lai_ray import plugins
from lai_ray.benchmarks._own import own
from lai_ray.benchmarks._upstream import Row, read_rows
from lai_ray.config import Config
from lai_ray.contracts import Benchmark, Grading
from lai_ray.engines.recorded import files as recorded_files
from lai_ray.errors import ConfigError, DataError, LaiError
from lai_ray.records import Completion, Message, Problem
from lai_ray.store import number_of

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One split of one benchmark, read anew at each pass; with `limit`, a seeded choice of its rows."""

    benchmark: Benchmark
    split: str
    limit: int | None
    seed: int

    @property
    def name(self) -> str:
        """The name of its files: "gsm8k.train"."""
        return f"{self.benchmark.name}.{self.split}"

    def __iter__(self) -> Iterator[Problem]:
        for row, record in _chosen(self, lambda: self.benchmark.load(self.split)):
            yield self.benchmark.problem(record, self.split, row)


@dataclass(frozen=True)
class RecordedPart(Part):
    """Training problems out of files that hold the target's answers to them; ids "<benchmark>/recorded/<row>"."""

    files: tuple[Path, ...]

    def __iter__(self) -> Iterator[Problem]:
        return (problem for problem, _, _ in self.answered())

    def answered(self) -> Iterator[tuple[Problem, list[Message], Completion]]:
        """Each problem, what was sent (empty where the row does not say) and the answer.

        Raises DataError with file and line for a row that is no record of the benchmark, or has no `response`.
        """
        for number, row in _chosen(self, self._rows):
            record, response = row.record, row.record.get("response")
            if not isinstance(response, str):
                had = ", ".join(record) or "nothing"
                raise DataError(f"{row.where}: no text in field 'response'; the row has {had}")
            try:
                problem = self.benchmark.problem(record, RECORDED, number)
            except (LaiError, KeyError, TypeError, ValueError) as error:
                reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
                raise DataError(f"{row.where}: not a record of {self.benchmark.name}: {reason}") from error
            messages = record.get("messages")
            yield problem, messages if isinstance(messages, list) else [], Completion(response, "stop")

    def _rows(self) -> Iterator[Row]:
        return itertools.chain.from_iterable(read_rows(path) for path in self.files)


RECORDED = "recorded"
"""The split in the ids of problems that came with their answers."""


def _chosen(part: Part, rows: Callable[[], Iterable[T]]) -> Iterator[tuple[int, T]]:
    """(number, row) of all rows, or of a seeded choice of `part.limit` of them, in their own order."""
    chosen = None
    if part.limit is not None:
        numbers = range(sum(1 for _ in rows()))
        chosen = set(sorted(numbers, key=lambda row: number_of(part.seed, part.name, row))[: part.limit])
    return ((number, row) for number, row in enumerate(rows()) if chosen is None or number in chosen)


def benchmark(config: Config, name: str) -> Benchmark:
    """The benchmark that a job means by a name. Raises ConfigError that names those there are."""
    mine = next((settings for settings in config.benchmark if settings.name == name), None)
    if mine is not None:
        return own(mine)
    found: Any = _built_in(config, name)
    if name in config.data:
        if not hasattr(found, "source"):
            raise ConfigError(f"data.{name}: this benchmark loads no files; take it out of [data]")
        found = replace(found, source=config.data[name])
    return cast(Benchmark, found)


def _built_in(config: Config, name: str) -> Any:
    try:
        return plugins.load("benchmarks", name)
    except ConfigError as error:
        mine = ", ".join(settings.name for settings in config.benchmark)
        raise ConfigError(f"{error} [[benchmark]] adds: {mine}." if mine else str(error)) from None


def grading(config: Config) -> Grading:
    """How a job grades."""
    return Grading(rules=config.evaluate.rules, min_tier=config.sandbox.min_tier)


def select(config: Config, iteration: int) -> list[Part]:
    """The parts of one iteration: training and (when something is chosen) dev splits, and test splits to report.

    After the last iteration nothing is learned any more, so only the tests are sat. Raises ConfigError for a benchmark
    that lacks the split it is named for.
    """
    if iteration == 0 and config.target.attempts:
        return recorded(config)
    wanted = []
    if iteration < config.iterations:
        wanted += [(name, "train", config.evaluate.max_train_problems) for name in config.evaluate.learn_from]
        if config.dev_wanted:
            wanted += [(name, "dev", None) for name in config.evaluate.learn_from]
    wanted += [(name, "test", config.evaluate.max_test_problems) for name in config.evaluate.report_on]
    parts = [Part(benchmark(config, name), split, limit, config.seed) for name, split, limit in wanted]
    for part in parts:
        if part.split not in part.benchmark.splits:
            raise ConfigError(_missing(part))
    return parts


def recorded(config: Config) -> list[Part]:
    """The training parts whose answers the job gives. Tests are not sat: nobody can ask this target."""
    limit, seed = config.evaluate.max_train_problems, config.seed
    return [
        RecordedPart(benchmark(config, name), "train", limit, seed, tuple(recorded_files(name, named)))
        for name, named in config.target.attempts.items()
    ]


def _missing(part: Part) -> str:
    name, splits = part.benchmark.name, ", ".join(part.benchmark.splits)
    if part.split == "test":
        return f"{name} cannot be reported on: it has no test split, only {splits}. Take it out of evaluate.report_on."
    return (
        f"{name} can be reported on but not learned from: it has no {part.split} split, only {splits}. "
        "Move it from evaluate.learn_from to evaluate.report_on."
    )
