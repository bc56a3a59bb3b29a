"""HumanEval: 164 functions to write from a signature and docstring (arXiv 2107.03374). Used only to test transfer.

A row:
    {"task_id": "HumanEval/999", "prompt": "def twice(n: int) -> int:\\n    \\"\\"\\" Twice a number. \\"\\"\\"\\n",
     "canonical_solution": "    return 2 * n\\n", "test": "def check(candidate):\\n    assert candidate(2) == 4\\n",
     "entry_point": "twice"}

Grading follows check_correctness of openai/human-eval @ 6d43fb9 and, with "paper" rules, the body-only extraction of
SkyworkAI/LLMs-as-Instructors @ 54f3cc4; both are reimplemented in `lai_ray.grading.programs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lai_ray.benchmark_kinds.code import CodeBenchmark, recorded_completion
from lai_ray.benchmark_kinds.rows import SplitSource, refuse_foreign, rows, source_of, text_field
from lai_ray.records import Problem

SOURCES = {
    "test": SplitSource(
        files=(("HumanEval",), ("test",), ("openai_humaneval/test",)),
        config="openai_humaneval",
        splits=("test",),
        get="github.com/openai/human-eval, data/HumanEval.jsonl.gz",
    )
}


@dataclass(frozen=True)
class HumanEval(CodeBenchmark):
    """See the module."""

    source: str = "openai/openai_humaneval"
    """A hub name, or a folder that holds HumanEval.jsonl(.gz) or test.jsonl."""
    name: ClassVar[str] = "humaneval"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    domain: ClassVar[str] = "out"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The published records. Raises ConfigError for an unknown split or missing file, DataError for a bad line."""
        return (row.record for row in rows(self.name, self.source, source_of(self.name, SOURCES, split)))

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One record; `answer` is the prompt with the canonical body."""
        refuse_foreign(self.name, record)
        prompt, test, entry = (text_field(record, name) for name in ("prompt", "test", "entry_point"))
        body = str(record.get("canonical_solution") or "")
        return Problem(
            id=f"{self.name}/{split}/{row:05d}",
            benchmark=self.name,
            split=split,
            question=prompt,
            answer=prompt + body if body else "",
            extra={"task_id": record.get("task_id"), "entry": entry, "test": test, **recorded_completion(record)},
        )


BENCHMARK = HumanEval()
