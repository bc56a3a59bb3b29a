"""The control of LEC: each mistake beside k random questions that the target got right, instead of the most similar."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from lai_ray.contracts import Executor, StrategySettings
from lai_ray.records import Attempt
from lai_ray.strategies.lec import Compared, LearningFromErrorByContrast


class RandomContrast(LearningFromErrorByContrast):
    """As LEC without embeddings: a seeded draw for each mistake, at distance 0."""

    name = "random_contrast"

    def texts(self, attempts: Iterable[Attempt], settings: StrategySettings) -> list[str]:
        """Nothing is embedded."""
        return []

    def near(
        self, wrong: list[Compared], right: list[Compared], settings: StrategySettings, executor: Executor
    ) -> dict[str, list[tuple[str, float]]]:
        """Each mistake's own draw."""
        k = min(settings.neighbours, len(right))
        draws = {one.id: Random(f"{settings.seed}/{settings.iteration}/{one.id}").sample(right, k) for one in wrong}
        return {mistake: [(one.id, 0.0) for one in drawn] for mistake, drawn in draws.items()}


STRATEGY = RandomContrast()
