"""Learning from Error: the instructor sees the question and the wrong answer alone (§3.2 of arXiv 2407.00497)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lai_ray.contracts import Benchmark, Executor, Improve
from lai_ray.instructor import prompts
from lai_ray.records import Attempt, Case, Message, Reply, Sample
from lai_ray.strategies._mistakes import case_id, is_mistake, samples_from


class LearningFromError:
    """One request a mistake."""

    name = "le"
    uses_neighbours = False

    def cases(self, attempts: Iterable[Attempt], settings: Improve, executor: Executor) -> Iterator[Case]:
        """Every mistake, by itself."""
        for attempt in attempts:
            if is_mistake(attempt, settings):
                yield Case(case_id(attempt, self.name), self.name, attempt)

    def next_messages(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: Improve
    ) -> list[Message] | None:
        """The question and the wrong answer; one turn."""
        if replies:
            return None
        problem = case.attempt.problem
        return prompts.le(
            brief=benchmark.brief(),
            question=benchmark.show(problem),
            wrong_answer=case.attempt.completion.text,
            n=settings.samples_per_request,
            reference=benchmark.reference(problem) if settings.show_reference else None,
        )

    def samples(self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: Improve) -> list[Sample]:
        """What the reply holds."""
        return samples_from(case, replies, benchmark)


STRATEGY = LearningFromError()
