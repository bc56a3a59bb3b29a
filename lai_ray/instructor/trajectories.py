"""The rules of TriPosT (arXiv 2310.13522, section 3) for trajectories of attempts and feedback. Pure.

Where an instructor's feedback departs from the target's, which improvement is accepted, which trajectory stalls, and
how the kinds of samples are balanced.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

from lai_ray.common.self_correction import Feedback, steps
from lai_ray.contracts import Benchmark
from lai_ray.grading.numbers import MARKER
from lai_ray.records import Problem

T = TypeVar("T")


def is_right(benchmark: Benchmark, problem: Problem, attempt: str) -> bool:
    """The final answer is right and follows from the step before it: the steps alone are not graded wrong."""
    if benchmark.grade(problem, attempt).score < 1:
        return False
    before = benchmark.grade(problem, "\n".join(steps(attempt)[:-1]))
    return before.status != "graded" or before.score >= 1


def disagree(own: Feedback | None, teacher: Feedback) -> bool:
    """Whether the target's feedback is to be replaced: unreadable, of another step, or of another part of it."""
    if own is None or own.step != teacher.step:
        return True
    return own.part not in teacher.part and teacher.part not in own.part


def refused(benchmark: Benchmark, problem: Problem, attempt: str, feedback: Feedback, updated: str) -> str | None:
    """Why an updated answer is not accepted; None where it is."""
    before, after, at = steps(attempt), steps(updated), feedback.step - 1
    if not _ends(benchmark, problem, after):
        return "the updated answer has no final answer"
    if before[:at] != after[:at]:
        return "the updated answer changes steps that were right"
    if len(after) <= at or before[at : at + 1] == after[at : at + 1]:
        return "the updated answer keeps the wrong step"
    if feedback.part and feedback.part in after[at]:
        return "the updated answer keeps the wrong part"
    return None


def _ends(benchmark: Benchmark, problem: Problem, lines: list[str]) -> bool:
    if not lines or benchmark.grade(problem, "\n".join(lines)).status != "graded":
        return False
    marked = any(line.startswith(MARKER) for line in steps(benchmark.reference(problem))[-1:])
    return lines[-1].startswith(MARKER) or not marked


def stalls(feedbacks: Sequence[Feedback]) -> bool:
    """Whether some update made no progress: the next feedback names the same step and part, or an earlier step."""
    wrong = [feedback for feedback in feedbacks if not feedback.right]
    return any(
        later.step < earlier.step or (later.step, later.part) == (earlier.step, earlier.part)
        for earlier, later in itertools.pairwise(wrong)
    )


def balanced(
    improvements: Sequence[T], right: Sequence[T], gold: Sequence[T], ratio: float, most: int
) -> list[T]:  # fmt: skip
    """ratio : 1 : 1 of the three kinds, each from its beginning, spread evenly; at most `most`.

    All improvements that fit; ceil(improvements / ratio) of the right ones, or as many as there are; of gold no more
    than of these. A ratio of -1 takes all.
    """
    if ratio == -1:
        return _spread([improvements, right, gold])[:most]
    for count in range(len(improvements), 0, -1):
        others = min(math.ceil(count / ratio), len(right))
        golden = min(others, len(gold))
        if count + others + golden <= most:
            return _spread([improvements[:count], right[:others], gold[:golden]])
    return []


def _spread(parts: Sequence[Sequence[T]]) -> list[T]:
    """All parts in one list, each evenly over its length, so that a prefix has about the same shares."""
    placed = [((i + 0.5) / len(part), number, i) for number, part in enumerate(parts) for i in range(len(part))]
    return [parts[number][i] for _, number, i in sorted(placed)]
