"""The built-in benchmark: arithmetic word problems made by code, graded as GSM8K is.

A row:
    {"question": "Lena has 5 bags and puts 30 rings into each bag. How many rings does Lena need?",
     "answer": "5 * 30 = 150\\n#### 150", "kind": "multiply", "size": "small", "numbers": [5, 30]}

Seven kinds in two sizes, equally many of each in every split; grammar and hold-out are in `lai_ray.world.word_kinds`. Graded by
GSM8K's rule (the number behind "####"), with the last number of the text where there is no marker: `Grade.rule` says
which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from lai_ray.contracts import DEFAULT_GRADING, Grading
from lai_ray.errors import ConfigError
from lai_ray.grading.worked_solutions import MARKER, final_answer, same_number, wrong_statements
from lai_ray.records import Grade, Message, Piece, Problem
from lai_ray.world import word_kinds as kinds

COUNTS = {"train": 3500, "dev": 1050, "test": 2100}
"""Problems in each split as loaded. `records("dev", 14_000)` yields more of the same split."""

BRIEF = """\
Return a numbered list and nothing else. Each item is one new problem in this form:
1. Question: <a word problem that can be solved with whole numbers>
Answer: <one line for each step, as "a op b = c">
#### <the final number>"""

_QUESTION = re.compile(
    r"^[\s>#*_\-]*(?:\(?\d{1,4}[.):]\)?)?[\s*_]*(?:(?:new\s+)?(?:question|problem)(?:\s+\d+)?)[\s*_]*:[\s*_]*", re.I
)
_NUMBERED = re.compile(r"^[\s>*_]*\(?\d{1,4}[.)]\)?[\s*_]+(?=\S)")
_ANSWER = re.compile(r"^[\s>#*_\-]*(?:answer|solution)(?:\s+\d+)?[\s*_]*:[\s*_]*", re.I)
_MARKED = re.compile(rf"{MARKER}\s*\**\s*(.*?)[\s*]*$")


class WordProblems:
    """See the module. Grading, showing and parsing serve word_problems_plus too."""

    name = "word_problems"
    splits: tuple[str, ...] = ("train", "dev", "test")
    runs_code = False
    domain = "in"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The rows of one split, the same on every platform. Raises ConfigError for a split it does not have."""
        if split not in self.splits:
            raise ConfigError(f"{self.name} has no split {split!r}. It has: {', '.join(self.splits)}.")
        return iter(_loaded(split))

    def records(self, split: str, count: int) -> Iterator[dict[str, Any]]:
        """The first `count` rows of a split, however many are wanted: `load` gives the first of the same rows."""
        for item in kinds.items(split, count):
            yield {
                "question": item.question,
                "answer": item.response,
                "kind": item.kind,
                "size": item.size,
                "numbers": list(item.numbers),
            }

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row as a Problem; `answer` is the final number, the worked solution is in `extra["solution"]`."""
        solution = str(record["answer"])
        found = final_answer(solution)
        extra = {name: value for name, value in record.items() if name not in ("question", "answer")}
        return Problem(
            id=f"{self.name}/{split}/{row:05d}",
            benchmark=self.name,
            split=split,
            question=str(record["question"]),
            answer=found.text if found else solution,
            extra={**extra, "solution": solution},
        )

    def prompt(self, problem: Problem) -> list[Message]:
        """The bare question, no system prompt."""
        return [{"role": "user", "content": problem.question}]

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """1.0 when the final number equals the reference exactly (as a fraction: "24.0" is 24), else 0.0."""
        found = final_answer(response)
        if found is None:
            return Grade(score=0.0, answer=None, rule="none", status="unparsed", note="no number in the response")
        right = same_number(found.text, problem.answer)
        return Grade(score=float(right), answer=found.text, rule=found.rule, status="graded")

    def reference(self, problem: Problem) -> str:
        """The worked solution; the bare "#### n" for a problem that has none."""
        return str(problem.extra.get("solution") or f"{MARKER} {problem.answer}")

    def show(self, problem: Problem) -> str:
        """The question."""
        return problem.question

    def brief(self) -> str:
        """The numbered list that `parse` reads."""
        return BRIEF

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a numbered list. Numbering, bold, blank lines and chatter around are looked past.

        An item without a question, a solution or a final number (a reply cut off) is rejected, as is one with a
        false statement.
        """
        return [_piece(lines) for lines in _items(reply)]

    def group(self, problem: Problem) -> str:
        """The kind; "unknown" for a problem that is not of the grammar."""
        return str(problem.extra.get("kind", "unknown"))


@cache
def _loaded(split: str) -> tuple[dict[str, Any], ...]:
    # Made once a process: a run passes over its problems several times, and they are few.
    return tuple(BENCHMARK.records(split, COUNTS[split]))


def _items(reply: str) -> list[list[str]]:
    """The lines of each item, the question first. What stands before the first question is chatter."""
    found: list[list[str]] = []
    for line in reply.splitlines():
        if _QUESTION.match(line):
            found.append([_QUESTION.sub("", line)])
        elif _NUMBERED.match(line) and _begins(line, found):
            found.append([_NUMBERED.sub("", line)])
        elif found:
            found[-1].append(line)
    return found


def _begins(line: str, found: list[list[str]]) -> bool:
    """Whether a numbered line without "Question:" begins an item: the one before is complete, and this is a question.

    Steps of a solution may be numbered too; those stand before their item's "####".
    """
    complete = not found or any(MARKER in earlier for earlier in found[-1])
    return complete and line.rstrip(" *_").endswith("?")


def _piece(lines: list[str]) -> Piece:
    answer_at = next((i for i, line in enumerate(lines) if i and _ANSWER.match(line)), None)
    marker_at = next((i for i, line in enumerate(lines) if _MARKED.search(line)), None)
    question = _tidy(lines[: answer_at or marker_at or len(lines)])
    if not question:
        return Piece("", "", "", rejected="no question")
    if answer_at is None:
        return Piece(question, "", "", rejected="no answer")
    if marker_at is None:
        return Piece(question, "", _steps(lines[answer_at:]), rejected=f"no final {MARKER} line (cut off?)")
    return _complete(question, _steps(lines[answer_at:marker_at]), lines[marker_at])


def _complete(question: str, steps: str, last: str) -> Piece:
    before, _, stated = last.partition(MARKER)
    if before.strip(" *_-"):
        steps = "\n".join(filter(None, [steps, _ANSWER.sub("", before).strip(" *_")]))
    found = final_answer(f"{MARKER} {stated}")
    if found is None:
        return Piece(question, "", steps, rejected=f"no number behind {MARKER} (cut off?)")
    number = found.text.replace(",", "").replace("$", "").replace(" ", "")
    response = "\n".join(filter(None, [steps, f"{MARKER} {number}"]))
    wrong = wrong_statements(response)
    known = kinds.recognise(question)
    extra = {"solution": response} | (
        {"kind": known.kind, "size": known.size, "numbers": list(known.numbers)} if known else {}
    )
    return Piece(question, number, response, extra, rejected=f"false statement: {wrong[0]}" if wrong else None)


def _steps(lines: list[str]) -> str:
    cleaned = [_ANSWER.sub("", line) if i == 0 else line for i, line in enumerate(lines)]
    return "\n".join(text for line in cleaned if (text := line.strip(" *_\t")))


def _tidy(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split()).strip("*_ ")


BENCHMARK = WordProblems()
