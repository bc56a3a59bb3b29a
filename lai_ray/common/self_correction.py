"""The text of an answer that corrects itself: attempt, feedback, updated answer, …  text <-> attempts and feedback

    5 * 30 = 140
    #### 140
    Feedback: Step 1, "5 * 30 = 140", is wrong: 5 * 30 is not 140
    Updated answer:
    5 * 30 = 150
    #### 150
    Feedback: Every step is right, and so is the final answer.

A step is a line; the last line of an attempt is its final answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FEEDBACK = "Feedback:"
UPDATED = "Updated answer:"
ALL_RIGHT = "Every step is right, and so is the final answer."
_STEP = "Step "
_OPEN, _CLOSE = ', "', '", is wrong: '
_HEADER = re.compile(r"\((\d{1,3})\)")
_NEW_QUESTION = re.compile(r"(?:Question|Q)\s?:", re.I)


@dataclass(frozen=True, slots=True)
class Feedback:
    """The first wrong step of an attempt."""

    step: int
    """From 1; 0 where all are right."""
    part: str = ""
    """What is wrong in it, quoted; empty where the step is missing."""
    reason: str = ""

    @property
    def right(self) -> bool:
        """Whether the attempt has no wrong step."""
        return self.step == 0

    def __str__(self) -> str:
        return ALL_RIGHT if self.right else f"{_STEP}{self.step}{_OPEN}{self.part}{_CLOSE}{self.reason}"


RIGHT = Feedback(0)


def read_feedback(text: str) -> Feedback | None:
    """A feedback as `str` writes it; None for any other text."""
    line = text.strip()
    if line == ALL_RIGHT:
        return RIGHT
    head, opened, rest = line.partition(_OPEN)
    part, closed, reason = rest.partition(_CLOSE)
    number = head.removeprefix(_STEP)
    if not (opened and closed and head.startswith(_STEP) and number.isascii() and number.isdigit()):
        return None
    if len(number) > 3 or not int(number) or "\n" in line:
        return None
    return Feedback(int(number), part, reason)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The attempts in a text, and the feedback on each: one fewer, or as many."""

    attempts: list[str]
    feedbacks: list[str]

    @property
    def goes_on(self) -> bool:
        """Whether it ends with an updated answer that has no feedback yet."""
        return len(self.attempts) > 1 and len(self.feedbacks) < len(self.attempts)


def split(text: str) -> Trajectory:
    """The attempts of a text and its feedback, as written. A feedback without an updated answer is the last."""
    attempts, feedbacks = [], []
    rest, more = text, True
    while more:
        attempt, commented, rest = rest.partition(f"\n{FEEDBACK}")
        attempts.append(attempt.strip())
        if not commented:
            break
        feedback, more, rest = rest.partition(f"\n{UPDATED}")  # type: ignore[assignment]
        feedbacks.append(feedback.strip())
    return Trajectory(attempts, feedbacks)


def steps(attempt: str) -> list[str]:
    """The lines of an attempt that are not empty, stripped."""
    return [line.strip() for line in attempt.splitlines() if line.strip()]


def cleaned(attempt: str) -> str:
    """An attempt up to a new question, without steps "(n) …" whose number was there before."""
    kept: list[str] = []
    numbers: set[str] = set()
    for line in steps(attempt):
        if _NEW_QUESTION.match(line):
            break
        header = _HEADER.match(line)
        if header and header[1] in numbers:
            continue
        numbers.update(header.groups() if header else ())
        kept.append(line)
    return "\n".join(kept)
