"""LLM2LLM (arXiv 2403.15042): the instructor sees a missed question and its right answer, never what the target wrote.

The paper trains from the base model on all samples so far: `train.start_from = "base"`, `train.data = "cumulative"`
(`jobs/llm2llm_cpu.toml`). Only the benchmark's own problems are shown, never a sample that the target got wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lai_ray.contracts import Benchmark, Executor, StrategySettings
from lai_ray.instructor.one_request import OneRequest, case_id, is_mistake
from lai_ray.instructor.prompts import built_in
from lai_ray.instructor.prompts.templates import own_for
from lai_ray.records import Attempt, Case, Message


class LLM2LLM(OneRequest):
    """One request per missed problem."""

    name = "llm2llm"

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """Every mistake."""
        return (Case(case_id(a, self.name), self.name, a) for a in attempts if is_mistake(a, settings))

    def messages(self, case: Case, benchmark: Benchmark, settings: StrategySettings) -> list[Message]:
        """The question with its reference."""
        problem = case.attempt.problem
        return built_in.llm2llm(
            brief=benchmark.brief(),
            question=benchmark.show(problem),
            reference=benchmark.reference(problem),
            n=settings.samples_per_request,
            own=own_for(settings.prompts, benchmark.name),
        )


STRATEGY = LLM2LLM()
