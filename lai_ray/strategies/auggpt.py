"""The paper's baseline AugGPT: training problems of any verdict, each rewritten into variants of itself.

Like `untargeted` it ignores mistakes and has the same cases in the same seeded order. `untargeted` asks for other
problems of the same kind; this one for variants of the question that is shown.
"""

from __future__ import annotations

from lai_ray.contracts import Benchmark, StrategySettings
from lai_ray.instructor.one_request import AnyVerdict
from lai_ray.instructor.prompts import built_in
from lai_ray.instructor.prompts.templates import own_for
from lai_ray.records import Case, Message


class AugGPT(AnyVerdict):
    """One request per training problem, for variants of it."""

    name = "auggpt"

    def messages(self, case: Case, benchmark: Benchmark, settings: StrategySettings) -> list[Message]:
        """The question, and its reference where the job shows it; never the target's answer."""
        problem = case.attempt.problem
        return built_in.auggpt(
            brief=benchmark.brief(),
            question=benchmark.show(problem),
            n=settings.samples_per_request,
            reference=benchmark.reference(problem) if settings.show_reference else None,
            own=own_for(settings.prompts, benchmark.name),
        )


STRATEGY = AugGPT()
