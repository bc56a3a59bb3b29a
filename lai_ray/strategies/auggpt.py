"""The paper's baseline AugGPT: training problems of any verdict, each rewritten into variants of itself.

As `untargeted` it is blind to mistakes: the same cases in the same seeded order. `untargeted` has the instructor write
other problems of the course's kind; here it stays with the question it is shown, and says that one anew.
"""

from __future__ import annotations

from lai_ray.contracts import Benchmark, StrategySettings
from lai_ray.instructor.one_request import AnyVerdict
from lai_ray.instructor.prompts import built_in
from lai_ray.instructor.prompts.templates import own_for
from lai_ray.records import Case, Message


class AugGPT(AnyVerdict):
    """The question, said anew."""

    name = "auggpt"

    def messages(self, case: Case, benchmark: Benchmark, settings: StrategySettings) -> list[Message]:
        """The question, and its right answer where the job shows it; never what the target said."""
        problem = case.attempt.problem
        return built_in.auggpt(
            brief=benchmark.brief(),
            question=benchmark.show(problem),
            n=settings.samples_per_request,
            reference=benchmark.reference(problem) if settings.show_reference else None,
            own=own_for(settings.prompts, benchmark.name),
        )


STRATEGY = AugGPT()
