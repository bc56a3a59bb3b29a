"""`lai grade` writes the same rows in the same order with their verdicts; an error in a file names the line."""

from __future__ import annotations

import csv
import gzip
import json
import time

import pytest
from typer.testing import CliRunner

from lai_ray.cli.grade import benchmark_named, grade_file, rules_named
from lai_ray.cli.main import app
from lai_ray.errors import ConfigError, DataError

MMLU = {"question": "2 + 2?", "A": "3", "B": "4", "C": "5", "D": "6", "answer": "B", "subject": "college_mathematics"}
GSM8K = {"question": "2 + 2?", "answer": "2 + 2 = 4\n#### 4"}
ARC = {"id": "x", "question": "2 + 2?", "answer": "2", "1": "3", "2": "4", "label": ["1", "2"]}
PLUS = {"question": "2 + 2?", "answer": "so 5 or #### 4 of 7", "extracted_answer": "4", "type": "problem understanding"}


def graded(tmp_path, name, rows, *, file="in.jsonl", rules="default"):
    path = tmp_path / file
    if isinstance(rows, bytes):
        path.write_bytes(rows)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    summary = grade_file(benchmark_named(name, None), path, tmp_path / "out.jsonl", rules_named(rules))
    return summary, [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "record", "right", "wrong"),
    [
        ("mmlu", MMLU, "Answer: B", "Answer: C"),
        ("mmlu", {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1, "subject": "college_mathematics"},
         "Answer: B", "4. No: the answer is C"),
        ("gsm8k", GSM8K, "It is 4.", "It is 5."),
        ("gsm_plus", PLUS, "#### 4", "#### 7"),
        ("gsm_plus", {"question": "?", "solution": "#### 0.5", "answer": "1/2", "perturbation_type": "digit expansion"},
         "#### 0.5", "#### 2"),
        ("arc_challenge", ARC, "Answer: 2", "Answer: 1"),
        ("arc_challenge", {"id": "x", "question": {"stem": "?", "choices": [{"text": "a", "label": "A"},
                           {"text": "b", "label": "B"}]}, "answerKey": "B"}, "Answer: B", "A"),
        ("arc_challenge", {"id": "x", "question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]},
                           "answerKey": "B"}, "Answer: B", "A"),
        ("bbh", {"input": "not True is", "target": "False"}, "So the answer is False.", "True"),
    ],
)  # fmt: skip
def test_rows_of_every_form_come_out_in_order_with_verdicts(tmp_path, name, record, right, wrong):
    rows = [record | {"response": text, "n": i} for i, text in enumerate([right, wrong, "", right])]
    summary, out = graded(tmp_path, name, rows)
    assert [(row["n"], row["correct"]) for row in out] == [(0, True), (1, False), (2, False), (3, True)]
    assert [row["status"] for row in out] == ["graded", "graded", "unparsed", "graded"]
    assert all(row["response"] == rows[i]["response"] and "rule" in row for i, row in enumerate(out))
    assert (summary.n, summary.right) == (4, 2)


def test_the_gold_answer_of_a_row_stays_beside_the_answer_found(tmp_path):
    _, (row,) = graded(tmp_path, "mmlu", [MMLU | {"response": "It is (C)."}])
    assert (row["gold"], row["answer"], row["correct"]) == ("B", "C", False)


def test_paper_rules_are_chosen_by_name(tmp_path):
    rows = [GSM8K | {"response": "so 4 plums in 3 days. The answer is 4 in all 3."}]
    assert graded(tmp_path, "gsm8k", rows)[0].right == 1
    assert graded(tmp_path, "gsm8k", rows, rules="paper")[0].right == 0
    with pytest.raises(ConfigError, match="'strict'.* default .*paper"):
        rules_named("strict")


def test_responses_may_be_an_array_a_table_or_gzipped(tmp_path):
    rows = [GSM8K | {"response": "4"}, GSM8K | {"response": "5"}]
    lines = "\n".join(map(json.dumps, rows)).encode()
    forms = {"a.json": json.dumps(rows).encode(), "a.jsonl": json.dumps(rows, indent=4).encode(),
             "a.jsonl.gz": gzip.compress(lines), "a.json.gz": gzip.compress(json.dumps(rows).encode())}  # fmt: skip
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    forms["a.csv"] = (tmp_path / "a.csv").read_bytes()
    for name, content in forms.items():
        assert [row["correct"] for row in graded(tmp_path, "gsm8k", content, file=name)[1]] == [True, False]


