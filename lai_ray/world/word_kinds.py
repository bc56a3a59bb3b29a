"""The grammar of the built-in word problems: kinds, sizes, wordings.  kind + numbers -> question and worked solution

Everything is drawn from a `random.Random`, so it is identical on every platform, and can be inverted: `recognise`
returns the kind and the numbers that a question was generated from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle
from random import Random
from typing import Any

SIZES = ("small", "large")
# fmt: off
NAMES = (
    "Tom", "Ann", "Ben", "Eva", "Sam", "Lily", "Max", "Nina", "Paul", "Rosa", "Jack", "Mia",
    "Omar", "Ida", "Leo", "Kate", "Noah", "Emma", "Carl", "Zoe", "Hugo", "Lena", "Ivan", "Maya",
)
THINGS = (
    "apples", "books", "cards", "coins", "stones", "shells", "stamps", "pens", "eggs", "balls",
    "nuts", "keys", "cups", "plums", "beads", "maps", "hats", "rings", "toys", "flags",
)
# fmt: on

Reference = str | int
"""A letter names a number of the question, an int the result of an earlier step."""
Formula = tuple[tuple[Reference, str, Reference], ...]
"""The steps of the solution, in order: (left, operator, right)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a worked solution."""

    left: int
    op: str
    right: int

    @property
    def result(self) -> int:
        return {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}[self.op]

    @property
    def carries(self) -> int:
        """The number of columns that carry (+, *) or borrow (-) in written arithmetic."""
        return _carries(self.left, self.op, self.right)

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right} = {self.result}"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem: the ranges of its numbers, its solution, its wordings."""

    name: str
    steps: Formula
    ranges: dict[str, dict[str, tuple[int, int]]]
    """size -> letter -> lowest and highest number (both drawn)."""
    wordings: tuple[str, ...]
    new_wordings: tuple[str, ...]
    """Used only by word_problems_plus; neither the student nor the tutor has seen them."""
    alike: tuple[str, ...] = ()
    """Letters whose numbers may be swapped without making another problem (groups of one length are swapped as one)."""


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A problem of the grammar: its kind and numbers, and its text."""

    kind: str
    size: str
    numbers: tuple[int, ...]
    question: str
    response: str
    answer: int
    wording: str = ""
    """The template of the question; empty where it has none."""


def _up_to(highest: int, letters: str) -> dict[str, dict[str, tuple[int, int]]]:
    """Small: two digits each. Large: the first has three."""
    small = dict.fromkeys(letters, (10, 99))
    return {"small": small, "large": small | {"a": (100, highest)}}


_COUNT = (2, 5)
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "add",
            (("a", "+", "b"),),
            _up_to(199, "ab"),
            (
                "{n} has {a} {t} and buys {b} more. How many {t} does {n} have now?",
                "{n} found {a} {t} and {m} found {b} {t}. How many {t} did they find in all?",
                "There are {a} {t} in a box. {n} puts {b} more {t} into the box. How many {t} are in the box?",
                "{n} had {a} {t}. Then {m} gave {n} {b} {t}. How many {t} does {n} have?",
            ),
            (
                "In a box there are {a} {t}. How many {t} are there after {n} puts in {b} more?",
                "{m} gave {b} {t} to {n}. {n} had {a} {t} before. How many {t} does {n} have in all?",
            ),
            ("a", "b"),
        ),
        Kind(
            "subtract",
            (("a", "-", "b"),),
            _up_to(199, "ab"),
            (
                "{n} had {a} {t} and lost {b} of them. How many {t} does {n} have left?",
                "There were {a} {t} in a box. {n} took {b} of them. How many {t} are left in the box?",
                "{n} has {a} {t} and gives {b} {t} to {m}. How many {t} does {n} have now?",
                "{n} made {a} {t} and sold {b} of them. How many {t} are left?",
            ),
            (
                "{n} took {b} {t} from a box. There were {a} {t} in the box before. How many {t} are left?",
                "How many {t} does {n} have left? {n} had {a} {t} and gave {b} of them to {m}.",
            ),
        ),
        Kind(
            "multiply",
            (("a", "*", "b"),),
            {"small": {"a": _COUNT, "b": (11, 99)}, "large": {"a": _COUNT, "b": (100, 199)}},
            (
                "{n} has {a} boxes with {b} {t} each. How many {t} does {n} have?",
                "There are {a} boxes. Each box has {b} {t}. How many {t} are there in all?",
                "{n} made {b} {t} each day for {a} days. How many {t} did {n} make?",
                "{n} has {a} bags and puts {b} {t} into each bag. How many {t} does {n} need?",
            ),
            (
                "Each day {n} made {b} {t}. How many {t} did {n} make in {a} days?",
                "How many {t} are there in {a} boxes of {b} {t} each?",
            ),
            ("a", "b"),
        ),
        Kind(
            "gain_loss",
            (("a", "+", "b"), (0, "-", "c")),
            _up_to(149, "abc"),
            (
                "{n} had {a} {t}, bought {b} more and then lost {c}. How many {t} does {n} have left?",
                "{n} has {a} {t}. {m} gives {n} {b} {t}. Then {n} sells {c} of them. How many {t} are left?",
                "There were {a} {t} in a box. {n} put in {b} and {m} took {c}. How many {t} are in the box now?",
            ),
            (
                "{n} found {a} {t} and then {b} more. After {n} gave {c} to {m}, how many {t} does {n} have left?",
                "{n} made {a} {t} and bought {b} {t}. {n} sold {c} of them. How many {t} does {n} have now?",
            ),
            ("a", "b"),
        ),
        Kind(
            "together",
            (("a", "+", "b"), ("a", "+", 0)),
            {"small": {"a": (10, 49), "b": (10, 49)}, "large": {"a": (50, 99), "b": (10, 99)}},
            (
                "{n} has {a} {t}. {m} has {b} more than {n}. How many {t} do they have together?",
                "{n} found {a} {t} and {m} found {b} more than that. How many {t} did they find together?",
                "{m} sold {b} more {t} than {n}. {n} sold {a}. How many {t} did they sell together?",
            ),
            (
                "How many {t} do {n} and {m} have together? {n} has {a} {t} and {m} has {b} more than {n}.",
                "{n} made {a} {t}. {m} made {b} more {t} than {n}. How many {t} did they make together?",
            ),
        ),
        Kind(
            "change",
            (("a", "*", "b"), ("c", "-", 0)),
            {
                "small": {"a": (2, 4), "b": (11, 33), "c": (100, 199)},
                "large": {"a": (2, 4), "b": (34, 49), "c": (150, 299)},
            },
            (
                "{n} buys {a} {t} for {b} dollars each and pays with {c} dollars. How much money does {n} get back?",
                "{n} has {c} dollars and buys {a} {t}. Each costs {b} dollars. How much money is left?",
                "The price is {b} dollars each. {n} had {c} dollars and bought {a} {t}. "
                "How much money does {n} have now?",
            ),
            (
                "{n} had {c} dollars and then paid for {a} {t} at {b} dollars each. How much money is left?",
                "How much money does {n} get back from {c} dollars for {a} {t} at a price of {b} dollars each?",
            ),
        ),
        Kind(
            "two_items",
            (("a", "*", "b"), ("c", "*", "d"), (0, "+", 1)),
            {
                "small": {"a": (2, 4), "b": (11, 33), "c": (2, 4), "d": (11, 33)},
                "large": {"a": (2, 4), "b": (34, 49), "c": (2, 4), "d": (11, 49)},
            },
            (
                "{n} buys {a} {t} for {b} dollars each and {c} {u} for {d} dollars each. How much does {n} pay?",
                "One of the {t} costs {b} dollars and one of the {u} costs {d} dollars. "
                "How much are {a} {t} and {c} {u}?",
                "{n} sold {a} {t} at {b} dollars each and {c} {u} at {d} dollars each. How much money did {n} get?",
                "{n} wants {a} {t} and {c} {u}. Each of the {t} costs {b} dollars and each of the {u} {d} dollars. "
                "How much money does {n} need?",
            ),
            (
                "{n} paid for {a} {t} and {c} {u}. The {t} cost {b} dollars each and the {u} {d} dollars. "
                "How much is that?",
                "How much does {n} pay for {a} {t} at {b} dollars each and {c} {u} at {d} dollars each?",
            ),
            ("ab", "cd"),
        ),
    )
}
ASIDE = "{m} has {k} {u}."
"""A sentence that is irrelevant to the question (a distractor)."""


def solve(kind: str, numbers: tuple[int, ...]) -> list[Step]:
    """The steps of the worked solution, in order. `numbers` are in the kind's letter order (a, b, c, ...)."""
    return run(KINDS[kind].steps, dict(zip("abcd", numbers, strict=False)))


