"""A search over the improve step: its requests, its choice of a winner, what it keeps, and how it resumes."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lai_ray.cli import run
from lai_ray.cli.check.names import check_names
from lai_ray.common import plugins
from lai_ray.common.intervals import sign_test
from lai_ray.contracts import Model, Trained, TrainJob
from lai_ray.distributed.cluster.resources import Group
from lai_ray.distributed.search import at_most
from lai_ray.errors import ConfigError, DataError, StageError
from lai_ray.report import search as report
from lai_ray.stages import evaluate as evaluating
from lai_ray.stages import trial
from lai_ray.stages.grid import most
from lai_ray.storage.driver import Driver
from lai_ray.training import checkpoints
from tests.local import Crash, LocalExecutor, job, pretend_model

Made = Callable[[TrainJob], int]


class Classroom(LocalExecutor):
    """Trains to the skill that a function of the training returns."""

    def __init__(self, made: Made, **how: Any) -> None:
        super().__init__(**how)
        self.made = made

    def train(self, job: TrainJob, progress: Any = None) -> Trained:
        skill = self.made(job)
        trained = super().train(job, progress)
        pretend_model(Path(job.out), skill=skill)
        return trained


def by_rate(job: TrainJob) -> int:
    return {1e-5: 50, 2e-5: 95, 3e-5: 70, 4e-5: 5}[job.learning_rate]


RATES = [1e-5, 2e-5, 3e-5, 4e-5]


TRAIN, DEV, TEST = 60, 80, 20
DATA: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def _few_problems(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A few of the built-in word problems as a user's own data: a search reads them many times."""
    folder, built_in = tmp_path_factory.mktemp("own"), plugins.load("benchmarks", "word_problems")
    train, test = built_in.load("train"), built_in.load("test")
    for name, rows in (("train", islice(train, TRAIN)), ("dev", islice(train, DEV)), ("test", islice(test, TEST))):
        lines = [{"question": row["question"], "answer": row["answer"].rpartition("#### ")[2]} for row in rows]
        DATA[name] = str(folder / f"{name}.jsonl")
        Path(DATA[name]).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def searching(tmp_path: Path, **changes: Any) -> Any:
    table = {"evaluate": {"learn_from": ["own"], "report_on": ["own"]}, "search__learning_rate": RATES}
    table["curate__keep_clear_of"] = ["own"]  # The built-in tests are many and not tested here.
    return job(tmp_path, **{"benchmark": [{"name": "own", "kind": "number", **DATA}], **table, **changes})


def searched(tmp_path: Path, executor: LocalExecutor | None = None, **changes: Any) -> Any:
    outcome = run.run_job(searching(tmp_path, **changes), executor=executor or Classroom(by_rate))
    return outcome.run.stage(0, "search")


def weights(stage: Any) -> list[str]:
    """The trials that have a model."""
    return sorted({n.split("/")[0] for n in stage.store.names() if n.endswith("checkpoint/model.safetensors")})


def rows(stage: Any) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in stage.store.get_json("trials.json")}


def test_only_the_winner_keeps_its_weights_unless_all_are_wanted(tmp_path):
    stage = searched(tmp_path / "a")
    assert stage.facts()["winner"] == "trial_2"
    assert weights(stage) == ["trial_2"]
    assert weights(searched(tmp_path / "b", search__keep_weights=True)) == [f"trial_{i}" for i in (1, 2, 3, 4)]


def test_a_trial_that_is_beaten_loses_its_weights_before_the_next_begins(tmp_path):
    there = []

    class Watched(Classroom):
        def train(self, job: TrainJob, progress: Any = None) -> Trained:
            there.append(len(list(tmp_path.glob("**/search/**/checkpoint/model.safetensors"))))
            return super().train(job, progress)

    searched(tmp_path, Watched(by_rate))
    assert there == [0, 1, 1, 1]


