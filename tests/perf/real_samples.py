"""The 4,000 word problems by GPT-4 of the paper's release under the sample filter: kept, dropped by reason.

LAI_TEST_DATA=DATA python -m tests.perf.real_samples [--show REASON]

First unchanged: question and response joined to a reply in the requested form. The release's parser removed the final
line of most of them, and a sample without one is dropped; so the second table gives each a final line with the last
number of its response, to show the other checks. Evaluation sets: gsm8k and gsm_plus. `--show` prints ten rows of one
reason of the second table, drawn by a seed.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

from lai_ray.benchmarks import gsm8k
from lai_ray.cli.contamination import evaluation_sets
from lai_ray.contracts import DEFAULT_GRADING
from lai_ray.grading.numbers import MARKER, final_number
from lai_ray.records import Problem, Sample, Turn
from lai_ray.stages.curation.sample_filter import SampleFilter
from lai_ray.strategies import le
from tests.local import LocalExecutor
from tests.perf.arithmetic import DATA

ROWS = DATA / "lai_generated_train/mistral_LaI_LEC_raw_k_2_train_4000.jsonl.gz"


def as_reply(row: dict[str, Any], *, finished: bool) -> str:
    """The row in the requested form; `finished`: with a final line where it has none."""
    question, response = row["question"].strip(), row["response"].strip()
    head = "" if question.lstrip("# ").lower().startswith("question") else "Question: "
    final = final_number(response) if finished else None
    last = f"\n{MARKER} {final.text}" if final and MARKER not in response else ""
    return f"{head}{question}\nAnswer: {response}{last}"


def samples(rows: list[dict[str, Any]], *, finished: bool) -> Iterator[tuple[int, Sample]]:
    """The first sample of every row, as a run would judge it one after another."""
    sets = evaluation_sets(["gsm8k", "gsm_plus"], {"gsm8k": str(DATA / "gsm8k"), "gsm_plus": str(DATA / "gsm_plus")})
    benchmark = replace(gsm8k.BENCHMARK, source=str(DATA / "gsm8k"))
    judge = SampleFilter(benchmark, le.STRATEGY, sets, DEFAULT_GRADING, LocalExecutor())
    for at, row in enumerate(rows):
        piece = next(iter(benchmark.parse(as_reply(row, finished=finished))))
        problem = Problem(f"row/{at}", benchmark.name, "generated", piece.question, piece.answer, piece.extra)
        sample = Sample(f"row/{at}", None, problem, [Turn(piece.response)], piece.rejected, piece.note)
        yield at, next(judge.filtered([sample]))


def by_reason(rows: list[dict[str, Any]], *, finished: bool) -> dict[str, list[tuple[int, Sample]]]:
    """Reason ("kept" for none) -> rows."""
    reasons = defaultdict(list)
    for at, sample in samples(rows, finished=finished):
        reason = (sample.dropped or "kept").partition(" cut off? The working")[0]
        reasons["final number N" if reason.startswith("final number") else reason].append((at, sample))
    return reasons


def drawn(rows: list[tuple[int, Sample]]) -> list[tuple[int, Sample]]:
    """Ten of them, by a seed."""
    return sorted(Random(0).sample(rows, min(10, len(rows))), key=lambda each: each[0])


def main() -> None:
    """Print both tables, or ten rows of one reason."""
    with gzip.open(ROWS) as file:
        rows = json.load(file)
    if "--show" in sys.argv:
        for at, sample in drawn(by_reason(rows, finished=True)[sys.argv[sys.argv.index("--show") + 1]]):
            print(f"--- {at} | {sample.note}\nQ: {rows[at]['question']}\nA: {rows[at]['response']}")
        return
    for finished in (False, True):
        print("with a final line added" if finished else "unchanged", len(rows))
        for reason, group in sorted(by_reason(rows, finished=finished).items(), key=lambda item: -len(item[1])):
            print(f"  {len(group):5} {reason}; drawn: {[at for at, _ in drawn(group)]}")


if __name__ == "__main__":
    main()