def run(formula: Formula, letters: dict[str, int]) -> list[Step]:
    """The steps of a formula on these numbers."""
    steps: list[Step] = []
    for left, op, right in formula:
        first, second = (letters[ref] if isinstance(ref, str) else steps[ref].result for ref in (left, right))
        steps.append(Step(first, op, second))
    return steps


def worked(steps: list[Step]) -> str:
    """The solution in the format of GSM8K: one line per step, then "#### n"."""
    return "\n".join([*map(str, steps), f"#### {steps[-1].result}"])


def carries(kind: str, numbers: tuple[int, ...]) -> int:
    """The carries and borrows of all steps."""
    return sum(step.carries for step in solve(kind, numbers))


def draw(kind: str, size: str, rng: Random) -> tuple[int, ...]:
    """Random numbers for one problem; every step's result is positive."""
    ranges = KINDS[kind].ranges[size]
    while True:
        numbers = tuple(rng.randint(low, high) for low, high in ranges.values())
        if all(step.result > 0 for step in solve(kind, numbers)):
            return numbers


def size_of(kind: str, numbers: tuple[int, ...]) -> str:
    """ "small" where every number is within the small ranges, else "large"."""
    small = KINDS[kind].ranges["small"].values()
    return "small" if all(number <= high for number, (_, high) in zip(numbers, small, strict=True)) else "large"


