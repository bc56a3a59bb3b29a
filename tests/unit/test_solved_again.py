"""The paid check: samples that the instructor solves differently are dropped, at the forecast cost."""

from __future__ import annotations

import json
import re

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.common import plugins
from lai_ray.contracts import DEFAULT_GRADING, Model, StrategySettings
from lai_ray.records import Ask, Attempt, Case, Completion, Grade, Reply
from lai_ray.report.story import story
from lai_ray.stages.cost_forecast import known
from lai_ray.stages.curation.solve_again import DISAGREES, NOT_SOLVED, UNPARSED, SolvedAgain
from lai_ray.stages.job import Job
from lai_ray.storage.run import Run
from lai_ray.strategies import le
from lai_ray.world import rules
from tests.conftest import records
from tests.local import Crash, LocalExecutor, job

GSM8K = plugins.load("benchmarks", "gsm8k")
SETTINGS = StrategySettings(0, 0, 4, 2, Model("", "encoder"), count_cut_off=False, show_reference=False)
PROBLEM = GSM8K.problem({"question": "What are 1 and 1?", "answer": "1 + 1 = 2\n#### 2"}, "train", 0)
CASE = Case(
    "gsm8k/train/00000#0>le", "le",
    Attempt("gsm8k/train/00000#0", PROBLEM, [], Completion("3", "stop"), Grade(0.0, "3", "r", "graded")),
)  # fmt: skip
WRITTEN = (
    "1. Question: What are 2 and 2?\nAnswer: 2 + 2 = 4\n#### 4\n\n"
    "2. Question: What are 3 and 3?\nAnswer: 3 + 3 = 7\n#### 7\n\n"
    "3. Question: What are 4 and 4?\nAnswer: 4 + 4 = 8\n#### 8\n\n"
    "4. Question: What are 5 and 5?\nAnswer: 5 + 5 = 10\n#### 10\n"
)
CHECKED = SolvedAgain(le.STRATEGY, DEFAULT_GRADING)


def dialogue(*solutions: Completion | str) -> list[Reply]:
    completions = [Completion(each, "stop") if isinstance(each, str) else each for each in (WRITTEN, *solutions)]
    asked = [[], *(GSM8K.prompt(p) for p in (problem(2), problem(4), problem(5)))]
    return [Reply(f"{CASE.id}@{i}.0", CASE.id, i, 0, asked[i], done) for i, done in enumerate(completions)]


def problem(number: int):
    return GSM8K.problem({"question": f"What are {number} and {number}?", "answer": "#### 0"}, "train", 0)


def test_after_its_own_dialogue_each_sample_that_is_still_accepted_is_asked_one_per_turn():
    assert CHECKED.next(CASE, [], GSM8K, SETTINGS) == le.STRATEGY.next(CASE, [], GSM8K, SETTINGS)
    asked = []
    replies = dialogue()
    while (ask := CHECKED.next(CASE, replies, GSM8K, SETTINGS)) is not None:
        asked.append(ask.messages)
        replies = dialogue(*["#### 0"] * len(asked))
    # The second states 3 + 3 = 7: the free check has dropped it, so it is not asked.
    assert [re.findall(r"What are (\d) and", m[-1]["content"]) for m in asked] == [["2"], ["4"], ["5"]]
    assert asked[0] == GSM8K.prompt(CHECKED.samples(CASE, dialogue(), GSM8K, SETTINGS)[0].problem)


def test_only_samples_whose_second_solution_agrees_are_kept():
    samples = CHECKED.samples(CASE, dialogue("#### 4", "#### 9", "I cannot say."), GSM8K, SETTINGS)
    assert samples[0].dropped is None
    assert "=" in samples[1].note and samples[1].dropped not in (None, DISAGREES)
    assert [s.dropped for s in samples[2:]] == [DISAGREES, UNPARSED]
    assert samples[2].note == "gsm8k/train/00000#0>le@2.0: '9', not '8'"


def test_a_thought_is_no_second_solution_whatever_the_benchmark_reads(monkeypatch):
    def holds(self, problem, response, how):
        return Grade(float(problem.answer in response), response, "holds", "graded")

    monkeypatch.setattr(type(GSM8K), "grade", holds)
    solutions = ("<think>Perhaps 4.</think>It is 9.", "<think>Perhaps 8.", "<think>Perhaps 9.</think>It is 10.")
    samples = CHECKED.samples(CASE, dialogue(*solutions), GSM8K, SETTINGS)
    assert [samples[i].dropped for i in (0, 2, 3)] == [DISAGREES, UNPARSED, None]


