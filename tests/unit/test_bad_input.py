"""Wrong data is refused with its position before anything starts, and huge responses are graded like any other."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lai_ray.cli.check import check
from lai_ray.cli.check.names import check_names
from lai_ray.cli.main import app
from lai_ray.common import plugins
from lai_ray.config import job_file
from lai_ray.errors import ConfigError, DataError
from lai_ray.grading.sandbox import runner
from lai_ray.stages.job import Job
from lai_ray.stages.select import select
from tests.local import job

GSM8K = {"question": "2 + 2?", "answer": "2 + 2 = 4\n#### 4"}
FOREIGN = {"question": "2 + 2?", "A": "1", "B": "2", "C": "3", "D": "4", "subject": "anatomy", "answer": "D"}
HUGE = 10_000_000


def upstream(tmp_path, *rows):
    folder = tmp_path / "files"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    evaluate = {"evaluate__learn_from": ["gsm8k"], "evaluate__report_on": ["gsm8k"]}
    return job(tmp_path, data={"gsm8k": str(folder)}, **evaluate)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GSM8K, {"question": "?"}], r"gsm8k.*train.*row 2 .*files.*'answer'"),
        ([FOREIGN], "row 1 .*files.*mmlu, not of gsm8k"),
        ([], r"files/train\.jsonl: no rows"),
    ],
)
def test_the_error_about_a_wrong_row_of_upstream_data_names_file_and_row(tmp_path, rows, message):
    config = upstream(tmp_path, *rows)
    with pytest.raises(DataError, match=message):
        list(select(Job.of(config), 0)[0])


def test_data_for_a_benchmark_that_does_not_exist_is_an_error_with_a_suggestion(tmp_path):
    with pytest.raises(ConfigError, match="'gsm9k'.*'gsm8k'"):
        check_names(job(tmp_path, data={"gsm9k": str(tmp_path)}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"instructor__base_url": "localhost:8000/v1"}, "instructor.base_url.*'localhost:8000/v1'.*http://"),
        ({"instructor__base_url": "api.openai.com"}, "instructor.base_url.*'api.openai.com'"),
        ({"instructor__base_url": "no_such_module:serve"}, "instructor.base_url.*'no_such_module:serve'"),
        ({"target__engine": "openai"}, "target.engine = 'openai'"),
    ],
)
def test_a_setting_that_would_fail_during_a_run_is_refused_before_it(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        check_names(job(tmp_path, **settings))


def test_an_empty_storage_and_a_file_as_storage_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="storage = .*file"):
        check_names(job(tmp_path).model_copy(update={"storage": str(tmp_path / "file")}))
    for key in ("storage", "data.gsm8k"):
        with pytest.raises(ConfigError, match=f"{key}: .*1 character"):
            job_file.read("jobs/quickstart.toml", [f"{key}="])


def test_a_job_with_wrong_data_is_never_reported_as_valid(tmp_path):
    console = Console(width=200, file=io.StringIO())
    with pytest.raises(DataError):
        check.show(upstream(tmp_path, GSM8K, {"question": "?"}), console)
    assert "valid" not in console.file.getvalue()


@pytest.mark.parametrize(
    ("name", "record", "response", "right"),
    [
        ("mmlu", FOREIGN, "Answer " * (HUGE // 7) + "B", False),
        ("bbh", {"input": "not True is", "target": "False"}, "so the answer is " * (HUGE // 17), False),
        ("gsm8k", GSM8K, "(" * HUGE, False),
        ("gsm8k", GSM8K, "9" * HUGE, False),
        ("arc_challenge", {"id": "x", "question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]},
                           "answerKey": "B"}, "b" * HUGE + "\nAnswer: B", True),
    ],
)  # fmt: skip
def test_a_response_of_ten_megabytes_gets_a_verdict_in_seconds(name, record, response, right):
    benchmark, started = plugins.load("benchmarks", name), time.monotonic()
    grade = benchmark.grade(benchmark.problem(record, "test", 0), response)
    assert grade.status in ("graded", "unparsed")
    assert (grade.score == 1) == right
    assert time.monotonic() - started < 20


def test_a_program_that_prints_a_gigabyte_is_graded_by_what_it_returns(tmp_path):
    try:
        runner.strongest("namespaces")
    except runner.SandboxRefusedError as refused:
        pytest.skip(str(refused))
    program = "def f(n):\n    for _ in range(1024):\n        print('x' * (1 << 20))\n    return 2 * n"
    row = {
        "task_id": "HumanEval/1", "prompt": 'def f(n):\n    """ Twice. """\n', "entry_point": "f",
        "canonical_solution": "    return 2 * n\n", "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        "response": f"```python\n{program}\n```",
    }  # fmt: skip
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    out = tmp_path / "out.jsonl"
    done = CliRunner().invoke(app, ["grade", "humaneval", "--responses", str(tmp_path / "in.jsonl"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text())["correct"] is True
    assert out.stat().st_size < 100_000
