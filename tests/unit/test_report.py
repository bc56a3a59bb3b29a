"""Tables and stories agree with the run's files, and a report can have sections of the user's own."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from rich.console import Console

from lai_ray.cli import run as cli_run
from lai_ray.common.intervals import paired, score
from lai_ray.errors import ConfigError
from lai_ray.report import facts, sections, story, tables
from lai_ray.report.comparison import side_by_side
from lai_ray.storage.run import Run
from tests.local import LocalExecutor, job


@pytest.fixture
def run(tmp_path):
    return cli_run.run_job(job(tmp_path), executor=LocalExecutor()).run


def test_wilsons_interval_has_the_textbook_value_and_stays_within_bounds():
    found = score(8, 10)
    assert (round(found.low, 3), round(found.high, 3)) == (0.490, 0.943)
    assert score(0, 5).low == pytest.approx(0)
    assert score(5, 5).high <= 1
    with pytest.raises(ValueError, match="problems"):
        score(0, 0)


def test_a_paired_change_counts_problems_gained_and_lost():
    before = {"a": True, "b": False, "c": False, "d": False, "only before": True}
    after = {"a": False, "b": True, "c": True, "d": False, "only after": True}
    found = paired(before, after)
    assert found.value == pytest.approx(1 / 4)
    assert found.low < found.value < found.high
    assert paired(after, after) == paired({"x": True}, {"x": True})
    with pytest.raises(ValueError, match="both"):
        paired({"a": True}, {"b": True})


def test_a_significant_change_excludes_zero():
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
    sections.write(run, sections.tables_of(run))
    text = run.store.get("report.md").decode()
    assert "| word_problems<br>in-domain | 40 |" in text
    assert text.count(" to +") >= 1
    assert "## Time, seconds" in text


def test_scores_by_kind_add_up_to_the_whole(run):
    first = facts.iterations(run)[0]
    part = first.scores()["word_problems.test"]
    assert sum(group["n"] for group in part["groups"].values()) == part["n"] == 40
    assert sum(group["right"] for group in part["groups"].values()) == part["right"]


def test_two_runs_are_compared_side_by_side(run, tmp_path):
    other = cli_run.run_job(job(tmp_path, name="other", schedule__strategy="untargeted"), executor=LocalExecutor()).run
    table = side_by_side([run, other])
    assert [row[:2] for row in table.rows] == [["small", "lec"], ["other", "untargeted"]]
    assert table.rows[0][-1] == "–"
    assert "to" in table.rows[1][-1]


def test_a_story_goes_from_the_mistake_to_what_was_learned(run):
    titles = [chapter.title for chapter in story.story(run, story.some_case(run))]
    assert titles[0] == "iteration 0: the target answers"
    assert "iteration 0: similar questions answered correctly" in titles
    assert titles.index("iteration 0: the instructor is asked") < titles.index("iteration 0: the instructor writes")
    assert "iteration 0: learned" in titles


def test_the_error_about_an_unknown_problem_shows_an_id_of_the_run(run):
    with pytest.raises(ConfigError, match=r"'gsm8k/train/1'.* 'word_problems/train/"):
        story.story(run, "gsm8k/train/1")


def test_a_run_that_was_stopped_early_still_has_a_report(tmp_path):
    run = cli_run.run_job(job(tmp_path), until="diagnose", executor=LocalExecutor()).run
    assert [t.title for t in sections.tables_of(run)][:2] == ["This run is unfinished", "Test scores, percent"]
    titles = [chapter.title for chapter in story.story(run, story.some_case(run))]
    assert titles[0] == "iteration 0: the target answers"
    run = cli_run.run_job(job(tmp_path / "other"), until="evaluate", executor=LocalExecutor()).run
    with pytest.raises(ConfigError, match=r"other.*no mistake"):
        story.some_case(run)


def test_runs_with_different_tests_or_one_measurement_are_not_subtracted(tmp_path):
    def finished(name: str, questions: str, **changes: Any) -> Run:
        rows = [{"question": f"{questions} {i} and {i}?", "answer": str(2 * i)} for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        mine = {"name": "mine", "kind": "number", "test": str(tmp_path / f"{name}.jsonl")}
        table = {"benchmark": [mine], "evaluate__report_on": ["mine"], "iterations": 1, **changes}
        return cli_run.run_job(job(tmp_path / name, **table), executor=LocalExecutor()).run

    sums, other = finished("one", "What is"), finished("two", "How many are", iterations=0)
    table = side_by_side([sums, other, finished("three", "What is")])
    changes, against = ([row[place] for row in table.rows] for place in (-2, -1))
    assert changes[0] != "–" and changes[1] == "–", "measured once"
    assert against[1] == "–", "no question in common"
    assert "+0.0" in against[2]


OWN_SECTION = """
from lai_ray.report import facts
from lai_ray.report.tables import Table

