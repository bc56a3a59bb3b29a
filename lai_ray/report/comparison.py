"""Several runs side by side.  runs -> table"""

from __future__ import annotations

from lai_ray.common.intervals import Interval, paired
from lai_ray.common.unread import advice, unread
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
    coming = [facts.next_stage(run) for run in runs]
    for run, stage in zip(runs, coming, strict=True):
        measured = [i for i in facts.iterations(run) if i.tested]
        title = f"{run.name}\nunfinished, next is {stage}" if stage else run.name
        tests = facts.tests(run)
        if not tests:
            table.rows.append([title, facts.strategies(run), *["–"] * 5])
        for name in tests:
            change = facts.change(measured[0], measured[-1], name, level) if len(measured) > 1 else None
            first, last = (_score(i, name, level) for i in (measured[0], measured[-1]))
            if stage and len(measured) == 1:
                last = "–"  # The untouched target is no result.
            against = None if run is runs[0] or stage or coming[0] else _difference(runs[0], run, name, level)
            table.rows.append([title, facts.strategies(run), name, first, last, points(change), points(against)])
    if any(coming):
        table.note += " An unfinished run has no last answers yet, and is not compared."
    table.note = f"{table.note} {advice(counts for run in runs for counts in facts.test_counts(run))}".strip()
    return table


def _score(iteration: facts.Iteration, name: str, level: float) -> str:
    return percent(facts.score_on(iteration, name, level), unread(iteration.scores().get(f"{name}.test", {})))


def _difference(base: Run, other: Run, name: str, level: float) -> Interval | None:
    ends = [[i for i in facts.iterations(run) if f"{name}.test" in i.scores()][-1:] for run in (base, other)]
    if not all(ends):
        return None
    before, after = (facts.verdicts_by_content(end[0], name) for end in ends)
    return paired(before, after, level) if before.keys() & after.keys() else None