def test_when_nothing_beats_the_target_it_stays_and_no_weights_do(tmp_path):
    executor = Classroom(lambda job: 40)
    outcome = run.run_job(searching(tmp_path), executor=executor)
    stage = outcome.run.stage(0, "search")
    assert stage.facts()["winner"] == "trial_0" and weights(stage) == []
    assert outcome.target.path == str(tmp_path / "model")
    [table] = report.trials(outcome.run, 0.95)
    assert "it stays" in table.note and "Dev is flat for 4" in table.note


def test_the_report_explains_a_search_without_gains(tmp_path):
    stage = searched(tmp_path, Classroom(lambda job: 20 if job.learning_rate == 1e-5 else 2))
    [found] = report.searches(stage.run)
    reasons = " ".join(report.reasons(found))
    assert "Dev is falling" in reasons and "The lowest learning rate (1e-05) does best" in reasons
    assert report.plot(stage.run) == ["iteration_0/search/trials.png"]
    assert stage.store.get("trials.png").startswith(b"\x89PNG")


def test_the_report_mentions_more_samples_and_failing_checks(tmp_path):
    sizes = {"search__samples_per_dataset": [5, 25], "search__learning_rate": [1e-5]}
    stage = searched(tmp_path / "a", Classroom(lambda job: len(job.examples)), **sizes)
    reasons = " ".join(report.reasons(next(report.searches(stage.run))))
    assert "Every larger training set did better" in reasons

    def mostly_wrong(request: Any) -> str:
        text = LocalExecutor().reply(request)
        return re.sub(r"= \d+", "= 7", text) if request.seed % 4 else text

    executor = Classroom(lambda job: 1, reply=mostly_wrong)
    stage = searched(tmp_path / "b", executor, limits__max_failed_fraction=1)
    assert "Checks fail" in " ".join(report.reasons(next(report.searches(stage.run))))


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_rest_choose(tmp_path):
    def made(job: TrainJob) -> int:
        if job.learning_rate == 2e-5:
            raise StageError("the loss is not a number at step 3")
        return by_rate(job)

    stage = searched(tmp_path, Classroom(made))
    assert rows(stage)["trial_2"]["error"] == "the loss is not a number at step 3"
    assert stage.facts()["failed"] == 1
    assert stage.facts()["winner"] == "trial_3"
    assert weights(stage) == ["trial_3"], "what the failed one left is gone"
    assert "the loss is not a number" in report.trials(stage.run, 0.95)[0].markdown()


def test_what_a_trial_that_failed_in_its_middle_left_is_gone_at_the_end(tmp_path):
    class Failing(Classroom):
        def train(self, job: TrainJob, progress: Any = None) -> Trained:
            trained = super().train(job, progress)
            if job.learning_rate == 3e-5:
                pretend_model(checkpoints.folder_of(job.out) / "step_1")
                raise StageError("a worker died")
            return trained

    stage = searched(tmp_path, Failing(by_rate))
    assert rows(stage)["trial_3"]["error"] == "a worker died"
    assert not [name for name in stage.store.names() if name.startswith("trial_3/") and "checkpoint" in name]


def test_weights_that_a_kill_left_behind_are_removed_by_the_next_start(tmp_path):
    stage = searched(tmp_path)
    pretend_model(Path(stage.path("trial_1/start_1/train/checkpoint")))
    executor = Classroom(by_rate)
    assert weights(searched(tmp_path, executor)) == ["trial_2"]
    assert not executor.asked


def test_a_grader_that_was_edited_grades_again_and_trains_nothing(tmp_path, monkeypatch):
    searched(tmp_path)
    monkeypatch.setattr(evaluating, "code_hash", lambda *parts: "another")
    executor = Classroom(by_rate)
    stage = searched(tmp_path, executor)
    assert not {"generate", "ask", "train"} & set(executor.asked)
    assert stage.facts()["winner"] == "trial_2" and weights(stage) == ["trial_2"]


def test_another_runs_search_is_taken_over_and_only_the_winner_may_be_trained(tmp_path):
    searched(tmp_path)
    executor = Classroom(by_rate)
    config = searching(tmp_path, name="other", search__learning_rate=RATES[:3])
    outcome = run.run_job(config, reuse=[str(tmp_path / "small")], executor=executor)
    assert not {"generate", "ask", "train"} & set(executor.asked)
    assert weights(outcome.run.stage(0, "search")) == ["trial_2"]


