"""Contract tests of every strategy, with every benchmark that can be learned from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lai_ray.benchmark_kinds.user_data import user_benchmark
from lai_ray.common import plugins
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.contracts import Model, StrategySettings
from lai_ray.records import Attempt, Case, Completion, Contrast, Grade, Problem, Reply
from tests.contracts.test_benchmarks import LEARNED, loaded, problems
from tests.local import LocalExecutor

STRATEGIES = plugins.available("strategies")
ASKING = [name for name in STRATEGIES if plugins.load("strategies", name).asks and name != "tripost"]
"""Those whose first request is the instructor's."""
PROMPT_OF = {"random_contrast": "lec"}
"""Strategies that have the prompt of another."""
ANSWER_UNSEEN = {"llm2llm"}
"""Strategies that show the instructor the mistaken question without what the target answered."""
SETTINGS = StrategySettings(0, 0, 4, 2, Model("", "encoder"), count_cut_off=False, show_reference=False)
ANSWER = "the target's wrong answer, word for word"
EVERY_SLOT = "[system]\nMine. {brief}\n[user]\n{question}\n{n}"


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A user's own data, as from the job's [[benchmark]] table."""
    file = tmp_path_factory.mktemp("own") / "reviews.csv"
    file.write_text("text,sentiment\nGood {n} {question}.,good\nBad.,bad\nNot bad.,good\n")
    return user_benchmark(
        BenchmarkSettings(name="reviews", kind="label", train=str(file), question="text", answer="sentiment")
    )


@pytest.fixture(params=[*LEARNED, "own data"])
def data(request, mine):
    """A benchmark with its first three training problems."""
    if request.param != "own data":
        return loaded(request.param), problems(request.param, "train")[:3]
    return mine, [mine.problem(record, "train", row) for row, record in enumerate(mine.load("train"))]


def attempt(problem: Problem, *, right: bool) -> Attempt:
    done = Completion(f"right: {problem.id}" if right else ANSWER, "stop")
    return Attempt(f"{problem.id}#0", problem, [], done, Grade(float(right), None, "r", "graded"))


def case_of(strategy, some: list[Problem]) -> Case:
    wrong, *others = some
    contrasts = [Contrast(attempt(other, right=True), 0.1) for other in others] if strategy.uses_neighbours else []
    return Case(f"{wrong.id}#0>{strategy.name}", strategy.name, attempt(wrong, right=False), contrasts)


@pytest.mark.parametrize("name", ASKING)
def test_its_first_request_holds_the_return_format_and_the_whole_question(name, data):
    strategy, (benchmark, some) = plugins.load("strategies", name), data
    for reference in (False, True):
        case, settings = case_of(strategy, some), replace(SETTINGS, show_reference=reference)
        system, user = strategy.next(case, [], benchmark, settings).messages
        assert (system["role"], user["role"]) == ("system", "user")
        assert system["content"].endswith(benchmark.brief().strip())
        assert benchmark.show(some[0]).strip("\n") in user["content"]
        assert user["content"].split("\n\n")[-1].startswith("Write 4 new ")


@pytest.mark.parametrize("name", ASKING)
def test_the_targets_answer_is_shown_by_strategies_that_learn_from_mistakes(name, data):
    strategy, (benchmark, some) = plugins.load("strategies", name), data
    settings = replace(SETTINGS, explain=True, show_answers=True)
    user = strategy.next(case_of(strategy, some), [], benchmark, settings).messages[1]["content"]
    assert (ANSWER in user) == ("[MISTAKE]" in user) == (not strategy.any_verdict and name not in ANSWER_UNSEEN)
    assert ("right: " in user) == strategy.uses_neighbours


@pytest.mark.parametrize("name", sorted({*STRATEGIES} - {"given"}))  # Its cases are the rows of a file.
def test_its_cases_are_the_mistakes_or_all_attempts(name, data):
    strategy, (_, some) = plugins.load("strategies", name), data
    attempts = [attempt(some[0], right=False), *(attempt(problem, right=True) for problem in some[1:])]
    ids = [case.attempt.id for case in strategy.cases(attempts, SETTINGS, LocalExecutor())]
    assert ids == [a.id for a in attempts if strategy.any_verdict or not a.right]


@pytest.mark.parametrize("name", ASKING)
def test_the_jobs_own_prompt_replaces_the_built_in_one(name, data):
    strategy, (benchmark, some) = plugins.load("strategies", name), data
    kind = PROMPT_OF.get(name, name)
    settings = replace(SETTINGS, prompts={kind: "never", f"{kind}.{benchmark.name}": EVERY_SLOT})
    system, user = strategy.next(case_of(strategy, some), [], benchmark, settings).messages
    assert system["content"] == f"Mine. {benchmark.brief().strip()}"
    assert user["content"] == f"{benchmark.show(some[0])}\n4".lstrip("\n")


def test_tripost_first_asks_the_target_as_the_test_does_and_a_wrong_answer_brings_the_instructor(data):
    strategy, (benchmark, some) = plugins.load("strategies", "tripost"), data
    case, settings = case_of(strategy, some), replace(SETTINGS, own=strategy.Settings(feedback="instructor"))
    first = strategy.next(case, [], benchmark, settings)
    assert (first.to, first.messages) == ("target", benchmark.prompt(some[0]))
    said = Reply(f"{case.id}@0.0", case.id, 0, 0, first.messages, Completion(ANSWER, "stop"), "target")
    second = strategy.next(case, [said], benchmark, settings)
    assert second.to == "instructor" and ANSWER in second.messages[1]["content"]
    assert benchmark.show(some[0]).strip("\n") in second.messages[1]["content"]
    right = replace(said, completion=Completion(benchmark.reference(some[0]), "stop"))
    if not benchmark.runs_code:
        assert strategy.next(case, [right], benchmark, settings) is None
        assert len(strategy.samples(case, [right], benchmark, settings)) == 2


def test_fine_tuning_makes_no_request_and_its_sample_is_graded_right(data):
    strategy, (benchmark, some) = plugins.load("strategies", "fine_tuning"), data
    case = case_of(strategy, some)
    assert strategy.next(case, [], benchmark, SETTINGS) is None
    (sample,) = strategy.samples(case, [], benchmark, SETTINGS)
    text = "".join(turn.text for turn in sample.turns)
    assert benchmark.prompt(sample.problem) == benchmark.prompt(some[0])
    assert benchmark.runs_code or benchmark.grade(sample.problem, text).score == 1


@pytest.mark.parametrize("name", ["le", "lec"])
@pytest.mark.parametrize("mark", ["[MISTAKE] ", "1. [MISTAKE] ", "**[MISTAKE]**\n"])
def test_the_line_on_the_mistake_changes_no_sample(name, mark, data):
    strategy, (benchmark, some) = plugins.load("strategies", name), data
    case, settings = case_of(strategy, some), replace(SETTINGS, explain=True)
    text = "\n\n".join(
        f"{i}. Question: {benchmark.show(problem)}\nAnswer: {benchmark.reference(problem)}"
        for i, problem in enumerate(some, start=1)
    )
    bare, dressed = (
        strategy.samples(
            case, [Reply(f"{case.id}@0.0", case.id, 0, 0, [], Completion(reply, "stop"))], benchmark, settings
        )
        for reply in (text, f"{mark}It adds 2 + 2 = 5 where it should take away. Question: why?\n\n{text}")
    )
    assert bare
    assert dressed == bare