@pytest.mark.parametrize("solutions", [[], [Completion("", "error", error="HTTP 500")]])
def test_a_sample_that_was_not_solved_again_is_not_learned_from(solutions):
    samples = CHECKED.samples(CASE, dialogue(*solutions), GSM8K, SETTINGS)
    assert [s.dropped for s in samples if not s.note or "500" in s.note] == [NOT_SOLVED] * 3


def doubtful(request) -> str:
    """The tutor's rules, but every third bare question is solved wrongly."""
    reply = rules.reply(request.messages, request.seed)
    if not request.messages[-1]["content"].startswith("The student") and (request.seed or 0) % 3 == 0:
        return "The answer is 1000003."
    return reply


def test_a_run_pays_for_it_once_keeps_what_agrees_and_shows_it_in_the_story(tmp_path):
    executor = LocalExecutor(reply=doubtful)
    config = job(tmp_path, curate__solve_again=True)
    outcome = cli_run.run_job(config, executor=executor)
    folder = tmp_path / "small/iteration_0"
    funnel = json.loads((folder / "curate/funnel.json").read_text())["word_problems"]
    usage = json.loads((folder / "instruct/usage.json").read_text())
    assert funnel["kept"] == 30 and funnel[DISAGREES] > 5
    asked = len(executor.requests["ask"])
    first = [r for r in executor.requests["ask"] if r.messages[0]["role"] == "system"]
    assert usage["calls"] == asked > len(first) + 30
    again = LocalExecutor(reply=doubtful)
    cli_run.run_job(config, executor=again)
    assert not again.asked
    dropped = next(s for s in records(folder / "curate/dropped.jsonl") if s["dropped"] == DISAGREES)
    titles = [chapter.title for chapter in story(Run.read(str(tmp_path / "small")), dropped["id"])]
    assert "iteration 0: the instructor is asked, turn 2" in titles
    assert f"iteration 0: dropped, {DISAGREES}" in titles
    assert outcome.run is not None


def test_killed_during_the_check_it_resumes_and_keeps_the_same_samples(tmp_path):
    whole = cli_run.run_job(
        job(tmp_path, name="whole", curate__solve_again=True), executor=LocalExecutor(reply=doubtful)
    )
    broken, again = LocalExecutor(reply=doubtful, die_after={"ask": 25}), LocalExecutor(reply=doubtful)
    with pytest.raises(Crash):
        cli_run.run_job(job(tmp_path, name="killed", curate__solve_again=True), executor=broken)
    cli_run.run_job(job(tmp_path, name="killed", curate__solve_again=True), executor=again)
    before, after = ({r.key for r in each.requests["ask"]} for each in (broken, again))
    assert any(len(r.messages) == 1 for r in broken.requests["ask"]), "killed during the solutions"
    assert len(before) == 25 and not before & after, "nothing is asked twice"
    one, other = (tmp_path / name / "iteration_0/curate/samples.jsonl" for name in ("whole", "killed"))
    assert one.read_text() == other.read_text() and whole.run is not None


def test_the_calls_of_the_check_are_forecast(tmp_path):
    executor = LocalExecutor()
    config = job(tmp_path, curate__solve_again=True)
    cli_run.run_job(config, executor=executor, until="diagnose")
    run = Run.read(str(tmp_path / "small"))
    [(_, forecast)] = known(run.stage(0, "instruct"), 0, Job.of(config))
    [(_, without)] = known(run.stage(0, "instruct"), 0, Job.of(job(tmp_path)))
    cli_run.run_job(config, executor=executor)
    paid = json.loads((tmp_path / "small/iteration_0/instruct/usage.json").read_text())
    assert without.likely.calls < forecast.likely.calls
    assert abs(forecast.likely.calls / paid["calls"] - 1) <= 0.2
    assert forecast.worst.tokens >= paid["prompt_tokens"] + paid["completion_tokens"]


def test_a_solution_that_failed_drops_only_its_own_sample():
    failed = Completion("", "error", error="HTTP 500")
    assert CHECKED.next(CASE, dialogue(failed), GSM8K, SETTINGS) == Ask("instructor", GSM8K.prompt(problem(4)))
    samples = CHECKED.samples(CASE, dialogue(failed, "#### 8", "#### 10"), GSM8K, SETTINGS)
    assert [samples[i].dropped for i in (0, 2, 3)] == [NOT_SOLVED, None, None]


def test_a_solution_belongs_to_the_problem_it_solves_in_whatever_order():
    """As when an edited parser finds another sample before it."""
    replies = dialogue("#### 4", "#### 8", "#### 10")
    shuffled = [replies[0], replies[3], replies[1], replies[2]]
    assert CHECKED.next(CASE, shuffled, GSM8K, SETTINGS) is None
    samples = CHECKED.samples(CASE, shuffled, GSM8K, SETTINGS)
    assert [samples[i].dropped for i in (0, 2, 3)] == [None, None, None]