def test_other_dev_questions_are_answered_and_compared_again(tmp_path):
    searched(tmp_path)
    lines = Path(DATA["dev"]).read_text().splitlines()
    (tmp_path / "dev.jsonl").write_text("\n".join(lines[:50]))
    executor = Classroom(by_rate)
    own = {"name": "own", "kind": "number", **DATA, "dev": str(tmp_path / "dev.jsonl")}
    stage = searched(tmp_path, executor, benchmark=[own])
    scores = stage.store.get_json("trial_2/start_2/evaluate/scores.json")
    assert scores["own.dev"]["n"] == 50
    assert executor.asked["train"] == 0, "the answers to these were known"


def test_a_winner_that_cannot_be_made_again_is_recorded_and_the_next_one_wins(tmp_path):
    with pytest.raises(Crash):
        searched(tmp_path, Classroom(by_rate, die_after={"train": 3}))
    for folder in (tmp_path / "small").glob("**/trial_2/**/checkpoint"):
        shutil.rmtree(folder)

    def made(job: TrainJob) -> int:
        if job.learning_rate == 2e-5:
            raise StageError("no room")
        return by_rate(job)

    stage = searched(tmp_path, Classroom(made))
    assert rows(stage)["trial_2"]["error"] == "no room"
    assert stage.facts()["winner"] == "trial_3" and weights(stage) == ["trial_3"]


def test_a_target_without_mistakes_stays_and_nothing_is_tried(tmp_path):
    pretend_model(tmp_path / "perfect", skill=100)
    executor = Classroom(by_rate)
    outcome = run.run_job(searching(tmp_path, target__model=str(tmp_path / "perfect")), executor=executor)
    assert executor.asked["train"] == executor.asked["ask"] == 0
    assert outcome.target.path == str(tmp_path / "perfect")


def test_settings_that_a_strategy_does_not_look_at_ask_for_one_pool(tmp_path):
    executor = Classroom(by_rate)
    grid = {"contrast.text": ["question", "question_and_response"]}
    stage = searched(tmp_path, executor, search__grid=grid, search__learning_rate=[2e-5], schedule__strategy="le")
    assert executor.asked["train"] == 1
    assert rows(stage)["trial_2"]["same_as"] == "trial_1"


def test_a_handful_of_changed_answers_is_noise(tmp_path):
    assert sign_test(4, 0) == pytest.approx(0.125) and sign_test(0, 0) == 1.0
    assert sign_test(6, 0) == sign_test(0, 6) == pytest.approx(2 / 64)
    assert sign_test(30, 10) == pytest.approx(0.00222, rel=0.01)
    stage = searched(tmp_path, Classroom(lambda job: 48), search__learning_rate=[1e-5])
    row = rows(stage)["trial_1"]
    assert 0 < row["gained"] <= 5 and row["lost"] == 0 and row["gain_low"] > 0
    assert stage.facts()["winner"] == "trial_0"


def test_when_every_trial_fails_so_does_the_search_and_a_second_start_tries_again(tmp_path):
    def made(job: TrainJob) -> int:
        raise StageError("no room on the disk.")

    with pytest.raises(StageError, match=r"iteration_0/search: .* 4 .*trial_1: no room on the disk\."):
        searched(tmp_path, Classroom(made))
    executor = Classroom(by_rate)
    assert searched(tmp_path, executor).facts()["winner"] == "trial_2"
    assert executor.asked["ask"] == 0


@pytest.mark.parametrize("done", [0, 2, 3])
def test_killed_between_trials_the_rest_are_tried_with_the_settings_they_would_have_had(tmp_path, done):
    whole = searched(tmp_path / "whole")
    with pytest.raises(Crash):
        searched(tmp_path / "cut", Classroom(by_rate, die_after={"train": done}))
    executor = Classroom(by_rate)
    stage = searched(tmp_path / "cut", executor)
    assert [j.learning_rate for j in executor.jobs] == RATES[done:]
    assert executor.asked["ask"] == 0
    same = ("name", "learning_rate", "neighbours", "samples_per_dataset", "seed", "dev", "gain", "gain_low", "error")
    assert [{k: row.get(k) for k in same} for row in rows(stage).values()] == [
        {k: row.get(k) for k in same} for row in rows(whole).values()
    ]
    assert weights(stage) == ["trial_2"]


