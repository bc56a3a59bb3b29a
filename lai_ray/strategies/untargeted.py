"""The control: training problems of any verdict, no answer shown. Same instructor, same count."""

from __future__ import annotations

from lai_ray.contracts import Benchmark, Improve
from lai_ray.instructor import prompts
from lai_ray.instructor.templates import own_for
from lai_ray.records import Case, Message
from lai_ray.strategies._mistakes import AnyVerdict


class Untargeted(AnyVerdict):
    """More like the question."""

    name = "untargeted"

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
