"""The paper's baseline Fine-Tuning: the training problems and their reference answers, without a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lai_ray.contracts import Benchmark, StrategySettings
from lai_ray.instructor.one_request import WithoutRequest
from lai_ray.records import GENERATED, Case, Reply, Sample, Turn


class FineTuning(WithoutRequest):
    """One sample per training problem, whatever the target answered. It has nothing new for a second iteration."""

    name = "fine_tuning"

    def samples(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> list[Sample]:
        """The problem with its reference answer."""
        name, problem = f"{case.id}/0", case.attempt.problem
        learned = replace(problem, id=name, split=GENERATED)
        return [Sample(name, None, learned, [Turn(benchmark.reference(problem))])]


STRATEGY = FineTuning()
