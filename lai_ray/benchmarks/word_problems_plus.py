"""The transfer test of the built-in benchmark: its test problems, perturbed as GSM-Plus perturbs GSM8K.

A row:
    {"question": "Zoe lost 31 maps and has 58 left. How many maps did Zoe have before?",
     "answer": "58 + 31 = 89\\n#### 89", "type": "reversal", "kind": "subtract", "numbers": [89, 31]}

Six types, equally many of each. It has no training split, and each problem uses the key of a held-out test problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import cycle, islice
from random import Random
from typing import Any

from lai_ray.benchmarks.word_problems import WordProblems
from lai_ray.errors import ConfigError
from lai_ray.records import Problem
from lai_ray.world import word_kinds as kinds

COUNT = 1008

ADDED: dict[str, tuple[str, kinds.Formula]] = {
    "add": (
        "{n} has {a} {t} and buys {b} more. Then {m} gives {n} {c} {t}. How many {t} does {n} have now?",
        (("a", "+", "b"), (0, "+", "c")),
    ),
    "subtract": (
        "{n} had {a} {t} and lost {b} of them. Then {n} found {c} more. How many {t} does {n} have now?",
        (("a", "-", "b"), (0, "+", "c")),
    ),
    "multiply": (
        "{n} has {a} boxes with {b} {t} each and buys {c} {t} more. How many {t} does {n} have?",
        (("a", "*", "b"), (0, "+", "c")),
    ),
}
"""kind -> wording and solution of the problem with one more operation; c is the added number."""

REVERSED: dict[str, tuple[str, kinds.Formula]] = {
    "add": (
        "{n} buys {b} {t} and has {c} now. How many {t} did {n} have before?",
        (("c", "-", "b"),),
    ),
    "subtract": (
        "{n} lost {b} {t} and has {c} left. How many {t} did {n} have before?",
        (("c", "+", "b"),),
    ),
    "change": (
        "{n} buys {a} {t} for {b} dollars each and gets back {d} dollars. How much money did {n} have before?",
        (("a", "*", "b"), ("d", "+", 0)),
    ),
}
"""kind -> wording and solution of the reversed problem; c (d for change) is the original problem's answer."""

WORDINGS = tuple(wording for wording, _ in (*ADDED.values(), *REVERSED.values()))


def _numerical_variation(rng: Random) -> kinds.WordProblem:
    """Each number has its own size: a mix of sizes that no other split has."""
    kind = rng.choice(list(kinds.KINDS))
    ranges = kinds.KINDS[kind].ranges
    numbers = _held_out(
        kind, rng, lambda: tuple(rng.randint(*ranges[rng.choice(kinds.SIZES)][x]) for x in ranges["small"])
    )
    return kinds.write(kind, numbers, rng)


def _digit_expansion(rng: Random) -> kinds.WordProblem:
    """One number of a small problem gets one more digit."""
    kind = rng.choice(list(kinds.KINDS))

    def longer() -> tuple[int, ...]:
        numbers = list(kinds.draw(kind, "small", rng))
        at = rng.choice([i for i, number in enumerate(numbers) if number > 9])
        numbers[at] = numbers[at] * 10 + rng.randint(0, 9)
        return tuple(numbers)

    return kinds.write(kind, _held_out(kind, rng, longer), rng)


def _rephrase(rng: Random) -> kinds.WordProblem:
    kind = rng.choice(list(kinds.KINDS))
    return kinds.write(kind, _test_numbers(kind, rng), rng, wordings=kinds.KINDS[kind].new_wordings)


def _distractor(rng: Random) -> kinds.WordProblem:
    kind = rng.choice(list(kinds.KINDS))
    item = kinds.write(kind, _test_numbers(kind, rng), rng)
    return replace(item, question=kinds.with_aside(item.question, rng))


def _added_operation(rng: Random) -> kinds.WordProblem:
    kind = rng.choice(list(ADDED))
    numbers = _test_numbers(kind, rng)
    letters = dict(zip("ab", numbers, strict=True)) | {"c": rng.randint(10, 99)}
    return _written(kind, numbers, *ADDED[kind], letters, rng)


def _reversal(rng: Random) -> kinds.WordProblem:
    kind = rng.choice(list(REVERSED))
    numbers = _test_numbers(kind, rng)
    letters = dict(zip("abc", numbers, strict=False))
    letters["d" if kind == "change" else "c"] = kinds.solve(kind, numbers)[-1].result
    return _written(kind, numbers, *REVERSED[kind], letters, rng)


TYPES: dict[str, Callable[[Random], kinds.WordProblem]] = {
    "numerical_variation": _numerical_variation,
    "digit_expansion": _digit_expansion,
    "rephrase": _rephrase,
    "distractor": _distractor,
    "added_operation": _added_operation,
    "reversal": _reversal,
}


def _held_out(kind: str, rng: Random, numbers: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    while True:
        drawn = numbers()
        if kinds.bucket(kind, drawn) == "test" and all(step.result > 0 for step in kinds.solve(kind, drawn)):
            return drawn


def _test_numbers(kind: str, rng: Random) -> tuple[int, ...]:
    return kinds.draw_from(kind, rng.choice(kinds.SIZES), rng, ("test",))


def _written(
    kind: str, numbers: tuple[int, ...], wording: str, formula: kinds.Formula, letters: dict[str, int], rng: Random
) -> kinds.WordProblem:
    steps = kinds.run(formula, letters)
    question = wording.format(**kinds.fillers(rng), **letters)
    return kinds.WordProblem(
        kind, kinds.size_of(kind, numbers), numbers, question, kinds.worked(steps), steps[-1].result
    )


@cache
def _loaded() -> tuple[dict[str, Any], ...]:
    # Generated once per process: a run reads its problems several times, and they are few.
    return tuple(BENCHMARK._rows())


class WordProblemsPlus(WordProblems):
    """See the module."""

    name = "word_problems_plus"
    splits: tuple[str, ...] = ("test",)
    domain = "out"
    source = None

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The 1,008 rows of the test split. Raises ConfigError for any other."""
        if split not in self.splits:
            raise ConfigError(
                f"{self.name} has no split {split!r}: it tests transfer and has only test. "
                "Learn from word_problems and list this one under evaluate.report_on."
            )
        return iter(_loaded())

    def _rows(self) -> Iterator[dict[str, Any]]:
        rng, seen = Random("word_problems_plus/test"), set()
        for name in islice(cycle(TYPES), COUNT):
            item = TYPES[name](rng)
            while item.question in seen:
                item = TYPES[name](rng)
            seen.add(item.question)
            yield {
                "question": item.question,
                "answer": item.response,
                "type": name,
                "kind": item.kind,
                "numbers": list(item.numbers),
            }

    def group(self, problem: Problem) -> str:
        """The type of perturbation."""
        return str(problem.extra.get("type", "unknown"))


BENCHMARK = WordProblemsPlus()
