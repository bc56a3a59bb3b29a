"""The control: training problems of any verdict, no answer shown. Same instructor, same count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lai_ray.contracts import Benchmark, Executor, Improve
from lai_ray.instructor import prompts
from lai_ray.records import Attempt, Case, Message, Reply, Sample
from lai_ray.strategies._mistakes import case_id, samples_from


class Untargeted:
    """One request a training problem, whatever its verdict; the seeded order of cases makes it a random draw."""

    name = "untargeted"
    uses_neighbours = False

    def cases(self, attempts: Iterable[Attempt], settings: Improve, executor: Executor) -> Iterator[Case]:
        """Every training attempt."""
        for attempt in attempts:
            yield Case(case_id(attempt, self.name), self.name, attempt)

    def next_messages(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: Improve
    ) -> list[Message] | None:
        """The question alone."""
        if replies:
            return None
        problem = case.attempt.problem
        return prompts.untargeted(
            brief=benchmark.brief(), question=benchmark.show(problem), n=settings.samples_per_request
        )

    def samples(self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: Improve) -> list[Sample]:
        """What the reply holds."""
        return samples_from(case, replies, benchmark)


STRATEGY = Untargeted()
