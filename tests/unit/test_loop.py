"""The loop, with everything outside it replaced by small honest parts."""

from __future__ import annotations

import json
import re

import pytest
from rich.console import Console

from lai_ray.cli import run as cli_run
from lai_ray.cli.check.names import check_names
from lai_ray.common import plugins
from lai_ray.errors import ConfigError, StageError
from lai_ray.records import Attempt, Case, Reply, Sample
from lai_ray.report import story
from lai_ray.storage.run import Run
from lai_ray.storage.store import View
from tests.local import Crash, LocalExecutor, job, pretend_model


def samples(run: Run, iteration: int = 0) -> list[Sample]:
    return list(View(run.stage(iteration, "curate").store, "samples.jsonl", Sample))


def test_one_iteration_learns_from_mistakes_and_the_next_target_is_tested(tmp_path):
    executor = LocalExecutor()
    outcome = cli_run.run_job(job(tmp_path), executor=executor)
    scores = [outcome.run.stage(i, "evaluate").store.get_json("scores.json")["word_problems.test"] for i in (0, 1)]
    assert scores[1]["right"] > scores[0]["right"]
    assert len(executor.jobs) == 1
    assert len(executor.jobs[0].examples) == 30


def test_the_same_command_on_a_finished_run_asks_for_nothing(tmp_path):
    cli_run.run_job(job(tmp_path), executor=LocalExecutor())
    again = LocalExecutor()
    cli_run.run_job(job(tmp_path), executor=again)
    assert not again.asked


def test_lec_shows_three_correct_questions_and_le_none(tmp_path):
    outcome = cli_run.run_job(job(tmp_path), executor=LocalExecutor())
    cases = list(View(outcome.run.stage(0, "diagnose").store, "cases.jsonl", Case))
    assert {len(case.contrasts) for case in cases} == {3}
    assert all(contrast.attempt.right for case in cases for contrast in case.contrasts)
    assert all(not case.attempt.right for case in cases)
    other = cli_run.run_job(job(tmp_path, name="le", schedule__strategy="le"), executor=LocalExecutor())
    assert {len(c.contrasts) for c in View(other.run.stage(0, "diagnose").store, "cases.jsonl", Case)} == {0}


@pytest.mark.parametrize(("verb", "after"), [("generate", 37), ("embed", 0), ("nearest", 0), ("ask", 7), ("train", 0)])
def test_killed_anywhere_and_started_again_gives_the_samples_of_an_undisturbed_run(tmp_path, verb, after):
    whole = cli_run.run_job(job(tmp_path, name="whole"), executor=LocalExecutor())
    first = LocalExecutor(die_after={verb: after})
    with pytest.raises(Crash):
        cli_run.run_job(job(tmp_path, name="killed"), executor=first)
    second = LocalExecutor()
    resumed = cli_run.run_job(job(tmp_path, name="killed"), executor=second)
    assert samples(resumed.run) == samples(whole.run)
    for asked in ("generate", "ask"):
        keys = [r.key for r in first.requests[asked] + second.requests[asked]]
        recorded_twice = len(keys) - len(set(keys))
        assert recorded_twice == 0, f"{recorded_twice} {asked} requests were asked twice"


def test_every_id_begins_with_its_problems_id(tmp_path):
    run = cli_run.run_job(job(tmp_path), executor=LocalExecutor()).run
    evaluated, instructed = run.stage(0, "evaluate").store, run.stage(0, "instruct").store
    problems = {a.problem.id for a in View(evaluated, "attempts/word_problems.train.jsonl", Attempt)}
    replies = list(View(instructed, "replies.jsonl", Reply))
    assert {reply.id.partition("#")[0] for reply in replies} <= problems
    assert {sample.reply_id for sample in samples(run)} <= {reply.id for reply in replies}


def test_nothing_from_a_test_split_reaches_the_instructor_or_the_training(tmp_path):
    executor = LocalExecutor()
    run = cli_run.run_job(job(tmp_path), executor=executor).run
    tests = {
        a.problem.question for a in View(run.stage(0, "evaluate").store, "attempts/word_problems.test.jsonl", Attempt)
    }
    prompts = "\n".join(m["content"] for r in executor.requests["ask"] for m in r.messages)
    learned = {message["content"] for example in executor.jobs[0].examples for message in example.messages}
    assert not [question for question in tests if question in prompts]
    assert not tests & learned


def test_another_seed_asks_other_requests(tmp_path):
    one, other = LocalExecutor(), LocalExecutor()
    cli_run.run_job(job(tmp_path, name="one"), executor=one)
    cli_run.run_job(job(tmp_path, name="other", seed=1), executor=other)
    assert not {r.key for r in one.requests["ask"]} & {r.key for r in other.requests["ask"]}


def test_a_further_round_asks_for_the_shortfall_and_then_stops(tmp_path):
    def every_other_is_empty(request):
        return LocalExecutor().reply(request) if request.seed % 2 else "I would rather not."

    executor = LocalExecutor(reply=every_other_is_empty)
    run = cli_run.run_job(job(tmp_path), executor=executor).run
    assert len(samples(run)) == 30
    first_round = 30 / run.stage(0, "instruct").store.get_json("plan.json")["word_problems"]["samples_per_request"]
    assert executor.asked["ask"] > first_round


