"""Calls to the instructor, the target or a judge: recorded, resumed, within the budget."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.errors import ConfigError, DataError, StageError
from lai_ray.instructor.spending.ledger import spent_in
from lai_ray.records import Ask, Completion
from lai_ray.storage.run import Run
from tests.conftest import records
from tests.local import Crash, LocalExecutor, job

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DIALOGUE = "second_try:STRATEGY"


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    for name in ("second_try", "judged"):
        sys.modules.pop(name, None)


def reply(request) -> str:
    """As many samples as the tutor's rules write for a plain request of the same question."""
    return "\n\n".join(
        f"{i}. Question: Tom has {i + 3} apples and buys {i + request.seed % 997} more. How many apples does Tom have "
        f"now?\nAnswer: {i + 3} + {i + request.seed % 997} = {2 * i + 3 + request.seed % 997}\n"
        f"#### {2 * i + 3 + request.seed % 997}"
        for i in range(1, 4)
    )


def dialogue(tmp_path, name="small", **changes):
    return job(tmp_path, name=name, schedule__strategy=DIALOGUE, **changes)


def test_a_dialogue_asks_the_target_and_then_the_instructor_in_one_run(tmp_path):
    executor = LocalExecutor(reply=reply)
    cli_run.run_job(dialogue(tmp_path), executor=executor)
    folder = tmp_path / "small/iteration_0"
    replies = list(records(folder / "instruct/replies.jsonl"))
    first, second = ([r for r in replies if r["turn"] == turn] for turn in (0, 1))
    assert {r["to"] for r in first} == {"target"} and {r["to"] for r in second} == {"instructor"}
    assert second, "some second tries are wrong"
    again = [r for r in executor.requests["generate"] if r.temperature]
    assert {r.temperature for r in again} == {1.0} and len({r.seed for r in again}) == len(again) == len(first)
    assert len(executor.requests["ask"]) == len(second)
    samples = list(records(folder / "curate/samples.jsonl"))
    assert samples and {s["reply_id"] for s in samples} <= {r["id"] for r in second}


def test_only_billed_calls_count_against_the_budget(tmp_path):
    executor = LocalExecutor(reply=reply)
    cli_run.run_job(dialogue(tmp_path), executor=executor)
    usage = json.loads((tmp_path / "small/iteration_0/instruct/usage.json").read_text())
    asked = len(executor.requests["ask"])
    assert usage["calls"] == asked == spent_in(Run.read(str(tmp_path / "small")), 4096)[0].known.calls
    assert usage["replies"] > asked


