"""GSM-Plus: GSM8K's test problems, perturbed (arXiv 2402.19255). Used only to test transfer.

A row, as the paper's release has it; and as GSM-Plus itself has it:
    {"question": "…", "answer": "3 x 5 = #### 15 plums", "extracted_answer": "15", "type": "numerical substitution"}
    {"question": "…", "solution": "…\\n#### 15", "answer": "15", "perturbation_type": "numerical substitution", …}

The test is 1,400 problems: 200 of each of 7 types, drawn by a seeded hash of the question where there are more. The
eighth type, critical thinking, has no answer ("None") and is left out. The gold answer is the row's answer field;
"paper" takes the last number of the worked solution instead, as the release does (28 of its 1,400 rows differ).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lai_ray.benchmark_kinds.math import MathBenchmark
from lai_ray.benchmark_kinds.rows import SplitSource, refuse_foreign, rows, source_of, text_field
from lai_ray.errors import DataError
from lai_ray.grading.numbers import read_number
from lai_ray.records import Problem
from lai_ray.storage.keys import number_of

SOURCES = {
    "test": SplitSource(
        files=(("test",), ("gsmplus_test",), ("gsmplus_testmini",), ("testmini",)),
        config=None,
        splits=("test",),
        get="github.com/qtli/GSM-Plus, dataset/gsmplus_test.jsonl",
    )
}
FOLDERS = ("gsm8k+", "gsm-plus", "GSM-Plus")
_SPELT = {"distraction insertion": "distractor insertion"}


@dataclass(frozen=True)
class GsmPlus(MathBenchmark):
    """See the module."""

    source: str = "qintongli/GSM-Plus"
    """A hub name, or a folder that holds test.jsonl, gsmplus_test.jsonl or gsmplus_testmini.jsonl."""
    per_type: int | None = 200
    """Problems of each type; None for all."""
    name: ClassVar[str] = "gsm_plus"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    domain: ClassVar[str] = "out"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The published records with an answer, at most `per_type` of each type, in published order.

        Raises ConfigError for another split or missing file, DataError for a malformed line.
        """
        records = [row.record for row in rows(self.name, self.source, source_of(self.name, SOURCES, split), FOLDERS)]
        answerable = [record for record in records if _gold(record) is not None]
        drawn = _drawn(answerable, self.per_type)
        return (record for i, record in enumerate(answerable) if i in drawn)

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One record; `answer` is its gold field. Raises DataError for one without answer or of another data set."""
        refuse_foreign(self.name, record)
        question, solution, kind = text_field(record, "question"), _solution(record), _type(record)
        gold = _gold(record)
        if gold is None:
            raise DataError(f"this row ({kind}) has no answer: {text_field(record, 'extracted_answer', 'answer')!r}")
        if read_number(gold) is None:
            raise DataError(f"the answer of this row is no number: {gold!r}")
        return Problem(
            id=f"{self.name}/{split}/{row:05d}",
            benchmark=self.name,
            split=split,
            question=question,
            answer=gold,
            extra={"solution": solution, "type": kind},
        )

    def group(self, problem: Problem) -> str:
        """The type of perturbation."""
        return str(problem.extra.get("type", "unknown"))


def _gold(record: Mapping[str, Any]) -> str | None:
    """The row's answer field; None where that is empty or "None"."""
    answer = text_field(record, "extracted_answer", "answer").strip()
    return None if answer in ("None", "") else answer


def _solution(record: Mapping[str, Any]) -> str:
    return text_field(record, "answer" if "extracted_answer" in record else "solution")


def _type(record: Mapping[str, Any]) -> str:
    spelt = text_field(record, "type", "perturbation_type")
    return _SPELT.get(spelt, spelt)


def _drawn(records: list[dict[str, Any]], per_type: int | None) -> set[int]:
    """The indices of the sampled rows: of each type, those whose question has the lowest hash."""
    if per_type is None:
        return set(range(len(records)))
    order = sorted(range(len(records)), key=lambda i: number_of("gsm_plus", text_field(records[i], "question")))
    taken: Counter[str] = Counter()
    drawn = set()
    for i in order:
        kind = _type(records[i])
        if taken[kind] < per_type:
            taken[kind] += 1
            drawn.add(i)
    return drawn


BENCHMARK = GsmPlus()
