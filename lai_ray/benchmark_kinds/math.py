"""What gsm8k and gsm_plus share: a worked problem whose answer is one number.  records -> verdicts"""

from __future__ import annotations

from lai_ray.contracts import DEFAULT_GRADING, Grading
from lai_ray.grading.numbers import default_grade, final_number, is_right, paper_grade
from lai_ray.grading.worked_solutions import MARKER
from lai_ray.instructor.parsing.text_samples import math_pieces
from lai_ray.records import Grade, Message, Piece, Problem

INSTRUCTION = f"Work it out step by step, then end with a line of its own: {MARKER} and the final number."

BRIEF = f"""\
Return a numbered list and nothing else. Each item is one new problem in this form:
1. Question: <a word problem with one final number>
Answer: <the working, one step a line>
{MARKER} <the final number alone, without a unit>"""


class MathBenchmark:
    """A question in words, a worked solution, and a number as the gold answer."""

    def prompt(self, problem: Problem) -> list[Message]:
        """The question, then the form of the answer."""
        return [{"role": "user", "content": f"{problem.question}\n\n{INSTRUCTION}"}]

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """The verdict by `_math_rules`. The paper reads its gold number from the reference solution."""
        if how.rules == "paper":
            return paper_grade(str(problem.extra.get("solution") or problem.answer), response)
        return default_grade(problem.answer, response)

    def reference(self, problem: Problem) -> str:
        """The worked solution, its final line added where it does not state the gold number that way."""
        solution = str(problem.extra.get("solution") or "")
        said = final_number(solution)
        if said and is_right(said.text, problem.answer):
            return solution
        return f"{solution.replace(MARKER, '')}\n{MARKER} {problem.answer}".strip()

    def show(self, problem: Problem) -> str:
        """The question."""
        return problem.question

    def brief(self) -> str:
        """The numbered list that `parse` reads."""
        return BRIEF

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply. Numbering, headings, bold and chatter are looked past; see `_samples`."""
        return math_pieces(reply)
