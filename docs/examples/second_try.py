"""A dialogue: the target tries a missed problem again, and the instructor reads both attempts.

[schedule]
strategy = "second_try:STRATEGY"
[strategy.second_try]
temperature = 0.7
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lai_ray.contracts import Benchmark, Executor, StrategySettings
from lai_ray.instructor.one_request import OneRequest, case_id, is_mistake
from lai_ray.records import Ask, Attempt, Case, Message, Reply


@dataclass(frozen=True)
class Settings:
    """The table [strategy.second_try]."""

    temperature: float = 1.0
    """Of the second try."""


class SecondTry(OneRequest):
    """Two turns a mistake. What is inherited reads the samples from the last reply."""

    name = "second_try"
    Settings = Settings

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """Every mistake."""
        for attempt in attempts:
            if is_mistake(attempt, settings):
                yield Case(case_id(attempt, self.name), self.name, attempt)

    def next(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> Ask | None:
        """First the target, as in the test but sampled; then the instructor; then the end."""
        problem = case.attempt.problem
        match list(replies):
            case []:
                return Ask("target", benchmark.prompt(problem), settings.own.temperature)
            case [second]:
                # A second try that is right needs no lesson.
                right = benchmark.grade(problem, second.completion.text).score >= 1
                return None if right else Ask("instructor", self._request(case, second, benchmark, settings))
        return None

    def samples(self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings):
        """None where the target was the last to answer."""
        return super().samples(case, [r for r in replies if r.to == "instructor"], benchmark, settings)

    def _request(self, case: Case, second: Reply, benchmark: Benchmark, settings: StrategySettings) -> list[Message]:
        question = benchmark.show(case.attempt.problem)
        n = settings.samples_per_request
        return [
            {"role": "system", "content": f"You write exercises for a student.\n\n{benchmark.brief()}"},
            {
                "role": "user",
                "content": f"### Question\n{question}\n\n### First answer, wrong\n{case.attempt.completion.text}\n\n"
                f"### Second answer, wrong\n{second.completion.text}\n\nWrite {n} new problems on what was missed.",
            },
        ]


STRATEGY = SecondTry()
