"""Selects the problems that the target is asked: Algorithm 1, line 4.  job, iteration -> parts"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from lai_ray.benchmark_kinds.table_files import Row, read_rows
from lai_ray.benchmark_kinds.user_base import UserBenchmark
from lai_ray.contracts import Benchmark
from lai_ray.engines.recorded import files as recorded_files
from lai_ray.errors import ConfigError, DataError, LaiError
from lai_ray.records import Completion, Message, Problem
from lai_ray.stages.job import Job
from lai_ray.storage.keys import number_of

T = TypeVar("T")

DEV_SHARE, DEV_LEAST = 0.2, 200
"""The size of a dev split cut from training problems: a fifth of them, at most 200."""


@dataclass(frozen=True)
class Part:
    """One split of one benchmark, read again at each pass; with `limit`, a seeded choice of its rows.

    For a benchmark without a dev split one is cut from its training split: `slice` is the side of this part.
    """

    benchmark: Benchmark
    split: str
    limit: int | None
    seed: int
    slice: Literal["whole", "dev", "rest"] = "whole"

    @property
    def name(self) -> str:
        """As in its files' names: "gsm8k.train"."""
        return f"{self.benchmark.name}.{self.split}"

    def __iter__(self) -> Iterator[Problem]:
        for row, record in self.chosen(self.numbered):
            yield _problem(self.benchmark, record, self.split, row)

    def numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every record of the part with its row number in the split it comes from."""
        if self.slice == "whole":
            yield from enumerate(self.benchmark.load(self.split))
            return
        dev = _dev_rows(self.benchmark)
        for row, record in enumerate(self.benchmark.load("train")):
            if (row in dev) == (self.slice == "dev"):
                yield row, record

    def chosen(self, numbered: Callable[[], Iterable[tuple[int, T]]]) -> Iterator[tuple[int, T]]:
        """All rows, or a seeded choice of `limit` of them, in their order."""
        wanted = None
        if self.limit is not None:
            rows = [row for row, _ in numbered()]
            wanted = set(sorted(rows, key=lambda row: number_of(self.seed, self.name, row))[: self.limit])
        return ((row, record) for row, record in numbered() if wanted is None or row in wanted)


@dataclass(frozen=True)
class RecordedPart(Part):
    """Training problems from files with the target's answers to them; ids "<benchmark>/recorded/<row>"."""

    files: tuple[Path, ...] = ()

    def __iter__(self) -> Iterator[Problem]:
        return (problem for problem, _, _ in self.answered())

    def answered(self) -> Iterator[tuple[Problem, list[Message], Completion]]:
        """Each problem, its messages (empty where the row has none) and its answer.

        Raises DataError with file and line for a row that is no record of the benchmark, or has no `response`.
        """
        read = ((row, self._problem(row, number)) for number, row in self.chosen(self._rows))
        for row, problem in self.benchmark.checked(read) if isinstance(self.benchmark, UserBenchmark) else read:
            messages = row.record.get("messages")
            yield problem, messages if isinstance(messages, list) else [], Completion(row.record["response"], "stop")

    def _problem(self, row: Row, number: int) -> Problem:
        if not isinstance(row.record.get("response"), str):
            fields = ", ".join(row.record) or "nothing"
            raise DataError(f"{row.where}: no text in field 'response'; the row has {fields}")
        try:
            return self.benchmark.problem(row.record, RECORDED, number)
        except (LaiError, KeyError, TypeError, ValueError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{row.where}: not a record of {self.benchmark.name}: {reason}") from error

    def _rows(self) -> Iterator[tuple[int, Row]]:
        return enumerate(itertools.chain.from_iterable(read_rows(path) for path in self.files))


def _problem(benchmark: Benchmark, record: dict[str, Any], split: str, row: int) -> Problem:
    """One record's problem. Raises DataError with row and source for a record that is none."""
    try:
        return benchmark.problem(record, split, row)
    except DataError as error:
        of = f" of {benchmark.source}" if benchmark.source else ""
        raise DataError(f"{benchmark.name}, split {split}, row {row + 1}{of}: {error}") from error


RECORDED = "recorded"
"""The split in the ids of problems with recorded answers."""


def _dev_rows(benchmark: Benchmark) -> set[int]:
    """Training rows used as dev split: those whose question hashes lowest, so that equal questions stay together.

    The same for every seed, so that dev scores can be compared.
    """
    rows = enumerate(benchmark.load("train"))
    hashes = [number_of("dev", benchmark.show(_problem(benchmark, record, "train", row))) for row, record in rows]
    wanted = min(DEV_LEAST, int(DEV_SHARE * len(hashes)))
    if not wanted:
        return set()
    last = sorted(hashes)[wanted - 1]
    return {row for row, value in enumerate(hashes) if value <= last}


def part(job: Job, name: str, split: str, limit: int | None = None) -> Part:
    """One split as the job uses it: the training split without the dev split, where that is cut from it."""
    benchmark, config = job.benchmark(name), job.config
    cut = "dev" not in benchmark.splits and "train" in benchmark.splits
    side: Literal["whole", "dev", "rest"] = "dev" if split == "dev" else "rest"
    used = split == "dev" or (split == "train" and config.dev_wanted)
    return Part(benchmark, split, limit, config.seed, side if cut and used else "whole")


def select(job: Job, iteration: int) -> list[Part]:
    """The parts of one iteration: training and test splits, and the dev splits of a search.

    After the last iteration only the tests. Raises ConfigError for a benchmark without the split it is used for.
    """
    config = job.config
    if iteration == 0 and config.target.attempts:
        return recorded(job)
    wanted = []
    if iteration < config.iterations:
        wanted += [(name, "train", config.evaluate.max_train_problems) for name in config.evaluate.learn_from]
        if config.dev_wanted:
            wanted += [(name, "dev", None) for name in config.evaluate.learn_from]
    wanted += [(name, "test", config.evaluate.max_test_problems) for name in config.evaluate.report_on]
    parts = [part(job, name, split, limit) for name, split, limit in wanted]
    for each in parts:
        if each.slice == "whole" and each.split not in each.benchmark.splits:
            raise ConfigError(_missing(each))
    return parts


def recorded(job: Job) -> list[Part]:
    """The training parts with recorded answers. No tests: such a target cannot be asked."""
    limit, seed = job.config.evaluate.max_train_problems, job.config.seed
    return [
        RecordedPart(job.benchmark(name), "train", limit, seed, files=tuple(recorded_files(name, named)))
        for name, named in job.config.target.attempts.items()
    ]


def _missing(part: Part) -> str:
    name, splits = part.benchmark.name, ", ".join(part.benchmark.splits)
    if part.split == "test":
        return f"{name} cannot be reported on: it has no test split, only {splits}. Remove it from evaluate.report_on."
    return (
        f"{name} can be reported on but not learned from: it has no {part.split} split, only {splits}. "
        "Move it from evaluate.learn_from to evaluate.report_on."
    )
