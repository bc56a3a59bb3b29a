"""Which problems the target is asked: Algorithm 1, line 4.  config, iteration -> parts"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from lai_ray.benchmark_kinds.rows import Row, read_rows
from lai_ray.benchmark_kinds.user_data import own
from lai_ray.common import plugins
from lai_ray.config.config import Config
from lai_ray.contracts import Benchmark, Grading
from lai_ray.engines.recorded import files as recorded_files
from lai_ray.errors import ConfigError, DataError, LaiError
from lai_ray.records import Completion, Message, Problem
from lai_ray.storage.store import number_of

T = TypeVar("T")

DEV_SHARE, DEV_LEAST = 0.2, 200
"""A dev split made of training problems: the smaller of a fifth of them and 200."""


@dataclass(frozen=True)
class Part:
    """One split of one benchmark, read anew at each pass; with `limit`, a seeded choice of its rows.

    A benchmark without a dev split of its own lends one of its training split: `slice` says which side this part is.
    """

    benchmark: Benchmark
    split: str
    limit: int | None
    seed: int
    slice: Literal["whole", "dev", "rest"] = "whole"

    @property
    def name(self) -> str:
        """The name of its files: "gsm8k.train"."""
        return f"{self.benchmark.name}.{self.split}"

    def __iter__(self) -> Iterator[Problem]:
        for row, record in self.chosen(self.numbered):
            yield _problem(self.benchmark, record, self.split, row)

    def numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every record of the part under its number in the split that it comes from."""
        if self.slice == "whole":
            yield from enumerate(self.benchmark.load(self.split))
            return
        lent = _lent(self.benchmark)
        for row, record in enumerate(self.benchmark.load("train")):
            if (row in lent) == (self.slice == "dev"):
                yield row, record

    def chosen(self, numbered: Callable[[], Iterable[tuple[int, T]]]) -> Iterator[tuple[int, T]]:
        """All rows, or a seeded choice of `limit` of them, in their own order."""
        wanted = None
        if self.limit is not None:
            rows = [row for row, _ in numbered()]
            wanted = set(sorted(rows, key=lambda row: number_of(self.seed, self.name, row))[: self.limit])
        return ((row, record) for row, record in numbered() if wanted is None or row in wanted)


@dataclass(frozen=True)
class RecordedPart(Part):
    """Training problems out of files that hold the target's answers to them; ids "<benchmark>/recorded/<row>"."""

    files: tuple[Path, ...] = ()

    def __iter__(self) -> Iterator[Problem]:
        return (problem for problem, _, _ in self.answered())

    def answered(self) -> Iterator[tuple[Problem, list[Message], Completion]]:
        """Each problem, what was sent (empty where the row does not say) and the answer.

        Raises DataError with file and line for a row that is no record of the benchmark, or has no `response`.
        """
        for number, row in self.chosen(self._rows):
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

    def _rows(self) -> Iterator[tuple[int, Row]]:
        return enumerate(itertools.chain.from_iterable(read_rows(path) for path in self.files))


def _problem(found: Benchmark, record: dict[str, Any], split: str, row: int) -> Problem:
    """One record's problem. Raises DataError that says which row of which data is none."""
    try:
        return found.problem(record, split, row)
    except DataError as error:
        source = getattr(found, "source", None)
        of = f" of {source}" if source else ""
        raise DataError(f"{found.name}, split {split}, row {row + 1}{of}: {error}") from error


RECORDED = "recorded"
"""The split in the ids of problems that came with their answers."""


def _lent(found: Benchmark) -> set[int]:
    """Training rows that serve as dev: those whose question hashes lowest, so that equal questions stay together.

    The same in every run: a dev score compares across seeds.
    """
    marks = [number_of("dev", found.show(_problem(found, r, "train", i))) for i, r in enumerate(found.load("train"))]
    wanted = min(DEV_LEAST, int(DEV_SHARE * len(marks)))
    if not wanted:
        return set()
    last = sorted(marks)[wanted - 1]
    return {row for row, mark in enumerate(marks) if mark <= last}


def part(config: Config, name: str, split: str, limit: int | None = None) -> Part:
    """One split as the job uses it: the training split whole, unless it lends a dev split that is wanted."""
    found = benchmark(config, name)
    lends = "dev" not in found.splits and "train" in found.splits
    if split == "dev" and lends:
        return Part(found, split, limit, config.seed, "dev")
    if split == "train" and lends and config.dev_wanted:
        return Part(found, split, limit, config.seed, "rest")
    return Part(found, split, limit, config.seed)


def benchmark(config: Config, name: str) -> Benchmark:
    """The benchmark that a job means by a name. Raises ConfigError that names those there are."""
    mine = next((settings for settings in config.benchmark if settings.name == name), None)
    if mine is not None:
        return own(mine)
    found: Any = _built_in(config, config.evaluate.imported.get(name, name))
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
    parts = [part(config, name, split, limit) for name, split, limit in wanted]
    for each in parts:
        if each.slice == "whole" and each.split not in each.benchmark.splits:
            raise ConfigError(_missing(each))
    return parts


def recorded(config: Config) -> list[Part]:
    """The training parts whose answers the job gives. Tests are not sat: nobody can ask this target."""
    limit, seed = config.evaluate.max_train_problems, config.seed
    return [
        RecordedPart(benchmark(config, name), "train", limit, seed, files=tuple(recorded_files(name, named)))
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
