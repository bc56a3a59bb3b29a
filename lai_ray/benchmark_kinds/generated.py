"""Tasks whose problems code makes, with a worked solution each.  kind, random numbers -> rows

A benchmark inherits `Generated` before its kind, and makes one problem of a kind with `make`. A question belongs to one
split by its hash, so no two splits share one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import cycle
from random import Random
from typing import Any, ClassVar

from lai_ray.errors import ConfigError
from lai_ray.grading.numbers import MARKER
from lai_ray.records import Message, Problem

COUNTS = {"train": 2400, "dev": 240, "test": 480}
"""Problems in each split as loaded; `records` yields any number."""
SPLITS = {"train": range(7), "dev": range(7, 8), "test": range(8, 10)}
"""By split, the tenths of all questions that belong to it."""


def tenth(text: str) -> int:
    """0 to 9, by the text's hash."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()[0] % 10


class Generated:
    """Rows, problems and prompts; a solution ends in MARKER and the answer."""

    name: str
    splits: tuple[str, ...]
    kinds: ClassVar[Mapping[str, tuple[int, ...]]]
    """By kind, what `make` takes: sizes."""
    instruction: ClassVar[str]
    """Stands below the question."""

    def make(self, size: tuple[int, ...], rng: Random) -> tuple[str, str]:
        """A question of this size and its worked solution."""
        raise NotImplementedError

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The rows of one split, identical on every platform. Raises ConfigError for a split it does not have."""
        if split not in self.splits:
            raise ConfigError(f"{self.name} has no split {split!r}. It has: {', '.join(self.splits)}.")
        return iter(_loaded(self, split))

    def records(self, split: str, count: int) -> Iterator[dict[str, Any]]:
        """The first `count` rows of a split, the kinds in turn."""
        rng, seen = Random(f"{self.name}/{split}"), set[str]()
        for kind in cycle(self.kinds):
            question, solution = self.make(self.kinds[kind], rng)
            while question in seen or tenth(question) not in SPLITS[split]:
                question, solution = self.make(self.kinds[kind], rng)
            if len(seen) == count:
                return
            seen.add(question)
            yield {"question": question, "answer": solution, "kind": kind}

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row; `answer` is the final answer, the worked solution is in `extra["solution"]`."""
        solution = str(record["answer"])
        extra = {"solution": solution, "kind": str(record.get("kind", "unknown"))}
        answer, name = solution.rpartition(MARKER)[2].strip(), f"{self.name}/{split}/{row:05d}"
        return Problem(name, self.name, split, str(record["question"]), answer, extra)

    def prompt(self, problem: Problem) -> list[Message]:
        """The question, then the form of the steps."""
        return [{"role": "user", "content": f"{problem.question}\n\n{self.instruction}"}]

    def group(self, problem: Problem) -> str:
        """The kind."""
        return str(problem.extra.get("kind", "unknown"))


@cache
def _loaded(benchmark: Generated, split: str) -> tuple[dict[str, Any], ...]:
    return tuple(benchmark.records(split, COUNTS[split]))
