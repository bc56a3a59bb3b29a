"""Grading speed: our default rules against the official algorithm, reimplemented, on the same rows in the same run.

The official side is written from the published description of the release's rules (choice: four searches and a fuzzy
match; numbers: the last token of both texts, evaluated as Python), not from its code; regular expressions are compiled
once, which favours it. python -m tests.perf.grading
"""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lai_ray.common import plugins
from lai_ray.grading.fuzzy_match import closest

DATA = Path(os.environ.get("LAI_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
ROUNDS = 5
_SEARCHES = [
    re.compile(
        r"(?:choose|(?:answer|choice)(?![^A-D]{0,20}?(?:n't|not))[\s\S]{0,60}?(?:is|:|be))[^A-D]{0,100}?\b([A-D])\b"
    ),
    re.compile(r"\b([A-D])\b(?![^.]{0,8}?(?:n't|not)[^.]{0,5}?(?:correct|right))[^.]{0,10}?\b(?:correct|right)\b"),
    re.compile(r"^([A-D])(?:[.,:]|$)"),
    re.compile(r"(?<![a-zA-Z])([A-D])(?![a-zA-Z=])"),
]
_TOKEN = re.compile(r"[-+]?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")


def official_choice(response: str, choices: dict[str, str], gold: str) -> bool:
    """First hit of four searches, else the closest text."""
    for search in _SEARCHES:
        if match := search.search(response):
            return match[1] == gold
    return "ABCD"[closest(response, list(choices.values()))] == gold


def official_number(response: str, solution: str) -> bool:
    """The last token of both, without commas and plus sign, evaluated and compared."""
    last = [tokens[-1].replace(",", "").replace("+", "") for t in (response, solution) if (tokens := _TOKEN.findall(t))]
    try:
        return len(last) == 2 and abs(eval(last[0]) - eval(last[1])) < 1e-4
    except (SyntaxError, ValueError):
        return False


def mmlu_rows() -> list[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Recorded Mistral replies: (ours, theirs), ready to be called."""
    benchmark = replace(plugins.load("benchmarks", "mmlu"), source=str(DATA / "mmlu"))
    folder = DATA / "mistral_results/mmlu/mistral"
    rows = [json.loads(line) for v in ("right", "wrong") for line in (folder / f"Train_raw_{v}.jsonl").open()]
    return [_choice(benchmark, row) for row in rows]


def _choice(benchmark: Any, row: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    problem, response = benchmark.problem(row, "train", 0), row["response"]
    choices = problem.extra["choices"]
    return lambda: benchmark.grade(problem, response), lambda: official_choice(response, choices, problem.answer)


def gsm8k_rows() -> list[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Recorded Mistral replies and the labelled solutions of four models."""
    benchmark = replace(plugins.load("benchmarks", "gsm8k"), source=str(DATA / "gsm8k"))
    with (DATA / "mistral_results/gsm8k/mistral/Train_raw_right.jsonl").open() as lines:
        rows = [(row, row["response"]) for row in map(json.loads, lines)]
    with gzip.open(DATA / "gsm8k/openai/example_model_solutions.jsonl.gz") as lines:
        for row in map(json.loads, lines):
            record = {"question": row["question"], "answer": row["ground_truth"].replace("\nA: ", "\n#### ")}
            rows += [(record, value["solution"]) for value in row.values() if isinstance(value, dict)]
    return [_number(benchmark, row, response) for row, response in rows]


def _number(benchmark: Any, row: dict[str, Any], response: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    problem = benchmark.problem(row, "test", 0)
    solution = problem.extra["solution"]
    return lambda: benchmark.grade(problem, response), lambda: official_number(response, solution)


def seconds(calls: list[Callable[[], Any]]) -> float:
    """The best of several passes, in processor time of this process."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for call in calls:
            call()
        best = min(best, time.process_time() - started)
    return best


def grading() -> Iterator[dict[str, Any]]:
    """Rows a second of both sides, by set and over all rows."""
    mmlu, gsm8k = mmlu_rows(), gsm8k_rows()
    plain = [pair for pair in mmlu if _needs_no_fuzzy(pair[1])]
    sets = {"mmlu": mmlu, "gsm8k": gsm8k, "all": mmlu + gsm8k, "all, without the fuzzy matches": plain + gsm8k}
    for name, pairs in sets.items():
        ours, theirs = (seconds([pair[side] for pair in pairs]) for side in (0, 1))
        yield {
            "name": f"grading.{name}",
            "rows": len(pairs),
            "value": len(pairs) / ours,
            "unit": "rows/s",
            "baseline": len(pairs) / theirs,
            "ratio": theirs / ours,
            "reach": 3.0,
        }


def _needs_no_fuzzy(call: Callable[[], Any]) -> bool:
    started = time.process_time()
    call()
    return time.process_time() - started < 0.002


if __name__ == "__main__":
    for figures in grading():
        print(json.dumps(figures))
