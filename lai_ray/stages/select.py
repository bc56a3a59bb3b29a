"""Which problems the target is asked: Algorithm 1, line 4.  config, iteration -> parts"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from lai_ray import plugins
from lai_ray.config import Config
from lai_ray.contracts import Benchmark, Grading
from lai_ray.errors import ConfigError
from lai_ray.records import Problem
from lai_ray.store import number_of

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
        chosen = self._chosen() if self.limit is not None else None
        for row, record in self._rows():
            if chosen is None or row in chosen:
                yield self.benchmark.problem(record, self.split, row)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        if self.slice == "whole":
            yield from enumerate(self.benchmark.load(self.split))
            return
        lent = _lent(self.benchmark)
        for row, record in enumerate(self.benchmark.load("train")):
            if (row in lent) == (self.slice == "dev"):
                yield row, record

    def _chosen(self) -> set[int]:
        rows = [row for row, _ in self._rows()]
        return set(sorted(rows, key=lambda row: number_of(self.seed, self.name, row))[: self.limit])


def _lent(found: Benchmark) -> set[int]:
    """Training rows that serve as dev: those whose question hashes lowest, so that equal questions stay together.

    The same in every run: a dev score compares across seeds.
    """
    marks = [number_of("dev", found.show(found.problem(r, "train", i))) for i, r in enumerate(found.load("train"))]
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
    found: Any = plugins.load("benchmarks", name)
    if name in config.data:
        if not hasattr(found, "source"):
            raise ConfigError(f"data.{name}: this benchmark loads no files; take it out of [data]")
        found = replace(found, source=config.data[name])
    return cast(Benchmark, found)


def grading(config: Config) -> Grading:
    """How a job grades."""
    return Grading(rules=config.evaluate.rules, min_tier=config.sandbox.min_tier)


def select(config: Config, iteration: int) -> list[Part]:
    """The parts of one iteration: training and (when something is chosen) dev splits, and test splits to report.

    After the last iteration nothing is learned any more, so only the tests are sat. Raises ConfigError for a benchmark
    that lacks the split it is named for.
    """
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


def _missing(part: Part) -> str:
    name, splits = part.benchmark.name, ", ".join(part.benchmark.splits)
    if part.split == "test":
        return f"{name} cannot be reported on: it has no test split, only {splits}. Take it out of evaluate.report_on."
    return (
        f"{name} can be reported on but not learned from: it has no {part.split} split, only {splits}. "
        "Move it from evaluate.learn_from to evaluate.report_on."
    )
