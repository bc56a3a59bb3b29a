"""The instructor's explanation of a mistake: kept out of samples, shown in the story, judged in a sheet."""

from __future__ import annotations

import csv

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.errors import ConfigError, DataError
from lai_ray.records import Case, Reply, Sample
from lai_ray.report import annotation_sheet, story
from lai_ray.storage.run import Run
from lai_ray.world import rules
from tests.conftest import lai
from tests.local import LocalExecutor, job


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    where = tmp_path_factory.mktemp("explained")
    return cli_run.run_job(job(where, instructor__explain=True), executor=LocalExecutor()).run


def rows(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def judged(path, verdicts, delimiter=","):
    filled = [row | {annotation_sheet.VERDICT: verdict} for row, verdict in zip(rows(path), verdicts, strict=True)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, annotation_sheet.COLUMNS, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(filled)
    return path


def test_the_explanation_is_in_the_reply_and_in_no_sample(run):
    replies = list(run.stage(0, "instruct").view("replies.jsonl", Reply))
    assert replies
    assert all(reply.completion.text.startswith("[MISTAKE] Step ") for reply in replies)
    curated = run.stage(0, "curate")
    samples = [*curated.view("samples.jsonl", Sample), *curated.view("dropped.jsonl", Sample)]
    assert curated.facts()["kept"] == {"word_problems": 30}
    assert not any("MISTAKE" in f"{s.problem.question} {s.turns}" for s in samples)


def test_a_numbered_explanation_is_in_no_sample_either(tmp_path):
    executor = LocalExecutor(reply=lambda request: "1. " + rules.reply(request.messages, request.seed))
    other = cli_run.run_job(job(tmp_path, instructor__explain=True), executor=executor).run
    curated = other.stage(0, "curate")
    samples = [*curated.view("samples.jsonl", Sample), *curated.view("dropped.jsonl", Sample)]
    assert not any("MISTAKE" in f"{s.problem.question} {s.turns}" for s in samples)


def test_the_story_shows_the_explanation(run):
    chapters = {chapter.title: chapter.text for chapter in story.story(run, story.some_case(run))}
    assert chapters["iteration 0: the instructor explains the mistake"].startswith("Step ")


def test_a_sheet_holds_mistakes_in_a_seeded_order_with_an_empty_column(run, tmp_path):
    written = annotation_sheet.write_sheet(run, 5, tmp_path / "a.csv")
    annotation_sheet.write_sheet(run, 5, tmp_path / "same.csv")
    annotation_sheet.write_sheet(run, 5, tmp_path / "other.csv", seed=1)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "same.csv").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() != (tmp_path / "other.csv").read_bytes()
    found = rows(tmp_path / "a.csv")
    assert (written.rows, len(found), written.unexplained) == (5, 5, 0)
    cases = {f"iteration_0 {case.id}": case for case in run.stage(0, "diagnose").view("cases.jsonl", Case)}
    for row in found:
        case = cases[row["id"]]
        assert row["question"] == case.attempt.problem.question
        assert row["wrong answer"] == case.attempt.completion.text
        assert row["right answer"] == case.attempt.problem.answer != ""
        assert row["explanation"].startswith("Step ")
        assert row[annotation_sheet.VERDICT] == ""
    everything = annotation_sheet.write_sheet(run, 10_000, tmp_path / "all.csv")
    assert everything.rows == everything.explained == len(rows(tmp_path / "all.csv"))


@pytest.mark.parametrize(
    "text",
    ["=1+2", "+A1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =cmd|' /C calc'!A0", "＝1", "\x00=1", "\ufeff=1"],
)
def test_a_cell_that_a_spreadsheet_would_run_is_text(text):
    assert annotation_sheet.cell(text) == "'" + text.replace("\x00", "")


@pytest.mark.parametrize("text", ["-5", "+1,000.5", "3 = 3", "It adds = wrong", "", "#### 5", "a\n=b"])
def test_other_cells_stay_as_they_are(text):
    assert annotation_sheet.cell(text) == text


def test_a_cell_is_no_longer_than_a_spreadsheet_holds():
    assert len(annotation_sheet.cell("x" * 50_000)) < 32_767


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_agreement_is_the_share_of_yes_among_those_judged(run, tmp_path, delimiter):
    annotation_sheet.write_sheet(run, 11, tmp_path / "a.csv")
    path = judged(tmp_path / "a.csv", ["yes", "Y", " TRUE ", "1", "yes", "yes", "yes", "yes", "no", "N", ""], delimiter)
    (row,) = annotation_sheet.agreement(path).rows
    assert row == ["10", "8", "80.0%", "49.0% to 94.3%", "1"], "Wilson's textbook case"


def test_the_error_about_a_sheet_that_cannot_be_counted_names_the_row(run, tmp_path):
    path = tmp_path / "a.csv"
    annotation_sheet.write_sheet(run, 2, path)
    with pytest.raises(DataError, match=r"a\.csv.*judged"):
        annotation_sheet.agreement(path)
    with pytest.raises(DataError, match=r"row 2, .*'perhaps'"):
        annotation_sheet.agreement(judged(path, ["yes", "perhaps"]))
    path.write_text(f'id,"{annotation_sheet.VERDICT}"\na,yes\na,no\n')
    with pytest.raises(DataError, match="row 2: 'a'"):
        annotation_sheet.agreement(path)
    path.write_text(f'id,"{annotation_sheet.VERDICT}"\na,yes\n,\n,\n')
    assert annotation_sheet.agreement(path).rows[0][0] == "1", "empty rows do not count"
    path.write_text("question,answer\n")
    with pytest.raises(DataError, match="'id'.*question, answer"):
        annotation_sheet.agreement(path)
    with pytest.raises(ConfigError, match=r"b\.csv.*'a\.csv'"):
        annotation_sheet.agreement(tmp_path / "b.csv")


def test_the_command_writes_a_sheet_counts_a_judged_one_and_names_the_options_it_needs(run, tmp_path):
    sheet = tmp_path / "a.csv"
    done = lai("export", run.store.where, "--annotate", "3", "--out", str(sheet))
    assert done.returncode == 0, done.stderr
    assert "3 of " in done.stdout
    judged(sheet, ["yes", "no", ""])
    assert "50.0%" in lai("export", "--agreement", str(sheet)).stdout
    for arguments in ([], ["--annotate", "3"], [run.store.where, "--agreement", str(sheet)]):
        done = lai("export", *arguments)
        assert done.returncode == 2
        assert "--annotate N --out SHEET.csv" in done.stderr and "--agreement SHEET.csv" in done.stderr


def test_a_sheet_is_never_overwritten_and_needs_explanations(run, tmp_path):
    annotation_sheet.write_sheet(run, 1, tmp_path / "a.csv")
    with pytest.raises(ConfigError, match=r"a\.csv exists"):
        annotation_sheet.write_sheet(run, 1, tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="--annotate 0"):
        annotation_sheet.write_sheet(run, 0, tmp_path / "b.csv")
    with pytest.raises(ConfigError, match=r"none/b\.csv"):
        annotation_sheet.write_sheet(run, 1, tmp_path / "none" / "b.csv")
    silent = cli_run.run_job(job(tmp_path), executor=LocalExecutor()).run
    with pytest.raises(ConfigError, match="instructor.explain = true"):
        annotation_sheet.write_sheet(silent, 1, tmp_path / "b.csv")