def test_a_second_attempt_has_a_folder_of_its_own_and_takes_over_what_is_whole(tmp_path):
    # Killed while the second trial is evaluated on dev.
    die = Classroom(by_rate, die_after={"generate": TRAIN + TEST + DEV + DEV + 5})
    with pytest.raises(Crash):
        searched(tmp_path / "cut", die)
    executor = Classroom(by_rate)
    stage = searched(tmp_path / "cut", executor)
    attempts = sorted({"/".join(n.split("/")[:2]) for n in stage.store.names() if n.startswith("trial_")} - {""})
    assert [a for a in attempts if "/start_" in a] == [
        "trial_1/start_1", "trial_2/start_1", "trial_2/start_2", "trial_3/start_2", "trial_4/start_2",
    ]  # fmt: skip
    assert executor.asked["train"] == 2, "the second trial's model was whole"
    [model] = [name for name in stage.store.names() if name.endswith("checkpoint/model.safetensors")]
    assert model.startswith("trial_2/start_2/")


def test_a_second_attempt_resumes_from_the_checkpoint_of_the_first_one(tmp_path):
    class Dying(Classroom):
        def train(self, job: TrainJob, progress: Any = None) -> Trained:
            if job.learning_rate == 2e-5:
                pretend_model(checkpoints.folder_of(job.out) / "step_1")
                raise Crash("train")
            return super().train(job, progress)

    class Looking(Classroom):
        def train(self, job: TrainJob, progress: Any = None) -> Trained:
            if job.learning_rate == 2e-5:
                kept.append((checkpoints.folder_of(job.out) / "step_1").is_dir())
            return super().train(job, progress)

    kept: list[bool] = []
    with pytest.raises(Crash):
        searched(tmp_path, Dying(by_rate))
    searched(tmp_path, Looking(by_rate))
    assert kept == [True]


def test_a_finished_search_whose_winner_was_removed_makes_it_again(tmp_path):
    stage = searched(tmp_path)
    shutil.rmtree(stage.path("trial_2"))
    executor = Classroom(by_rate)
    assert weights(searched(tmp_path, executor)) == ["trial_2"]
    assert [j.learning_rate for j in executor.jobs] == [2e-5]


def test_a_trial_of_a_killed_driver_writes_nothing_once_another_driver_runs(tmp_path):
    config = searching(tmp_path)
    run.run_job(config, until="0/evaluate", executor=LocalExecutor())
    where = config.run_folder
    caught: list[Any] = []

    class Orphaned(Classroom):
        def search(self, tried: Any, trials: Any, folder: str, on_result: Any = None) -> Any:
            caught.append((tried, trials))
            raise Crash("search")

    with pytest.raises(Crash):
        run.run_job(config, executor=Orphaned(by_rate))
    orphan, trials = caught[0]
    Driver(where).close()
    before = sorted(path for path in Path(where).rglob("*") if path.is_file() and "driver" not in str(path))
    with pytest.raises(StageError, match="driver"):
        orphan(trials[0], Classroom(by_rate))
    after = sorted(path for path in Path(where).rglob("*") if path.is_file() and "driver" not in str(path))
    assert after == before


def test_a_finished_search_of_a_later_iteration_is_finished_in_another_folder_too(tmp_path):
    model = tmp_path / "model"
    pretend_model(model, skill=40)
    wanted = {"target__model": str(model), "iterations": 2, "search__learning_rate": RATES[:2]}
    run.run_job(searching(tmp_path / "old", **wanted), executor=Classroom(by_rate))
    (tmp_path / "new").mkdir()
    (tmp_path / "old" / "small").rename(tmp_path / "new" / "small")
    executor = Classroom(by_rate)
    run.run_job(searching(tmp_path / "new", **wanted), executor=executor)
    assert not executor.asked


