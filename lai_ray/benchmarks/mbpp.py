"""MBPP: short Python functions from a description (arXiv 2108.07732).

A row as the paper's release refined it (prompt in the style of HumanEval, tests as check(candidate)):
    {"task_id": 999, "prompt": "def twice(n: int) -> int:\\n    \\"\\"\\" Twice a number. \\"\\"\\"\\n",
     "test": "def check(candidate):\\n    assert candidate(2) == 4\\n", "entry_point": "twice"}
and as google-research publishes it:
    {"task_id": 999, "text": "Write a function to double a number.", "code": "def twice(n):\\r\\n  return 2 * n",
     "test_list": ["assert twice(2) == 4"], "test_setup_code": "", "challenge_test_list": []}

Where both exist, both are used: prompt and tests of the first, reference solution of the second. Without the refined
file, signature and docstring are made of the description, the solution's signature and the tests
(`lai_ray.instructor.parsing.code_samples.header`). Grading follows human-eval's check_correctness (openai/human-eval @
6d43fb9) and, with "paper" rules, the extraction of SkyworkAI/LLMs-as-Instructors @ 54f3cc4; both are reimplemented in
`lai_ray.grading.programs`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from lai_ray.benchmark_kinds.code import CodeBenchmark, recorded_completion
from lai_ray.benchmark_kinds.rows import SplitSource, refuse_foreign, rows, source_of, text_field
from lai_ray.errors import ConfigError, DataError
from lai_ray.grading.programs import Prompted, defined_names, setup_of
from lai_ray.instructor.parsing.code_samples import header
from lai_ray.records import Problem

IDS = {"train": range(601, 975), "dev": range(511, 601), "test": range(11, 511)}
"""The published splits by task_id; 1 to 10 are for few-shot prompts and not used."""
_REFINED = {"train": "train_refined_data", "dev": "train_refined_data", "test": "test_refined_data"}
_GET = "github.com/google-research/google-research, mbpp/mbpp.jsonl"
SOURCES = {
    split: SplitSource(files=(("mbpp",), (name,), (f"full/{name}",)), config="full", splits=(name,), get=_GET)
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test"))
}


@dataclass(frozen=True)
class Mbpp(CodeBenchmark):
    """See the module."""

    source: str = "google-research-datasets/mbpp"
    """A hub name, or a folder that holds mbpp.jsonl, train_refined_data.jsonl and test_refined_data.jsonl, or some."""
    splits: tuple[str, ...] = ("train", "dev", "test")
    """Without "dev", train includes its problems, as in the paper."""
    name: ClassVar[str] = "mbpp"
    domain: ClassVar[str] = "in"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        """The records by task_id, refined where the refined file exists. Raises ConfigError for another split."""
        if split not in self.splits:
            raise ConfigError(f"{self.name} has no split {split!r}. It has: {', '.join(self.splits)}.")
        merged = ("train", "dev") if split == "train" and "dev" not in self.splits else (split,)
        return iter(sorted((row for part in merged for row in _records(self.source, part)), key=_task))

    def problem(self, record: Mapping[str, Any], split: str, row: int) -> Problem:
        """One record of either format; `answer` is the reference solution, "" where there is none."""
        refuse_foreign(self.name, record)
        made = _refined(record) if "entry_point" in record else _original(record)
        return Problem(
            id=f"{self.name}/{split}/{row:05d}",
            benchmark=self.name,
            split=split,
            question=made.pop("question"),
            answer=made.pop("answer"),
            extra={"task_id": record.get("task_id"), **made, **recorded_completion(record)},
        )


def _task(record: Mapping[str, Any]) -> int:
    return int(record["task_id"])


def _records(source: str, split: str) -> list[dict[str, Any]]:
    """Refined rows, each with the published fields of its task; only published rows where there are no refined ones."""
    wanted = IDS[split]
    refined = {row["task_id"]: row for row in _local(source, _REFINED[split]) if row.get("task_id") in wanted}
    try:
        read = rows("mbpp", source, source_of("mbpp", SOURCES, split))
        published = {row.record["task_id"]: row.record for row in read}
    except ConfigError:
        if not refined:
            raise
        published = {}
    if not refined:
        return [record for task, record in published.items() if task in wanted]
    return [{**published.get(task, {}), **record} for task, record in refined.items()]


def _local(source: str, name: str) -> list[dict[str, Any]]:
    if not Path(source).expanduser().is_dir():
        return []
    try:
        return [row.record for row in rows("mbpp", source, SplitSource(((name,),), None, (), _GET))]
    except ConfigError:
        return []


def _refined(record: Mapping[str, Any]) -> dict[str, Any]:
    prompt, test, entry = (text_field(record, name) for name in ("prompt", "test", "entry_point"))
    if record.get("task_id") in MENDED and "code" in record and "text" in record:
        official = {"prompt": prompt, "test": test, "entry": entry, "check": True, "names": []}
        return {**_original(record), "official": official}
    made = {"question": prompt, "entry": entry, "test": test, "names": _classes(prompt, entry, test)}
    return {**made, "answer": _reference(record, entry)}


def _reference(record: Mapping[str, Any], entry: str) -> str:
    """The published solution under the refined task's name; "" where there is none or it solves another task."""
    code = _code_of(record)
    if not code or record.get("task_id") in NO_REFERENCE:
        return ""
    if entry in defined_names(code):
        return code
    known = _tested(code, [str(test) for test in record.get("test_list") or ()])
    return f"{code}\n\n{entry} = {known}" if known else ""