def key(kind: str, numbers: tuple[int, ...]) -> str:
    """The identity of a problem without its wording: "add|17,40". Numbers that may be swapped are sorted."""
    groups = KINDS[kind].alike
    letters = dict(zip("abcd", numbers, strict=False))
    if groups:
        swapped = sorted(tuple(letters.pop(letter) for letter in group) for group in groups)
        numbers = tuple(number for group in swapped for number in group) + tuple(letters.values())
    return f"{kind}|{','.join(map(str, numbers))}"


def bucket(kind: str, numbers: tuple[int, ...]) -> str:
    """The fixed split of a problem, by the hash of its key: test, dev, train (10% each) or free (70%).

    This holds test problems out of everything: no training split, pre-training text or tutor can contain one.
    """
    digest = hashlib.sha256(key(kind, numbers).encode()).digest()
    share = int.from_bytes(digest[:4], "big") % 10
    return ("test", "dev", "train")[share] if share < 3 else "free"


def draw_from(kind: str, size: str, rng: Random, buckets: tuple[str, ...]) -> tuple[int, ...]:
    """Random numbers for one problem of one of these buckets."""
    while True:
        numbers = draw(kind, size, rng)
        if bucket(kind, numbers) in buckets:
            return numbers


def write(kind: str, numbers: tuple[int, ...], rng: Random, *, wordings: tuple[str, ...] | None = None) -> WordProblem:
    """The problem as text, with random wording, names and things."""
    wording = rng.choice(wordings or KINDS[kind].wordings)
    question = wording.format(**fillers(rng), **dict(zip("abcd", numbers, strict=False)))
    steps = solve(kind, numbers)
    return WordProblem(kind, size_of(kind, numbers), numbers, question, worked(steps), steps[-1].result, wording)