def test_a_moved_run_continues_in_its_new_folder_and_writes_nothing_to_the_old_one(tmp_path):
    model = tmp_path / "model"
    pretend_model(model, skill=40)
    old, new = tmp_path / "old", tmp_path / "new"
    with pytest.raises(Crash):
        searched(old, Classroom(by_rate, die_after={"train": 2}), target__model=str(model))
    new.mkdir()
    (old / "small").rename(new / "small")
    executor = Classroom(by_rate)
    config = searching(new, target__model=str(model))
    outcome = run.run_job(config, executor=executor)
    assert executor.asked["train"] == 2 and executor.asked["ask"] == 0
    assert outcome.target.path.startswith(str(new)) and Path(outcome.target.path, "model.safetensors").is_file()
    assert not (old / "small").exists()
    (tmp_path / "newer").mkdir()
    (new / "small").rename(tmp_path / "newer" / "small")
    again = Classroom(by_rate)
    outcome = run.run_job(searching(tmp_path / "newer", target__model=str(model)), executor=again)
    assert not again.asked and outcome.target.path.startswith(str(tmp_path / "newer"))


def _some_request(tmp_path: Path) -> Any:
    executor = Classroom(by_rate)
    config = searching(tmp_path).model_copy(update={"search": None})
    run.run_job(config, until="instruct", executor=executor)
    return executor.requests["ask"][0]


@pytest.mark.parametrize("until", ["diagnose", "0/instruct", "train"])
def test_a_run_cannot_stop_at_a_part_of_a_search(tmp_path, until):
    executor = Classroom(by_rate)
    with pytest.raises(ConfigError, match=f"--until {until}: .*search"):
        run.run_job(searching(tmp_path), until=until, executor=executor)
    assert not executor.asked


def test_pools_of_which_some_requests_are_the_same_ask_for_them_once(tmp_path):
    executor = Classroom(by_rate)
    grid = {"schedule.strategy": ["le", ["le", "lec"]]}
    stage = searched(tmp_path, executor, search__grid=grid, search__learning_rate=[2e-5])
    keys = [request.key for request in executor.requests["ask"]]
    assert keys and len(set(keys)) == len(keys)
    usage = [stage.store.get_json(f"pool_strategy_{name}/instruct/usage.json") for name in ("le", "le-lec")]
    assert [each["calls"] for each in usage] == [len(keys), 0]
    assert usage[1]["inherited"] == len(keys)


def test_a_pool_without_a_sample_leaves_the_search_to_the_others(tmp_path):
    executor = Classroom(by_rate)
    good = executor.reply
    executor.reply = lambda request: good(request) if executor.asked["embed"] else "Nothing comes to mind."
    grid = {"schedule.strategy": ["le", "lec"]}  # LE asks before anything was embedded.
    stage = searched(tmp_path, executor, search__grid=grid, search__learning_rate=[2e-5])
    assert rows(stage)["trial_1"]["error"] == "there is no sample to learn from in its pool of replies"
    assert stage.facts()["winner"] == "trial_2"
    executor = Classroom(by_rate, reply=lambda request: "Nothing comes to mind.")
    with pytest.raises(StageError, match=r"replies\.jsonl"):
        searched(tmp_path / "none", executor, search__grid=grid, search__learning_rate=[2e-5])


def test_too_few_problems_for_a_dev_split_are_refused_before_anything_is_asked(tmp_path):
    few = {"name": "few", "kind": "number", "train": str(tmp_path / "few.jsonl")}
    (tmp_path / "few.jsonl").write_text("\n".join(Path(DATA["train"]).read_text().splitlines()[:4]))
    table = {"benchmark": [few], "evaluate": {"learn_from": ["few"], "report_on": []}, "curate__keep_clear_of": []}
    with pytest.raises(DataError, match=r"few: \[search\].*dev"):
        check_names(searching(tmp_path, **table))


