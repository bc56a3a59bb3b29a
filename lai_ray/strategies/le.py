"""Learning from Error: the instructor sees the question and the wrong answer only (§3.2 of arXiv 2407.00497)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lai_ray.contracts import Benchmark, Executor, StrategySettings
from lai_ray.instructor.one_request import OneRequest, case_id, is_mistake
from lai_ray.instructor.prompts import built_in
from lai_ray.instructor.prompts.templates import own_for
from lai_ray.records import Attempt, Case, Message


class LearningFromError(OneRequest):
    """One request per mistake."""

    name = "le"

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """Every mistake, without further evidence."""
        return (Case(case_id(a, self.name), self.name, a) for a in attempts if is_mistake(a, settings))

    def messages(self, case: Case, benchmark: Benchmark, settings: StrategySettings) -> list[Message]:
        """The question and the wrong answer."""
        problem = case.attempt.problem
        return built_in.le(
            brief=benchmark.brief(),
            question=benchmark.show(problem),
            wrong_answer=case.attempt.completion.text,
            n=settings.samples_per_request,
            reference=benchmark.reference(problem) if settings.show_reference else None,
            explain=settings.explain,
            own=own_for(settings.prompts, benchmark.name),
        )


STRATEGY = LearningFromError()
