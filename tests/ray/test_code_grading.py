"""Programs graded on the cluster: the verdicts are those of this process, and the weakest sandbox is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from lai_ray.config.config import Config
from lai_ray.config.job_file import parse
from lai_ray.contracts import Model
from lai_ray.distributed.executor import CHUNK, RayExecutor
from lai_ray.grading.sandbox import runner
from lai_ray.records import Attempt
from lai_ray.stages.evaluate import evaluate
from lai_ray.stages.job import Job
from lai_ray.stages.select import select
from lai_ray.storage.run import Run
from tests.local import LocalExecutor

RIGHT = "def double(n):\n    return 2 * n"
PROGRAMS = {
    "right": RIGHT,
    "wrong": "def double(n):\n    return 2 + n",
    "raises": "def double(n):\n    return n / 0",
    "exits": "import os\ndef double(n):\n    os._exit(0)",
    "crashes": "import ctypes\ndef double(n):\n    ctypes.string_at(0)",
    "killed": "import os, signal\ndef double(n):\n    os.kill(os.getpid(), signal.SIGKILL)",
    "no program": "def double(n:",
}
HANGS = "def double(n):\n    while True:\n        n += 1"
ROWS = CHUNK + 6


pytestmark = pytest.mark.usefixtures("sandbox")


def answered(tmp_path: Path, programs: Iterable[str]) -> Config:
    """A job whose target gave these programs to a data set of the user's own."""
    row = {"question": "Write a function that doubles.", "answer": RIGHT, "asserts": ["assert double(3) == 6"]}
    rows = [row | {"response": f"```python\n{program}\n```"} for program in programs]
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    own = {"name": "doubling", "kind": "code", "train": str(file), "tests": "asserts"}
    return parse(
        {
            "name": "test", "storage": str(tmp_path), "iterations": 1, "benchmark": [own],
            "target": {"model": "m", "engine": "recorded", "attempts": {"doubling": str(file)}},
            "evaluate": {"learn_from": ["doubling"]}, "contrast": {"encoder": "target"},
            "instructor": {"model": "m"}, "cluster": {"gpus_per_replica": 0, "gpus_per_worker": 0},
        }
    )  # fmt: skip


def graded(config: Config, folder: Path, executor: Any) -> tuple[list[Attempt], dict[str, Any]]:
    """The attempts of the stage that a run begins with, and its scores."""
    stage = Run(str(folder), create=True).stage(0, "evaluate")
    job = Job.of(config)
    attempts = evaluate(stage, select(job, 0), Model("m", "m"), job, executor)
    return list(attempts.of("doubling", "train")), attempts.scores()["doubling.train"]


def test_programs_get_the_same_verdicts_on_the_cluster_as_in_this_process(tmp_path):
    given = [*islice(cycle(PROGRAMS), ROWS - 1), "hangs"]
    config = answered(tmp_path, [(PROGRAMS | {"hangs": HANGS})[name] for name in given])
    executor = RayExecutor(config, None)
    with ThreadPoolExecutor() as both:  # The program that hangs takes three seconds in each.
        local = both.submit(graded, config, tmp_path / "local", LocalExecutor())
        there, scores = graded(config, tmp_path / "ray", executor)
        here, same = local.result()
    executor.close()
    assert [a.id for a in there] == [a.id for a in here]
    assert [(a.grade.score, a.grade.status, a.grade.rule) for a in there] == [
        (a.grade.score, a.grade.status, a.grade.rule) for a in here
    ]
    right = {name for name, attempt in zip(given, there, strict=True) if attempt.grade.score == 1}
    assert right == {"right"} and "CPU time" in there[-1].grade.note
    assert scores == same
    assert (scores["n"], scores["right"], scores["weakest_tier"]) == (ROWS, given.count("right"), "namespaces")


class Uneven(RayExecutor):
    """A cluster of which one node offered less isolation than the others."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        def graded(item: tuple[Any, ...]) -> Any:
            if not item[0].id.endswith(f"{CHUNK:05d}"):
                return function(item)
            used = runner._pool().used
            used.add("landlock")
            try:
                return function(item)
            finally:
                used.discard("landlock")

        return super().map(graded, items)


def test_the_weakest_sandbox_of_any_program_is_recorded(tmp_path):
    config = answered(tmp_path, [RIGHT] * (CHUNK + 2))
    executor = Uneven(config, None)
    _, scores = graded(config, tmp_path / "run", executor)
    executor.close()
    assert (scores["right"], scores["weakest_tier"]) == (CHUNK + 2, "landlock")
