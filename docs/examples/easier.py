"""A strategy of one request: easier problems of the kind that was missed, in this file's own words.

[schedule]
strategy = "easier:STRATEGY"
[strategy.easier]
steps = 3
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lai_ray.contracts import Benchmark, Executor, StrategySettings
from lai_ray.instructor.one_request import OneRequest, case_id, is_mistake
from lai_ray.records import Attempt, Case, Message


@dataclass(frozen=True)
class Settings:
    """The table [strategy.easier]."""

    steps: int = 2
    """In how many steps the problems come up to the missed one."""


class Easier(OneRequest):
    """The dialogue, reading the samples, accepting and choosing are inherited."""

    name = "easier"
    Settings = Settings

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """Every mistake."""
        for attempt in attempts:
            if is_mistake(attempt, settings):
                yield Case(case_id(attempt, self.name), self.name, attempt)

    def messages(self, case: Case, benchmark: Benchmark, settings: StrategySettings) -> list[Message]:
        """The benchmark's brief is the return format; without it no sample can be read."""
        missed = benchmark.show(case.attempt.problem)
        return [
            {"role": "system", "content": f"You prepare a student for a problem.\n\n{benchmark.brief()}"},
            {
                "role": "user",
                "content": f"The student missed this problem:\n{missed}\n\nWrite {settings.samples_per_request} new "
                f"problems that come up to it in {settings.own.steps} steps, the easiest first.",
            },
        ]


STRATEGY = Easier()
