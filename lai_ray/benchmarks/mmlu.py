"""MMLU: multiple-choice questions of 57 subjects (arXiv 2009.03300).

A row, as the paper's release has it; as the hub has it; and, in hendrycks/test, a line of "<subject>_test.csv":
    {"question": "2 + 2 =", "A": "3", "B": "4", "C": "5", "D": "6", "answer": "B", "subject": "elementary_mathematics"}
    {"question": "2 + 2 =", "choices": ["3", "4", "5", "6"], "answer": 1, "subject": "elementary_mathematics"}

Train is the published dev and val together, test is the published test, as in the paper. "paper" rules are those of
`get_performance_mmlu.py` of SkyworkAI/LLMs-as-Instructors @ 54f3cc4, reimplemented in `lai_ray.grading.choices`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lai_ray.benchmark_kinds.choice import ChoiceBenchmark, check_label
from lai_ray.benchmark_kinds.rows import SplitSource, refuse_foreign, rows, source_of, text_field
from lai_ray.common.plugins import suggestion
from lai_ray.errors import DataError
from lai_ray.records import Problem

LETTERS = "ABCD"
_GET = "github.com/hendrycks/test (data.tar), or the hub's cais/mmlu"
_COLUMNS = ("question", *LETTERS, "answer")
SOURCES = {
    "train": SplitSource(
        files=(("all/dev", "all/validation"), ("dev/*_dev", "val/*_val"), ("train",)),
        config="all", splits=("dev", "validation"), get=_GET, columns=_COLUMNS,
    ),
    "test": SplitSource(
        files=(("all/test",), ("test/*_test",), ("test",)), config="all", splits=("test",), get=_GET, columns=_COLUMNS
    ),
}  # fmt: skip
SUBJECTS = frozenset((
    "abstract_algebra", "anatomy", "astronomy", "business_ethics", "clinical_knowledge", "college_biology",
    "college_chemistry", "college_computer_science", "college_mathematics", "college_medicine", "college_physics",
    "computer_security", "conceptual_physics", "econometrics", "electrical_engineering", "elementary_mathematics",
    "formal_logic", "global_facts", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
    "high_school_european_history", "high_school_geography", "high_school_government_and_politics",
    "high_school_macroeconomics", "high_school_mathematics", "high_school_microeconomics", "high_school_physics",
    "high_school_psychology", "high_school_statistics", "high_school_us_history", "high_school_world_history",
    "human_aging", "human_sexuality", "international_law", "jurisprudence", "logical_fallacies", "machine_learning",
    "management", "marketing", "medical_genetics", "miscellaneous", "moral_disputes", "moral_scenarios",
    "nutrition", "philosophy", "prehistory", "professional_accounting", "professional_law", "professional_medicine",
    "professional_psychology", "public_relations", "security_studies", "sociology", "us_foreign_policy", "virology",
    "world_religions",
))  # fmt: skip


@dataclass(frozen=True)
class Mmlu(ChoiceBenchmark):
    """See the module."""

    source: str = "cais/mmlu"
    """A hub name, or a folder with train and test files, with hendrycks' dev/, val/ and test/, or with a hub copy."""
    name: ClassVar[str] = "mmlu"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    domain: ClassVar[str] = "in"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The published records, with the subject from the file's name where the record has none.

        Raises ConfigError for another split or missing file, DataError for a malformed line.
        """
        for row in rows(self.name, self.source, source_of(self.name, SOURCES, split)):
            yield row.record if "subject" in row.record else row.record | {"subject": row.file.rpartition("_")[0]}

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One record; `extra` holds choices by letter and the subject. Raises DataError for one of another data set."""
        refuse_foreign(self.name, record)
        subject = text_field(record, "subject").strip().replace(" ", "_")
        if subject not in SUBJECTS:
            near = suggestion(subject, sorted(SUBJECTS))
            raise DataError(
                f"unknown subject {subject!r}. {near}MMLU has 57, from abstract_algebra to world_religions."
            )
        choices = _choices(record)
        return Problem(
            id=f"{self.name}/{split}/{row:05d}",
            benchmark=self.name,
            split=split,
            question=text_field(record, "question"),
            answer=check_label(_letter(record), choices),
            extra={"choices": choices, "subject": subject},
        )

    def group(self, problem: Problem) -> str:
        """The subject; "unknown" for a problem written by an instructor."""
        return str(problem.extra.get("subject", "unknown"))


def _choices(record: Mapping[str, Any]) -> dict[str, str]:
    if "choices" not in record:
        return {letter: text_field(record, letter) for letter in LETTERS}
    texts = record["choices"]
    if not isinstance(texts, list) or len(texts) != len(LETTERS):
        raise DataError(f"choices must be a list of {len(LETTERS)} texts, not {texts!r:.80}")
    return dict(zip(LETTERS, map(str, texts), strict=True))


def _letter(record: Mapping[str, Any]) -> str:
    answer = text_field(record, "answer").strip()
    return LETTERS[int(answer)] if answer in ("0", "1", "2", "3") and "choices" in record else answer


BENCHMARK = Mmlu()
