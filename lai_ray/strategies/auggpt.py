"""The paper's baseline AugGPT: training problems of any verdict, each rewritten into variants of itself.

As `untargeted` it is blind to mistakes: the same cases in the same seeded order. `untargeted` has the instructor write
other problems of the course's kind; here it stays with the question it is shown, and says that one anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lai_ray.contracts import Benchmark, Executor, Improve
from lai_ray.instructor import prompts
from lai_ray.instructor.templates import own_for
from lai_ray.records import Attempt, Case, Message
from lai_ray.strategies._mistakes import OneRequest, case_id


class AugGPT(OneRequest):
    """One request a training problem, whatever its verdict; the seeded order of cases makes it a random draw."""

    name = "auggpt"
    uses_neighbours = False
    any_verdict = True

    def cases(self, attempts: Iterable[Attempt], settings: Improve, executor: Executor) -> Iterator[Case]:
        """Every training attempt."""
        for attempt in attempts:
            yield Case(case_id(attempt, self.name), self.name, attempt)

    def messages(self, case: Case, benchmark: Benchmark, settings: Improve) -> list[Message]:
        """The question, and its right answer where the job shows it; never what the target said."""
        problem = case.attempt.problem
        return prompts.auggpt(
            brief=benchmark.brief(),
            question=benchmark.show(problem),
            n=settings.samples_per_request,
            reference=benchmark.reference(problem) if settings.show_reference else None,
            own=own_for(settings.prompts, benchmark.name),
        )


STRATEGY = AugGPT()
