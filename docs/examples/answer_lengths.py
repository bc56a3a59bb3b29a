"""A section of the report: how long the target's answers are, by test and iteration.

[report]
sections = ["answer_lengths:SECTION"]
"""

from __future__ import annotations

import statistics

from lai_ray.report import facts
from lai_ray.report.tables import Table
from lai_ray.storage.run import Run


def section(run: Run, confidence: float) -> list[Table]:
    """A row a test: the median number of characters in each iteration that was tested."""
    iterations = [one for one in facts.iterations(run) if one.tested]
    table = Table("Length of answers, median characters", ["test", *(f"iter. {one.number}" for one in iterations)])
    for name in facts.tests(run):
        medians = (
            statistics.median(len(attempt.completion.text) for attempt in facts.attempts(one, f"{name}.test"))
            for one in iterations
        )
        table.rows.append([name, *(f"{median:.0f}" for median in medians)])
    return [table]


SECTION = section
