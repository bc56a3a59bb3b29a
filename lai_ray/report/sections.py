"""The parts of a run's report, in order.  run -> tables, report.md

A part of your own is one file, named in the job: `[report] sections = ["my_pkg.my_file:SECTION"]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from lai_ray.common import plugins
from lai_ray.common.plugins import runs_in_cluster
from lai_ray.common.screen import printable
from lai_ray.common.unread import advice, unread
from lai_ray.config.config import Config
from lai_ray.errors import ConfigError
from lai_ray.report import contamination, facts, search
from lai_ray.report.ending import count
from lai_ray.report.tables import Table, percent, points, sizes_text
from lai_ray.stages.job import benchmark_of
from lai_ray.storage.run import STAGES, Run


class Section(Protocol):
    """One part of a report: a function of a run's files.

        def SECTION(run, confidence):
            table = Table("Mistakes, percent of the attempts", ["dataset", "iteration", "mistakes"])
            for row in facts.funnel_rows(run):
                share = row["mistakes"] / row["attempts"]
                table.rows.append([row["dataset"], row["iteration"], f"{100 * share:.1f}"])
            return [table]

    run: only read, and maybe unfinished; `lai_ray.report.facts` has its iterations, pools, scores and attempts.
    confidence: the level of the report's intervals, `report.confidence`, between 0.5 and 1.
    Returns `lai_ray.report.tables.Table`s; one without rows is left out. An error is reported in the section's place.
    """

    def __call__(self, run: Run, confidence: float) -> Iterable[Table]: ...


def state(run: Run, confidence: float) -> list[Table]:
    """Of an unfinished run: what it has not done yet; no rows for a finished one."""
    table = Table("This run is unfinished", ["run", "iterations tested", "next stage"])
    if stage := facts.next_stage(run):
        tested = sum(iteration.tested for iteration in facts.iterations(run))
        table.rows.append([run.name, f"{tested} of {run.record()['config']['iterations'] + 1}", stage])
        table.note = "The same command goes on from there. Scores, changes and costs below are those so far."
    return [table]


def scores(run: Run, confidence: float) -> list[Table]:
    """Test scores by iteration, in-domain and out-of-domain, with the paired change from first to last."""
    config = Config.model_validate(run.record()["config"])
    measured = [i for i in facts.iterations(run) if i.tested]
    unmeasured = [i for i in facts.iterations(run)[:1] if i.scores() and not i.tested]
    table = Table(
        "Test scores, percent",
        ["test", "n", *(f"iter. {i.number}" for i in (*unmeasured, *measured)), "change"],
        note=f"With {confidence:.0%} intervals; the change is paired, problem by problem. "
        f"Iteration 0 is the untouched target, {config.target.model}"
        + (", whose recorded answers are to training problems alone." if unmeasured else "."),
    )
    for name in facts.tests(run):
        n = next(i.scores()[f"{name}.test"]["n"] for i in measured if f"{name}.test" in i.scores())
        change = facts.change(measured[0], measured[-1], name, confidence) if len(measured) > 1 else None
        domain = {"in": "in-domain", "out": "out-of-domain"}[benchmark_of(config, name).domain]
        cells = ["not measured"] * len(unmeasured) + [
            percent(facts.score_on(i, name, confidence), unread(i.scores().get(f"{name}.test", {}))) for i in measured
        ]
        table.rows.append([f"{name}\n{domain}", str(n), *cells, points(change)])
    table.note = f"{table.note} {advice(facts.test_counts(run))}".strip()
    return [table]


def by_rule(run: Run, confidence: float) -> list[Table]:
    """The scores of each test by further rules of its benchmark, as gsm8k's strict and flexible."""
    measured = [i for i in facts.iterations(run) if i.tested]
    table = Table("Test scores by further rules, percent", ["test", "rule", *(f"iter. {i.number}" for i in measured)])
    for name in facts.tests(run):
        parts = [i.scores().get(f"{name}.test", {}) for i in measured]
        for rule in sorted({rule for part in parts for rule in part.get("further", {})}):
            right = (part and f"{100 * part.get('further', {}).get(rule, 0) / part['n']:.1f}" for part in parts)
            table.rows.append([name, rule, *(cell or "–" for cell in right)])
    return [table]


def by_group(run: Run, confidence: float) -> list[Table]:
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
            table.rows.append([group, str(first.get("n", "–")), *(_in_group(i, name, group) for i in measured)])
        tables.append(table)
    return tables


def _in_group(iteration: facts.Iteration, name: str, group: str) -> str:
    """Percent right, and below it the answers that were not read."""
    counts = iteration.scores().get(f"{name}.test", {}).get("groups", {}).get(group)
    if not counts or not counts["n"]:
        return "–"
    return f"{100 * counts['right'] / counts['n']:.1f}" + (f"\n{below}" if (below := unread(counts)) else "")


