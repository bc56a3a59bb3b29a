"""BIG-Bench Hard: 23 tasks that need several steps of reasoning (arXiv 2210.09261). A test; never learned from.

A row of <task>.json, its task added:
    {"input": "not ( True ) and True is", "target": "False", "task": "boolean_expressions"}

Three worked examples precede each question, read from the data set's own cot-prompts/<task>.txt; they are not part of
this repository. The data carry a canary that asks to be kept out of training corpora: there is no training split and no
brief, and nothing is parsed into samples. The score is the mean over all 6,511 rows.

Grading follows the type of the target: `lai_ray.grading.bbh`. "paper" is the rule of `get_performance_bbh.py` of
SkyworkAI/LLMs-as-Instructors @ 54f3cc4 without the defects that kept it from running.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from lai_ray.benchmark_kinds.rows import SplitSource, refuse_foreign, rows, source_of, text_field
from lai_ray.contracts import DEFAULT_GRADING, Grading
from lai_ray.errors import ConfigError
from lai_ray.grading.bbh import default_grade, paper_grade
from lai_ray.records import Grade, Message, Piece, Problem

TASKS = (
    "boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa", "dyck_languages",
    "formal_fallacies", "geometric_shapes", "hyperbaton", "logical_deduction_five_objects",
    "logical_deduction_seven_objects", "logical_deduction_three_objects", "movie_recommendation",
    "multistep_arithmetic_two", "navigate", "object_counting", "penguins_in_a_table",
    "reasoning_about_colored_objects", "ruin_names", "salient_translation_error_detection", "snarks",
    "sports_understanding", "temporal_sequences", "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects", "tracking_shuffled_objects_three_objects", "web_of_lies", "word_sorting",
)  # fmt: skip
"""The 27 files. Three sizes of logical_deduction and of tracking_shuffled_objects are one task each."""

GET = "github.com/suzgunmirac/BIG-Bench-Hard (folders bbh/ and cot-prompts/)"
FOLDERS = ("BIG-Bench-Hard",)
PROMPTS_ON_THE_HUB = "Joschka/big_bench_hard"
"""The hub's data set of worked examples (configuration few_shot_prompts), used when the rows come from the hub."""

OPENING = (
    "Answer the last question. Reason step by step as the worked examples do, and end with a sentence of the form "
    "'So the answer is X.'"
)
_CANARY = "canary GUID"
_REFUSED = (
    "bbh is for testing only: its authors ask that it never enter a training corpus (its files carry a canary). "
    "Take it out of evaluate.learn_from and list it under evaluate.report_on."
)


@dataclass(frozen=True)
class Bbh:
    """See the module."""

    source: str = "SaylorTwift/bbh"
    """A hub name, or a folder that holds bbh/<task>.json and cot-prompts/<task>.txt."""
    name: ClassVar[str] = "bbh"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    runs_code: ClassVar[bool] = False
    domain: ClassVar[str] = "out"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The published records, task by task. Raises ConfigError for another split or a missing file of a task."""
        if split in ("train", "dev"):
            raise ConfigError(f"{_REFUSED} It has: {', '.join(self.splits)}.")
        for task in TASKS:
            sources = {"test": SplitSource(((f"bbh/{task}",), (task,)), config=task, splits=("test",), get=GET)}
            for row in rows(self.name, self.source, source_of(self.name, sources, split), FOLDERS):
                yield row.record | {"task": task}

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One record. Raises DataError for a record of another data set."""
        refuse_foreign(self.name, record)
        return Problem(
            id=f"{self.name}/{split}/{row:05d}",
            benchmark=self.name,
            split=split,
            question=text_field(record, "input"),
            answer=text_field(record, "target"),
            extra={"task": str(record.get("task") or self._tasks().get(text_field(record, "input"), "unknown"))},
        )

    def _tasks(self) -> dict[str, str]:
        """Question -> task, of a local folder, for a row without its task."""
        return _tasks_of(self) if Path(self.source).expanduser().is_dir() else {}

    def prompt(self, problem: Problem) -> list[Message]:
        """The three worked examples of the task, then the question. Raises ConfigError where they are missing."""
        examples = worked_examples(self.source, str(problem.extra["task"]))
        return [{"role": "user", "content": f"{OPENING}\n\n{examples}\n\nQ: {problem.question}\nA:"}]

    def grade(self, problem: Problem, response: str, how: Grading = DEFAULT_GRADING) -> Grade:
        """The verdict by `lai_ray.grading.bbh`."""
        if how.rules == "paper":
            return paper_grade(problem.answer, response)
        return default_grade(problem.question, problem.answer, response)

    def reference(self, problem: Problem) -> str:
        """The target, in the sentence that ends the examples."""
        return f"So the answer is {problem.answer}."

    def show(self, problem: Problem) -> str:
        """The question alone."""
        return problem.question

    def brief(self) -> str:
        """Raises ConfigError: nothing may be learned from BBH."""
        raise ConfigError(_REFUSED)

    def structure(self) -> None:
        """None: nothing may be learned from BBH."""

    def parse(self, reply: str) -> list[Piece]:
        """Raises ConfigError: nothing may be learned from BBH."""
        raise ConfigError(_REFUSED)

    def group(self, problem: Problem) -> str:
        """One of the 23 tasks."""
        task = str(problem.extra["task"])
        return next((t for t in ("logical_deduction", "tracking_shuffled_objects") if task.startswith(t)), task)


@lru_cache(maxsize=4)
def _tasks_of(benchmark: Bbh) -> dict[str, str]:
    return {record["input"]: record["task"] for record in benchmark.load("test")}


@lru_cache(maxsize=64)
def worked_examples(source: str, task: str) -> str:
    """The three worked examples of a task, without the canary's header. Raises ConfigError where there are none."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        split = SplitSource((), config="few_shot_prompts", splits=("few_shot_prompts",), get=GET)
        prompts = {r.record["dataset_name"]: r.record for r in rows("bbh", PROMPTS_ON_THE_HUB, split)}
        return _without_header(text_field(prompts.get(task, {}), "chain_of_thought_prompt"))
    name = f"cot-prompts/{task}.txt"
    for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
        if path.is_file():
            return _without_header(path.read_text(encoding="utf-8"))
    raise ConfigError(f"bbh: {folder} does not hold {name}, the worked examples of {task}. Get it from {GET}.")


def _without_header(text: str) -> str:
    head, rule, rest = text.partition("-----\n")
    return (rest if rule and _CANARY in head else text).strip()


BENCHMARK = Bbh()
