"""Scripted feedback for benchmarks whose reference is a worked solution, one step a line.  problem, attempt -> Feedback

A benchmark inherits `WorkedSteps` before its kind and sets `step_form`; strategies that correct attempts ask it instead
of an instructor.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING, ClassVar

from lai_ray.common.self_correction import RIGHT, Feedback, steps
from lai_ray.grading.numbers import MARKER
from lai_ray.records import Problem

NUMBER = r"-?\d{1,40}"
ARITHMETIC = re.compile(rf"(?:\(\d{{1,3}}\) )?({NUMBER}) ([-+*]) ({NUMBER}) = ({NUMBER})")
"""A step "(1) 3 * 4 = 12", with or without its number."""
ARITHMETIC_LINE = re.compile(rf"{ARITHMETIC.pattern}|{MARKER} {NUMBER}")
"""A line of an attempt of such steps: one of them, or the final number."""


class WorkedSteps:
    """Compares an attempt with the reference line by line. The sides of a sum or a product may be swapped."""

    step_form: ClassVar[re.Pattern[str]]
    """What a line of an attempt looks like, in full."""

    if TYPE_CHECKING:

        def reference(self, problem: Problem) -> str:
            """The worked solution."""

    def feedback(self, problem: Problem, attempt: str) -> Feedback | None:
        """The first line that differs from the worked solution's; None where a line has another form than a step."""
        taken, gold = steps(attempt), steps(self.reference(problem))
        if not taken or not all(self.step_form.fullmatch(line) for line in taken):
            return None
        for number, (mine, right) in enumerate(zip_longest(taken, gold), start=1):
            if mine is None:
                return Feedback(number, "", "it is missing")
            if right is None:
                return Feedback(number, mine, "the answer had ended")
            if _key(mine) != _key(right):
                return Feedback(number, mine, _reason(mine, right))
        return RIGHT

    def improve(self, problem: Problem, attempt: str, feedback: Feedback) -> str:
        """The attempt's steps before the wrong one, and the worked solution from there on."""
        gold, kept = steps(self.reference(problem)), feedback.step - 1
        return "\n".join([*steps(attempt)[:kept], *gold[kept:]])


def _key(line: str) -> tuple[str, ...]:
    """What two equal steps share."""
    step = ARITHMETIC.fullmatch(line)
    if step is None:
        return tuple(line.casefold().split())
    left, operator, right, result = step.groups()
    return operator, *(sorted((left, right)) if operator in "+*" else (left, right)), result


def _reason(mine: str, right: str) -> str:
    """Why a step is wrong, without its right result."""
    task, _, result = mine.rpartition(" = ")
    wanted = right.rpartition(" = ")[0]
    if task and _key(f"{task} = 0") == _key(f"{wanted} = 0"):
        return f"{_bare(task)} is not {result}"
    if wanted:
        return f"the step is {_bare(wanted)}"
    return "it does not follow from the steps before it"


def _bare(step: str) -> str:
    """A step without its number."""
    return step.partition(") ")[2] if step.startswith("(") else step
