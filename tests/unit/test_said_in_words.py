"""Stories, reports, cards and refusals name things in words: choices, cut-offs, models, data that changed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lai_ray.cli import run as cli_run
from lai_ray.cli.main import app
from lai_ray.config import job_file
from lai_ray.contracts import Model
from lai_ray.errors import ConfigError
from lai_ray.records import Answer, Completion, Request
from lai_ray.report import sections
from lai_ray.report.comparison import side_by_side
from lai_ray.report.story import story
from lai_ray.storage.identity import differences
from tests.local import LocalExecutor, job, pretend_model

OWN = """
import lai_ray.benchmarks.word_problems as built_in
import lai_ray.strategies.le as le

class Own(built_in.WordProblems):
    name = "own"
    def prompt(self, problem):
        return {prompt}

class Terse(le.LearningFromError):
    name = "terse"
    def messages(self, case, benchmark, settings):
        return case.attempt.problem.question

BENCHMARK, STRATEGY = Own(), Terse()
"""


class Choosing(LocalExecutor):
    """Answers A to everything, and every other answer is cut off."""

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        for i, request in enumerate(requests):
            done = Completion("Answer: A", "stop" if i % 2 else "length", 5, 5)
            yield Answer(request.id, request.key, done)


def choices(folder: Path, **changes: Any) -> Any:
    rows = [
        {"question": f"Which is larger than {i}?", "choices": [f"{i}.", f"{i + 1}.", f"{i - 1}."], "answer": "B",
         "subject": "odd" if i % 2 else "even"}
        for i in range(5, 25)
    ]  # fmt: skip
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = {"name": "larger", "kind": "choice", "choices": "choices", "subject": "subject",
           "train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")}  # fmt: skip
    evaluate = {"evaluate__learn_from": ["larger"], "evaluate__report_on": ["larger"]}
    return job(folder, benchmark=[own], **evaluate, **changes)


def own_plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    (folder / "wordy.py").write_text(OWN.format(prompt=prompt))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "wordy", raising=False)


def test_the_story_of_a_choice_has_its_choices_and_says_what_was_cut_off(tmp_path):
    run = cli_run.run_job(choices(tmp_path), executor=Choosing(), until="0/evaluate").run
    texts = [chapter.text for i in range(2) for chapter in story(run, f"larger/test/{i:05d}")]
    assert "\nA. 5.\nB. 6.\nC. 4.\n" in texts[0]
    assert ["(cut off at the token limit)" in text for text in texts].count(True) == 1


def test_what_was_not_read_stands_beside_the_score_of_each_group(tmp_path):
    run = cli_run.run_job(choices(tmp_path), executor=Choosing(), until="0/evaluate").run
    (table,) = (table for table in sections.tables_of(run) if table.title == "larger by group, percent")
    assert {row[0]: row[2] for row in table.rows} == {"even": "0.0\n10 cut off", "odd": "0.0"} or {
        row[0]: row[2] for row in table.rows
    } == {"even": "0.0", "odd": "0.0\n10 cut off"}
    groups = run.store.get_json("iteration_0/evaluate/scores.json")["larger.test"]["groups"]
    assert sum(counts.get("cut_off", 0) for counts in groups.values()) == 10


def test_a_run_of_tests_alone_names_its_model_and_no_strategy(tmp_path):
    config = cli_run.only_tests(job(tmp_path))
    run = cli_run.run_job(config, executor=LocalExecutor()).run
    (row,) = side_by_side([run]).rows
    assert row[1] == f"tests of {tmp_path}/model"
    head = sections.header(run)
    assert f"{tmp_path}/model" in head and "tests alone" in head and "lec" not in head
    (scores,) = sections.scores(run, 0.95)
    assert f"{tmp_path}/model" in scores.note


def test_the_card_of_a_trained_model_has_the_names_of_a_person(tmp_path):
    run = cli_run.run_job(job(tmp_path, iterations=2), executor=LocalExecutor()).run
    first, second = (run.store.get_json(f"iteration_{i}/train/lineage.json")["names"] for i in (0, 1))
    assert first == {"model": "small, iteration 1", "base": "model"}, "a local folder by its last part"
    assert second == {"model": "small, iteration 2", "base": "small, iteration 1"}


def test_a_prompt_that_is_a_text_is_refused_with_the_name_before_anything_is_asked(tmp_path, monkeypatch):
    own_plugin(tmp_path, monkeypatch, "problem.question")
    executor = LocalExecutor()
    config = job(tmp_path, evaluate__learn_from=["wordy:BENCHMARK"], evaluate__report_on=["wordy:BENCHMARK"])
    with pytest.raises(ConfigError, match=r"prompt of benchmark own returned '.*no list of chat messages"):
        cli_run.run_job(config, executor=executor)
    assert not +executor.asked


def test_a_strategys_request_that_is_a_text_is_refused_with_its_name(tmp_path, monkeypatch):
    own_plugin(tmp_path, monkeypatch, "super().prompt(problem)")
    executor = LocalExecutor()
    with pytest.raises(ConfigError, match="a request of strategy terse returned '.*no list of chat messages"):
        cli_run.run_job(job(tmp_path, schedule__strategy="wordy:STRATEGY"), executor=executor)
    assert not executor.asked["ask"]


def test_changed_contents_are_told_in_words():
    there = {"content": {"data.own": "a" * 32, "target": "b" * 32, "prompts": "c" * 32, "encoder": "owner/name@1"}}
    now = {"content": {"data.own": "d" * 32, "target": "e" * 32, "prompts": "f" * 32, "encoder": "owner/name@2"}}
    data, encoder, prompts, target = sorted(differences(there, now))
    assert data.startswith("content.data.own: the training problems of own ")
    assert data.endswith("changed: hash aaaaaaaa there, hash dddddddd now")
    assert "the files of contrast.encoder changed: 'owner/name@1' there, 'owner/name@2' now" in encoder
    assert "wording" in prompts and "the files of target.model" in target


def test_check_of_a_job_that_would_be_refused_says_so_last_and_fails(tmp_path):
    (tmp_path / "mine.toml").write_text(
        f'''storage = "{tmp_path}"
[target]
model = "{tmp_path}/model"
engine = "tests.local:LocalExecutor"
[evaluate]
learn_from = ["word_problems"]
report_on = ["word_problems"]
max_train_problems = 20
max_test_problems = 10
[contrast]
encoder = "target"
[instructor]
model = "rules"
[curate]
samples_per_dataset = 10
[cluster]
gpus_per_replica = 0
gpus_per_worker = 0
'''
    )
    pretend_model(tmp_path / "model", skill=40)
    config = job_file.read(tmp_path / "mine.toml", ["iterations=1"])
    cli_run.run_job(config, executor=LocalExecutor())
    runner = CliRunner()
    command = ["check", "--no-probe", str(tmp_path / "mine.toml"), "iterations=1"]
    sound = runner.invoke(app, command)
    assert sound.exit_code == 0 and sound.output.rstrip().endswith("mine: ready to run"), sound.output[-300:]
    wrong = runner.invoke(app, [*command, "seed=1"])
    assert wrong.exit_code == 2 and "refused: " in wrong.output and "seed: 0 there, 1 now" in wrong.output
    assert wrong.output.rstrip().endswith("mine: a run would be refused or fail, for 1 reason above")


def test_neighbours_of_the_same_subject_need_problems_with_a_subject_before_anything_is_asked(tmp_path):
    executor = LocalExecutor()
    with pytest.raises(ConfigError, match=r"contrast\.within .*word_problems have no subject"):
        cli_run.run_job(job(tmp_path, contrast__within="subject"), executor=executor)
    assert not +executor.asked
    alone = job(tmp_path, name="alone", contrast__within="subject", schedule__strategy="le")
    assert cli_run.run_job(alone, executor=executor, until="0/diagnose").stopped_at, "le shows no neighbours"
