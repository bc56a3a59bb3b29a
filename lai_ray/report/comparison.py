"""Several runs side by side.  runs -> table"""

from __future__ import annotations

from lai_ray.common.intervals import Interval, paired
from lai_ray.report import facts
from lai_ray.report.tables import Table, percent, points
from lai_ray.storage.run import Run


def side_by_side(runs: list[Run]) -> Table:
    """First and last scores of each run's tests, and its last answers against those of the first run."""
    level = facts.confidence(runs[0])
    table = Table(
        "Runs side by side: last test scores, percent",
        ["run", "strategy", "test", "first", "last", "change", f"against {runs[0].name}"],
        note="The last column is the paired difference of the last answers, over the problems that both runs answered; "
        "a dash where there are none.",
    )
    for run in runs:
        measured = [i for i in facts.iterations(run) if i.tested]
        for name in facts.tests(run):
            change = facts.change(measured[0], measured[-1], name, level) if len(measured) > 1 else None
            first, last = (facts.score_on(i, name, level) for i in (measured[0], measured[-1]))
            against = None if run is runs[0] else _difference(runs[0], run, name, level)
            table.rows.append(
                [run.name, facts.strategies(run), name, percent(first), percent(last), points(change), points(against)]
            )
    return table


def _difference(base: Run, other: Run, name: str, level: float) -> Interval | None:
    ends = [[i for i in facts.iterations(run) if f"{name}.test" in i.scores()][-1:] for run in (base, other)]
    if not all(ends):
        return None
    before, after = (facts.verdicts_by_content(end[0], name) for end in ends)
    return paired(before, after, level) if before.keys() & after.keys() else None
