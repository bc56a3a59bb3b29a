"""A section of the report: first answers, and what the target's own corrections make of them.

[report]
sections = ["lai_ray.report.self_correction:SECTION"]

A target trained by `tripost` writes attempt, feedback and updated answer into one response, and its last answer is
graded. A gain that comes of worse first answers shows here.
"""

from __future__ import annotations

from collections import Counter

from lai_ray.common.self_correction import RIGHT, read_feedback, split
from lai_ray.config.config import Config
from lai_ray.contracts import Benchmark, Grading
from lai_ray.records import Attempt
from lai_ray.report import facts
from lai_ray.report.tables import Table
from lai_ray.stages.evaluate import grade_of
from lai_ray.stages.job import benchmark_of
from lai_ray.storage.run import Run


def section(run: Run, confidence: float) -> list[Table]:
    """A row for each test and iteration in which a response corrects itself. Not for tests that run code."""
    columns = [
        "test",
        "iter.",
        "n",
        "first right",
        "last right",
        "wrong → right",
        "right → wrong",
        "called right, wrong",
    ]
    note = "Problems, by the first and the last answer of a response. Called right: by its last feedback."
    table = Table("Self-correction", columns, note=note)
    config = Config.model_validate(run.record()["config"])
    how = Grading(config.evaluate.rules, config.sandbox.min_tier)
    for name in facts.tests(run):
        benchmark = benchmark_of(config, name)
        for one in facts.iterations(run) if not benchmark.runs_code else ():
            counts = Counter[str]()
            for attempt in facts.attempts(one, f"{name}.test") if one.tested else ():
                counts += _counted(attempt, benchmark, how)
            if counts["corrects"]:
                table.rows.append([name, str(one.number), *(f"{counts[key]:,}" for key in COUNTED)])
    return [table] if table.rows else []


COUNTED = ("n", "first", "last", "mended", "spoiled", "blind")


def _counted(attempt: Attempt, benchmark: Benchmark, how: Grading) -> Counter[str]:
    trajectory = split(attempt.completion.text)
    first = attempt.right
    if trajectory.feedbacks:
        first = grade_of(benchmark, attempt.problem, trajectory.attempts[0], how).score >= 1
    blind = bool(trajectory.feedbacks) and read_feedback(trajectory.feedbacks[-1]) == RIGHT and not attempt.right
    return Counter(
        n=1, corrects=bool(trajectory.feedbacks), first=first, last=attempt.right, mended=attempt.right and not first,
        spoiled=first and not attempt.right, blind=blind,
    )  # fmt: skip


SECTION = section
