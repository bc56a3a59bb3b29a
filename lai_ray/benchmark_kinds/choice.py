"""Multiple-choice benchmarks: mmlu, arc_challenge.  problem, response -> Grade

Your own benchmark of this kind inherits `ChoiceBenchmark` and adds name, splits, domain, load and problem, and group
where scores are broken down; see `lai_ray/benchmarks/arc_challenge.py`. For rows in a file, a [[benchmark]] table with
kind = "choice" needs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from lai_ray.contracts import DEFAULT_GRADING, Grading
from lai_ray.errors import DataError
from lai_ray.grading.choices import default_choice, paper_choice
from lai_ray.instructor.parsing.choice_samples import choice_pieces
from lai_ray.instructor.structure import Structure, choice_problem, structure_of
from lai_ray.records import Grade, Message, Piece, Problem

INSTRUCTION = 'Start your reply with "Answer:" and the label of the right choice, then say why in a sentence or two.'

BRIEF = """\
Return a numbered list and nothing else. Each item is one new multiple-choice problem in this form:
1. Question: <the question>
A. <first choice>
B. <second choice>
C. <third choice>
D. <fourth choice>
Answer: <the letter of the one right choice> - <why it is right, in one paragraph>"""


class ChoiceBenchmark:
    """Prompt, grading and sample format of a question with labelled choices.

    `problem` must return the choices in Problem.extra["choices"] (label -> text, in order; labels are single letters or
    digits) and the gold label in Problem.answer: `check_label` raises for one that is no label.
    """

    runs_code: ClassVar[bool] = False

    def prompt(self, problem: Problem) -> list[Message]:
        """The question, one choice per line, then the form of the answer."""
        return [{"role": "user", "content": f"{self.show(problem)}\n\n{INSTRUCTION}"}]

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """1.0 when the response commits to the gold label, by `lai_ray.grading.choices`; no or several: unparsed."""
        choices: Mapping[str, str] = problem.extra["choices"]
        choice = (paper_choice if how.rules == "paper" else default_choice)(response, choices)
        if choice.letter is None:
            return Grade(0.0, None, "none", "unparsed", choice.rule)
        return Grade(float(choice.letter == problem.answer), choice.letter, choice.rule, "graded")

    def reference(self, problem: Problem) -> str:
        """The gold label, in the form the prompt asks for."""
        return f"Answer: {problem.answer}"

    def show(self, problem: Problem) -> str:
        """The question with its choices."""
        choices = "\n".join(f"{label}. {text}" for label, text in problem.extra["choices"].items())
        return f"{problem.question}\n{choices}"

    def brief(self) -> str:
        """The numbered list that `parse` reads."""
        return BRIEF

    def structure(self) -> Structure:
        """The form of a reply in JSON, for `instructor.format`."""
        return structure_of(choice_problem())

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply; numbering, headings, bold and other text are skipped."""
        return choice_pieces(reply)

    def group(self, problem: Problem) -> str:
        """One group: there are no subjects."""
        return "all"


def check_label(answer: str, choices: Mapping[str, str]) -> str:
    """The gold label, as given. Raises DataError when it is none of the choices, or there are fewer than two."""
    if len(choices) < 2:
        raise DataError(f"a question needs at least two choices; this row has {', '.join(choices) or 'none'}")
    if answer not in choices:
        raise DataError(f"the answer {answer!r} is none of the choices {', '.join(choices)}")
    return answer
