"""The control: training problems of any verdict, no answer shown. Same instructor, same count."""

from __future__ import annotations

from lai_ray.contracts import Benchmark, StrategySettings
from lai_ray.instructor.one_request import AnyVerdict
from lai_ray.instructor.prompts import built_in
from lai_ray.instructor.prompts.templates import own_for
from lai_ray.records import Case, Message


class Untargeted(AnyVerdict):
    """More like the question."""

    name = "untargeted"

    def messages(self, case: Case, benchmark: Benchmark, settings: StrategySettings) -> list[Message]:
        """The question alone."""
        question = benchmark.show(case.attempt.problem)
        return built_in.untargeted(
            brief=benchmark.brief(),
            question=question,
            n=settings.samples_per_request,
            own=own_for(settings.prompts, benchmark.name),
        )


STRATEGY = Untargeted()
