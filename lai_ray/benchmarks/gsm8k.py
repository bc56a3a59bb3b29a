"""GSM8K: grade-school word problems (arXiv 2110.14168).

A row:
    {"question": "Nia has 3 bags of 4 plums. How many plums has she?", "answer": "3 x 4 = <<3*4=12>>12\\n#### 12"}

Grading follows `grade_school_math/dataset.py` of openai/grade-school-math @ 3101c7d (strict: the number after "####")
with the last number where there is none; "paper" follows `get_performance_gsm8k.py` of SkyworkAI/LLMs-as-Instructors @
54f3cc4. Both are reimplemented in `lai_ray.grading.numbers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lai_ray.benchmark_kinds.math import MathBenchmark
from lai_ray.benchmark_kinds.rows import SplitSource, refuse_foreign, rows, source_of, text_field
from lai_ray.errors import DataError
from lai_ray.grading.numbers import MARKER, marked_number
from lai_ray.records import Problem

SOURCES = {
    split: SplitSource(
        files=((split,), (f"main/{split}",)),
        config="main",
        splits=(split,),
        get=f"github.com/openai/grade-school-math, grade_school_math/data/{split}.jsonl",
    )
    for split in ("train", "test")
}


@dataclass(frozen=True)
class Gsm8k(MathBenchmark):
    """See the module."""

    source: str = "openai/gsm8k"
    """A hub name, or a folder that holds train.jsonl and test.jsonl."""
    name: ClassVar[str] = "gsm8k"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    domain: ClassVar[str] = "in"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The published records. Raises ConfigError for an unknown split or missing file, DataError for a bad line."""
        return (row.record for row in rows(self.name, self.source, source_of(self.name, SOURCES, split)))

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One record; `answer` is the number after "####", the solution is in `extra`. Raises DataError without one."""
        refuse_foreign(self.name, record)
        question, solution = text_field(record, "question"), text_field(record, "answer")
        gold = marked_number(solution)
        if gold is None:
            raise DataError(
                f"no record of gsm8k: its answer has no number after {MARKER}, but ends in {solution[-60:]!r}"
            )
        return Problem(
            id=f"{self.name}/{split}/{row:05d}",
            benchmark=self.name,
            split=split,
            question=question,
            answer=gold.text,
            extra={"solution": solution},
        )


BENCHMARK = Gsm8k()
