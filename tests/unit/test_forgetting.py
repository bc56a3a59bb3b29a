"""After each iteration: what was learned, kept and forgotten, equal to a recount from the attempts."""

from __future__ import annotations

import json

from rich.console import Console

from lai_ray.cli import run as cli_run
from lai_ray.report import sections
from lai_ray.stages.forgetting import lines, warnings
from tests.conftest import records
from tests.local import LocalExecutor, job


def recount(folder, part: str) -> dict[str, dict[str, int]]:
    """From the files alone, by group and "all"."""
    before, after = (
        {a["id"]: a for a in records(folder / f"iteration_{i}/evaluate/attempts/{part}.jsonl")} for i in (0, 1)
    )
    counts: dict[str, dict[str, int]] = {}
    for key in before.keys() & after.keys():
        was, now = (each[key]["grade"]["score"] >= 1 for each in (before, after))
        fate = {(0, 1): "learned", (1, 1): "kept", (1, 0): "forgotten", (0, 0): "never"}[was, now]
        for group in ("all", before[key]["problem"]["extra"]["kind"]):
            table = counts.setdefault(group, dict.fromkeys(("learned", "kept", "forgotten", "never"), 0))
            table[fate] += 1
    return counts


def test_the_ledger_equals_a_recount_from_the_attempts(tmp_path):
    config = job(tmp_path, iterations=2, evaluate__report_on=["word_problems", "word_problems_plus"])
    cli_run.run_job(config, executor=LocalExecutor())
    folder = tmp_path / "small"
    parts = json.loads((folder / "iteration_1/evaluate/ledger.json").read_text())["parts"]
    assert set(parts) == {"word_problems.train", "word_problems.test", "word_problems_plus.test"}
    for part in ("word_problems.train", "word_problems.test"):
        expected, table = recount(folder, part), parts[part]
        assert {name: table[name] for name in expected["all"]} == expected["all"]
        assert table["learned_rate"] == round(expected["all"]["learned"] / table["n"], 6)
        groups = {group: {name: t[name] for name in expected["all"]} for group, t in table["groups"].items()}
        assert groups == {group: counts for group, counts in expected.items() if group != "all"}
    last = json.loads((folder / "iteration_2/evaluate/ledger.json").read_text())["parts"]
    assert "word_problems.train" not in last, "training problems are not answered after the last iteration"
    assert not (folder / "iteration_0/evaluate/ledger.json").exists()


def test_it_is_shown_once_at_the_end_of_an_iteration_and_reported_over_all(tmp_path):
    config = job(tmp_path, iterations=1)
    with (tmp_path / "screen.txt").open("w") as file:
        run = cli_run.run_job(config, executor=LocalExecutor(), console=Console(file=file, width=100)).run
    screen = (tmp_path / "screen.txt").read_text()
    (line,) = [line for line in screen.splitlines() if line.strip().startswith("word_problems.test ")]
    table = json.loads((tmp_path / "small/iteration_1/evaluate/ledger.json").read_text())["parts"]["word_problems.test"]
    assert line.split()[1:6] == [str(table[name]) for name in ("n", "learned", "kept", "forgotten", "never")]
    (shown,) = (t for t in sections.tables_of(run) if t.title.startswith("Learned and forgotten"))
    assert shown.rows[0][:3] == ["word_problems.test", "0 → 1", "40"]
    with (tmp_path / "again.txt").open("w") as file:
        cli_run.run_job(config, executor=LocalExecutor(), console=Console(file=file, width=100))
    assert "since the last iteration" not in (tmp_path / "again.txt").read_text()


def test_a_run_that_is_to_stop_after_an_evaluation_stops_there_with_its_ledger(tmp_path):
    for i in (0, 1):
        cli_run.run_job(job(tmp_path, iterations=2), executor=LocalExecutor(), until=f"{i}/evaluate")
        folder = tmp_path / f"small/iteration_{i}"
        assert (folder / "evaluate/ledger.json").exists() == bool(i) and not (folder / "diagnose").exists()


def part(change, before=100.0, after=100.0):
    table = {"n": 100, "learned": 1, "kept": 60, "forgotten": 20, "never": 19, "change": change}
    return {"t.test": {**table, "characters": [before, after], "groups": {"add": table}}}


def test_a_group_that_loses_more_than_its_interval_and_answers_that_shrink_are_reported():
    assert list(warnings(part([-0.19, -0.25, -0.1]))) == ["  t.test: add lost 19.0 points (20 of 100 forgotten)"]
    assert list(warnings(part([-0.01, -0.05, 0.03]))) == []
    assert list(warnings(part([0.1, 0.0, 0.2], 295.0, 116.0))) == [
        "  t.test: answers shrank from 295 to 116 characters"
    ]
    assert list(warnings(part([0.1, 0.0, 0.2], 100.0, 67.0))) == []


def test_the_lines_are_one_table_under_80_columns():
    table = list(lines(part([-0.19, -0.25, -0.1])))
    assert len({len(line) for line in table}) == 1 and len(table[0]) <= 80
    assert table[1].split() == ["t.test", "100", "1", "60", "20", "19", "-19.0"]


def test_a_group_of_a_few_problems_raises_no_alarm():
    few = part([-1.0, -1.0, -1.0])
    few["t.test"]["groups"]["add"] |= {"n": 2, "learned": 0, "kept": 0, "forgotten": 2, "never": 0}
    assert list(warnings(few)) == []
