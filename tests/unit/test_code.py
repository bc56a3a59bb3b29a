# ruff: noqa: E501  (programs are written on one line)
"""Programs extracted from responses, problems parsed from replies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lai_ray.benchmarks import humaneval, mbpp
from lai_ray.contracts import Grading
from lai_ray.errors import ConfigError, DataError
from lai_ray.grading.programs import Prompted, body_only, default_program

DATA = Path(os.environ.get("LAI_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
PROMPT = 'import math\n\n\ndef root(n: int) -> float:\n    """ The square root.\n    >>> root(4)\n    2.0\n    """\n'
ROW = {"task_id": 601, "prompt": PROMPT, "entry_point": "root",
       "test": "def check(candidate):\n    assert candidate(4) == 2.0\n    assert candidate(9) == 3.0\n"}  # fmt: skip
UPSTREAM = {"task_id": 602, "text": "Write a function to double a number.", "code": "def twice(n):\r\n  return 2 * n",
            "test_list": ["assert twice(2) == 4", "assert twice(0) == 0"], "test_setup_code": ""}  # fmt: skip
BODY = "    return math.sqrt(n)"
problem = mbpp.BENCHMARK.problem(ROW, "train", 0)


@pytest.mark.parametrize(
    ("response", "rule"),
    [
        (f"Sure.\n```python\nimport math\n\ndef root(n):\n{BODY}\n```\nIt works.", "fenced"),
        (f"```python\ndef root(n):\n{BODY}", "fenced"),
        ("```\nfrom math import sqrt\n```\nthen\n```\ndef root(n):\n    return sqrt(n)\n```\n```\nprint(root(9) / 0)\n```", "fenced"),
        ("```python\ndef helper(n):\n    return n ** 0.5\n\ndef root(n):\n    return helper(n)\n\nassert root(4) == 3\n```", "fenced"),
        (f"Here it is:\n\ndef root(n):\n{BODY}\n\nThis takes the root.", "unfenced"),
        ("```python\ndef root(n):\n    return helper(n)\n\nif True:\n    def helper(n):\n        return n ** 0.5\n\nif __name__ in ('__main__', __name__):\n    print(root(9) / 0)\n```", "fenced"),
        ("```python\ndef root(n):\n    return n ** 0.5\nprint(root(9) / 0)\nunittest.main()\ndoctest.testmod()\nassert root(9) == 1\n```", "fenced"),
        (f"```python\ndef square_root(n):\n{BODY}\n```", "other_name"),
        (BODY, "body"),
    ],
)  # fmt: skip
def test_default_rules_keep_imports_and_helpers_and_remove_demonstrations(response, rule):
    grade = mbpp.BENCHMARK.grade(problem, response)
    assert (grade.score, grade.rule, grade.status) == (1.0, rule, "graded"), grade


@pytest.mark.parametrize("response", ["", "I cannot.", "```\n```", "x" * 100_000, "\x00\ud800", "def"])
def test_a_response_without_code_is_unparsed(response):
    assert mbpp.BENCHMARK.grade(problem, response).status == "unparsed"


def test_paper_rules_lose_the_code_before_the_function():
    response = "```python\nfrom math import sqrt\n\ndef root(n):\n    return sqrt(n)\n```"
    assert mbpp.BENCHMARK.grade(problem, response).score == 1.0
    lost = mbpp.BENCHMARK.grade(problem, response, Grading(rules="paper"))
    assert (lost.score, lost.status) == (0.0, "graded") and "sqrt" in lost.note


def test_paper_rules_judge_only_the_recorded_response_by_the_recorded_completion():
    row = ROW | {"response": "whatever", "completion": BODY}
    recorded = mbpp.BENCHMARK.problem(row, "train", 0)
    assert mbpp.BENCHMARK.grade(recorded, "whatever", Grading(rules="paper")).rule == "completion"
    assert mbpp.BENCHMARK.grade(recorded, "whatever", Grading(rules="paper")).score == 1.0
    assert mbpp.BENCHMARK.grade(recorded, "I do not know", Grading(rules="paper")).score == 0.0


def test_the_body_of_a_function_is_cut_at_the_fence_or_the_first_line_that_is_not_indented():
    assert body_only("```python\ndef f(x):\n    return x\n```\n", "f") == ("    return x", "fenced")
    assert body_only("def f(x):\n    return x\n\nSo it is.", "f") == ("    return x\n", "unfenced")
    assert body_only("def g(x):\n    return x", "f") == ("    return x", "other_name")
    assert body_only("no code", "f") == ("    no code", "whole")


def test_signature_and_docstring_are_made_where_the_refined_file_is_absent():
    made = mbpp.BENCHMARK.problem(UPSTREAM, "train", 1)
    assert made.question.startswith(
        'def twice(n):\n    """ Write a function to double a number.\n    >>> twice(2)\n    4\n'
    )
    assert mbpp.BENCHMARK.grade(made, mbpp.BENCHMARK.reference(made)).score == 1.0


