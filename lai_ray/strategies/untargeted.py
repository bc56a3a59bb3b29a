"""The control of LE and LEC: training problems of any verdict, no answer shown, the same number of samples."""

from __future__ import annotations

from lai_ray.contracts import Benchmark, StrategySettings
from lai_ray.instructor.one_request import AnyVerdict
from lai_ray.instructor.prompts import built_in
from lai_ray.instructor.prompts.templates import own_for
from lai_ray.records import Case, Message


class Untargeted(AnyVerdict):
    """One request per training problem, for others like it."""

    name = "untargeted"

    def messages(self, case: Case, benchmark: Benchmark, settings: StrategySettings) -> list[Message]:
        """The question alone."""
        return built_in.untargeted(
            brief=benchmark.brief(),
            question=benchmark.show(case.attempt.problem),
            n=settings.samples_per_request,
            own=own_for(settings.prompts, benchmark.name),
        )


STRATEGY = Untargeted()
