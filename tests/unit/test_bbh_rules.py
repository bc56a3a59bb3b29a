"""BIG-Bench Hard: grading by type of target, worked examples, and the data's canary."""

from __future__ import annotations

import json

import pytest

from lai_ray.benchmarks.bbh import TASKS, Bbh
from lai_ray.errors import ConfigError
from lai_ray.grading.bbh import default_grade, paper_grade

ASKED = "Which is a fruit?\nOptions:\n(A) a stone\n(B) a pear"


@pytest.mark.parametrize(
    ("question", "target", "response", "right"),
    [
        (ASKED, "(B)", "So the answer is (B).", True),
        (ASKED, "(B)", "So the answer is B.", True),
        (ASKED, "(B)", "The answer is (A). No, the answer is (B) a pear.", True),
        (ASKED, "(B)", "So the answer is (A).", False),
        ("2 * 3 - 12 =", "-6", "So the answer is -6.", True),
        ("2 * 3 - 12 =", "-6", "So the answer is 6.", False),
        ("not True is", "False", "not True = False. So the answer is False.", True),
        ("not True is", "False", "So the answer is **false**", True),
        ("Is it?", "Yes", "Hence yes.", True),
        ("Is it?", "Yes", "Yes or no, who knows.", False),
        ("Is it?", "No", "The answer is No, because yes is wrong.", True),
        ("Is it sound?", "invalid", "The argument is invalid.", True),
        ("Is it sound?", "valid", "So the answer is invalid.", False),
        ("Close: ( [ {", "} ] )", 'We need "}", "]", ")". So the answer is } ] ).', True),
        ("Close: ( [ {", "} ] )", "So the answer is }])", True),
        ("Close: ( [ {", "} ] )", "So the answer is ] } ).", False),
        ("Sort: b a", "a b", "So the answer is a, b.", True),
        ("Sort: b a", "a b", "So the answer is b a.", False),
        ("Sort: b a", "a b", "a b", True),
    ],
)
def test_the_default_rules(question, target, response, right):
    assert default_grade(question, target, response).score == float(right)


@pytest.mark.parametrize("target", ["(B)", "-6", "Yes", "} ]", "a b"])
@pytest.mark.parametrize("response", ["", "hm", "\n"])
def test_a_response_without_answer_is_not_right(target, response):
    assert default_grade(ASKED, target, response).score == 0.0


@pytest.mark.parametrize(
    ("target", "response", "right"),
    [
        ("(B)", "So the answer is (B).", True),
        ("Yes", "the answer is yes. Or no.", True),
        ("(B)", "So it is (B).", False),
        ("(B)", "the answer is (A). Wait, the answer is (B).", False),
        ("(B)", "the answer is B.", False),
    ],
)
def test_the_papers_rule_compares_the_first_phrase_exactly(target, response, right):
    assert paper_grade(target, response).score == float(right)


def bbh(folder, tasks=TASKS) -> Bbh:
    (folder / "bbh").mkdir()
    (folder / "cot-prompts").mkdir()
    for task in tasks:
        rows = {"canary": "canary GUID x", "examples": [{"input": f"{task}?", "target": "Yes"}]}
        (folder / f"bbh/{task}.json").write_text(json.dumps(rows))
        (folder / f"cot-prompts/{task}.txt").write_text(f"canary GUID x\n-----\nDo {task}.\n\nQ: a\nA: b\n")
    return Bbh(str(folder))


def test_three_examples_come_first_and_the_canary_is_removed(tmp_path):
    benchmark = bbh(tmp_path)
    problems = [benchmark.problem(record, "test", i) for i, record in enumerate(benchmark.load("test"))]
    assert len(problems) == 27
    assert len({benchmark.group(p) for p in problems}) == 23
    asked = benchmark.prompt(problems[3])[0]["content"]
    assert "Do disambiguation_qa.\n\nQ: a\nA: b\n\nQ: disambiguation_qa?\nA:" in asked
    assert "canary" not in json.dumps([benchmark.prompt(p) for p in problems])


def test_the_task_of_a_row_without_one_is_looked_up(tmp_path):
    benchmark = bbh(tmp_path)
    assert benchmark.group(benchmark.problem({"input": "navigate?", "target": "Yes"}, "test", 0)) == "navigate"
    assert benchmark.group(benchmark.problem({"input": "new?", "target": "Yes"}, "test", 0)) == "unknown"


def test_bbh_is_never_learned_from(tmp_path):
    benchmark = bbh(tmp_path)
    for act in (lambda: list(benchmark.load("train")), benchmark.brief, lambda: benchmark.parse("1. Question: …")):
        with pytest.raises(ConfigError, match="bbh.*evaluate.learn_from"):
            act()


def test_missing_examples_and_tasks_are_reported(tmp_path):
    benchmark = bbh(tmp_path, TASKS[:1])
    with pytest.raises(ConfigError, match=r"cot-prompts/navigate\.txt.*BIG-Bench-Hard"):
        benchmark.prompt(benchmark.problem({"input": "?", "target": "Yes", "task": "navigate"}, "test", 0))
    with pytest.raises(ConfigError, match=r"bbh/causal_judgement"):
        list(benchmark.load("test"))
