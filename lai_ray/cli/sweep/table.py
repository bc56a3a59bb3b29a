"""Results of a sweep: a row per run for sweep.csv, and means over seeds.  Sweep -> rows, tables"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from lai_ray.cli.run import existing
from lai_ray.cli.sweep.file import Member, Sweep
from lai_ray.cli.sweep.runs import finished
from lai_ray.common import unread
from lai_ray.common.intervals import mean_of
from lai_ray.report import facts
from lai_ray.report.tables import Table, percent, points

COUNTED = ("calls", "prompt_tokens", "completion_tokens", "usd", "inherited")
"""Of each run's instructor: what this run paid for, and the replies reused from the sweep's other runs."""


def rows(sweep: Sweep, failed: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row per run: settings, state, test scores before and after as fractions, calls and money, seconds."""
    return [_row(member, failed.get(member.name)) for member in sweep.members]


def _row(member: Member, failure: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"run": member.name}
    row |= ({"arm": member.arm} if member.arm else {}) | {k: _cell(v) for k, v in member.settings.items()}
    row["seed"] = member.seed
    run = existing(member.config)
    if run is None:
        return row | {"state": f"failed: {failure}" if failure else "not started"}
    row["state"] = "done" if finished(member) else f"failed: {failure}" if failure else "unfinished"
    iterations = facts.iterations(run)
    for name in facts.tests(run):
        scored = [i.scores()[f"{name}.test"] for i in iterations if f"{name}.test" in i.scores()]
        before, after = (part["right"] / part["n"] for part in (scored[0], scored[-1]))
        row[f"{name}.before"] = before
        if row["state"] == "done" or len(scored) > 1:  # Else it is the untouched target.
            row |= {f"{name}.after": after, f"{name}.change": after - before}
            row |= {f"{name}.{kind}": scored[-1][kind] for kind in unread.WORDS if scored[-1].get(kind)}
    used = [usage for iteration in iterations if (usage := iteration.usage())]
    for name in COUNTED:
        known = [usage[name] for usage in used if usage.get(name) is not None]
        row[name] = round(sum(known), 6) if known else None
    row["seconds"] = round(sum(sum(iteration.seconds().values()) for iteration in iterations), 1)
    return row


def as_csv(results: list[dict[str, Any]]) -> bytes:
    """The rows, with every column that occurs in any of them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in results for key in row)), restval="")
    writer.writeheader()
    writer.writerows(results)
    return text.getvalue().encode()


def runs_table(results: list[dict[str, Any]]) -> Table:
    """State and costs of each run."""
    table = Table("Runs", ["run", "state", "calls paid", "reused", "US$", "seconds"])
    for row in results:
        money = "–" if row.get("usd") is None else f"{row['usd']:,.2f}"
        counts = [_count(row.get(name)) for name in ("calls", "inherited")]
        table.rows.append([row["run"], row["state"], *counts, money, _count(row.get("seconds"))])
    return table


def means(sweep: Sweep, results: list[dict[str, Any]], confidence: float) -> Table:
    """Scores after the last iteration and changes, mean over the finished seeds, by the settings that vary."""
    tests = list(dict.fromkeys(key.removesuffix(".after") for row in results for key in row if key.endswith(".after")))
    columns = ["runs", "seeds", *(f"{name}\n{what}" for name in tests for what in ("after", "change"))]
    table = Table(
        f"{sweep.name}: test scores in percent, mean over seeds", columns,
        note=f"{confidence:.0%} intervals over seeds (Student's t); of a single seed over its problems (Wilson, paired "
        "for the change). The change is from the untouched target to the last iteration of the same run.",
    )  # fmt: skip
    groups: dict[str, list[tuple[Member, dict[str, Any]]]] = {}
    for member, row in zip(sweep.members, results, strict=True):
        groups.setdefault(_group(member), [])
        if row["state"] == "done":
            groups[_group(member)].append((member, row))
    for title, done in groups.items() if tests else ():
        cells = [_mean(done, name, what, confidence) for name in tests for what in ("after", "change")]
        table.rows.append([title, str(len(done)), *cells])
    return table


def _mean(done: list[tuple[Member, dict[str, Any]]], name: str, what: str, confidence: float) -> str:
    """The mean over these runs; of one run the figure itself, with the interval over its problems."""
    text = percent if what == "after" else points
    values = [row[f"{name}.{what}"] for _, row in done if f"{name}.{what}" in row]
    if len(values) != 1:
        return text(mean_of(values, confidence)) if values else "–"
    (run,) = [existing(member.config) for member, row in done if f"{name}.{what}" in row]
    assert run is not None, "it is done"
    scored = [each for each in facts.iterations(run) if f"{name}.test" in each.scores()]
    if what == "after":
        return percent(facts.score_on(scored[-1], name, confidence))
    return points(facts.change(scored[0], scored[-1], name, confidence))


def _group(member: Member) -> str:
    varied = [f"{key} = {_cell(value)}" for key, value in member.varied.items()]
    return "\n".join([member.arm, *varied]).strip() or "the job, unchanged"


def _cell(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
