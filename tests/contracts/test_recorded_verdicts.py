"""Our verdicts against published ones: the paper's, OpenAI's labels, and the labels of a human reader."""

from __future__ import annotations

import csv
import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from lai_ray.benchmark_kinds.rows import rows
from lai_ray.benchmarks.gsm_plus import FOLDERS, SOURCES
from lai_ray.common import plugins
from lai_ray.contracts import Grading

REPO = Path(__file__).parents[2]
DATA = Path(os.environ.get("LAI_TEST_DATA", REPO / "../shared/data"))
RECORDED = DATA / "mistral_results"
PAPER = Grading(rules="paper")

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"the recorded replies are not in {DATA}")


def recorded(name: str, verdict: str) -> list[dict]:
    return [json.loads(line) for line in (RECORDED / f"{name}/mistral/Train_raw_{verdict}.jsonl").open()]


def score(name: str, row: dict, how: Grading = PAPER) -> float:
    benchmark = plugins.load("benchmarks", name)
    return benchmark.grade(benchmark.problem(row, "train", 0), row["response"], how).score


@pytest.mark.parametrize(("name", "verdict"), [("mmlu", "right"), ("mmlu", "wrong"), ("gsm8k", "right")])
def test_paper_rules_give_the_papers_verdicts(name, verdict):
    rows = recorded(name, verdict)
    assert [i for i, row in enumerate(rows) if score(name, row) != float(verdict == "right")] == []


@pytest.mark.parametrize("how", [PAPER, Grading()], ids=["paper", "default"])
def test_numbers_are_judged_as_openai_labelled_them(how):
    benchmark = replace(plugins.load("benchmarks", "gsm8k"), source=str(DATA / "gsm8k"))
    gold = {record["question"]: benchmark.problem(record, "test", 0) for record in benchmark.load("test")}
    with gzip.open(DATA / "gsm8k/openai/example_model_solutions.jsonl.gz") as lines:
        rows = [json.loads(line) for line in lines]
    labelled = [(gold[row["question"]], v) for row in rows for v in row.values() if isinstance(v, dict)]
    assert len(labelled) == 5276
    assert not [v for p, v in labelled if (benchmark.grade(p, v["solution"], how).score == 1.0) != v["is_correct"]]


def test_default_rules_agree_with_a_reader():
    with (REPO / "docs/results/grading_labels.csv").open() as lines:
        labels = list(csv.DictReader(lines))
    rows = {f"{n}/{v}/{i}": (n, row) for n, v in [("mmlu", "right"), ("mmlu", "wrong"), ("gsm8k", "right")]
            for i, row in enumerate(recorded(n, v))}  # fmt: skip
    agreed = [label["verdict"] == ("right" if score(*rows[label["row"]], Grading()) else "wrong") for label in labels]
    assert len(agreed) == 150
    assert sum(agreed) >= 0.98 * len(agreed)


def test_every_gold_number_of_gsm_plus_is_right_and_none_is_made_up():
    benchmark = replace(plugins.load("benchmarks", "gsm_plus"), source=str(DATA / "gsm_plus/qtli"), per_type=None)
    problems = [benchmark.problem(record, "test", i) for i, record in enumerate(benchmark.load("test"))]
    assert (len(problems), len(rows(benchmark.name, benchmark.source, SOURCES["test"], FOLDERS))) == (2100, 2400)
    assert all(benchmark.grade(p, p.extra["solution"]).score == 1.0 for p in problems)
    drawn = replace(benchmark, per_type=200)
    kinds = [drawn.group(drawn.problem(record, "test", i)) for i, record in enumerate(drawn.load("test"))]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(set(kinds), 200)
    assert len(kinds) == 1400