def test_replies_without_one_usable_sample_stop_the_run_with_the_reason(tmp_path):
    executor = LocalExecutor(reply=lambda request: "Question: How many?\nAnswer: no idea" + " at all" * 200)
    with pytest.raises(StageError, match=r"(?s)no usable sample.*replies\.jsonl") as stopped:
        cli_run.run_job(job(tmp_path), executor=executor)
    message = str(stopped.value)
    assert "  | Question: How many?\n  | Answer: no idea at all" in message, "one of the replies"
    assert message.count("at all") < 100 and "… (cut; 1,4" in message
    for line in plugins.load("benchmarks", "word_problems").brief().splitlines():
        assert f"  | {line}" in message, "the format that was expected"


def test_an_empty_reply_is_quoted_as_nothing(tmp_path):
    with pytest.raises(StageError, match=r"(?s)One of them, word_problems/train/.*\| \(nothing; stop\)"):
        cli_run.run_job(job(tmp_path), executor=LocalExecutor(reply=lambda request: " "))


def test_the_story_shown_by_default_is_of_a_mistake_that_was_asked_about(tmp_path):
    executor = LocalExecutor(reply=lambda request: "I would rather not.")
    with pytest.raises(StageError, match="no usable sample"):
        cli_run.run_job(job(tmp_path, curate__samples_per_dataset=1), executor=executor)
    run = Run.read(f"{tmp_path}/small")
    shown = story.some_case(run)
    assert shown in {request.id.partition("#")[0] for request in executor.requests["ask"]}
    assert "I would rather not." in [chapter.text for chapter in story.story(run, shown)]
    (tmp_path / "small/iteration_0/instruct/replies.jsonl").unlink()  # As while the stage is under way.
    assert story.some_case(run) in {request.id.partition("#")[0] for request in executor.requests["ask"]}


def test_a_target_without_mistakes_ends_the_run_as_a_success(tmp_path):
    pretend_model(tmp_path / "model", skill=100)
    executor = LocalExecutor()
    outcome = cli_run.run_job(job(tmp_path), executor=executor)
    assert executor.asked["ask"] == executor.asked["train"] == 0
    assert outcome.target is not None


def test_fewer_correct_cases_than_k_are_all_shown_and_reported(tmp_path, capsys):
    from rich.console import Console

    config = job(tmp_path, contrast__neighbours=50, evaluate__max_train_problems=20)
    run = cli_run.run_job(config, executor=LocalExecutor(), console=Console(width=200)).run
    shown = {len(case.contrasts) for case in View(run.stage(0, "diagnose").store, "cases.jsonl", Case)}
    right = run.stage(0, "evaluate").store.get_json("scores.json")["word_problems.train"]["right"]
    assert shown == {right}
    assert f"only {right} correct cases for contrast.neighbours = 50" in capsys.readouterr().out


def test_a_folder_of_another_job_is_refused_with_the_difference(tmp_path):
    cli_run.run_job(job(tmp_path), executor=LocalExecutor())
    with pytest.raises(ConfigError, match=r"train\.learning_rate: 5e-06 there, 0\.1 now"):
        cli_run.run_job(job(tmp_path, train__learning_rate=0.1), executor=LocalExecutor())


def test_more_iterations_and_another_test_are_the_same_run(tmp_path):
    cli_run.run_job(job(tmp_path), executor=LocalExecutor())
    executor = LocalExecutor()
    config = job(tmp_path, iterations=2, evaluate__report_on=["word_problems", "word_problems_plus"])
    run = cli_run.run_job(config, executor=executor).run
    assert executor.asked["train"] == 1, "iteration 0 was trained before"
    assert "word_problems_plus.test" in run.stage(0, "evaluate").store.get_json("scores.json")
    with pytest.raises(ConfigError, match="iterations"):
        cli_run.run_job(job(tmp_path), executor=LocalExecutor())


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("5/curate", ".*curate .*iteration 0 only .iterations = 1"),
        ("x/curate", ".*curate .*iteration 0 only"),
        ("2/evaluate", ".*evaluate .*iterations 0 to 1"),
        ("search", "this job has no .search."),
    ],
)
def test_until_a_stage_that_is_never_reached_is_refused(tmp_path, until, message):
    executor = LocalExecutor()
    with pytest.raises(ConfigError, match=f"--until {until}: {message}"):
        cli_run.run_job(job(tmp_path), until=until, executor=executor)
    assert not executor.asked


def test_until_a_stage_that_is_skipped_stops_there_too(tmp_path):
    pretend_model(tmp_path / "perfect", skill=100)
    outcome = cli_run.run_job(
        job(tmp_path, target__model=str(tmp_path / "perfect")), until="curate", executor=LocalExecutor()
    )
    assert outcome.stopped_at == "iteration_0/curate"


