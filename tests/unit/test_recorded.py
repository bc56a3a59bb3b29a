"""A user's recorded answers replace the first inference: they are graded again, learned from, and never requested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.common import plugins
from lai_ray.errors import ConfigError, DataError
from lai_ray.records import Attempt, Case
from lai_ray.report import sections
from lai_ray.report.story import some_case, story
from lai_ray.storage.run import Run
from lai_ray.storage.store import View
from tests.local import LocalExecutor, job

PROBLEMS = plugins.load("benchmarks", "word_problems")


def answers(tmp_path: Path, n: int = 40, **changes) -> str:
    """The first rows of the training split, every third answered wrongly."""
    rows = list(PROBLEMS.records("train", n))
    for i, row in enumerate(rows):
        row["response"] = "#### 1000000" if i % 3 == 0 else row["answer"]
    if changes:
        rows[7] |= changes
    lines = [json.dumps({k: v for k, v in row.items() if v is not None}) for row in rows]
    (tmp_path / "answers").mkdir(exist_ok=True)
    (tmp_path / "answers" / "a.jsonl").write_text("\n".join(lines[:15]))
    (tmp_path / "answers" / "b.jsonl").write_text("\n".join(lines[15:]))
    return str(tmp_path / "answers")


def recorded(tmp_path: Path, where: str | None = None, **changes):
    files = {"word_problems": where or answers(tmp_path)}
    limits = {"evaluate__max_train_problems": None, "evaluate__max_test_problems": 25}
    return job(tmp_path, **{"target__engine": "recorded", "target__attempts": files} | limits | changes)


def test_recorded_answers_are_graded_learned_from_and_not_requested(tmp_path):
    executor = LocalExecutor()
    run = cli_run.run_job(recorded(tmp_path), executor=executor).run
    scores = run.stage(0, "evaluate").store.get_json("scores.json")
    assert {part: (s["right"], s["n"]) for part, s in scores.items()} == {"word_problems.train": (26, 40)}
    assert executor.asked["generate"] == 25, "only the trained target's test"
    attempts = list(View(run.stage(0, "evaluate").store, "attempts/word_problems.train.jsonl", Attempt))
    assert attempts[17].problem.id == "word_problems/recorded/00017"
    cases = list(View(run.stage(0, "diagnose").store, "cases.jsonl", Case))
    assert [case.attempt.problem.id[-5:] for case in cases] == [f"{i:05d}" for i in range(0, 40, 3)]
    assert {len(case.contrasts) for case in cases} == {3}


def test_the_report_shows_what_was_not_measured_and_the_story_works(tmp_path):
    run = cli_run.run_job(recorded(tmp_path), executor=LocalExecutor()).run
    text = sections.scores(run, 0.95)[0].markdown()
    assert "| iter. 0 | iter. 1 |" in text
    assert "not measured" in text
    chapters = story(run, some_case(run))
    assert chapters[0].title == "iteration 0: the target answers"


def test_the_weights_need_not_be_here_to_diagnose(tmp_path):
    encoder = {"contrast__encoder": str(tmp_path / "model")}
    config = recorded(tmp_path, target__model="someone/not-here", **encoder)
    outcome = cli_run.run_job(config, until="diagnose", executor=LocalExecutor())
    assert outcome.stopped_at == "iteration_0/diagnose"


def test_a_subset_of_the_rows_is_a_seeded_sample(tmp_path):
    config = recorded(tmp_path, evaluate__max_train_problems=10)
    run = cli_run.run_job(config, until="evaluate", executor=LocalExecutor()).run
    assert run.stage(0, "evaluate").store.get_json("scores.json")["word_problems.train"]["n"] == 10


def test_other_answers_in_the_same_files_are_another_run(tmp_path):
    cli_run.run_job(recorded(tmp_path), until="evaluate", executor=LocalExecutor())
    answers(tmp_path, n=38)
    with pytest.raises(ConfigError, match=r"content\.target"):
        cli_run.run_job(recorded(tmp_path, str(tmp_path / "answers")), executor=LocalExecutor())


def test_a_dataset_without_mistakes_is_skipped_and_logged(tmp_path, capsys):
    from rich.console import Console

    rows = [dict(row, response=row["answer"]) for row in PROBLEMS.records("train", 12)]
    (tmp_path / "right.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = recorded(tmp_path, str(tmp_path / "right.jsonl"))
    outcome = cli_run.run_job(config, executor=LocalExecutor(), console=Console(width=200))
    assert "no mistakes" in capsys.readouterr().out
    assert outcome.target is not None


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"response": None}, r"a\.jsonl:8:.*'response'.*question, answer"),
        ({"response": 7}, r"a\.jsonl:8:.*'response'"),
        ({"question": None}, r"a\.jsonl:8:.*word_problems.*'question'"),
    ],
)
def test_a_faulty_row_is_reported_with_file_and_line(tmp_path, changes, parts):
    where = answers(tmp_path, **changes)
    with pytest.raises(DataError, match=parts):
        cli_run.run_job(recorded(tmp_path, where), executor=LocalExecutor())


def test_a_malformed_line_is_reported(tmp_path):
    where = Path(answers(tmp_path))
    text = (where / "b.jsonl").read_text().splitlines()
    (where / "b.jsonl").write_text("\n".join([*text[:3], text[3][:20], *text[4:]]))
    with pytest.raises(DataError, match=r"b\.jsonl:4:.*JSON"):
        cli_run.run_job(recorded(tmp_path, str(where)), executor=LocalExecutor())


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"target__attempts": {}}, "target.*attempts"),
        ({"target__engine": "vllm"}, "target.*attempts"),
        ({"target__attempts": {"gsm8k": "x"}}, "target.attempts.*gsm8k.*word_problems"),
        ({"search__learning_rate": [1e-4]}, "search.*recorded"),
    ],
)
def test_inconsistent_settings_are_refused(tmp_path, changes, parts):
    with pytest.raises(ConfigError, match=parts):
        recorded(tmp_path, **changes)


def test_missing_files_are_reported(tmp_path):
    (tmp_path / "empty").mkdir()
    for where in ("nowhere.jsonl", str(tmp_path / "empty")):
        with pytest.raises(ConfigError, match=f"target.attempts.word_problems.*{where}"):
            cli_run.run_job(recorded(tmp_path, where), executor=LocalExecutor())
    assert not (tmp_path / "small").exists()


def test_another_run_can_reuse_what_was_asked_on_recorded_answers(tmp_path):
    run = cli_run.run_job(recorded(tmp_path), executor=LocalExecutor()).run
    executor = LocalExecutor()
    config = recorded(tmp_path, name="faster", train__learning_rate=1e-4)
    cli_run.run_job(config, executor=executor, reuse=[run.store.where])
    assert executor.asked["ask"] == 0
    assert Run.read(str(tmp_path / "faster")).stage(0, "instruct").store.get_json("usage.json")["inherited"] > 0