@pytest.mark.parametrize(
    ("name", "rows", "error"),
    [
        ("mmlu", [MMLU], r":1: .*'response'.* question, A"),
        ("mmlu", [MMLU | {"response": "B"}, MMLU], r":2: .*'response'"),
        ("mmlu", [MMLU | {"response": None}], r":1: .*NoneType"),
        ("mmlu", [MMLU | {"response": "B", "subject": "colege_mathematics"}], r":1: .*subject .* 'college_math"),
        ("mmlu", [MMLU | {"response": "B", "answer": "E"}], r":1: .*'E' .*A, B, C, D"),
        ("mmlu", [{k: v for k, v in MMLU.items() if k != "D"} | {"response": "B"}], r":1: .*'D'"),
        ("mmlu", [GSM8K | {"response": "B"}], r":1: .*'subject'"),
        ("gsm8k", [MMLU | {"response": "B"}], r":1: .*mmlu, not of gsm8k"),
        ("gsm8k", [PLUS | {"response": "4"}], r":1: .*gsm_plus, not of gsm8k"),
        ("gsm8k", [{"question": "?", "answer": "4", "response": "4"}], r":1: .*gsm8k"),
        ("gsm_plus", [GSM8K | {"response": "4"}], r":1: .*('solution'|'type')"),
        ("gsm_plus", [PLUS | {"response": "4", "extracted_answer": "None"}], r":1: .*'None'"),
        ("arc_challenge", [MMLU | {"response": "B"}], r":1: .*mmlu"),
        ("arc_challenge", [ARC | {"response": "B", "answer": "3"}], r":1: .*'3' .*1, 2"),
        ("bbh", [GSM8K | {"response": "4"}], r":1: .*'input'"),
        ("gsm8k", b'{"question": "?"\n', r":1: .*JSON"),
        ("gsm8k", json.dumps(GSM8K | {"response": "4"}).encode() + b"\n{", r":2: .*JSON"),
        ("gsm8k", json.dumps(GSM8K | {"response": "4"}).encode() + b'\n{"response": "\xe9"}', r":2: .*UTF-8"),
        ("gsm8k", b"", "no rows"),
        ("gsm8k", b"[]", "no rows"),
    ],
)  # fmt: skip
def test_the_error_about_a_wrong_row_names_its_line_and_nothing_is_written(tmp_path, name, rows, error):
    with pytest.raises(DataError, match=error):
        graded(tmp_path, name, rows)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl"}


def test_a_ten_megabyte_response_and_unusual_characters_are_graded(tmp_path):
    started = time.monotonic()
    rows = [GSM8K | {"response": "x" * 10_000_000 + " 4"}, GSM8K | {"response": "\ud800 4 é\u2028"}]
    _, out = graded(tmp_path, "gsm8k", rows)
    assert [row["correct"] for row in out] == [True, True]
    assert out[1]["response"] == rows[1]["response"]
    assert time.monotonic() - started < 10


def test_wrong_paths_and_names_are_refused_before_anything_is_read(tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps(GSM8K | {"response": "4"}))
    benchmark = benchmark_named("gsm8k", None)
    for responses, out, error in [
        ("inn.jsonl", "out.jsonl", r"inn\.jsonl.* in\.jsonl"),
        ("in.jsonl", "no/out.jsonl", r"no/out\.jsonl"),
        ("in.jsonl", "in.jsonl", r"in\.jsonl.*responses"),
        ("in.jsonl", ".", "is a folder"),
    ]:
        with pytest.raises(ConfigError, match=error):
            grade_file(benchmark, tmp_path / responses, tmp_path / out, rules_named("default"))
    with pytest.raises(ConfigError, match="'gsm8'.*'gsm8k'"):
        benchmark_named("gsm8", None)
    with pytest.raises(ConfigError, match="--data .*nowhere"):
        benchmark_named("gsm8k", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="--data word_problems"):
        benchmark_named("word_problems", tmp_path)


OWN = """
[[benchmark]]
name = "sums"
kind = "number"
test = "not_read.csv"
question = "q"
answer = "correct"
[[benchmark]]
name = "code"
kind = "code"
test = "not_read.csv"
answer = "solution"
tests = "asserts"
[sandbox]
min_tier = "landlock"
"""


def test_own_data_is_graded_as_its_job_describes_it(tmp_path):
    (tmp_path / "mine.toml").write_text(OWN)
    rows = [{"q": "2 + 2?", "correct": 4, "response": text} for text in ("It is 4.", "5")]
    _, out = graded(tmp_path, f"{tmp_path}/mine.toml:sums", rows)
    assert [(row["correct"], row["gold"], row["answer"]) for row in out] == [(True, 4, "4"), (False, 4, "5")]


def test_own_tests_that_cannot_fail_grade_nothing(tmp_path):
    (tmp_path / "mine.toml").write_text(OWN)
    code = {
        "question": "One more.",
        "solution": "def more(n):\n    return n + 1",
        "response": "def more(n):\n    return 2",
    }
    name = f"{tmp_path}/mine.toml:code"
    assert benchmark_named(name, None).min_tier == "landlock"
    summary, _ = graded(tmp_path, name, [code | {"asserts": ["assert more(1) == 2", "assert more(2) == 3"]}])
    assert (summary.n, summary.right) == (1, 0)
    with pytest.raises(DataError, match=r"in\.jsonl:1: column 'asserts'.*cannot fail"):
        graded(tmp_path, name, [code | {"asserts": ["assert more(1) == more(1)"]}])


def test_a_job_without_that_benchmark_and_a_file_of_rows_are_refused(tmp_path):
    job = tmp_path / "mine.toml"
    job.write_text(OWN)
    for name, error in [
        (str(job), "sums, code.*mine.toml:sums"), (f"{job}:sum", "'sum'.*sums, code"), ("no.toml", "no such job file"),
        ("rows.csv", r"rows\.csv.*\[\[benchmark\]\]"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=error):
            benchmark_named(name, None)
    with pytest.raises(ConfigError, match="--data"):
        benchmark_named(str(job), tmp_path)


def test_the_command_prints_a_summary(tmp_path):
    rows = [GSM8K | {"response": text} for text in ("#### 4", "5")]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["grade", "gsm8k", "--responses", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    for word in ("gsm8k, default rules", "strict", "flexible", "50.00%", "found by marker"):
        assert word in done.output
