"""A user's own programming problems: tests in the shapes that people write, and only those that can fail."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest

from lai_ray.benchmark_kinds import user_code
from lai_ray.benchmark_kinds.code_tests import read_tests
from lai_ray.benchmark_kinds.user_data import user_benchmark
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.contracts import Grading
from lai_ray.errors import DataError
from lai_ray.grading.sandbox.runner import SandboxRefusedError
from lai_ray.records import Problem, Sample, Turn
from lai_ray.stages.curation.sample_filter import WEAK_TESTS, SampleFilter, SampleGrader
from lai_ray.stages.job import Job
from lai_ray.stages.select import RecordedPart
from lai_ray.strategies.le import STRATEGY
from tests.local import job

HALF = "def half(n):\n    return n // 2"
WRONG = "```python\ndef half(n):\n    return 'wrong'\n```"


def own(tmp_path, rows, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    columns = {"question": "task", "answer": "solution", "tests": "asserts"} | settings
    return user_benchmark(BenchmarkSettings(name="mine", kind="code", train=str(path), **columns))


def row(asserts, solution=HALF, task="Halve a number, rounding down."):
    return {"task": task, "solution": solution, "asserts": asserts}


READ = [
    ["assert half(4) == 2", "assert half(5) == 2"],
    ["assert half(4) == 2", None, ""],
    '["assert half(4) == 2", "assert half(5) == 2"]',
    "['assert half(4) == 2', 'assert half(5) == 2']",
    "['assert half(4) == 2' 'assert half(5) == 2']",
    "['assert half(4) == 2'\n \"assert half(5) == 2\"]",
    "array(['assert half(4) == 2', 'assert half(5) == 2'], dtype=object)",
    "assert half(4) == 2\nassert half(5) == 2",
    "    assert half(4) == 2\n    assert half(5) == 2",
    "assert half(4) == 2\n    assert half(5) == 2",
    ["# by hand", '"""The even ones."""', "assert half(4) == 2"],
    "# by hand\nassert half(\n    4\n) == 2  # even",
    "assert half(4) == 2; assert half(5) == 2",
    "```python\nassert half(4) == 2\n```",
    ["for n in range(4):", "    assert half(2 * n) == n"],
    "try:\n    half('x')\n    assert False\nexcept TypeError:\n    pass",
    ">>> half(4)\n2\n>>> n = 5\n>>> half(n)\n2",
    '"""\n>>> half(4)\n2\n"""',
    "def test_even():\n    assert half(4) == 2\ndef test_odd():\n    assert half(5) == 2",
    "class TestHalf:\n    def test_even(self):\n        assert half(4) == 2",
    "from unittest import TestCase\nclass Half(TestCase):\n    def test(self):\n        self.assertEqual(half(4), 2)",
    "import unittest\nclass Half(unittest.TestCase):\n    def setUp(self):\n        self.n = 4\n    def test(self):\n"
    "        self.assertEqual(half(self.n), 2)\nif __name__ == '__main__':\n    unittest.main()",
    "if __name__ == '__main__':\n    assert half(4) == 2",
    "SIZE = 4\n\n\ndef check(candidate):\n    assert candidate(SIZE) == 2",
    "def check(f):\n    assert f(4) == 2\n\ncheck(half)",
]  # fmt: skip


@pytest.mark.parametrize("asserts", READ)
def test_tests_of_every_shape_tell_right_from_wrong(tmp_path, asserts):
    mine = own(tmp_path, [row(asserts)])
    [problem] = [mine.problem(record, "train", 0) for record in mine.load("train")]
    assert mine.grade(problem, mine.reference(problem)).score == 1.0
    verdict = mine.grade(problem, WRONG)
    assert (verdict.score, verdict.status) == (0.0, "graded")


@pytest.mark.parametrize(
    ("asserts", "why"),
    [
        ("assert half(4) == half(4)", "cannot fail.* None"),
        ("assert half(4) == 2 or True", "cannot fail.* None"),
        ("assert half(4)", "cannot fail.* 'wrong'"),
        ("assert half(4) is not None", "cannot fail.* 'wrong'"),
        ("try:\n    assert half(4) == 3\nexcept AssertionError:\n    pass", "cannot fail"),
        ("assert half(4) == 3", "reference does not pass"),
        ("import pytest\ndef test():\n    assert half(4) == 2", "reference does not pass.*pytest"),
        ("def half(n):\n    return n // 2\nassert half(4) == 2", "cannot fail"),
        ("# half(4) is 2", "no assert"),
        ("assert half(4) == 2\\nassert half(5) == 2", "no Python"),
        ("half(4) == 2", "no assert.*half"),
        ("print(half(4))", "no assert"),
        (["assert half(4) == 2", "assert half(5) =="], "no Python.*half"),
        ("1. assert half(4) == 2", "no Python"),
        ("['assert half(4) == 2' ... 'assert half(5) == 2']", "numpy"),
        (">>> print(half(4))\ntwo things", "doctest"),
        ("def test(n):\n    assert half(n) == 2", "test.*arguments"),
        ("async def test():\n    assert half(4) == 2", "async"),
        ("[{'input': 4, 'output': 2}]", "dict.*asserts"),
        ({"inputs": [4], "outputs": [2]}, "dict.*asserts"),
        ("", "empty"), ([], "empty"), ("[]", "empty"), (None, "empty"),
    ],
)  # fmt: skip
def test_tests_that_cannot_judge_are_refused_with_row_and_column(tmp_path, asserts, why):
    with pytest.raises(DataError, match=rf"(?s)rows\.jsonl:2: column 'asserts'.*{why}"):
        list(own(tmp_path, [row(READ[0]), row(asserts)]).load("train"))


@pytest.mark.parametrize(
    ("solution", "why"),
    [
        ("class Halver:\n    def half(self, n):\n        return n // 2", "Halver"),
        ("async def half(n):\n    return n // 2", "half"),
        ("half = lambda n: n // 2", "lambda"),
        ("def half(n):\n    return n //", "no Python"),
        ('["def half(n): return n // 2"]', "no plain function"),
    ],
)
def test_a_solution_that_is_no_plain_function_is_refused_with_row_and_column(tmp_path, solution, why):
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: column 'solution'.*{why}"):
        list(own(tmp_path, [row(READ[0], solution)]).load("train"))


def test_a_solution_may_be_a_code_block_or_complete_its_question(tmp_path):
    signature = 'def half(n):\n    """ Halve. """\n'
    check = "def check(candidate):\n    assert candidate(4) == 2"
    rows = [row(READ[0], f"```python\n{HALF}\n```"), row(check, "    return n // 2", signature)]
    mine = own(tmp_path, rows)
    problems = [mine.problem(record, "train", i) for i, record in enumerate(mine.load("train"))]
    assert [mine.grade(problem, mine.reference(problem)).score for problem in problems] == [1.0, 1.0]


def test_tests_may_be_in_several_columns_and_build_the_solutions_own_classes(tmp_path):
    node = "class Node:\n    def __init__(self, value):\n        self.value = value\n\n\n"
    solution = f"{node}def value_of(node):\n    return node.value"
    record = {
        "task": "Its value.",
        "solution": solution,
        "setup": "node = Node(3)",
        "asserts": ["assert value_of(node) == 3"],
    }
    mine = own(tmp_path, [record], tests=["setup", "asserts"])
    [problem] = [mine.problem(read, "train", 0) for read in mine.load("train")]
    assert mine.grade(problem, mine.reference(problem)).score == 1.0


def test_many_rows_share_a_trial_and_each_faulty_one_is_named(tmp_path, monkeypatch):
    trials = []
    run = user_code.faults_of_tests
    monkeypatch.setattr(user_code, "faults_of_tests", lambda *a: trials.append(len(a[0])) or run(*a))
    rows = [row([f"assert half({2 * n}) == {n}"]) for n in range(1, 71)]
    rows[3]["asserts"] = rows[9]["asserts"] = ["assert half(1) == half(1)"]
    with pytest.raises(DataError, match=r"(?s)rows\.jsonl:4:.*rows\.jsonl:10:"):
        list(own(tmp_path, rows).load("train"))
    mine = own(tmp_path, [one for one in rows if "half(1) == half" not in one["asserts"][0]])
    assert len(list(mine.load("train"))) == 68
    checked = len(trials)
    assert len(list(mine.load("train"))) == 68 and len(trials) == checked  # Once a process.


def test_a_machine_without_isolation_says_that_the_tests_were_not_tried(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise SandboxRefusedError("less isolation")

    monkeypatch.setattr(user_code, "faults_of_tests", refuse)
    with caplog.at_level(logging.WARNING):
        assert len(list(own(tmp_path, [row("assert half(602) == 301")]).load("train"))) == 1
    assert "mine" in caplog.text and "less isolation" in caplog.text


def test_recorded_answers_to_tests_that_cannot_fail_are_refused(tmp_path):
    mine, answers = own(tmp_path, [row("assert half(4) == 2")]), tmp_path / "answers.jsonl"
    for asserts, why in (("assert half(4) == 2", None), ("assert half(4) == half(4)", "cannot fail")):
        answers.write_text(json.dumps(row(asserts) | {"response": WRONG}))
        part = RecordedPart(mine, "train", None, 0, files=(answers,))
        if why is None:
            assert [answer.text for _, _, answer in part.answered()] == [WRONG]
        else:
            with pytest.raises(DataError, match=rf"answers\.jsonl:1: column 'asserts'.*{why}"):
                list(part)


def test_a_jobs_own_data_has_the_jobs_isolation(tmp_path):
    mine = own(tmp_path, [row("assert half(4) == 2")]).settings
    settings = job(tmp_path, benchmark=[mine.model_dump()], sandbox__min_tier="rlimits")
    assert Job.of(settings).benchmark("mine").min_tier == "rlimits"


def test_the_rows_programs_run_in_the_isolation_that_the_job_demands(tmp_path, monkeypatch):
    demanded = []
    monkeypatch.setattr(user_code, "faults_of_tests", lambda *a: demanded.append(a[2]) or [None])
    mine = own(tmp_path, [row("assert half(802) == 401")])
    list(user_benchmark(mine.settings, "landlock").load("train"))
    assert demanded == ["landlock"]


def sample(tests, number):
    extra = {"entry": "half", "test": tests, "check": False}
    problem = Problem(f"mine/generated/{number}", "mine", "generated", "def half(n):\n    ...\n", HALF, extra)
    return Sample(f"s{number}", None, problem, [Turn(f"```python\n{HALF}\n```")])


def test_an_instructors_sample_whose_tests_cannot_fail_is_dropped_with_that_reason(tmp_path):
    mine = own(tmp_path, [row(READ[0])])
    samples = [sample("assert half(4) == 2\nassert half(5) == 2", 1), sample("assert half(4) == half(4)", 2)]
    graded = list(map(SampleGrader(mine, Grading()), samples))
    assert [(grade.score, fault is None) for grade, fault in graded] == [(1.0, True), (1.0, False)]
    clear = SimpleNamespace(copied=lambda problem: None, nearest=lambda question: [])
    local = SimpleNamespace(map=map)
    chosen = SampleFilter(mine, STRATEGY, clear, Grading(), local).filtered(samples)
    assert [one.dropped for one in chosen] == [None, WEAK_TESTS]


def test_asserts_are_kept_as_they_were_written():
    assert read_tests(["assert f(1) == 2", " assert f(2) == 3 "]).source == "assert f(1) == 2\nassert f(2) == 3"
    assert read_tests("import math\nassert f(math.pi) == 3  # rounded").parts == (
        "import math", "assert f(math.pi) == 3  # rounded",
    )  # fmt: skip
