"""Learning from Error by Contrast: beside the mistake, the k most similar questions that the target got right.

Similar by the embedding of the question, squared L2, within the same dataset (§3.3 and eq. 2 of arXiv 2407.00497).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from lai_ray.contracts import Benchmark, Executor, Improve, Neighbours
from lai_ray.instructor import prompts
from lai_ray.records import Attempt, Case, Contrast, Message
from lai_ray.strategies._mistakes import OneRequest, case_id, is_mistake


class LearningFromErrorByContrast(OneRequest):
    """One request a mistake, with its nearest successes."""

    name = "lec"
    uses_neighbours = True

    def cases(self, attempts: Iterable[Attempt], settings: Improve, executor: Executor) -> Iterator[Case]:
        """Every mistake with its neighbours. With no correct case there is nothing to contrast: bare mistakes."""
        wrong = [(a.id, a.problem.question) for a in attempts if is_mistake(a, settings)]
        right = [(a.id, a.problem.question) for a in attempts if a.right]
        if not wrong:
            return
        found = self._nearest([q for _, q in wrong], [q for _, q in right], settings, executor)
        near = {
            attempt_id: [(right[row][0], float(distance)) for row, distance in zip(*pair, strict=True)]
            for (attempt_id, _), pair in zip(wrong, zip(found.ids, found.distances, strict=True), strict=True)
        }
        shown = _by_id(attempts, {contrast for pairs in near.values() for contrast, _ in pairs})
        for attempt in attempts:
            if attempt.id in near:
                contrasts = [Contrast(shown[contrast], distance) for contrast, distance in near[attempt.id]]
                yield Case(case_id(attempt, self.name), self.name, attempt, contrasts)

    def _nearest(self, wrong: list[str], right: list[str], settings: Improve, executor: Executor) -> Neighbours:
        k = min(settings.neighbours, len(right))
        if k == 0:
            return Neighbours(np.zeros((len(wrong), 0), np.int64), np.zeros((len(wrong), 0), np.float32))
        vectors = executor.embed([*wrong, *right], settings.encoder)
        return executor.nearest(vectors[: len(wrong)], vectors[len(wrong) :], k)

    def messages(self, case: Case, benchmark: Benchmark, settings: Improve) -> list[Message]:
        """The correct questions (questions only, as in the paper's experiments), the failed one, the wrong answer."""
        problem = case.attempt.problem
        return prompts.lec(
            brief=benchmark.brief(),
            correct=[benchmark.show(contrast.attempt.problem) for contrast in case.contrasts],
            question=benchmark.show(problem),
            wrong_answer=case.attempt.completion.text,
            n=settings.samples_per_request,
            reference=benchmark.reference(problem) if settings.show_reference else None,
        )


def _by_id(attempts: Iterable[Attempt], wanted: set[str]) -> dict[str, Attempt]:
    return {attempt.id: attempt for attempt in attempts if attempt.id in wanted}


STRATEGY = LearningFromErrorByContrast()