def test_sizes_larger_than_the_pool_are_reported_and_not_trained_twice(tmp_path, capsys):
    one_reply = LocalExecutor().reply(_some_request(tmp_path / "other"))
    executor = Classroom(lambda job: 60, reply=lambda request: one_reply)
    sizes = [1, 400, 500]
    config = searching(tmp_path, search__learning_rate=[1e-5], search__samples_per_dataset=sizes)
    outcome = run.run_job(config, executor=executor, console=Console())
    stage = outcome.run.stage(0, "search")
    there = stage.store.get_json("pool_k_3/curate/done.json")["facts"]["kept"]["own"]
    assert 1 < there < 400
    assert f"has {there} samples of own, not 500" in capsys.readouterr().out.replace("\n", " ")
    assert sorted(len(j.examples) for j in executor.jobs) == [1, there]
    assert rows(stage)["trial_3"]["same_as"] == "trial_2"
    assert rows(stage)["trial_2"]["samples"] == there


def test_a_size_may_have_a_number_for_each_dataset(tmp_path):
    executor = Classroom(lambda job: 60)
    sizes = [{"own": 7}, 20]
    searched(tmp_path, executor, search__learning_rate=[1e-5], search__samples_per_dataset=sizes)
    assert sorted(len(j.examples) for j in executor.jobs) == [7, 20]
    assert most([{"a": 1, "b": 5}, 3], ["a", "b"]) == {"a": 3, "b": 5}
    assert most([2, 3], ["a", "b"]) == 3


@pytest.mark.parametrize(("changes", "message"), [
    ({"search__learning_rate": []}, "search.learning_rate is an empty list"),
    ({"search__neighbours": []}, "search.neighbours is an empty list"),
    ({"search__seeds": []}, "search.seeds is an empty list"),
    ({"search__samples_per_dataset": [0]}, "whole number of at least 1"),
    ({"search__samples_per_dataset": [{"gsm8k": 3}]}, "a number for gsm8k; evaluate.learn_from has own"),
    ({"curate__samples_per_dataset": {}}, "table with one for each dataset"),
    ({"search__grid": {"train.epochs": [1], "train": {"epochs": [2]}}}, "train.epochs is set twice"),
    ({"search__metric": "word_problems_plus"}, "search.metric is 'word_problems_plus'.* one of own"),
    ({"search__metric": "test"}, "search.metric is 'test'.* one of own"),
    ({"search__learning_rate": [5]}, "learning_rate.0: input should be less than or equal to 1"),
    ({"search__learning_rate": [0]}, "learning_rate.0: input should be greater than 0"),
    ({"search__max_concurrent": 0}, "search.max_concurrent"),
])  # fmt: skip
def test_a_list_that_means_nothing_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        searching(tmp_path, **changes)


def test_no_trial_is_asked_a_test_and_without_tests_the_same_one_wins(tmp_path):
    class Watched(Classroom):
        def search(self, *tried: Any) -> Any:
            before = len(self.requests["generate"])
            results = super().search(*tried)
            self.during = before, len(self.requests["generate"])
            return results

    executor = Watched(by_rate)
    with_tests = searched(tmp_path / "a", executor)
    first, last = executor.during
    trials = [request.id for request in executor.requests["generate"][first:last]]
    assert trials and all(id_.startswith("own/dev/") for id_ in trials)
    without = searched(tmp_path / "b", evaluate__report_on=[])
    assert without.facts()["winner"] == with_tests.facts()["winner"]
    assert {n: r.get("dev") for n, r in rows(without).items()} == {n: r.get("dev") for n, r in rows(with_tests).items()}


def test_the_number_of_concurrent_trials_may_change_between_two_starts(tmp_path):
    with pytest.raises(Crash):
        searched(tmp_path, Classroom(by_rate, die_after={"train": 1}), search__max_concurrent=1)
    stage = searched(tmp_path, search__max_concurrent=4, search__keep_weights=True)
    assert stage.facts()["winner"] == "trial_2"


def plan(place: int, rate: float, seed: int) -> trial.Plan:
    return trial.Plan({"name": f"trial_{place}", "learning_rate": rate, "seed": seed}, str(place), "model", "pool", {})


def result(dev: float) -> trial.TrialResult:
    return trial.TrialResult("", {"mean": dev})


