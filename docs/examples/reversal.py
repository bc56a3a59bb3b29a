"""A benchmark: words to be written backwards. Made by code, graded by comparing.

[evaluate]
learn_from = ["reversal:BENCHMARK"]
report_on = ["reversal:BENCHMARK"]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lai_ray.contracts import DEFAULT_GRADING, Grading
from lai_ray.records import Grade, Message, Piece, Problem

WORDS = {
    "train": ["harbour", "window", "orange", "teacher", "bridge", "silver", "garden", "market", "planet", "yellow"],
    "test": ["pencil", "summer", "castle", "ticket"],
}
BRIEF = """\
Return a numbered list and nothing else. Each item has two lines:
1. Word: <one English word>
Answer: <the word written backwards>"""
ITEM = re.compile(r"^\d+\. Word: *(\w+)\s*\nAnswer: *(\w+)\s*$", re.MULTILINE)


class Reversal:
    """Every member of `lai_ray.contracts.Benchmark`; `source` is left out, since no file is read."""

    name = "reversal"
    splits = ("train", "test")
    runs_code = False
    domain = "in"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """{"word": "harbour"}"""
        return ({"word": word} for word in WORDS[split])

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """The id begins with the benchmark's name and holds the row with five digits."""
        word = record["word"]
        return Problem(f"{self.name}/{split}/{row:05d}", self.name, split, word, word[::-1])

    def prompt(self, problem: Problem) -> list[Message]:
        """In the test and in training alike."""
        return [{"role": "user", "content": f"Write {problem.question} backwards. Answer with one word."}]

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """The last word of the response counts."""
        words = re.findall(r"\w+", response)
        if not words:
            return Grade(0.0, None, "last word", "unparsed")
        return Grade(float(words[-1].lower() == problem.answer), words[-1], "last word", "graded")

    def reference(self, problem: Problem) -> str:
        """A response that earns 1.0."""
        return problem.answer

    def show(self, problem: Problem) -> str:
        """As an instructor sees it."""
        return f"Write {problem.question} backwards."

    def brief(self) -> str:
        """What `parse` reads."""
        return BRIEF

    def parse(self, reply: str) -> list[Piece]:
        """One piece an item; a wrong answer is found by `grade`, as every sample's is."""
        return [Piece(word.lower(), word.lower()[::-1], answer.lower()) for word, answer in ITEM.findall(reply)]

    def group(self, problem: Problem) -> str:
        """Scores are broken down by the length of the word."""
        return f"{len(problem.question)} letters"


BENCHMARK = Reversal()
