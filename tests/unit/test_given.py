"""Samples from a file (strategy `given`): read, checked and learned as those of an instructor, without a request."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from lai_ray.benchmark_kinds.sample_rows import SampleColumns, given_samples
from lai_ray.benchmark_kinds.user_data import user_benchmark
from lai_ray.benchmarks.gsm8k import BENCHMARK as GSM8K
from lai_ray.benchmarks.mbpp import BENCHMARK as MBPP
from lai_ray.benchmarks.mmlu import BENCHMARK as MMLU
from lai_ray.benchmarks.word_problems import BENCHMARK as WORDS
from lai_ray.cli import run as cli_run
from lai_ray.cli.check import findings, names
from lai_ray.cli.check.check import prompts
from lai_ray.cli.check.dry_run import replayed
from lai_ray.config import job_file
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.contracts import Model, StrategySettings
from lai_ray.errors import ConfigError, DataError, StageError
from lai_ray.records import Attempt, Completion, Grade, Sample
from lai_ray.report.story import some_case, story
from lai_ray.stages.job import Job
from lai_ray.strategies.given import STRATEGY
from tests.conftest import records
from tests.local import Crash, LocalExecutor, job

DATA = Path(os.environ.get("LAI_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
RELEASED = DATA / "lai_generated_train/mistral_LaI_LEC_raw_k_2_train_4000.jsonl.gz"
SETTINGS = StrategySettings(0, 0, 3, 3, Model("", "encoder"), count_cut_off=False, show_reference=False)


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def unused(count, first=100):
    """Rows of word problems that no test of the job has."""
    made = [WORDS.problem(r, "train", 0) for r in list(WORDS.records("train", 5000))[first : first + count]]
    return [{"question": problem.question, "response": WORDS.reference(problem)} for problem in made]


def read(benchmark, rows, tmp_path, **settings):
    """The samples that a benchmark reads from these rows."""
    own = SampleColumns(files=write(tmp_path / "rows.jsonl", rows), **settings)
    problem = replace(WORDS.problem(next(iter(WORDS.load("train"))), "train", 0), benchmark=benchmark.name)
    attempt = Attempt("p#0", problem, [], Completion("", "stop"), Grade(1, None, "r", "graded"))
    given = replace(SETTINGS, own=own)
    cases = STRATEGY.cases([attempt], given, LocalExecutor())
    return [sample for case in cases for sample in STRATEGY.samples(case, [], benchmark, given)]


def given_job(folder, rows, **changes):
    files = write(folder / "samples.jsonl", rows)
    return job(folder, schedule__strategy="given", strategy__given={"files": files}, **changes)


def test_the_rows_of_a_file_are_learned_beside_the_replay_and_nobody_is_asked(tmp_path):
    rows, executor = unused(40), LocalExecutor()
    ended = cli_run.run_job(given_job(tmp_path, rows, train__replay="all"), executor=executor)
    assert not executor.asked["ask"]
    samples = list(ended.run.stage(0, "curate").view("samples.jsonl", Sample))
    assert len(samples) == 30 and all(sample.reply_id is None for sample in samples)
    known = {row["question"]: row["response"] for row in rows}
    assert all(known[sample.problem.question] == sample.turns[0].text for sample in samples)
    right = sum(
        a["grade"]["score"] == 1
        for a in records(tmp_path / "small/iteration_0/evaluate/attempts/word_problems.train.jsonl")
    )
    assert len(executor.jobs[0].examples) == 30 + right > 30


def test_each_row_is_taken_once_and_the_funnel_counts_what_is_wrong_with_it(tmp_path):
    rows = unused(12)
    test = next(iter(WORDS.load("test")))
    copied = WORDS.problem(test, "test", 0)
    rows += [
        dict(rows[0]),
        {"question": "How many?", "response": "It cannot be told."},
        {"question": copied.question, "response": WORDS.reference(copied)},
    ]
    cli_run.run_job(given_job(tmp_path, rows), executor=LocalExecutor())
    funnel = json.loads((tmp_path / "small/iteration_0/curate/funnel.json").read_text())["word_problems"]
    assert funnel["samples"] == 15 and funnel["kept"] == 12 and funnel["duplicate"] == 1
    assert sum(n for reason, n in funnel.items() if reason.startswith("copy of word_problems.test")) == 1


def test_the_story_of_a_row_and_what_check_says_of_its_run(tmp_path):
    config = given_job(tmp_path, unused(20))
    run = cli_run.run_job(config, executor=LocalExecutor()).run
    shown = some_case(run)
    assert shown.startswith("word_problems/given/")
    [learned] = story(run, shown)
    assert learned.title == "iteration 0: learned" and "####" in learned.text
    with replayed(config, [run]) as replay:
        asked = [whom for _, whom in replay.executor.missing]
        assert "instructor" not in asked


def test_a_second_iteration_takes_the_rows_that_are_left(tmp_path):
    config = given_job(tmp_path, unused(50), iterations=2, curate__samples_per_dataset=20)
    run = cli_run.run_job(config, executor=LocalExecutor()).run
    first, second = ({s.problem.question for s in run.stage(i, "curate").view("samples.jsonl", Sample)} for i in (0, 1))
    assert (len(first), len(second)) == (20, 20) and not first & second


def test_killed_in_training_it_keeps_its_samples(tmp_path):
    config = given_job(tmp_path, unused(20))
    with pytest.raises(Crash):
        cli_run.run_job(config, executor=LocalExecutor(die_after={"train": 0}))
    kept = tmp_path / "small/iteration_0/curate/samples.jsonl"
    before, again = records(kept), LocalExecutor()
    cli_run.run_job(config, executor=again)
    assert records(kept) == before and len(again.jobs[0].examples) == 20 and not again.asked["generate"] % 40


def test_other_samples_are_another_run_and_a_moved_file_is_the_same(tmp_path):
    rows = unused(20)
    config = given_job(tmp_path, rows)
    cli_run.run_job(config, executor=LocalExecutor())
    moved = write(tmp_path / "moved.jsonl", rows)
    again = LocalExecutor()
    cli_run.run_job(job(tmp_path, schedule__strategy="given", strategy__given={"files": [moved]}), executor=again)
    assert not again.asked
    write(tmp_path / "samples.jsonl", rows[1:])
    with pytest.raises(ConfigError, match="strategy.given"):
        cli_run.run_job(config, executor=LocalExecutor())


FAULTS = [
    ([{"question": "", "response": "#### 3"}], DataError, "samples.jsonl:1.*'question' is empty"),
    ([{"question": "How many?", "response": "#### 3"}, {"question": "And?", "response": None}], DataError,
     "jsonl:2.*'response' is empty"),
    ([{"question": "How many?", "respnse": "#### 3"}], ConfigError, "jsonl:1.*'response'.*respnse.*strategy.given"),
    ([{"prompt": "How many?", "response": "#### 3"}], ConfigError, "jsonl:1.*'question'.*prompt, response"),
    ([{"question": "How many?", "response": ["#### 3"]}], DataError, "jsonl:1.*list"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "error", "what"), FAULTS)
def test_a_file_that_cannot_be_used_is_refused_by_check_and_run_before_anything_starts(tmp_path, rows, error, what):
    config, executor = given_job(tmp_path, rows), LocalExecutor()
    with pytest.raises(error, match=f"(?s){what}"):
        names.check_names(config)
    with pytest.raises(error, match=f"(?s){what}"):
        cli_run.run_job(config, executor=executor)
    assert not executor.asked and not (tmp_path / "small/iteration_0").exists()


@pytest.mark.parametrize(
    ("files", "what"), [("none.jsonl", "none.jsonl"), ([], "strategy.given.files"), ({"gsm8k": "a"}, "word_problems")]
)
def test_a_job_without_its_file_is_refused(tmp_path, files, what):
    config = job(tmp_path, schedule__strategy="given", strategy__given={"files": files})
    with pytest.raises(ConfigError, match=what):
        names.check_names(config)


def test_such_a_job_needs_no_instructor_and_no_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    table = given_job(tmp_path, unused(5)).dumped()
    del table["instructor"]
    config = job_file.parse(table)
    names.check_names(config)
    assert names.key_problem(config) is None and not Job.of(config).asks_instructor
    assert not any("instructor" in title for title, _ in prompts(Job.of(config)))
    assert not [found for found in findings.here(config, cluster=True, probing=True) if "instructor" in found.text]
    table["curate"]["solve_again"] = True
    with pytest.raises(ConfigError, match="instructor"):
        job_file.parse(table)


def test_a_number_given_apart_is_what_the_response_is_graded_against(tmp_path):
    question = "Ann has 3 apples and buys 4. How many apples has she?"
    rows = [
        {"question": question, "response": "3 + 4 = 7", "gold": "7"},
        {"question": question, "response": "3 + 4 = 7\n#### 7", "gold": 8},
        {"question": question, "response": "3 + 4 = 7", "gold": "7 apples"},
    ]
    right, wrong, worded = read(GSM8K, rows, tmp_path, response="response", answer="gold")
    assert right.dropped is None and right.turns[0].text == "3 + 4 = 7\n#### 7" and right.problem.answer == "7"
    assert wrong.dropped is None and GSM8K.grade(wrong.problem, wrong.turns[0].text).score == 0
    assert worded.turns[0].text.endswith("#### 7")


def test_a_response_without_a_final_line_gets_one_only_where_the_job_says_so(tmp_path):
    rows = [{"question": "Ann has 3 apples and buys 4. How many?", "response": "3 of them and 4 make 7."}]
    (cut,) = read(GSM8K, rows, tmp_path)
    assert "####" in cut.dropped
    (added,) = read(GSM8K, rows, tmp_path, add_final_line=True)
    assert added.dropped is None and added.turns[0].text.endswith("\n#### 7")


def test_choices_are_a_list_an_object_or_json_and_the_answer_a_letter_or_a_text(tmp_path):
    texts = ["Oxygen", "Iron", "Gold", "Neon"]
    rows = [
        {"q": "Which of these is a noble gas?", "options": texts, "key": "D", "why": "Neon has a full shell."},
        {"q": "Which metal rusts?", "options": dict(zip("ABCD", texts, strict=True)), "key": "Iron", "why": "It does."},
        {"q": "Which one do we breathe?", "options": json.dumps(texts), "key": "A", "why": "It is in the air."},
    ]
    columns = {"question": "q", "options": "options", "answer": "key", "response": "why"}
    samples = read(MMLU, rows, tmp_path, **columns)
    assert [sample.problem.answer for sample in samples] == ["D", "B", "A"]
    assert [sample.dropped for sample in samples] == [None] * 3
    assert samples[1].problem.extra["choices"] == dict(zip("ABCD", texts, strict=True))
    assert all(MMLU.grade(sample.problem, sample.turns[0].text).score == 1 for sample in samples)
    with pytest.raises(DataError, match=r"rows.jsonl:1.*'Lead'"):
        read(MMLU, [rows[0] | {"key": "Lead"}], tmp_path, **columns)


def test_a_program_comes_with_its_tests(tmp_path):
    rows = [
        {
            "question": 'def twice(n: int) -> int:\n    """ Return n doubled. """',
            "answer": "def twice(n: int) -> int:\n    return 2 * n",
            "asserts": ["assert twice(2) == 4", "assert twice(0) == 0"],
        }
    ]
    (sample,) = read(MBPP, rows, tmp_path, tests="asserts")
    assert sample.dropped is None and sample.problem.extra["entry"] == "twice"
    assert "assert twice(2) == 4" in sample.problem.extra["test"] and "return 2 * n" in sample.turns[0].text


def test_a_users_labels_and_conversations_are_read(tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text("text,label\nGood.,good\nBad.,bad\n")
    settings = BenchmarkSettings(name="reviews", kind="label", train=str(file), question="text", answer="label")
    turns = [{"role": "user", "content": "A fine film."}, {"role": "assistant", "content": "good"}]
    (sample,) = read(
        user_benchmark(settings), [{"messages": turns}], tmp_path, question="messages", response="messages"
    )
    assert (sample.problem.question, sample.problem.answer, sample.dropped) == ("A fine film.", "good", None)


def test_a_row_that_reads_as_several_samples_is_dropped_not_half_learned(tmp_path):
    two = "Ann has 3 apples. How many?\nAnswer: 3\n#### 3\n\n2. Question: Bob has 4. How many?"
    (sample,) = read(GSM8K, [{"question": two, "response": "4\n#### 4"}], tmp_path)
    assert sample.dropped and not sample.turns[0].text


def test_json_arrays_and_packed_files_are_read(tmp_path):
    rows = unused(3)
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, rows)))
    for name in ("a.json", "b.jsonl.gz"):
        found = list(given_samples(SampleColumns(files=str(tmp_path / name)), "word_problems"))
        assert [sample.question for sample in found] == [row["question"] for row in rows]


def test_a_file_without_a_usable_row_stops_the_run_with_the_reasons(tmp_path):
    rows = [{"question": "How many?", "response": "It cannot be told."}]
    with pytest.raises(StageError, match="final"):
        cli_run.run_job(given_job(tmp_path, rows), executor=LocalExecutor())


@pytest.mark.skipif(not RELEASED.exists(), reason="LAI_TEST_DATA has no lai_generated_train")
def test_the_published_samples_of_gpt_4_are_read_one_from_a_row(tmp_path):
    own = SampleColumns(files=str(RELEASED), add_final_line=True)
    given = replace(SETTINGS, own=own)
    problem = replace(WORDS.problem(next(iter(WORDS.load("train"))), "train", 0), benchmark="gsm8k")
    attempt = Attempt("p#0", problem, [], Completion("", "stop"), Grade(1, None, "r", "graded"))
    cases = list(STRATEGY.cases([attempt], given, LocalExecutor()))
    assert len(cases) == len({case.id for case in cases}) == 4000
    samples = [sample for case in cases[::20] for sample in STRATEGY.samples(case, [], GSM8K, given)]
    usable = [sample for sample in samples if sample.dropped is None]
    assert len(samples) == 200 and len(usable) > 150 and not any(s.problem.question.startswith("#") for s in usable)