def SECTION(run, confidence):
    table = Table("Kept samples", ["iteration", "samples", "level"], note="From a file of the user's own.")
    for row in facts.funnel_rows(run):
        table.rows.append([row["iteration"], row["kept"], confidence])
    return [table, Table("Without rows", ["a"])]

def BROKEN(run, confidence):
    yield Table("Half a section", ["a"], [["b"]])
    raise KeyError("no such figure")

def UNEVEN(run, confidence):
    return [Table("Uneven", ["a", "b"], [["c"]])]

def NO_TABLE(run, confidence):
    return ["a text"]

NO_FUNCTION = 3
"""


@pytest.fixture
def own_sections(tmp_path, monkeypatch):
    (tmp_path / "own_sections.py").write_text(OWN_SECTION)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_sections", None)


def test_a_section_of_the_users_own_follows_the_built_in_ones_and_may_be_added_to_a_finished_run(
    run, tmp_path, own_sections
):
    before = [table.title for table in sections.tables_of(run)]
    changed = job(tmp_path, report={"sections": ["own_sections:SECTION"], "confidence": 0.9})
    run = cli_run.run_job(changed, executor=LocalExecutor()).run
    made = sections.tables_of(run)
    assert [table.title for table in made] == [*before, "Kept samples"]
    assert made[-1].rows == [["0", 30, 0.9]]
    sections.write(run, made)
    assert "| 0 | 30 | 0.9 |" in run.store.get("report.md").decode()


def test_a_section_that_fails_is_named_with_its_error_and_the_others_follow(tmp_path, own_sections):
    broken = [f"own_sections:{name}" for name in ("BROKEN", "UNEVEN", "NO_TABLE")]
    names = [*broken, "own_sections:SECTION"]
    run = cli_run.run_job(job(tmp_path, report={"sections": names}), executor=LocalExecutor()).run
    *_, first, uneven, no_table, last = sections.tables_of(run)
    assert first.rows == [["own_sections:BROKEN", "KeyError: 'no such figure'"]]
    assert [uneven.rows[0][0], no_table.rows[0][0], last.title] == [*broken[1:], "Kept samples"]
    (tmp_path / "own_sections.py").unlink()
    del sys.modules["own_sections"]
    assert [table.rows[0][0] for table in sections.tables_of(run)[-4:]] == names, "a file that is gone fails as well"


@pytest.mark.parametrize("width", [20, 45, 60, 80, 200])
def test_a_table_is_as_wide_as_the_terminal_at_most_and_breaks_no_word_that_fits(width):
    long = tables.Table(
        "t", ["the name of it", "how many", "a text"], [["word_problems_plus.test", "2,100", "a b " * 20]]
    )
    console = Console(width=width, file=io.StringIO())
    tables.show([long], console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert ("word_problems_plus.test" in console.file.getvalue()) == (width > 40)


@pytest.mark.parametrize("name", ["own_sections:NO_FUNCTION", "own_sections:SECTIO", "no_such_file:SECTION", "scores"])
def test_a_section_that_cannot_be_loaded_is_refused_before_anything_starts(tmp_path, own_sections, name):
    with pytest.raises(ConfigError, match=rf"report\.sections.*{name.rpartition(':')[2]}"):
        cli_run.run_job(job(tmp_path, report={"sections": [name]}), executor=LocalExecutor())