def _tested(code: str, tests: list[str]) -> str | None:
    """The function of a solution that its tests call."""
    functions = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    return next((name for name in reversed(functions) if any(name in _called(test) for test in tests)), None)


def _original(record: Mapping[str, Any]) -> dict[str, Any]:
    text, code = text_field(record, "text", "prompt"), _code_of(record)
    tests = [str(test).strip() for test in record.get("test_list") or ()]
    names = defined_names(code)
    entry = _tested(code, tests)
    if entry is None or not tests:
        raise DataError(f"task {record.get('task_id')}: no test calls a function of its code")
    setup = str(record.get("test_setup_code") or "").replace("\r\n", "\n")
    every = "\n".join([*filter(None, [setup]), *tests])
    others = [name for name in names if name != entry and name in _called(every)]
    return {
        "question": header(text, code, entry, tests), "answer": code, "entry": entry, "test": every, "check": False,
        "names": others,
    }  # fmt: skip


def _code_of(record: Mapping[str, Any]) -> str:
    return str(record.get("code") or "").replace("\r\n", "\n").replace("\r", "\n")


def _classes(prompt: str, entry: str, test: str) -> list[str]:
    """Classes of the prompt that the tests instantiate: the program must define them."""
    defined = defined_names(setup_of(Prompted(prompt, entry)))
    return [name for name in defined if name in _called(test) and name[:1].isupper()]


@lru_cache(maxsize=4096)
def _called(source: str) -> frozenset[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return frozenset(call.id for call in calls if isinstance(call, ast.Name))


MENDED = frozenset({367, 380, 462, 819, 927})
"""Rows of the refined files that no program can pass, or that name no function, rebuilt from the published row: 380 and
462 have a piece of JSON as entry_point and half a test, 819 has no signature, 367 and 927 test a tree that is never
built."""
NO_REFERENCE = frozenset(
    {
        75, 111, 114, 117, 124, 149, 313, 436, 438, 444, 461, 494, 500, 523, 579, 620, 631, 640, 652, 686, 743, 757,
        847, 882, 920, 939, 949,
    }
    | {123}
)  # fmt: skip
"""Rows whose refined tests the published solution does not pass, because the refinement changed the task (e.g. the
number of arguments, or a list instead of a string); and 123, whose solution exceeds the CPU limit."""

BENCHMARK = Mbpp()
AS_THE_PAPER = Mbpp(splits=("train", "test"))
"""Training problems 511 to 974, as the paper learned from: `learn_from = ["lai_ray.benchmarks.mbpp:AS_THE_PAPER"]`."""
