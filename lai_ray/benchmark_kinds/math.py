"""Benchmarks of word problems whose answer is one number: gsm8k, gsm_plus, word_problems.  problem, response -> Grade

Your own benchmark of this kind inherits `MathBenchmark` and adds name, splits, domain, load and problem, and group
where scores are broken down; see `lai_ray/benchmarks/gsm8k.py`. For rows in a file, a [[benchmark]] table with
kind = "number" needs no code.
"""

from __future__ import annotations

from typing import ClassVar

from lai_ray.contracts import DEFAULT_GRADING, Grading
from lai_ray.grading.numbers import MARKER, default_grade, paper_grade
from lai_ray.instructor.parsing.text_samples import math_pieces
from lai_ray.instructor.structure import MathProblem, Structure, structure_of
from lai_ray.records import Grade, Message, Piece, Problem

INSTRUCTION = f"Work it out step by step, then end with a line of its own: {MARKER} and the final number."

BRIEF = f"""\
Return a numbered list and nothing else. Each item is one new problem in this form:
1. Question: <a word problem with one final number>
Answer: <the working, one step a line>
{MARKER} <the final number alone, without a unit>"""


class MathBenchmark:
    """Prompt, grading and sample format of a question in words with a worked solution and a number as gold answer.

    `problem` must return the gold number as text in Problem.answer ("1,234", "3/4") and the worked solution, if
    there is one, in Problem.extra["solution"].
    """

    runs_code: ClassVar[bool] = False

    def prompt(self, problem: Problem) -> list[Message]:
        """The question, then the form of the answer."""
        return [{"role": "user", "content": f"{problem.question}\n\n{INSTRUCTION}"}]

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """The verdict by `lai_ray.grading.numbers`. Paper rules read the gold number from the worked solution."""
        if how.rules == "paper":
            return paper_grade(str(problem.extra.get("solution") or problem.answer), response)
        return default_grade(problem.answer, response, problem.question)

    def reference(self, problem: Problem) -> str:
        """The worked solution; a final line is added where it does not state the gold number."""
        solution = str(problem.extra.get("solution") or "")
        if solution and default_grade(problem.answer, solution, problem.question).score == 1:
            return solution
        return f"{solution.replace(MARKER, '')}\n{MARKER} {problem.answer}".strip()

    def show(self, problem: Problem) -> str:
        """The question."""
        return problem.question

    def brief(self) -> str:
        """The numbered list that `parse` reads."""
        return BRIEF

    def structure(self) -> Structure:
        """The form of a reply in JSON, for `instructor.format`."""
        return structure_of(MathProblem)

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply; numbering, headings, bold and other text are skipped."""
        return math_pieces(reply)

    def group(self, problem: Problem) -> str:
        """One group: there are no subjects."""
        return "all"