def test_when_all_training_problems_are_in_a_test_that_is_the_reason_reported(tmp_path, capsys):
    rows = [
        {"question": f"Ann has {i} red rings and finds {i} more. How many?", "answer": str(2 * i)} for i in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mine = {
        "name": "mine",
        "kind": "number",
        "train": str(tmp_path / "rows.jsonl"),
        "test": str(tmp_path / "rows.jsonl"),
    }
    table = {"benchmark": [mine], "evaluate__learn_from": ["mine"], "evaluate__report_on": ["mine"]}
    cli_run.run_job(job(tmp_path, **table), executor=LocalExecutor(), console=Console(width=200))
    output = " ".join(capsys.readouterr().out.split())
    assert re.search(r"40 training problems [^:]*: nothing to learn", output)


def test_until_stops_after_the_stage_and_the_same_command_continues(tmp_path):
    executor = LocalExecutor()
    outcome = cli_run.run_job(job(tmp_path), until="diagnose", executor=executor)
    assert outcome.stopped_at == "iteration_0/diagnose"
    assert executor.asked["ask"] == 0
    assert cli_run.run_job(job(tmp_path), executor=LocalExecutor()).stopped_at is None


def test_a_training_is_announced_where_one_will_follow(tmp_path):
    first, second, third = LocalExecutor(), LocalExecutor(), LocalExecutor()
    cli_run.run_job(job(tmp_path), until="instruct", executor=first)
    cli_run.run_job(job(tmp_path), executor=second)
    cli_run.run_job(job(tmp_path), executor=third)
    assert [each.expected for each in (first, second, third)] == [0, 1, 0]


def test_reaching_max_calls_stops_and_a_raised_limit_continues_without_asking_again(tmp_path):
    first, second = LocalExecutor(), LocalExecutor()
    with pytest.raises(StageError, match=r"max_calls = 3\b"):
        cli_run.run_job(job(tmp_path, limits__max_calls=3), executor=first)
    assert first.asked["ask"] == 3
    cli_run.run_job(job(tmp_path, limits__max_calls=1000), executor=second)
    assert not {r.key for r in first.requests["ask"]} & {r.key for r in second.requests["ask"]}


def test_a_search_asks_one_pool_for_each_k_and_picks_on_dev(tmp_path):
    executor = LocalExecutor()
    config = job(
        tmp_path, search__learning_rate=[1e-4, 3e-4], search__neighbours=[1, 3], search__samples_per_dataset=[10, 20]
    )
    outcome = cli_run.run_job(config, executor=executor)
    stage = outcome.run.stage(0, "search")
    assert executor.asked["train"] == 8
    assert sorted(n.split("/")[0] for n in stage.store.names() if n.endswith("plan.json")) == ["pool_k_1", "pool_k_3"]
    assert sorted(len(j.examples) for j in executor.jobs) == [10] * 4 + [20] * 4
    small, large = (next(j for j in executor.jobs if len(j.examples) == n) for n in (10, 20))
    assert [e.id for e in small.examples] == [e.id for e in large.examples[:10]]
    assert stage.facts()["winner"] != "trial_0"
    again = LocalExecutor()
    cli_run.run_job(config, executor=again)
    assert not again.asked


def test_a_search_over_any_setting_of_the_improve_step_asks_once_for_each_way_to_ask(tmp_path):
    executor = LocalExecutor()
    grid = {"train": {"epochs": [1, 2]}, "schedule.strategy": ["le", "lec"]}
    config = job(tmp_path, search__grid=grid, search__neighbours=[1, 3], search__samples_per_dataset=[10])
    stage = cli_run.run_job(config, executor=executor).run.stage(0, "search")
    pools = sorted({n.split("/")[0] for n in stage.store.names() if n.endswith("plan.json")})
    assert pools == ["pool_k_1_strategy_lec", "pool_k_3_strategy_lec", "pool_strategy_le"], "LE has no k"
    assert sorted(j.settings.epochs for j in executor.jobs) == [1] * 3 + [2] * 3, "LE is the same whatever k is"
    asked = [r.key for r in executor.requests["ask"]]
    assert len(asked) == len(set(asked))
    columns = stage.store.get("trials.csv").decode().splitlines()[0].split(",")
    assert {"train.epochs", "schedule.strategy"} <= set(columns)


@pytest.mark.parametrize(("grid", "message"), [
    ({"train.epochz": [1]}, r"search\.grid .*train\.epochz.*train\.epochs"),
    ({"train.epochs": []}, r"search\.grid .*train\.epochs"),
    ({"train.epochs": [0]}, r"train\.epochs: .*greater"),
    ({"train.learning_rate": [1e-4]}, r"train\.learning_rate.*search\.learning_rate"),
    ({"contrast.encoder": ["a"]}, r"search\.grid .*contrast\.encoder"),
    ({"evaluate.max_train_problems": [5]}, r"search\.grid .*evaluate\.max_train_problems.*lai sweep"),
    ({"schedule.strategy": ["lecc"]}, "lecc"),
])  # fmt: skip
def test_what_a_search_cannot_list_is_refused_before_anything_starts(tmp_path, grid, message):
    with pytest.raises(ConfigError, match=message):
        check_names(job(tmp_path, search__grid=grid))
