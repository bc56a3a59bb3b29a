"""What mmlu and arc_challenge share: a question, labelled choices, one of them right.  records -> prompts, verdicts"""

from __future__ import annotations

from collections.abc import Mapping

from lai_ray.contracts import DEFAULT_GRADING, Grading
from lai_ray.errors import DataError
from lai_ray.grading.choices import default_choice, paper_choice
from lai_ray.instructor.parsing.text_samples import choice_pieces
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
    """A question with labelled choices in `extra["choices"]`; the gold answer is a label."""

    def prompt(self, problem: Problem) -> list[Message]:
        """The question, its choices a line each, then the form of the answer."""
        return [{"role": "user", "content": f"{self.show(problem)}\n\n{INSTRUCTION}"}]

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """1.0 when the response commits to the gold label, by `_choice_rules`. No or several labels are unparsed."""
        choices: Mapping[str, str] = problem.extra["choices"]
        found = (paper_choice if how.rules == "paper" else default_choice)(response, choices)
        if found.letter is None:
            return Grade(0.0, None, "none", "unparsed", found.rule)
        return Grade(float(found.letter == problem.answer), found.letter, found.rule, "graded")

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

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply. Numbering, headings, bold and chatter are looked past; see `_samples`."""
        return choice_pieces(reply)


def checked(answer: str, choices: Mapping[str, str]) -> str:
    """The gold label. Raises DataError when it is none of the choices, or there are fewer than two."""
    if len(choices) < 2:
        raise DataError(f"a question needs at least two choices; this row has {', '.join(choices) or 'none'}")
    if answer not in choices:
        raise DataError(f"the answer {answer!r} is none of the choices {', '.join(choices)}")
    return answer
