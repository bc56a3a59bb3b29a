"""Learning from Error by Contrast: each mistake with the k most similar questions that the target got right.

Similar by the embedding of the question, squared L2, within the same dataset (§3.3 and eq. 2 of arXiv 2407.00497).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lai_ray.contracts import Benchmark, Executor, Neighbours, StrategySettings
from lai_ray.errors import ConfigError
from lai_ray.instructor.one_request import OneRequest, case_id, is_mistake
from lai_ray.instructor.prompts import built_in
from lai_ray.instructor.prompts.templates import own_for
from lai_ray.records import Attempt, Case, Contrast, Message


class LearningFromErrorByContrast(OneRequest):
    """One request per mistake, with its nearest correct questions."""

    name = "lec"
    uses_neighbours = True

    def texts(self, attempts: Iterable[Attempt], settings: StrategySettings) -> list[str]:
        """The texts that `cases` compares: all mistakes and all correct ones; none where either is missing."""
        wrong, right = _wrong_and_right(attempts, settings)
        return [one.text for one in (*wrong, *right)] if wrong and right else []

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """Every mistake with its neighbours; without any where no attempt was correct."""
        wrong, right = _wrong_and_right(attempts, settings)
        if not wrong:
            return
        near = self.near(wrong, right, settings, executor)
        wanted = {contrast for pairs in near.values() for contrast, _ in pairs}
        shown = {attempt.id: attempt for attempt in attempts if attempt.id in wanted}
        for attempt in attempts:
            if attempt.id in near:
                contrasts = [Contrast(shown[contrast], distance) for contrast, distance in near[attempt.id]]
                yield Case(case_id(attempt, self.name), self.name, attempt, contrasts)

    def near(
        self, wrong: list[Compared], right: list[Compared], settings: StrategySettings, executor: Executor
    ) -> dict[str, list[tuple[str, float]]]:
        """By the id of each mistake: the ids of the correct attempts shown beside it, with their distances."""
        nearest = _nearest(wrong, right, settings, executor)
        return {
            one.id: [(right[row].id, float(distance)) for row, distance in zip(*pair, strict=True) if distance < APART]
            for one, pair in zip(wrong, zip(nearest.ids, nearest.distances, strict=True), strict=True)
        }

    def messages(self, case: Case, benchmark: Benchmark, settings: StrategySettings) -> list[Message]:
        """The correct questions (alone, as in the paper's experiments, or with the target's responses), then the failed
        question and the wrong answer.
        """
        problem = case.attempt.problem
        responses = [contrast.attempt.completion.text for contrast in case.contrasts]
        return built_in.lec(
            brief=benchmark.brief(),
            correct=[benchmark.show(contrast.attempt.problem) for contrast in case.contrasts],
            question=benchmark.show(problem),
            wrong_answer=case.attempt.completion.text,
            n=settings.samples_per_request,
            reference=benchmark.reference(problem) if settings.show_reference else None,
            correct_answers=responses if settings.show_answers else None,
            explain=settings.explain,
            own=own_for(settings.prompts, benchmark.name),
        )


@dataclass(frozen=True, slots=True)
class Compared:
    """An attempt in memory: its id, the text that is embedded, and the subject of its neighbours ("" for any)."""

    id: str
    text: str
    subject: str


def _wrong_and_right(attempts: Iterable[Attempt], settings: StrategySettings) -> tuple[list[Compared], list[Compared]]:
    wrong = [_compared(attempt, settings) for attempt in attempts if is_mistake(attempt, settings)]
    return wrong, [_compared(attempt, settings) for attempt in attempts if attempt.right]


def _compared(attempt: Attempt, settings: StrategySettings) -> Compared:
    problem = attempt.problem
    text = problem.question
    if settings.contrast_text == "question_and_options":
        choices = problem.extra.get("choices", [])
        text = "\n".join([text, *map(str, choices.values() if isinstance(choices, dict) else choices)])
    elif settings.contrast_text == "question_and_response":
        text = f"{text}\n{attempt.completion.text}"
    subject = ""
    if settings.contrast_within == "subject":
        if "subject" not in problem.extra:
            raise ConfigError(
                f'contrast.within = "subject": the problems of {problem.benchmark} have no subject; set it to "dataset"'
            )
        subject = str(problem.extra["subject"])
    return Compared(attempt.id, text, subject)


def _nearest(
    wrong: list[Compared], right: list[Compared], settings: StrategySettings, executor: Executor
) -> Neighbours:
    k = min(settings.neighbours, len(right))
    if k == 0:
        return Neighbours(np.zeros((len(wrong), 0), np.int64), np.zeros((len(wrong), 0), np.float32))
    vectors = executor.embed([one.text for one in (*wrong, *right)], settings.encoder)
    if settings.contrast_within == "subject":
        vectors = np.hstack([vectors, _by_subject([one.subject for one in (*wrong, *right)])])
    return executor.nearest(vectors[: len(wrong)], vectors[len(wrong) :], k)


APART = 8.0
"""More than the squared distance of two embeddings of length 1, which is 4 at most."""


def _by_subject(subjects: list[str]) -> np.ndarray:
    """(n, subjects) float32, one-hot: equal within a subject; between subjects the squared distance is 2 * APART.

    Appended to the embeddings, so that one search finds the neighbours within each subject.
    """
    names = {name: column for column, name in enumerate(sorted(set(subjects)))}
    columns = np.zeros((len(subjects), len(names)), np.float32)
    columns[np.arange(len(subjects)), [names[subject] for subject in subjects]] = np.sqrt(APART)
    return columns


STRATEGY = LearningFromErrorByContrast()
