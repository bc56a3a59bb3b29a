"""The arms that LE and LEC are compared with: fine-tuning on references, random contrast, and those of the studies."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lai_ray.benchmarks.word_problems import BENCHMARK
from lai_ray.cli import run as cli_run
from lai_ray.cli.sweep import file
from lai_ray.config import job_file
from lai_ray.contracts import Model, StrategySettings
from lai_ray.records import Attempt, Completion, Grade, Sample
from lai_ray.strategies.lec import STRATEGY as LEC
from lai_ray.strategies.random_contrast import STRATEGY as RANDOM
from tests.conftest import records
from tests.local import Crash, LocalExecutor, job

STUDIES = Path(__file__).parents[2] / "jobs/studies"
SETTINGS = StrategySettings(0, 0, 3, 3, Model("", "encoder"), count_cut_off=False, show_reference=False)


@pytest.fixture
def arms(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    yield __import__("arms")
    sys.modules.pop("arms", None)


def attempts() -> list[Attempt]:
    made = []
    for row, record in enumerate(BENCHMARK.records("train", 40)):
        problem, right = BENCHMARK.problem(record, "train", row), row % 2 == 0
        answer = f"#### {int(problem.answer) + (not right) * (row + 1)}"
        made.append(Attempt(f"{problem.id}#0", problem, [], Completion(answer, "stop"),
                            Grade(float(right), answer, "r", "graded")))  # fmt: skip
    return made


def test_fine_tuning_learns_the_training_problems_with_their_references_without_a_request(tmp_path):
    executor = LocalExecutor()
    ended = cli_run.run_job(job(tmp_path, schedule__strategy="fine_tuning"), executor=executor)
    assert not executor.asked["ask"]
    samples = list(ended.run.stage(0, "curate").view("samples.jsonl", Sample))
    assert len(samples) == 30 and len(executor.jobs[0].examples) == 30
    for sample in samples:
        assert sample.reply_id is None
        assert sample.turns[0].text == BENCHMARK.reference(sample.problem)
        assert BENCHMARK.grade(sample.problem, sample.turns[0].text).score == 1


def test_killed_in_training_fine_tuning_keeps_its_samples(tmp_path):
    config = job(tmp_path, schedule__strategy="fine_tuning")
    with pytest.raises(Crash):
        cli_run.run_job(config, executor=LocalExecutor(die_after={"train": 0}))
    kept = tmp_path / "small/iteration_0/curate/samples.jsonl"
    before, again = records(kept), LocalExecutor()
    cli_run.run_job(config, executor=again)
    assert records(kept) == before and len(again.jobs[0].examples) == 30 == len(before)


def test_random_contrast_shows_k_seeded_right_questions_and_embeds_nothing():
    executor, given = LocalExecutor(), attempts()
    cases, again = (list(RANDOM.cases(given, SETTINGS, executor)) for _ in range(2))
    assert cases == again and not executor.asked["embed"] and RANDOM.texts(given, SETTINGS) == []
    assert len(cases) == 20 and all(len({c.attempt.id for c in case.contrasts}) == 3 for case in cases)
    assert all(contrast.attempt.right for case in cases for contrast in case.contrasts)
    assert len({frozenset(c.attempt.id for c in case.contrasts) for case in cases}) > 15, "each mistake has its own"
    other = list(RANDOM.cases(given, replace(SETTINGS, seed=1), executor))
    assert [c.contrasts for c in other] != [c.contrasts for c in cases]
    nearest = list(LEC.cases(given, SETTINGS, executor))
    assert [c.attempt for c in nearest] == [c.attempt for c in cases] and nearest != cases


def test_random_contrast_without_a_right_answer_shows_the_mistake_alone():
    wrong = [attempt for attempt in attempts() if not attempt.right]
    assert all(case.contrasts == [] for case in RANDOM.cases(wrong, SETTINGS, LocalExecutor()))


def test_the_study_tests_on_rows_that_no_other_run_reads(arms):
    ordinary = list(BENCHMARK.load("test"))
    arms.ROWS = 3000
    rows = list(arms.BENCHMARK.load("test"))
    assert len(rows) == 3000 - len(ordinary)
    assert not {row["question"] for row in rows} & {row["question"] for row in ordinary}


def test_the_study_hides_the_answer_or_shows_another(arms):
    given = attempts()
    wrong = {a.id: a.completion.text for a in given if not a.right}
    hidden = list(arms.ANSWER_HIDDEN.cases(given, SETTINGS, LocalExecutor()))
    assert {case.attempt.id for case in hidden} == set(wrong)
    for case in hidden:
        prompt = str(arms.ANSWER_HIDDEN.messages(case, BENCHMARK, SETTINGS))
        assert wrong[case.attempt.id] not in prompt and case.attempt.problem.question in prompt
    others = list(arms.OTHER_ANSWER.cases(given, SETTINGS, LocalExecutor()))
    assert {case.attempt.id for case in others} == set(wrong)
    for case in others:
        shown = case.attempt.completion.text
        assert shown in wrong.values() and shown != wrong[case.attempt.id]
        assert shown in str(arms.OTHER_ANSWER.messages(case, BENCHMARK, SETTINGS))


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*_base.toml")), ids=lambda path: path.stem)
def test_the_jobs_of_the_studies_are_jobs(path, arms):
    config = job_file.read(str(path))
    assert config.evaluate.report_on[0] == "word_problems_unused" and config.train.replay == "all"


@pytest.mark.parametrize("name", ["method_dev", "method", "method_more"])
def test_the_sweeps_of_the_studies_are_sweeps(name, arms):
    members = file.read(STUDIES / f"{name}.toml").members
    assert {(m.config.target.model, m.config.iterations) for m in members} == {
        (f"runs/students/{m.seed}", 1) for m in members
    }