def forgetting(run: Run, confidence: float) -> list[Table]:
    """What each iteration learned and forgot: rates of eq. 4 of the paper (its Figure 5), and the length of answers."""
    columns = ["part", "iterations", "n", "learned", "kept", "forgotten", "never", "change", "characters"]
    table = Table("Learned and forgotten, percent of the problems answered both times", columns)
    for one in facts.iterations(run):
        for part, counts in one.changes().items():
            fates = (f"{100 * counts[fate] / counts['n']:.1f}" for fate in columns[3:7])
            lengths = " → ".join(f"{length:.0f}" for length in counts["characters"])
            change = f"{100 * counts['change'][0]:+.1f}"
            table.rows.append([part, f"{one.number - 1} → {one.number}", str(counts["n"]), *fates, change, lengths])
    return [table]


def funnel(run: Run, confidence: float) -> list[Table]:
    """Attempts to samples, by iteration and dataset."""
    rows = list(facts.funnel_rows(run))
    columns = ["dataset", "iteration", "attempts", "mistakes", "cases", "replies", "samples", "kept"]
    columns += ["replayed"] if any(row["replayed"] is not None for row in rows) else []
    table = Table("From attempts to samples", columns)
    dropped: dict[str, int] = {}
    for row in rows:
        for reason, n in row["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + n
        table.rows.append(["–" if row[name] is None else str(row[name]) for name in columns])
    if cut_off := sum(row["cut off"] for row in rows):
        kept = run.record()["config"]["evaluate"].get("count_cut_off")
        table.note = f"{cut_off} wrong or unparsed answers were cut off at target.max_new_tokens"
        table.note += ". " if kept else ", and are no cases: raise it, or set evaluate.count_cut_off = true. "
    if dropped:
        table.note += "Dropped: " + ", ".join(f"{reason}: {n}" for reason, n in sorted(dropped.items())) + "."
    if derived := sum(row["derived"] for row in rows):
        table.note += f" Of those kept, {derived} had no final line and got that of their own result."
    if refused := facts.refused(run):
        table.note += f" Left out of the training, refused by the target's chat template: {refused}."
    return [table]


def rehearsal(run: Run, confidence: float) -> list[Table]:
    """What the target could do of the new problems before it studied them, by strategy and dataset."""
    rows = [(pool, *each) for pool in facts.pools(run) for each in pool.rehearsal().items()]
    verdicts = ("wrong", "misconception", "unclear")
    columns = ["dataset", "iteration", "strategy", "problems", "solved", "right"]
    own = any(counts["own_texts"] for _, _, counts in rows)
    doubts = any(any(counts["keys_in_doubt"].values()) for _, _, counts in rows)
    table = Table(
        "Rehearsal of the new problems", [*columns, *["own texts"] * own, *["keys"] * doubts, "studied"],
        note="Percent before the training: problems that all answers of the target solve, and answers that are right."
        + " Own texts: samples studied in its own words (of them after a hint)." * own
        + f" Keys in doubt: {' / '.join(verdicts)}." * doubts,
    )  # fmt: skip
    for pool, dataset, counts in rows:
        shares = [counts["solved"] / counts["problems"], counts["right"] / counts["draws"]]
        cells = [str(counts["problems"]), *(f"{100 * share:.1f}" for share in shares)]
        cells += [f"{counts['own_texts']} ({counts['after_hint']})"] * own
        cells += [" / ".join(str(counts["keys_in_doubt"][verdict]) for verdict in verdicts)] * doubts
        table.rows.append([dataset, pool.name, counts["strategy"], *cells, str(counts["studied"])])
    return [table]


def contrasts(run: Run, confidence: float) -> list[Table]:
    """How near the questions shown beside the mistakes are, and whether a few of them serve many mistakes."""
    columns = ["dataset", "iteration", "nearest", "farthest", "same subject", "questions shown", "most often"]
    table = Table(
        "Contrast sets", columns,
        note="Mean squared L2 distance of a mistake to the nearest and the farthest question shown beside it; the "
        "number of different questions shown, and of mistakes beside which the most frequent one is shown.",
    )  # fmt: skip
    for pool in facts.pools(run):
        for dataset, sets in pool.stage("diagnose").facts().get("contrasts", {}).items():
            subject = f"{sets['same_subject']:.0%}" if "same_subject" in sets else "–"
            counts = [f"{sets[name]:.0f}" for name in ("questions_shown", "most_often")]
            distances = [f"{sets[name]:.3f}" for name in ("nearest", "farthest")]
            table.rows.append([dataset, pool.name, *distances, subject, *counts])
    return [table]


def times(run: Run, confidence: float) -> list[Table]:
    """Seconds by stage and iteration."""
    measured = {iteration.number: iteration.seconds() for iteration in facts.iterations(run)}
    stages = [name for name in STAGES if any(name in seconds for seconds in measured.values())]
    table = Table("Time, seconds", ["iteration", *stages, "sum"])
    for number, seconds in measured.items():
        cells = [f"{seconds[name]:.1f}" if name in seconds else "–" for name in stages]
        table.rows.append([str(number), *cells, f"{sum(seconds.values()):.1f}"])
    return [table]


def costs(run: Run, confidence: float) -> list[Table]:
    """Instructor calls, tokens and money by iteration, and what is left of the budget."""
    settings = run.record()["config"]["instructor"]
    note = facts.budget_text(run)
    if runs_in_cluster(settings["engine"]):
        note += " It ran in the cluster, so there is no bill: US$ is the price in the job times the tokens."
    if settings["usd_per_million_input"] is None:
        note += " US$ needs a price: instructor.usd_per_million_input and instructor.usd_per_million_output."
    if settings["reuse_across_seeds"]:
        note += " Replies are shared between seeds (instructor.reuse_across_seeds)."
    columns = ["iteration", "calls", "failed", "refused (429)", "possibly paid besides", "tokens in", "tokens out"]
    columns += ["US$", "reused"]
    table = Table(f"Instructor: {settings['model']}", columns, note=note.strip())
    keys = ("calls", "failed", "rate_limited", "possibly_paid", "prompt_tokens", "completion_tokens")
    used = {str(iteration.number): iteration.usage() for iteration in facts.iterations(run)}
    used = {number: usage for number, usage in used.items() if usage}
    if len(used) > 1:
        used["total"] = facts.sum_of(used.values())
    for title, usage in used.items():
        money = "–" if usage["usd"] is None else f"{usage['usd']:.4f}"
        reused = str(usage["inherited"])
        if usage["inherited_usd"]:
            reused += f" ({usage['inherited_usd']:.4f} US$)"
        table.rows.append([title, *(str(usage.get(key, "–")) for key in keys), money, reused])
    if besides := facts.sum_of(used[number] for number in used if number != "total").get("unknown_usd"):
        table.note = f"{table.note} Calls that were possibly paid cost at most {besides:.4f} US$ besides.".strip()
    return [table]


BUILT_IN: dict[str, Section] = {
    "state": state,
    "scores": scores,
    "by_rule": by_rule,
    "by_group": by_group,
    "forgetting": forgetting,
    "funnel": funnel,
    "rehearsal": rehearsal,
    "contrasts": contrasts,
    "times": times,
    "costs": costs,
    "search": search.trials,
    "contamination": contamination.nearness,
}
"""In the order of the report. Those of the job file follow."""


def load(name: str) -> Section:
    """The section "module:ATTRIBUTE". Raises ConfigError when there is none, or it is not a function."""
    if ":" not in name:
        raise ConfigError(f'report.sections: {name!r} must name a function by import: "my_pkg.my_file:SECTION"')
    section: Any = plugins.attribute(name, what="report.sections")
    if not callable(section):
        raise ConfigError(
            f"report.sections: {name!r} is a {type(section).__name__}, not a function of a run and a confidence; "
            "lai_ray/report/sections.py shows one."
        )
    return section  # type: ignore[no-any-return]


def tables_of(run: Run) -> list[Table]:
    """The tables of every section. One that fails is a table with its name and error, and the others follow."""
    tables: list[Table] = []
    for name in [*BUILT_IN, *run.record()["config"]["report"].get("sections", [])]:
        try:
            section = BUILT_IN.get(name) or load(name)
            made = [table for table in section(run, facts.confidence(run)) if table.rows]
            if uneven := next((t for t in made for row in t.rows if len(row) != len(t.columns)), None):
                raise ValueError(f"{uneven.title!r} has rows that are not of its {len(uneven.columns)} columns")
            tables += made
        except Exception as error:
            failed = Table("A section of this report failed", ["section", "error"])
            failed.rows = [[name, f"{type(error).__name__}: {error}"]]
            tables.append(failed)
    return tables


def write(run: Run, tables: list[Table]) -> str:
    """Draw the plots of its searches, write report.md with these tables, and return where it is."""
    plots = [f"![the trials of {name}]({name})\n" for name in search.plot(run)]
    text = "\n".join([header(run), *(table.markdown() for table in tables), *plots])
    run.store.put("report.md", printable(text).encode())
    return f"{run.store.where}/report.md"


def header(run: Run) -> str:
    """What the run is, in a few lines of Markdown."""
    config: dict[str, Any] = run.record()["config"]
    sizes = sizes_text(config["curate"]["samples_per_dataset"])
    identity = run.record()["identity"]["content"]
    iterations = count(config["iterations"], "iteration")
    what = f"{iterations}, strategy {facts.strategies(run)}, at most {sizes} samples a dataset"
    what = what if config["iterations"] else "tests alone"
    return (
        f"# {run.name}\n\n"
        f"Target `{config['target']['model']}` ({identity['target'][:12]}), {what}, seed {config['seed']}. "
        "Versions, machine and command: `provenance.json`.\n"
    )