def fillers(rng: Random) -> dict[str, str]:
    """Two names (n, m) and two things (t, u), all different."""
    (n, m), (t, u) = rng.sample(NAMES, 2), rng.sample(THINGS, 2)
    return {"n": n, "m": m, "t": t, "u": u}


def items(split: str, count: int) -> Iterator[WordProblem]:
    """The first `count` problems of a split ("test", "dev" or "train"): kinds and sizes in turn, each text once."""
    rng, seen = Random(f"word_problems/{split}"), set[str]()
    turns = cycle([(kind, size) for size in SIZES for kind in KINDS])
    while len(seen) < count:
        kind, size = next(turns)
        item = write(kind, draw_from(kind, size, rng, (split,)), rng)
        while item.question in seen:
            item = write(kind, draw_from(kind, size, rng, (split,)), rng)
        seen.add(item.question)
        yield item


def with_aside(question: str, rng: Random) -> str:
    """The question with a distractor before its last sentence."""
    used = set(re.findall(r"\w+", question))
    m = rng.choice([name for name in NAMES if name not in used])
    u = rng.choice([thing for thing in THINGS if thing not in used])
    aside = ASIDE.format(m=m, u=u, k=rng.randint(10, 99))
    head, dot, tail = question.rpartition(". ")
    return f"{head}{dot}{aside} {tail}" if dot else f"{aside} {question}"


def recognise(question: str) -> WordProblem | None:
    """The problem that a question was generated from; None for a text outside the grammar.

    Names and things may be any words. One additional sentence (a distractor) is skipped.
    """
    text = " ".join(question.split())
    sentences = re.split(r"(?<=[.?])\s", text)
    whole = [text] + [" ".join(sentences[:i] + sentences[i + 1 :]) for i in range(len(sentences))]
    known = next((item for candidate in whole if (item := _read(candidate))), None)
    return None if known is None else replace(known, question=text)


def _read(text: str) -> WordProblem | None:
    for kind, wording, pattern in _patterns():
        match = pattern.fullmatch(text)
        if match:
            values: dict[str, Any] = match.groupdict()
            numbers = tuple(int(values[letter]) for letter in "abcd" if values.get(letter))
            steps = solve(kind, numbers)
            return WordProblem(kind, size_of(kind, numbers), numbers, text, worked(steps), steps[-1].result, wording)
    return None


@cache
def _patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    pairs = [(kind, text) for kind in KINDS.values() for text in kind.wordings + kind.new_wordings]
    return [(kind.name, text, _pattern(text)) for kind, text in pairs]


def _pattern(wording: str) -> re.Pattern[str]:
    """A wording as a regular expression: numbers are digits; names and things are any words, repeated alike."""
    seen: set[str] = set()

    def group(match: re.Match[str]) -> str:
        letter = match.group(1)
        if letter in seen:
            return f"(?P={letter})"
        seen.add(letter)
        return rf"(?P<{letter}>\d{{1,9}})" if letter in "abcd" else rf"(?P<{letter}>[^\W\d]+(?: [^\W\d]+)?)"

    return re.compile(re.sub(r"\\\{(\w)\\\}", group, re.escape(wording)))


def _carries(left: int, op: str, right: int) -> int:
    count = carry = 0
    if op == "*":
        left, right = max(left, right), min(left, right)
    while left or (op != "*" and right):
        one, other = left % 10, right if op == "*" else right % 10
        column = one * other + carry if op == "*" else one + other + carry if op == "+" else one - other - carry
        carry = column // 10 if op == "*" else int(column > 9) if op == "+" else int(column < 0)
        count += carry > 0
        left, right = left // 10, right if op == "*" else right // 10
    return count
