"""The figures of docs/results/sandbox.md: verdicts on recorded MBPP rows, and every reference solution.

LAI_TEST_DATA=DATA python -m tests.perf.code_figures
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lai_ray.benchmarks import humaneval, mbpp
from lai_ray.contracts import Grading
from lai_ray.grading.programs import body_only
from lai_ray.records import Grade

REPO = Path(__file__).parents[2]
DATA = Path(os.environ.get("LAI_TEST_DATA", REPO / "../shared/data"))


def recorded() -> dict[str, dict[str, Any]]:
    """The recorded rows: "mbpp/right/0" -> row."""
    folder = DATA / "mistral_results/mbpp/mistral"
    return {
        f"mbpp/{kind}/{i}": json.loads(line)
        for kind in ("right", "wrong")
        for i, line in enumerate((folder / f"Train_raw_{kind}.jsonl").read_text().split("\n"))
        if line
    }


def graded(rows: dict[str, dict[str, Any]], rules: Any) -> tuple[dict[str, Grade], float]:
    """The verdicts, two at a time, and the seconds they took."""
    benchmark, how, begun = mbpp.Mbpp(str(DATA / "mbpp")), Grading(rules=rules), time.monotonic()

    def one(row: dict[str, Any]) -> Grade:
        return benchmark.grade(benchmark.problem(row, "train", 0), row["response"], how)

    with ThreadPoolExecutor(2) as pool:
        verdicts = dict(zip(rows, pool.map(one, rows.values()), strict=True))
    return verdicts, time.monotonic() - begun


def references() -> None:
    """Every reference solution through the default rules."""
    for benchmark in (humaneval.HumanEval(str(DATA / "humaneval")), mbpp.Mbpp(str(DATA / "mbpp")),
                      mbpp.Mbpp(str(DATA / "mbpp/google-research"))):  # fmt: skip
        for split in benchmark.splits:
            problems = [benchmark.problem(row, split, i) for i, row in enumerate(benchmark.load(split))]
            known = [problem for problem in problems if problem.answer]
            with ThreadPoolExecutor(2) as pool:
                grades = list(pool.map(lambda p, b=benchmark: b.grade(p, b.reference(p)), known))
            missed = [(p.extra["task_id"], g.status, g.note) for p, g in zip(known, grades, strict=True) if g.score < 1]
            print(f"references {benchmark.source[-24:]} {split}: {len(problems)} rows, {len(known)} with a reference, "
                  f"{sum(g.score == 1 for g in grades)} right; not: {missed}")  # fmt: skip


def main() -> None:
    """Print every figure."""
    print("load", os.getloadavg())
    rows = recorded()
    official = {key: bool(row["passed"]) for key, row in rows.items()}
    paper, seconds = graded(rows, "paper")
    print(
        f"paper v. official: {sum((paper[k].score == 1) == official[k] for k in rows)} of {len(rows)}, {seconds:.1f} s"
    )
    print("  differ:", [(k, rows[k]["result"], paper[k].status, paper[k].note) for k in rows
                        if (paper[k].score == 1) != official[k]])  # fmt: skip
    bodies = {key: body_only(row["response"], row["entry_point"]) for key, row in rows.items()}
    same = {key for key in rows if bodies[key][0] == rows[key]["completion"]}
    print(f"body-only extraction gives the same completion: {len(same)} of {len(rows)}; by rule",
          Counter(rule for _, rule in bodies.values()), "differ:", sorted(set(rows) - same))  # fmt: skip
    default, seconds = graded(rows, "default")
    print(f"default: {seconds:.1f} s, right {sum(g.score == 1 for g in default.values())}",
          Counter((g.rule, g.status) for g in default.values()))  # fmt: skip
    false = [key for key in rows if default[key].score == 1 and not official[key]]
    print(f"false mistakes of the official harness: {len(false)}")
    for key in false:
        print(f"  {key} task {rows[key]['task_id']}: {rows[key]['result'][:60]}")
    print("right officially, not by default:",
          [(k, default[k].status, default[k].note) for k in rows if official[k] and default[k].score < 1])  # fmt: skip
    print("errors:", [(k, rows[k]["task_id"], g.note) for k, g in default.items() if g.status == "error"])
    labels = list(csv.DictReader((REPO / "docs/results/code_labels.csv").open()))
    ours = {key: "error" if g.status == "error" else "right" if g.score == 1 else "wrong" for key, g in default.items()}
    print(f"labels: {sum(ours[label['row']] == label['verdict'] for label in labels)} of {len(labels)} agree; not:",
          [(label["row"], label["verdict"], ours[label["row"]]) for label in labels
           if ours[label["row"]] != label["verdict"]])  # fmt: skip
    references()


if __name__ == "__main__":
    main()
