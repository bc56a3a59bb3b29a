"""The control: training problems of any verdict, no answer shown. Same instructor, same count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lai_ray.contracts import Benchmark, Executor, Improve
from lai_ray.instructor import prompts
from lai_ray.instructor.templates import own_for
from lai_ray.records import Attempt, Case, Message
from lai_ray.strategies._mistakes import OneRequest, case_id


class Untargeted(OneRequest):
    """One request a training problem, whatever its verdict; the seeded order of cases makes it a random draw."""

    name = "untargeted"
    uses_neighbours = False
    any_verdict = True

    def cases(self, attempts: Iterable[Attempt], settings: Improve, executor: Executor) -> Iterator[Case]:
        """Every training attempt."""
        for attempt in attempts:
            yield Case(case_id(attempt, self.name), self.name, attempt)

    def messages(self, case: Case, benchmark: Benchmark, settings: Improve) -> list[Message]:
        """The question alone."""
        question = benchmark.show(case.attempt.problem)
        return prompts.untargeted(
            brief=benchmark.brief(),
            question=question,
            n=settings.samples_per_request,
            own=own_for(settings.prompts, benchmark.name),
        )


STRATEGY = Untargeted()