@pytest.mark.parametrize(("verb", "after"), [("generate", 105), ("ask", 3)])
def test_killed_at_any_receiver_nothing_is_asked_twice_and_the_samples_are_the_same(tmp_path, verb, after):
    cli_run.run_job(dialogue(tmp_path, "whole"), executor=LocalExecutor(reply=reply))
    broken, rest = LocalExecutor(reply=reply, die_after={verb: after}), LocalExecutor(reply=reply)
    with pytest.raises(Crash):
        cli_run.run_job(dialogue(tmp_path, "killed"), executor=broken)
    cli_run.run_job(dialogue(tmp_path, "killed"), executor=rest)
    for each in ("generate", "ask"):
        before, afterwards = ({r.key for r in one.requests[each]} for one in (broken, rest))
        assert not before & afterwards, each
    one, other = (tmp_path / name / "iteration_0/curate/samples.jsonl" for name in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()
    third = LocalExecutor(reply=reply)
    cli_run.run_job(dialogue(tmp_path, "killed"), executor=third)
    assert not third.asked


def test_a_greedy_ask_of_the_target_finds_what_its_evaluation_answered(tmp_path):
    executor = LocalExecutor(reply=reply)
    cli_run.run_job(dialogue(tmp_path, strategy={"second_try": {"temperature": 0.0}}), executor=executor)
    assert len(executor.requests["generate"]) == 60 + 40 + 40, "training problems once, tests before and after"


def test_an_exhausted_budget_stops_before_the_call_and_a_raised_one_goes_on(tmp_path):
    first, second = LocalExecutor(reply=reply), LocalExecutor(reply=reply)
    with pytest.raises(StageError, match=r"limits\.max_calls = 2\b"):
        cli_run.run_job(dialogue(tmp_path, limits__max_calls=2), executor=first)
    assert len(first.requests["ask"]) == 2
    cli_run.run_job(dialogue(tmp_path, limits__max_calls=200), executor=second)
    assert not {r.key for r in first.requests["ask"]} & {r.key for r in second.requests["ask"]}
    assert not any(r.temperature for r in second.requests["generate"]), "the target had answered"


def test_a_judge_is_asked_at_temperature_0_under_the_same_budget_and_kept_apart(tmp_path, monkeypatch):
    import second_try

    def judged(case, replies, benchmark, settings):
        ask = second_try.SecondTry.next(second_try.STRATEGY, case, replies[:2], benchmark, settings)
        if ask is None and len(replies) == 2:
            return Ask("judge", [{"role": "user", "content": "Is this a good lesson? " + replies[1].completion.text}])
        return ask

    monkeypatch.setattr(second_try.STRATEGY, "next", judged, raising=False)
    executor = LocalExecutor(reply=reply)
    cli_run.run_job(dialogue(tmp_path), executor=executor)
    judges = [r for r in executor.requests["ask"] if "good lesson" in r.messages[-1]["content"]]
    others = [r for r in executor.requests["ask"] if "good lesson" not in r.messages[-1]["content"]]
    assert {r.temperature for r in judges} == {0.0} and {r.temperature for r in others} == {0.8}
    assert len(judges) == len(others) > 0
    usage = json.loads((tmp_path / "small/iteration_0/instruct/usage.json").read_text())
    assert usage["calls"] == len(judges) + len(others)
    names = {path.name for path in (tmp_path / "small/iteration_0/instruct").iterdir()}
    assert {"answers", "judge_answers", "target_answers"} <= names


def test_a_strategy_that_never_ends_its_dialogue_is_stopped(tmp_path, monkeypatch):
    import second_try

    def endless(case, replies, benchmark, settings):
        return Ask("target", [{"role": "user", "content": f"Try {len(replies)}"}])

    monkeypatch.setattr(second_try.STRATEGY, "next", endless, raising=False)
    monkeypatch.setattr("lai_ray.stages.dialogues.MOST_TURNS", 5)
    with pytest.raises(StageError, match="second_try.* 5 "):
        cli_run.run_job(dialogue(tmp_path), executor=LocalExecutor(reply=reply))


def test_an_engine_that_answers_nothing_ends_the_stage(tmp_path):
    class Silent(LocalExecutor):
        def generate(self, requests, target):
            held = list(requests)
            yield from () if any(r.temperature for r in held) else super().generate(iter(held), target)

    with pytest.raises(DataError, match=r"iteration_0/instruct: .*\d+ requests"):
        cli_run.run_job(dialogue(tmp_path), executor=Silent(reply=reply))


def test_a_failed_second_try_is_passed_to_the_strategy(tmp_path):
    class Failing(LocalExecutor):
        def generate(self, requests, target):
            for answer, request in ((a, r) for r in requests for a in super(Failing, self).generate([r], target)):
                failed = Completion("", "error", error="the engine died on it") if request.temperature else None
                yield answer if failed is None else type(answer)(answer.id, answer.key, failed)

    executor = Failing(reply=reply)
    cli_run.run_job(dialogue(tmp_path, limits__max_failed_fraction=1.0), executor=executor)
    assert executor.requests["ask"], "an empty second answer is wrong, and the instructor is asked"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"second_try": {"temprature": 1.0}}, "strategy.second_try.temprature.*temperature"),
        ({"second_try": {"temperature": "hot"}}, "strategy.second_try.temperature.*hot"),
        ({"second_tri": {}}, r"\[strategy.second_tri\].*second_try"),
    ],
)
def test_a_wrong_setting_of_a_strategy_is_refused_before_anything_starts(tmp_path, table, message):
    executor = LocalExecutor()
    with pytest.raises(ConfigError, match=message):
        cli_run.run_job(dialogue(tmp_path, strategy=table), executor=executor)
    assert not executor.asked


def test_a_strategy_without_settings_refuses_a_table(tmp_path):
    with pytest.raises(ConfigError, match=r"strategy.le\b.*n\b"):
        cli_run.run_job(job(tmp_path, schedule__strategy="le", strategy={"le": {"n": 3}}), executor=LocalExecutor())


def test_a_strategys_setting_is_part_of_the_runs_identity(tmp_path):
    cli_run.run_job(dialogue(tmp_path), executor=LocalExecutor(reply=reply))
    with pytest.raises(ConfigError, match=r"strategy\.second_try\.temperature.*0\.5"):
        cli_run.run_job(
            dialogue(tmp_path, strategy={"second_try": {"temperature": 0.5}}), executor=LocalExecutor(reply=reply)
        )


def test_settings_may_be_a_pydantic_model(tmp_path, monkeypatch):
    import second_try
    from pydantic import BaseModel

    class Settings(BaseModel):
        temperature: float = 0.5

    monkeypatch.setattr(second_try.SecondTry, "Settings", Settings)
    executor = LocalExecutor(reply=reply)
    cli_run.run_job(dialogue(tmp_path), executor=executor, until="instruct")
    assert {r.temperature for r in executor.requests["generate"]} == {0.0, 0.5}


def test_a_table_of_a_strategy_that_another_arm_uses_is_no_error(tmp_path):
    from lai_ray.stages.job import Job

    table = {"second_try": {"temperature": 0.5}, "lec": {}}
    searched = job(
        tmp_path, schedule__strategy=DIALOGUE, strategy=table, search={"grid": {"schedule.strategy": ["le", DIALOGUE]}}
    )
    made = Job.of(searched)
    arm = made.changed(job(tmp_path, schedule__strategy="untargeted", strategy={"second_try": {"temperature": 0.5}}))
    assert list(arm.strategies) == ["untargeted"] and made.strategy_settings[DIALOGUE].temperature == 0.5


def test_answers_of_a_receiver_that_is_never_asked_are_not_opened(tmp_path):
    cli_run.run_job(job(tmp_path), executor=LocalExecutor(), until="instruct")
    names = {path.name for path in (tmp_path / "small/iteration_0/instruct").iterdir()}
    assert "answers" in names and not {"target_answers", "judge_answers"} & names
