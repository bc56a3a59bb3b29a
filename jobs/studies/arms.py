"""Strategies and a test set that only the studies use.  PYTHONPATH=jobs/studies, then "arms:NAME" in a job

`unused` is the test of word_problems behind the rows that every other run reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

from lai_ray.benchmarks.word_problems import COUNTS, WordProblems
from lai_ray.contracts import Executor, StrategySettings
from lai_ray.errors import ConfigError
from lai_ray.instructor.one_request import case_id, is_mistake
from lai_ray.records import Attempt, Case
from lai_ray.strategies.le import LearningFromError
from lai_ray.strategies.untargeted import Untargeted

ROWS = 14_000


class Unused(WordProblems):
    """Rows 2,100 to 13,999 of the test split, which `load` of word_problems never returns."""

    name = "word_problems_unused"
    splits = ("test",)

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """Those rows. Raises ConfigError for another split."""
        if split != "test":
            raise ConfigError(f"{self.name} has no split {split!r}, only test")
        return (row for i, row in enumerate(self.records(split, ROWS)) if i >= COUNTS["test"])


class AnswerHidden(Untargeted):
    """The mistakes, without what the target answered: is it the choice of the question, or reading the answer?"""

    name = "answer_hidden"
    any_verdict = False

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """Every mistake."""
        return (Case(case_id(a, self.name), self.name, a) for a in attempts if is_mistake(a, settings))


class OtherAnswer(LearningFromError):
    """Each mistake beside the wrong answer to another problem."""

    name = "other_answer"

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """Every mistake, with the completion of another drawn for it."""
        texts = [(a.problem.id, a.completion) for a in attempts if is_mistake(a, settings)]
        for attempt in (a for a in attempts if is_mistake(a, settings)):
            others = Random(f"{settings.seed}/{settings.iteration}/{attempt.id}").sample(texts, min(2, len(texts)))
            other = next((text for of, text in others if of != attempt.problem.id), attempt.completion)
            yield Case(case_id(attempt, self.name), self.name, replace(attempt, completion=other))


BENCHMARK = Unused()
ANSWER_HIDDEN = AnswerHidden()
OTHER_ANSWER = OtherAnswer()
