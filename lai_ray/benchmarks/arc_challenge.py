"""ARC-Challenge: science questions from school exams (arXiv 1803.05457). Used only to test transfer.

A row, as the paper's release has it; as the hub has it; and as AI2 has it:
    {"id": "X_1", "question": "…?", "A": "ice", "B": "fog", "C": "dew", "answer": "A", "label": ["A", "B", "C"]}
    {"id": "X_1", "question": "…?", "choices": {"text": ["ice", …], "label": ["A", …]}, "answerKey": "A"}
    {"id": "X_1", "question": {"stem": "…?", "choices": [{"text": "ice", "label": "A"}, …]}, "answerKey": "A"}

28 of the 1,172 rows do not have labels A to D: 22 have digits, 3 stop at C, 3 go on to E. Default rules read the row's
own labels; "paper" always looks for A to D, as `get_performance_arc.py` of SkyworkAI/LLMs-as-Instructors @ 54f3cc4 does
(without its defects in writing results). Both are reimplemented in `lai_ray.grading.choices`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lai_ray.benchmark_kinds.choice import ChoiceBenchmark, check_label
from lai_ray.benchmark_kinds.rows import SplitSource, refuse_foreign, rows, source_of, text_field
from lai_ray.errors import DataError
from lai_ray.records import Problem

SOURCES = {
    "test": SplitSource(
        files=(("ARC-Challenge/test",), ("ARC-Challenge-Test",), ("test",)),
        config="ARC-Challenge",
        splits=("test",),
        get="allenai.org/data/arc, or the hub's allenai/ai2_arc",
    )
}
FOLDERS = ("arc", "ARC", "ai2_arc")


@dataclass(frozen=True)
class ArcChallenge(ChoiceBenchmark):
    """See the module."""

    source: str = "allenai/ai2_arc"
    """A hub name, or a folder that holds test.jsonl or a copy of the hub's or AI2's files."""
    name: ClassVar[str] = "arc_challenge"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    domain: ClassVar[str] = "out"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The published records. Raises ConfigError for an unknown split or missing file, DataError for a bad line."""
        return (row.record for row in rows(self.name, self.source, source_of(self.name, SOURCES, split), FOLDERS))

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One record; `extra` holds choices by the row's own labels. Raises DataError for other records."""
        refuse_foreign(self.name, record)
        question, choices = _asked(record)
        return Problem(
            id=f"{self.name}/{split}/{row:05d}",
            benchmark=self.name,
            split=split,
            question=question,
            answer=check_label(text_field(record, "answerKey", "answer").strip(), choices),
            extra={"choices": choices, "upstream_id": text_field(record, "id")},
        )

    def group(self, problem: Problem) -> str:
        """The range of labels: "A-D", "A-C", "1-4", …"""
        labels = list(problem.extra["choices"])
        return f"{labels[0]}-{labels[-1]}"


def _asked(record: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The question and its choices by label, from any of the three formats."""
    question: Any = record.get("question")
    listed: Any = record.get("choices")
    if isinstance(question, Mapping):
        question, listed = question.get("stem"), question.get("choices")
    if not question:
        raise DataError(f"no field 'question' in this row; it has {', '.join(map(str, record))}")
    if isinstance(listed, Mapping):
        pairs = zip(listed.get("label", ()), listed.get("text", ()), strict=False)
    elif isinstance(listed, list):
        pairs = ((text_field(choice, "label"), text_field(choice, "text")) for choice in listed)  # type: ignore[assignment]
    else:
        labels = record.get("label")
        if not isinstance(labels, list):
            raise DataError(f"no field 'choices' or 'label' in this row; it has {', '.join(map(str, record))}")
        pairs = ((label, text_field(record, str(label))) for label in labels)  # type: ignore[assignment]
    return str(question), {str(label): str(text) for label, text in pairs}


BENCHMARK = ArcChallenge()
