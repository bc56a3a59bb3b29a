"""Tables and stories say what the run's files say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.common.intervals import paired, score
from lai_ray.errors import ConfigError
from lai_ray.report import facts, story, tables
from lai_ray.storage.run import Run
from tests.local import LocalExecutor, job


@pytest.fixture
def run(tmp_path):
    return cli_run.run_job(job(tmp_path), executor=LocalExecutor()).run


def test_wilsons_interval_holds_the_textbook_case_and_stays_within_bounds():
    found = score(8, 10)
    assert (round(found.low, 3), round(found.high, 3)) == (0.490, 0.943)
    assert score(0, 5).low == pytest.approx(0)
    assert score(5, 5).high <= 1
    with pytest.raises(ValueError, match="no problems"):
        score(0, 0)


def test_a_paired_change_counts_problems_gained_and_lost():
    before = {"a": True, "b": False, "c": False, "d": False, "only before": True}
    after = {"a": False, "b": True, "c": True, "d": False, "only after": True}
    found = paired(before, after)
    assert found.value == pytest.approx(1 / 4)
    assert found.low < found.value < found.high
    assert paired(after, after) == paired({"x": True}, {"x": True})
    with pytest.raises(ValueError, match="both times"):
        paired({"a": True}, {"b": True})


def test_a_change_that_is_no_chance_excludes_zero():
    before = {str(i): False for i in range(100)}
    after = {str(i): i < 10 for i in range(100)}
    assert paired(before, after).low > 0


def test_the_funnel_narrows_from_attempts_to_samples(run):
    (row,) = facts.funnel_rows(run)
    assert row["attempts"] == 60
    assert row["attempts"] >= row["mistakes"] >= row["cases"] > 0
    assert row["samples"] == row["kept"] + sum(row["dropped"].values())
    assert row["kept"] == 30


def test_the_report_names_domain_interval_and_change(run):
    text = tables.markdown(run)
    assert "| word_problems<br>in-domain | 40 |" in text
    assert text.count(" to +") >= 1
    assert "## Time, seconds" in text


def test_scores_by_kind_add_up_to_the_whole(run):
    first = facts.iterations(run)[0]
    part = first.scores()["word_problems.test"]
    assert sum(group["n"] for group in part["groups"].values()) == part["n"] == 40
    assert sum(group["right"] for group in part["groups"].values()) == part["right"]


def test_two_runs_stand_side_by_side(run, tmp_path):
    other = cli_run.run_job(job(tmp_path, name="other", schedule__strategy="untargeted"), executor=LocalExecutor()).run
    (table,) = tables.side_by_side([run, other])
    assert [row[:2] for row in table.rows] == [["small", "lec"], ["other", "untargeted"]]
    assert table.rows[0][-1] == "–"
    assert "to" in table.rows[1][-1]


def test_a_story_goes_from_the_mistake_to_what_was_learned(run):
    titles = [chapter.title for chapter in story.story(run, story.some_case(run))]
    assert titles[0] == "iteration 0: the target answers"
    assert "iteration 0: beside it, what the target got right" in titles
    assert titles.index("iteration 0: the instructor is asked") < titles.index("iteration 0: the instructor writes")
    assert "iteration 0: learned" in titles


def test_a_story_of_an_unknown_problem_says_what_ids_look_like(run):
    with pytest.raises(ConfigError, match=r"no attempt at 'gsm8k/train/1'. Ids look like 'word_problems/train/"):
        story.story(run, "gsm8k/train/1")


def test_a_run_that_was_stopped_early_still_has_a_report(tmp_path):
    run = cli_run.run_job(job(tmp_path), until="diagnose", executor=LocalExecutor()).run
    assert tables.one_run(run)[0].title == "Test scores, percent"
    titles = [chapter.title for chapter in story.story(run, story.some_case(run))]
    assert titles[0] == "iteration 0: the target answers"
    run = cli_run.run_job(job(tmp_path / "other"), until="evaluate", executor=LocalExecutor()).run
    with pytest.raises(ConfigError, match="no mistake was taken up yet"):
        story.some_case(run)


def test_runs_with_different_tests_or_one_measurement_are_not_subtracted(tmp_path):
    def finished(name: str, questions: str, **changes: Any) -> Run:
        rows = [{"question": f"{questions} {i} and {i}?", "answer": str(2 * i)} for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        mine = {"name": "mine", "kind": "number", "test": str(tmp_path / f"{name}.jsonl")}
        table = {"benchmark": [mine], "evaluate__report_on": ["mine"], "iterations": 1, **changes}
        return cli_run.run_job(job(tmp_path / name, **table), executor=LocalExecutor()).run

    sums, other = finished("one", "What is"), finished("two", "How many are", iterations=0)
    [table] = tables.side_by_side([sums, other, finished("three", "What is")])
    changes, against = ([row[place] for row in table.rows] for place in (-2, -1))
    assert changes[0] != "–" and changes[1] == "–", "measured once"
    assert against[1] == "–", "no question in common"
    assert "+0.0" in against[2]
