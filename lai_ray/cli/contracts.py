"""`lai contracts`: what every benchmark promises, tried on one.  a benchmark with its files -> what does not hold

The package's own benchmarks are tested by the same promises.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lai_ray.contracts import Benchmark, Grading
from lai_ray.errors import ConfigError
from lai_ray.records import Problem
from lai_ray.report.tables import Table

ABSURD = ("", " ", "\n\n####", "🙂", "#### #### ####", "x" * 100_000, "\x00\ud800")
"""Responses that answer nothing."""
SHARED = {"mmlu": 32}
"""Questions that stand in two splits, as published: of MMLU's dev and val in its test."""
WITHOUT_REFERENCE = ("mbpp",)
"""Benchmarks of which some published rows have no reference."""
SHOWN = 3
"""Faults of a promise that are shown."""
NO_SPLIT = "validation"


@dataclass
class Examined:
    """A benchmark, and all its problems by split."""

    benchmark: Benchmark

    @cached_property
    def problems(self) -> dict[str, list[Problem]]:
        """In the order of their rows."""
        return {split: list(self.read(split)) for split in self.benchmark.splits}

    @property
    def all(self) -> list[Problem]:
        """Those of every split."""
        return list(itertools.chain(*self.problems.values()))

    def read(self, split: str) -> Iterator[Problem]:
        """A split, loaded anew."""
        for row, record in enumerate(self.benchmark.load(split)):
            yield self.benchmark.problem(record, split, row)


def every_reference_is_right(examined: Examined) -> Iterator[str]:
    """Graded by default rules."""
    benchmark = examined.benchmark
    for problem in examined.all:
        if problem.answer or benchmark.name not in WITHOUT_REFERENCE:
            grade = benchmark.grade(problem, benchmark.reference(problem))
            if grade.score != 1.0:
                yield f"{problem.id}: its own reference is graded {grade.score:g} ({grade.status}, {grade.answer!r})"


def no_absurd_response_is_right_or_an_error(examined: Examined) -> Iterator[str]:
    """By both kinds of rules. The paper's last rule for choices always chooses, so it may be right by chance."""
    problem = next(iter(examined.all))
    kinds: tuple[Literal["default", "paper"], ...] = ("default", "paper")
    for response, rules in itertools.product(ABSURD, kinds):
        grade = examined.benchmark.grade(problem, response, Grading(rules))
        fuzzy = rules == "paper" and grade.rule == "fuzzy"
        if grade.status not in ("graded", "unparsed") or (grade.score >= 1.0 and not fuzzy):
            yield f"{response[:20]!r} by {rules} rules: {grade.status}, score {grade.score:g}"


def ids_are_unique_and_stable(examined: Examined) -> Iterator[str]:
    """And hold the benchmark's name and the split."""
    for split, problems in examined.problems.items():
        ids = [problem.id for problem in problems]
        yield from (f"{one}: {count} times" for one, count in Counter(ids).items() if count > 1)
        start = f"{examined.benchmark.name}/{split}/"
        yield from (f"{one}: does not begin with {start}" for one in ids if not one.startswith(start))
        if [problem.id for problem in examined.read(split)] != ids:
            yield f"{split}: other ids where it is loaded again"


def no_question_is_in_two_splits(examined: Examined) -> Iterator[str]:
    """What is learned from must not be tested."""
    show = examined.benchmark.show
    asked = {split: {show(problem) for problem in problems} for split, problems in examined.problems.items()}
    for (one, first), (other, second) in itertools.combinations(asked.items(), 2):
        shared = sorted(first & second)
        if len(shared) > SHARED.get(examined.benchmark.name, 0):
            yield f"{one} and {other} share {len(shared)} questions, as {shared[0][:60]!r}"


def an_unknown_split_is_refused_with_those_there_are(examined: Examined) -> Iterator[str]:
    """By ConfigError; a benchmark without a train split likewise refuses that."""
    splits = examined.benchmark.splits
    for split in [NO_SPLIT, *({"train"} - set(splits))]:
        try:
            list(examined.benchmark.load(split))
        except ConfigError as error:
            if splits[0] not in str(error):
                yield f"load({split!r}): the error does not name {splits[0]!r}"
        else:
            yield f"load({split!r}) raises no ConfigError"


def the_prompt_holds_the_whole_question(examined: Examined) -> Iterator[str]:
    """And its choices, of every 50th problem of the last split."""
    for problem in examined.problems[examined.benchmark.splits[-1]][::50]:
        asked = _squeezed(examined.benchmark.prompt(problem)[-1]["content"])
        choices = problem.extra.get("choices", {})
        for text in [problem.question, *(choices.values() if isinstance(choices, dict) else choices)]:
            if _squeezed(str(text)) not in asked:
                yield f"{problem.id}: {str(text)[:60]!r} is not in its prompt"


def a_reply_in_the_requested_form_is_read_and_no_other(examined: Examined) -> Iterator[str]:
    """Of an instructor, with three problems; only where there is a train split."""
    benchmark, some = examined.benchmark, examined.problems.get("train", [])[:3]
    if not some:
        return
    parts = [f"{i}. Question: {benchmark.show(p)}\nAnswer: {benchmark.reference(p)}" for i, p in enumerate(some, 1)]
    pieces = benchmark.parse("Here you are.\n\n" + "\n\n".join(parts) + "\n\nGood luck!")
    read = [(_squeezed(piece.question), piece.answer) for piece in pieces if piece.rejected is None]
    wanted = [(_squeezed(problem.question), problem.answer) for problem in some]
    if read != wanted:
        yield f"parse() reads {read!r} where {wanted!r} stands"
    if [piece for piece in benchmark.parse("I would rather not.") if piece.rejected is None]:
        yield "parse() reads a sample in 'I would rather not.'"


def every_problem_has_a_group(examined: Examined) -> Iterator[str]:
    """Scores are broken down by it."""
    yield from (f"{problem.id}: no group" for problem in examined.all if not examined.benchmark.group(problem))


PROMISES: tuple[Callable[[Examined], Iterable[str]], ...] = (
    every_reference_is_right, no_absurd_response_is_right_or_an_error, ids_are_unique_and_stable,
    no_question_is_in_two_splits, an_unknown_split_is_refused_with_those_there_are, the_prompt_holds_the_whole_question,
    a_reply_in_the_requested_form_is_read_and_no_other, every_problem_has_a_group,
)  # fmt: skip


def examine(benchmark: Benchmark) -> tuple[Table, bool]:
    """Every promise with its first faults, and whether all hold. What a promise raises is its fault."""
    examined, held = Examined(benchmark), True
    table = Table(f"What {benchmark.name} promises", ["promise", "", "faults"])
    for promise in PROMISES:
        try:
            faults = list(itertools.islice(promise(examined), SHOWN))
        except Exception as error:
            faults = [f"{type(error).__name__}: {error}"]
        held = held and not faults
        table.rows.append([promise.__name__.replace("_", " "), "broken" if faults else "holds", "; ".join(faults)])
    return table, held


def _squeezed(text: str) -> str:
    return " ".join(text.split())