def test_a_record_of_another_benchmark_or_without_a_test_is_refused():
    with pytest.raises(DataError, match="humaneval"):
        mbpp.BENCHMARK.problem({"canonical_solution": "x", "entry_point": "f", "prompt": "p", "test": "t"}, "train", 0)
    with pytest.raises(DataError, match="602"):
        mbpp.BENCHMARK.problem(UPSTREAM | {"test_list": []}, "train", 0)
    with pytest.raises(ConfigError, match="train, dev, test"):
        mbpp.BENCHMARK.load("validation")


REPLY = '''Here are two.

1. Question:
```python
def triple(n: int) -> int:
    """ Three times a number. """
```
Answer:
```python
def triple(n: int) -> int:
    return 3 * n
```
Tests:
```python
assert triple(1) == 3
assert triple(-2) == -6
```

**2. Question:** Write a function that reverses a text.
**Answer:**
```python
def turn(text):
    return text[::-1]
```
**Tests:**
- assert turn("ab") == "ba"
- assert turn("") == ""

3. Question: Write a function that halves.
Answer:
```python
def half(n):
    return n / 2
```
Tests:
```python
assert half(2) == 1
```

4. Question: Write a function that'''


def test_a_reply_gives_problems_with_their_asserts_as_tests():
    pieces = mbpp.BENCHMARK.parse(REPLY)
    assert [piece.rejected for piece in pieces] == [None, None, "no test", "no answer"]
    assert pieces[1].question.startswith('def turn(text):\n    """ Write a function that reverses a text.')
    for piece in pieces[:2]:
        made = mbpp.Problem("g", "mbpp", "generated", piece.question, piece.answer, piece.extra)
        assert mbpp.BENCHMARK.grade(made, piece.response).score == 1.0
        assert mbpp.BENCHMARK.grade(made, "```python\ndef triple(n): return 0\ndef turn(t): return 0\n```").score == 0.0


def test_the_tests_use_the_prompts_helpers_and_not_the_programs():
    row = {"task_id": "HumanEval/1", "prompt": "def poly(x):\n    return x * x\n\n\ndef zero() -> int:\n    \"\"\" Zero of poly. \"\"\"\n",
           "canonical_solution": "    return 0\n", "entry_point": "zero",
           "test": "def check(candidate):\n    assert poly(candidate()) == 0\n"}  # fmt: skip
    made = humaneval.BENCHMARK.problem(row, "test", 0)
    assert humaneval.BENCHMARK.grade(made, humaneval.BENCHMARK.reference(made)).score == 1.0
    cheat = "```python\ndef poly(x): return 0\ndef zero(): return 7\n```"
    assert humaneval.BENCHMARK.grade(made, cheat).score == 0.0


@pytest.mark.skipif(not (DATA / "humaneval").is_dir(), reason="the benchmarks' data is not here (LAI_TEST_DATA)")
def test_a_sample_of_references_is_right():
    for benchmark in (humaneval.HumanEval(str(DATA / "humaneval")), mbpp.Mbpp(str(DATA / "mbpp"))):
        rows = list(benchmark.load("test"))
        assert len(rows) == {"humaneval": 164, "mbpp": 499}[benchmark.name]
        problems = [benchmark.problem(row, "test", i) for i, row in enumerate(rows)]
        assert all(benchmark.grade(p, benchmark.reference(p)).score == 1 for p in problems[::12] if p.answer)


def test_a_missing_typing_import_of_the_prompt_is_added():
    prompted = Prompted('def first(xs: List[int]) -> int:\n    """ First. """\n', "first")
    program = default_program("```python\ndef first(xs: List[int]) -> int:\n    return xs[0]\n```", prompted)
    assert program is not None and "from typing import List" in program.source
