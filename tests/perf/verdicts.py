"""The figures of docs/results/grading.md: where default rules, paper rules, gold answers and a human reader differ.

python -m tests.perf.verdicts    (needs the data that LAI_TEST_DATA names)
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from lai_ray.common import plugins
from lai_ray.contracts import Grading
from tests.perf.grading import DATA

LABELS = Path(__file__).parents[2] / "docs/results/grading_labels.csv"
SETS = ["mmlu", "arc_challenge", "gsm8k", "gsm_plus", "bbh"]
RECORDED = [("mmlu", "right"), ("mmlu", "wrong"), ("gsm8k", "right")]


def gold(name: str, **fields: Any) -> None:
    """Gold answers by the default rules: as the benchmark states them, and as its published solution does."""
    benchmark = replace(plugins.load("benchmarks", name), **({"source": str(DATA / name)} | fields))
    for split in benchmark.splits:
        problems = [benchmark.problem(record, split, i) for i, record in enumerate(benchmark.load(split))]
        missed = [p.id for p in problems if benchmark.grade(p, benchmark.reference(p)).score < 1]
        texts = [p for p in problems if "solution" in p.extra]
        odd = [(p.id, p.answer) for p in texts if benchmark.grade(p, p.extra["solution"]).score < 1]
        print(f"{name} {split}: {len(problems) - len(missed)} of {len(problems)} gold answers right; missed {missed}")
        print(f"  published solutions that end in another number: {len(odd)} {odd}")


def recorded() -> dict[str, tuple[str, bool, bool, bool]]:
    """Row -> benchmark, official verdict, ours by paper rules, ours by default rules."""
    rows = {}
    for name, verdict in RECORDED:
        benchmark = plugins.load("benchmarks", name)
        with (DATA / f"mistral_results/{name}/mistral/Train_raw_{verdict}.jsonl").open() as lines:
            for i, row in enumerate(map(json.loads, lines)):
                problem = benchmark.problem(row, "train", i)
                ours = [benchmark.grade(problem, row["response"], Grading(r)).score == 1 for r in ("paper", "default")]
                rows[f"{name}/{verdict}/{i}"] = (name, verdict == "right", *ours)
    return rows  # type: ignore[return-value]


def main() -> None:
    """Print every figure."""
    for name in SETS:
        gold(name)
    gold("gsm_plus", source=str(DATA / "gsm_plus/qtli"), per_type=None)
    rows = recorded()
    print(
        "paper rules against official verdicts:",
        Counter((n, official == paper) for n, official, paper, _ in rows.values()),
    )
    for name in ("mmlu", "gsm8k"):
        mine = {row: (official, default) for row, (n, official, _, default) in rows.items() if n == name}
        print(f"{name}: officially wrong, right by default:", [r for r, pair in mine.items() if pair == (False, True)])
        print(f"{name}: officially right, not by default:", [r for r, pair in mine.items() if pair == (True, False)])
    with LABELS.open() as lines:
        labels = list(csv.DictReader(lines))
    for side, at in (("official", 1), ("default", 3)):
        off = [label["row"] for label in labels if (label["verdict"] == "right") != rows[label["row"]][at]]
        print(f"reader against {side}: {len(labels) - len(off)} of {len(labels)} agree; differ {off}")


if __name__ == "__main__":
    main()
