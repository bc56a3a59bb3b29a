"""A user's own programming problems: a function to write, tests that decide.  row -> Problem

The tests must be able to fail: where a split is loaded, each reference has to pass its tests in the sandbox, and
functions that return None, a text or a new object must not.
"""

from __future__ import annotations

import ast
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from lai_ray.benchmark_kinds.code import CodeBenchmark, faults_of_tests
from lai_ray.benchmark_kinds.code_tests import Tests, parsed, read_tests, unfenced
from lai_ray.benchmark_kinds.column_values import unpacked
from lai_ray.benchmark_kinds.table_files import Row
from lai_ray.benchmark_kinds.user_base import UserBenchmark
from lai_ray.errors import DataError
from lai_ray.grading.programs import defined_names
from lai_ray.grading.reference_check import BATCH
from lai_ray.grading.sandbox.runner import SandboxRefusedError
from lai_ray.instructor.parsing.code_samples import header
from lai_ray.records import Message, Problem
from lai_ray.storage.keys import key_of

log = logging.getLogger(__name__)
MOST_NAMED = 5
"""Rows with a fault that one error quotes."""
_sound: set[str] = set()
"""Of this process: hashes of rows whose tests tell right from wrong."""


class UserCode(UserBenchmark, CodeBenchmark):
    """A Python function, judged by its tests in the sandbox."""

    runs_code: ClassVar[bool] = True

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One row; the function that the tests call is the last one of the reference that they name."""
        question = self.question(record)
        code, tests = self._solution(record, question), self._tests(record)
        entry = self._entry(record, code, question, tests)
        prompt = question if "def " in question else header(question, code, entry, list(tests.parts))
        others = [name for name in defined_names(code) if name != entry and _calls(tests, name)]
        names: dict[str, Any] = {"names": others} if others else {}
        extra = {"entry": entry, "test": tests.source, "check": tests.check, **names}
        problem = self.build(record, split, row, code, **extra)
        return Problem(problem.id, problem.benchmark, split, prompt, code, problem.extra)

    def _tests(self, record: Mapping[str, Any]) -> Tests:
        named = self.settings.tests
        assert named is not None
        try:
            if isinstance(named, str):
                return read_tests(self.column(record, named))
            values = [unpacked(self.column(record, name)) for name in named]
            return read_tests([one for value in values for one in (value if isinstance(value, list) else [value])])
        except DataError as error:
            raise DataError(f"column {self._columns} {error}") from error

    @property
    def _columns(self) -> str:
        named = self.settings.tests
        return repr(named) if isinstance(named, str) else " and ".join(map(repr, named or ()))

    def _solution(self, record: Mapping[str, Any], question: str) -> str:
        """The reference's source: the column's, or the question completed by it, as HumanEval has it."""
        answer = self.settings.answer
        text = unfenced(self.text(record, answer, of="assistant"))
        whole = f"{question.rstrip()}\n{text}"
        if not _functions(text) and "def " in question and _functions(whole) and text[:1].isspace():
            return whole
        if parsed(text) is None:
            raise DataError(f"column {answer!r} holds no Python: {text[:60]!r}")
        if not _functions(text):
            there = ", ".join(defined_names(text)) or repr(text[:60])
            raise DataError(
                f"column {answer!r} holds no plain function but {there}; write the solution as a function (def), which "
                "is neither async nor in a class"
            )
        return text

    def _entry(self, record: Mapping[str, Any], code: str, question: str, tests: Tests) -> str:
        names = _functions(code)
        if tests.check:
            asked = [record.get("entry_point"), *reversed(_functions(f"{question.rstrip()}\n    pass\n"))]
            return next((name for name in asked if name in names), names[-1])
        called = [name for name in names if _calls(tests, name)] or [name for name in names if _uses(tests, name)]
        if not called:
            raise DataError(f"no test in column {self._columns} calls a function of the answer ({', '.join(names)})")
        return called[-1]

    def checked(self, read: Iterable[tuple[Row, Problem]]) -> Iterator[tuple[Row, Problem]]:
        """The same rows. Raises DataError where a reference does not pass its tests, or where they cannot fail."""
        rest = iter(read)
        while batch := list(itertools.islice(rest, BATCH)):
            self._check(batch)
            yield from batch

    def _check(self, batch: list[tuple[Row, Problem]]) -> None:
        keys = [key_of(self.min_tier, p.question, p.answer, p.extra) for _, p in batch]
        new = [i for i, key in enumerate(keys) if key not in _sound]
        if not new:
            return
        problems = [batch[i][1] for i in new]
        try:
            found = faults_of_tests(problems, [self.reference(problem) for problem in problems], self.min_tier)
        except SandboxRefusedError as error:
            log.warning("%s: the tests of its rows were not tried on this machine: %s", self.name, error)
            found = [None] * len(new)
        faulty = [
            f"{batch[i][0].where}: column {self.settings.tests!r}: {f}" for i, f in zip(new, found, strict=True) if f
        ]
        if faulty:
            more = f"\nand {len(faulty) - MOST_NAMED} more of these rows" if len(faulty) > MOST_NAMED else ""
            raise DataError("\n".join(faulty[:MOST_NAMED]) + more)
        _sound.update(keys)

    def prompt(self, problem: Problem) -> list[Message]:
        """The job's instruction, then the prompt of every code benchmark."""
        (message,) = CodeBenchmark.prompt(self, problem)
        extra = f"{self.settings.instruction}\n\n" if self.settings.instruction else ""
        return [{**message, "content": extra + message["content"]}]


def _calls(tests: Tests, name: str) -> bool:
    return re.search(rf"\b{name}\s*\(", tests.source) is not None


def _uses(tests: Tests, name: str) -> bool:
    """Whether the tests hand a function on, as in `check(add)`."""
    tree = parsed(tests.source)
    return tree is not None and any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def _functions(source: str) -> list[str]:
    """The plain functions of a source, in order; [] where it is no Python."""
    tree = parsed(source)
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] if tree else []
