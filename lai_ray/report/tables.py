"""A run, or several side by side, as tables for the terminal and for report.md.  facts -> tables"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lai_ray.common.intervals import Interval, paired
from lai_ray.common.plugins import runs_in_cluster
from lai_ray.config.config import Config
from lai_ray.report import facts
from lai_ray.stages.select import benchmark
from lai_ray.storage.run import STAGES, Run


@dataclass
class Table:
    """A title, column names, rows of text, and what a reader should know."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""

    def markdown(self) -> str:
        """As Markdown."""
        lines = [f"## {self.title}", "", _row(self.columns), _row(["---"] + ["---:"] * (len(self.columns) - 1))]
        return "\n".join([*lines, *map(_row, self.rows), "", *([self.note, ""] if self.note else [])])

    def rich(self) -> RichTable:
        """For the terminal; `show` prints the title above it, which would be broken to the width of a narrow table."""
        table = RichTable(box=SIMPLE_HEAD, pad_edge=False)
        table.caption, table.caption_justify = self.note or None, "left"
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="right" if i else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))  # as it stands: "ray[default]" is no markup
        return table


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"


def percent(interval: Interval | None) -> str:
    """ "52.3" and below it "50.1–54.5", or a dash."""
    if interval is None:
        return "–"
    return f"{100 * interval.value:.1f}\n{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def points(interval: Interval | None) -> str:
    """ "+3.4" and below it "+1.2 to +5.6", or a dash."""
    if interval is None:
        return "–"
    return f"{100 * interval.value:+.1f}\n{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"


def confidence_of(run: Run) -> float:
    """The level of the run's intervals."""
    return float(run.record()["config"]["report"]["confidence"])


def scores(run: Run) -> Table:
    """Test scores by iteration, in-domain and out-of-domain, with the paired change from first to last."""
    level, config = confidence_of(run), Config.model_validate(run.record()["config"])
    measured = [i for i in facts.iterations(run) if i.tested]
    unmeasured = [i for i in facts.iterations(run)[:1] if i.scores() and not i.tested]
    table = Table(
        "Test scores, percent",
        ["test", "n", *(f"iter. {i.number}" for i in (*unmeasured, *measured)), "change"],
        note=f"With {level:.0%} intervals; the change is paired, problem by problem. "
        "Iteration 0 is the untouched target"
        + (", whose recorded answers are to training problems alone." if unmeasured else "."),
    )
    for name in facts.tests(run):
        n = next(i.scores()[f"{name}.test"]["n"] for i in measured if f"{name}.test" in i.scores())
        change = facts.change(measured[0], measured[-1], name, level) if len(measured) > 1 else None
        domain = {"in": "in-domain", "out": "out-of-domain"}[benchmark(config, name).domain]
        cells = [*("not measured" for _ in unmeasured), *(percent(facts.score_on(i, name, level)) for i in measured)]
        table.rows.append([f"{name}\n{domain}", str(n), *cells, points(change)])
    return table


def by_group(run: Run) -> list[Table]:
    """Each test's scores by kind, subject or type."""
    tables = []
    measured = [i for i in facts.iterations(run) if i.tested]
    for name in facts.tests(run):
        names = facts.groups(run, name)
        if len(names) < 2:
            continue
        table = Table(f"{name} by group, percent", ["group", "n", *(f"iter. {i.number}" for i in measured)])
        for group in names:
            first = measured[0].scores().get(f"{name}.test", {}).get("groups", {}).get(group, {})
            cells = [facts.score_on(i, name, 0.95, group) for i in measured]
            table.rows.append(
                [group, str(first.get("n", "–")), *("–" if c is None else f"{100 * c.value:.1f}" for c in cells)]
            )
        tables.append(table)
    return tables