def test_the_mean_over_seeds_decides_and_its_best_seed_is_taken():
    plans = [plan(i, rate, seed) for i, (rate, seed) in enumerate(itertools.product((1e-5, 2e-5), (0, 1)), 1)]
    scores = {"trial_1": result(0.9), "trial_2": result(0.1), "trial_3": result(0.6), "trial_4": result(0.7)}
    assert trial.best(plans, scores) == "trial_4"
    scores.pop("trial_4")
    assert trial.best(plans, scores) == "trial_1", "a combination whose seed failed comes last"
    assert trial.best(plans, {}) is None


def test_whatever_ends_first_the_winner_is_never_among_the_beaten():
    chance = random.Random(0)
    for _ in range(300):
        pairs = itertools.product((1e-5, 2e-5, 3e-5), range(chance.randint(1, 3)))
        plans = [plan(i, rate, seed) for i, (rate, seed) in enumerate(pairs, 1)]
        final = {p.name: result(chance.randint(0, 4) / 4) for p in plans}
        for name in chance.sample(list(final), chance.randint(0, len(final) - 1)):
            del final[name]  # Failed: it never has a result.
        order, so_far = chance.sample(list(final), len(final)), {}
        for name in order:
            so_far[name] = final[name]
            whole = any(all(p.name in final for p in group) for group in trial._groups(plans).values())
            if whole:
                assert trial.best(plans, final) in {*trial._unbeaten(plans, so_far), *(set(final) - set(so_far))}


LARGE, SMALL = {"CPU": 16, "GPU": 8}, {"CPU": 4, "GPU": 1}


@pytest.mark.parametrize(("nodes", "groups", "wanted", "at_once"), [
    ([LARGE], [], None, 4),  # Two GPUs for training, then one for an engine.
    ([LARGE], [], 3, 3),
    ([LARGE], [], 100, 4),
    ([LARGE], [Group("large", LARGE, 1)], 100, 8),
    ([LARGE], [Group("large", LARGE, 1)], None, 4),
    ([SMALL], None, None, 1),  # Unknown what may be added: the job's own number counts, if it has one.
    ([SMALL], None, 5, 5),
    ([SMALL], [], None, 1),  # Too small for one: its stage raises.
    ([SMALL] * 5, [], None, 2),
    ([{"CPU": 3, "GPU": 64}], [], None, 1),
    ([LARGE] * 99, [], None, 9),
])  # fmt: skip
def test_no_more_trials_run_at_once_than_the_nodes_hold(tmp_path, nodes, groups, wanted, at_once):
    changes = {"search__max_concurrent": wanted} if wanted else {}
    config = searching(tmp_path, cluster__train_workers=2, cluster__gpus_per_worker=1, **changes)
    assert at_most(config, nodes, groups, 9) == at_once


def test_the_model_of_the_winner_is_made_again_where_it_was_removed(tmp_path):
    with pytest.raises(Crash):
        searched(tmp_path, Classroom(by_rate, die_after={"train": 3}))
    for folder in (tmp_path / "small").glob("**/trial_2/**/checkpoint"):
        shutil.rmtree(folder)
    executor = Classroom(by_rate)
    stage = searched(tmp_path, executor)
    assert sorted(j.learning_rate for j in executor.jobs) == [2e-5, 4e-5]
    assert weights(stage) == ["trial_2"]


def test_the_next_target_is_not_asked_its_dev_questions_again(tmp_path):
    executor = Classroom(by_rate)
    outcome = run.run_job(searching(tmp_path), executor=executor)
    keys = [r.key for r in executor.requests["generate"]]
    assert len(keys) == len(set(keys))
    assert isinstance(outcome.target, Model)


def test_the_encoder_of_a_strategy_that_only_the_search_tries_is_looked_for_before_anything_starts(tmp_path):
    tried = {"schedule__strategy": "le", "search__grid": {"schedule.strategy": ["le", "lec"]}}
    config = searching(tmp_path, **tried, contrast__encoder=str(tmp_path / "nowhere"))
    executor = LocalExecutor()
    with pytest.raises(ConfigError, match=r"contrast\.encoder"):
        run.run_job(config, executor=executor)
    assert not executor.asked
