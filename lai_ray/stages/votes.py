"""What the target's draws on new problems say: on one problem, and counted by dataset.  attempts -> Votes, Counts"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lai_ray.grading.numbers import read_number
from lai_ray.records import Attempt

WRONG, MISCONCEPTION, UNCLEAR = "wrong", "misconception", "unclear"
"""A key in doubt: a second solution agrees with the target; with the key; with neither."""


@dataclass(frozen=True, slots=True)
class Votes:
    """The draws on one problem."""

    draws: int
    right: int
    failed: int
    """Draws without an answer, or whose grader failed."""
    cut_off: int
    own: int | None = None
    """The first draw that is right and not cut off at the token limit."""
    against: str | None = None
    """The answer that a clear majority gives instead of the key."""

    @property
    def solved(self) -> bool:
        """Whether every draw is right."""
        return self.right == self.draws


def votes(attempts: Sequence[Attempt]) -> Votes:
    """The votes of the draws on one problem, in their order; at least one."""
    return Votes(
        draws=len(attempts),
        right=sum(attempt.right for attempt in attempts),
        failed=sum(attempt.grade.status == "error" for attempt in attempts),
        cut_off=sum(attempt.cut_off for attempt in attempts),
        own=next((i for i, attempt in enumerate(attempts) if attempt.right and not attempt.cut_off), None),
        against=_against(attempts),
    )


def _against(attempts: Sequence[Attempt]) -> str | None:
    """The one wrong answer that more than half of the draws give, in the words of the first. Of several draws that is
    two at least. Answers cut off do not vote.
    """
    wrong = [
        attempt.grade.answer
        for attempt in attempts
        if not attempt.right and not attempt.cut_off and attempt.grade.status == "graded" and attempt.grade.answer
    ]
    counts = Counter(map(_form, wrong))
    return next((answer for answer in wrong if counts[_form(answer)] > len(attempts) / 2), None)


def same_answer(one: str | None, other: str | None) -> bool:
    """Whether two answers, as graders extract them, are the same: equal numbers, or the same words."""
    return one is not None and other is not None and _form(one) == _form(other)


def _form(answer: str) -> str:
    number = read_number(answer)
    return str(number.value) if number else " ".join(answer.split()).casefold()


@dataclass
class Counts:
    """The rehearsal of one dataset, counted."""

    strategy: str
    problems: int = 0
    solved: int = 0
    """Problems that every draw solves."""
    draws: int = 0
    right: int = 0
    failed: int = 0
    cut_off: int = 0
    own_texts: int = 0
    """Samples studied in the target's own words, those after a hint included."""
    after_hint: int = 0
    keys: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    groups: dict[str, list[int]] = field(default_factory=dict)

    def add(self, given: Votes, group: str, dropped: str | None) -> None:
        """Count one sample."""
        self.problems += 1
        self.solved += given.solved
        for name in ("draws", "right", "failed", "cut_off"):
            setattr(self, name, getattr(self, name) + getattr(given, name))
        self.dropped.update([dropped] if dropped else [])
        solved_of = self.groups.setdefault(group, [0, 0])
        solved_of[0] += given.solved
        solved_of[1] += 1

    @property
    def studied(self) -> int:
        """The samples that are left."""
        return self.problems - self.dropped.total()

    def table(self) -> dict[str, Any]:
        """As in rehearse.json: problems, but `draws`, `right`, `failed` and `cut_off` count draws."""
        names = ("strategy", "problems", "solved", "draws", "right", "failed", "cut_off", "own_texts", "after_hint")
        groups = {name: {"solved": solved, "n": n} for name, (solved, n) in sorted(self.groups.items())}
        keys = {verdict: self.keys[verdict] for verdict in (WRONG, MISCONCEPTION, UNCLEAR)}
        return {
            **{name: getattr(self, name) for name in names},
            "keys_in_doubt": keys, "dropped": dict(self.dropped), "studied": self.studied, "groups": groups,
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """For the screen: what it can do already, the keys in doubt, and what is studied."""
        solved = f"rehearsal: it already solves {self.solved / self.problems:.0%} of {self.problems:,} new problems"
        more = f", and {self.right / self.draws:.0%} of its {self.draws:,} answers are right"
        yield solved + (more if self.draws > self.problems else "")
        if self.keys:
            found = ", ".join(f"{self.keys[verdict]:,} {verdict}" for verdict in (WRONG, MISCONCEPTION, UNCLEAR))
            yield f"{self.keys.total():,} keys in doubt: {found}"
        if self.dropped or self.own_texts:
            parts = [f"{self.studied:,} are studied" if self.studied else "nothing is left to study"]
            parts += [f"{self.own_texts:,} in its own words ({self.after_hint:,} after a hint)"] * bool(self.own_texts)
            parts += [f"{n:,} dropped ({reason})" for reason, n in self.dropped.items()]
            yield "; ".join(parts)