def funnel(run: Run) -> Table:
    """Attempts to samples, by iteration and dataset."""
    columns = ["dataset", "iteration", "attempts", "mistakes", "replies", "samples", "kept"]
    table = Table("From attempts to samples", columns)
    dropped: dict[str, int] = {}
    for row in facts.funnel_rows(run):
        for reason, n in row["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + n
        table.rows.append(["–" if row[name] is None else str(row[name]) for name in table.columns])
    if dropped:
        table.note = "Dropped: " + ", ".join(f"{reason}: {n}" for reason, n in sorted(dropped.items())) + "."
    return table


def contrasts(run: Run) -> Table:
    """How near the questions shown beside the mistakes are, and whether the same few serve many."""
    columns = ["dataset", "iteration", "nearest", "farthest", "same subject", "questions shown", "most often"]
    table = Table(
        "Contrast sets", columns,
        note="Mean squared L2 distance of a mistake to the nearest and the farthest question shown beside it; how many "
        "different correct questions were shown, and how many mistakes the busiest of them served.",
    )  # fmt: skip
    for pool in (pool for iteration in facts.iterations(run) for pool in iteration.pools()):
        for dataset, found in pool.stage("diagnose").facts().get("contrasts", {}).items():
            subject = f"{found['same_subject']:.0%}" if "same_subject" in found else "–"
            counts = [f"{found[name]:.0f}" for name in ("questions_shown", "most_often")]
            distances = [f"{found[name]:.3f}" for name in ("nearest", "farthest")]
            table.rows.append([dataset, pool.name, *distances, subject, *counts])
    return table


def times(run: Run) -> Table:
    """Seconds by stage and iteration."""
    measured = {iteration.number: iteration.seconds() for iteration in facts.iterations(run)}
    stages = [name for name in STAGES if any(name in seconds for seconds in measured.values())]
    table = Table("Time, seconds", ["iteration", *stages, "sum"])
    for number, seconds in measured.items():
        cells = [f"{seconds[name]:.1f}" if name in seconds else "–" for name in stages]
        table.rows.append([str(number), *cells, f"{sum(seconds.values()):.1f}"])
    return table


def costs(run: Run) -> Table:
    """Instructor calls, tokens and money by iteration."""
    settings = run.record()["config"]["instructor"]
    note = facts.budget_words(run)
    if runs_in_cluster(settings["engine"]):
        note += " It ran in the cluster: nobody sends a bill, and US$ is what the job's own price makes of the tokens."
    if settings["usd_per_million_input"] is None:
        note += " No price is set for this instructor (instructor.usd_per_million_input, …_output): no money is shown."
    if settings["reuse_across_seeds"]:
        note += " Replies are shared between seeds (instructor.reuse_across_seeds)."
    columns = ["iteration", "calls", "failed", "possibly paid besides", "tokens in", "tokens out", "US$", "taken over"]
    table = Table(f"Instructor: {settings['model']}", columns, note=note.strip())
    keys = ("calls", "failed", "possibly_paid", "prompt_tokens", "completion_tokens")
    for iteration in facts.iterations(run):
        if usage := iteration.usage():
            money = "–" if usage["usd"] is None else f"{usage['usd']:.4f}"
            taken = str(usage["inherited"])
            if usage["inherited_usd"]:
                taken += f" ({usage['inherited_usd']:.4f} US$)"
            table.rows.append([str(iteration.number), *(str(usage[key]) for key in keys), money, taken])
    return table


def one_run(run: Run) -> list[Table]:
    """Everything about one run."""
    tables = [scores(run), *by_group(run), funnel(run), contrasts(run), times(run), costs(run)]
    return [table for table in tables if table.rows]


def side_by_side(runs: list[Run]) -> list[Table]:
    """Several runs: first and last scores of each test, and each run's last answers against the first run's."""
    level = confidence_of(runs[0])
    table = Table(
        "Runs side by side: last test scores, percent",
        ["run", "strategy", "test", "first", "last", "change", f"against {runs[0].name}"],
        note="The last column is the paired difference of the last answers, over the problems both runs answered; a "
        "dash where they have none in common.",
    )
    for run in runs:
        measured = [i for i in facts.iterations(run) if i.tested]
        for name in facts.tests(run):
            change = facts.change(measured[0], measured[-1], name, level) if len(measured) > 1 else None
            first, last = (facts.score_on(i, name, level) for i in (measured[0], measured[-1]))
            against = None if run is runs[0] else _against(runs[0], run, name, level)
            table.rows.append(
                [run.name, facts.strategies(run), name, percent(first), percent(last), points(change), points(against)]
            )
    return [table]


def _against(base: Run, other: Run, name: str, level: float) -> Interval | None:
    ends = [[i for i in facts.iterations(run) if f"{name}.test" in i.scores()][-1:] for run in (base, other)]
    if not all(ends):
        return None
    before, after = (facts.verdicts_by_content(end[0], name) for end in ends)
    return paired(before, after, level) if before.keys() & after.keys() else None


def sizes_said(size: int | dict[str, int]) -> str:
    """A number of samples of each dataset, for a person: "3000", "2000 gsm8k + 500 mbpp"."""
    return " + ".join(f"{n} {name}" for name, n in size.items()) if isinstance(size, dict) else str(size)


def header(run: Run) -> str:
    """What the run is, in a few lines of Markdown."""
    config: dict[str, Any] = run.record()["config"]
    sizes = sizes_said(config["curate"]["samples_per_dataset"])
    identity = run.record()["identity"]["content"]
    return (
        f"# {run.name}\n\n"
        f"Target `{config['target']['model']}` ({identity['target'][:12]}), {config['iterations']} iterations, "
        f"strategy {facts.strategies(run)}, at most {sizes} samples a dataset, "
        f"seed {config['seed']}. Versions, machine and command: `provenance.json`.\n"
    )


def markdown(run: Run) -> str:
    """The whole of report.md."""
    return "\n".join([header(run), *(table.markdown() for table in one_run(run))])


def show(tables: list[Table], console: Console) -> None:
    """Print tables on the terminal."""
    for table in tables:
        console.print(table.title, style="bold", markup=False)
        console.print(table.rich())
        console.print()
