"""Reports and screens say what is unfinished, and what was cut off, not read or failed."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lai_ray.cli import run as cli_run
from lai_ray.cli.check import budget
from lai_ray.cli.check.dry_run import replayed
from lai_ray.cli.main import app
from lai_ray.config.config import Config
from lai_ray.contracts import Model
from lai_ray.errors import ConfigError, StageError
from lai_ray.records import Answer, Request
from lai_ray.report import facts, sections
from lai_ray.report.comparison import side_by_side
from lai_ray.report.tables import Table
from lai_ray.stages.job import Job
from lai_ray.storage.run import Run
from tests.local import LocalExecutor, job


class Talkative(LocalExecutor):
    """A target of which every third answer is cut off before its number, and every third has none."""

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        for i, answer in enumerate(super().generate(requests, target)):
            done = answer.completion
            changed = (done, replace(done, text="Let me think.", finish_reason="length"), replace(done, text="Hm."))
            yield Answer(answer.id, answer.key, changed[i % 3])


def made(folder: Path, executor: LocalExecutor | None = None, until: str | None = None, **changes: Any) -> Run:
    return cli_run.run_job(job(folder, **changes), executor=executor or LocalExecutor(), until=until).run


def titled(run: Run, title: str) -> Table:
    return next(table for table in sections.tables_of(run) if table.title.startswith(title))


@pytest.mark.parametrize(
    ("until", "following"),
    [
        ("0/evaluate", "iteration_0/diagnose"), ("0/instruct", "iteration_0/curate"),
        ("0/train", "iteration_1/evaluate"), ("1/evaluate", "iteration_1/diagnose"),
    ],
)  # fmt: skip
def test_the_report_of_an_unfinished_run_says_so_and_what_comes_next(tmp_path, until, following):
    run = made(tmp_path, until=until, iterations=2)
    assert titled(run, "This run is unfinished").rows[0][2] == following
    finished = made(tmp_path, iterations=2)
    assert facts.next_stage(finished) == ""
    assert not [table for table in sections.tables_of(finished) if "unfinished" in table.title]


def test_a_run_with_nothing_done_has_a_line_that_says_so(tmp_path):
    class Failing(LocalExecutor):
        def generate(self, requests: Any, target: Any) -> Any:
            raise RuntimeError("no engine")

    with pytest.raises(RuntimeError):
        made(tmp_path, Failing())
    run = Run.read(f"{tmp_path}/small")
    (table,) = sections.tables_of(run)
    assert table.rows == [["small", "0 of 2", "iteration_0/evaluate"]]


def test_a_search_and_a_rehearsal_are_next_stages_too(tmp_path):
    run = made(tmp_path, until="0/curate", curate__rehearse=1)
    assert facts.next_stage(run) == "iteration_0/rehearse"
    run = made(tmp_path / "other", until="0/evaluate", search__learning_rate=[1e-4, 1e-3])
    assert facts.next_stage(run) == "iteration_0/search"


def test_an_unfinished_run_is_not_compared_by_its_untouched_target(tmp_path):
    whole = made(tmp_path)
    begun = made(tmp_path, until="0/train", name="begun")
    nothing = made(tmp_path, until="0/evaluate", name="no_tests", evaluate__report_on=[])
    for runs in ([whole, begun, nothing], [begun, whole]):
        table = side_by_side(runs)
        rows = {row[0].partition("\n")[0]: row for row in table.rows}
        assert "unfinished, next is iteration_1/evaluate" in rows["begun"][0]
        assert rows["begun"][3] != "–" and rows["begun"][4:] == ["–", "–", "–"]
        assert rows["small"][4] != "–" and rows["small"][6] == "–"
        assert "An unfinished run has no last answers yet" in table.note
    assert len(side_by_side([whole, begun, nothing]).rows) == 3, "a run without any score has its row"


def test_mistakes_that_are_no_cases_are_counted_with_the_reason(tmp_path):
    screen = io.StringIO()
    config = job(tmp_path)
    run = cli_run.run_job(config, executor=Talkative(), console=Console(file=screen, width=300)).run
    counted = run.stage(0, "diagnose").facts()
    mistakes = counted["attempts"]["word_problems"]["wrong"] + counted["attempts"]["word_problems"]["unparsed"]
    cases, cut_off = counted["cases"]["word_problems"], counted["attempts"]["word_problems"]["cut off"]
    assert mistakes == cases + cut_off and cut_off > 5
    line = rf"60 attempts, {mistakes} mistakes, {cases} cases, {cut_off} cut off \(raise target.max_new_tokens"
    assert re.search(line, screen.getvalue())
    table = titled(run, "From attempts to samples")
    assert table.rows[0][table.columns.index("cases")] == str(cases)
    assert f"{cut_off} wrong or unparsed answers were cut off at target.max_new_tokens" in table.note


def test_a_target_whose_mistakes_were_all_cut_off_is_not_called_faultless(tmp_path):
    class Endless(LocalExecutor):
        def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
            for answer in super().generate(requests, target):
                yield replace(answer, completion=replace(answer.completion, finish_reason="length"))

    screen = io.StringIO()
    cli_run.run_job(job(tmp_path), executor=Endless(), console=Console(file=screen, width=300))
    assert re.search(r"\d+ mistakes and no case, \d+ cut off .*nothing to learn from", screen.getvalue())


def test_answers_that_were_not_read_stand_beside_every_test_score(tmp_path):
    run = made(tmp_path, Talkative())
    counts = facts.iterations(run)[0].scores()["word_problems.test"]
    words = f"{counts['unparsed']} unparsed, {counts['cut_off']} cut off"
    assert counts["unparsed"] > counts["cut_off"] > 5
    table = titled(run, "Test scores, percent")
    assert table.rows[0][2].endswith(words)
    assert "raise it" in table.note and "target.max_new_tokens" in table.note and "Unparsed:" in table.note
    beside = side_by_side([run, made(tmp_path, name="plain")])
    assert beside.rows[0][3].endswith(words) and "unparsed" not in beside.rows[1][3]
    card = run.store.get("iteration_0/train/checkpoint/README.md")
    assert card is None or b"unparsed" in card


def test_further_rules_have_their_scores(tmp_path):
    run = made(tmp_path, until="0/evaluate")
    name = "iteration_0/evaluate/scores.json"
    scores = run.store.get_json(name)
    scores["word_problems.test"]["further"] = {"strict": 10.0, "flexible": 30.0}  # As of gsm8k.
    run.store.put_json(name, scores)
    table = titled(run, "Test scores by further rules")
    assert table.rows == [["word_problems", "flexible", "75.0"], ["word_problems", "strict", "25.0"]]


PRICED = {"instructor__usd_per_million_input": 10.0, "instructor__usd_per_million_output": 30.0}


class Refusing(LocalExecutor):
    """An instructor that charges for replies which cannot be used: each call fails."""

    def ask(self, *arguments: Any) -> Iterator[Answer]:
        for answer in super().ask(*arguments):
            yield replace(answer, completion=replace(answer.completion, error="refused"))


def budget_of(config: Config) -> Table:
    own = cli_run.existing(config)
    with replayed(config, [own]) as replay:
        (pool,) = budget.known_pools(replay, own)
        assert pool.so_far.known.calls == 15
        assert pool.to_come == pool.likely
        return budget.tables_of(Job.of(config), replay, own)[1]


def test_failed_calls_are_no_progress_towards_what_is_still_to_come(tmp_path):
    limits = {"limits__max_failed_fraction": 0.0, "limits__max_usd": 1.0, **PRICED}
    with pytest.raises(StageError, match="failed"):
        made(tmp_path, Refusing(), **limits)
    config = job(tmp_path, **limits)
    ((_, most, spent, left, to_come, verdict),) = budget_of(config).rows
    assert (most, spent, left, verdict) == ("1", "0.0105", "0.9895", "enough") and float(to_come) > 0
    config = job(tmp_path, **{**limits, "limits__max_usd": 0.011})
    assert budget_of(config).rows[0][-1].startswith("too low")


def test_money_is_reported_as_soon_as_any_is_spent_with_a_total(tmp_path):
    with pytest.raises(StageError, match="max_usd"):
        made(tmp_path, limits__max_usd=0.15, **PRICED)
    run = Run.read(f"{tmp_path}/small")
    ((number, calls, failed, *_, money, reused),) = titled(run, "Instructor").rows
    assert (number, failed, reused) == ("0", "0", "0") and 0 < int(calls) < 15
    assert money == f"{int(calls) * 0.0007:.4f}"
    done = made(tmp_path, iterations=2, limits__max_usd=100, **PRICED)
    *each, total = titled(done, "Instructor").rows
    assert [row[0] for row in each] == ["0", "1"] and total[0] == "total"
    assert int(total[1]) == sum(int(row[1]) for row in each)
    assert float(total[6]) == pytest.approx(sum(float(row[6]) for row in each), abs=2e-4)


def test_failed_calls_stand_in_the_report_before_the_stage_is_complete(tmp_path):
    with pytest.raises(StageError, match="failed"):
        made(tmp_path, Refusing(), limits__max_failed_fraction=0.0, **PRICED)
    (row,) = titled(Run.read(f"{tmp_path}/small"), "Instructor").rows
    assert row[1:3] == ["15", "15"] and row[7] == "0.0105"


def test_a_folder_of_runs_is_reported_run_by_run_and_what_is_no_run_is_named(tmp_path):
    for name in ("b", "a"):
        made(tmp_path / "sweep", name=name, until="0/evaluate")
    (tmp_path / "sweep" / "sweep.csv").write_text("run\n")
    shown = CliRunner().invoke(app, ["report", f"{tmp_path}/sweep/"])
    assert shown.exit_code == 0, shown.output
    assert "Runs side by side" in shown.output and shown.output.count("lec") == 2
    globbed = sorted(map(str, (tmp_path / "sweep").glob("*")))
    shown = CliRunner().invoke(app, ["report", *globbed])
    assert shown.exit_code == 0 and "sweep.csv" in shown.output and "no run in" in shown.output
    assert [run.name for where in globbed for run in Run.all_in(where)] == ["a", "b"]
    with pytest.raises(ConfigError, match="Runs below it: a, b"):
        Run.read(f"{tmp_path}/sweep")
    refused = CliRunner().invoke(app, ["report", f"{tmp_path}/nothing"])
    assert isinstance(refused.exception, ConfigError) and "no run here" in str(refused.exception)
