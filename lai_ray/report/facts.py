"""The figures in a run's files, as plain numbers.  run -> facts"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lai_ray.common.intervals import Interval, paired, score
from lai_ray.instructor.spending.budget import caps_of, price_of
from lai_ray.instructor.spending.ledger import PAID, PAYING, PROBE, Spent, entries, figures, spent_in, total
from lai_ray.records import Attempt
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import STAGES, Run, Stage
from lai_ray.storage.store import View

POOLED = ("diagnose", "instruct", "curate", "rehearse")
"""The stages of a pool."""


@dataclass(frozen=True)
class Pool:
    """Where an iteration's cases, replies and samples are: its own folder, or one for each pool of a search."""

    run: Run
    folder: str
    name: str
    """In tables: "0", or of a search "0 k_3"."""

    @property
    def searched(self) -> bool:
        """Whether it is one of a search."""
        return "/search/" in self.folder

    def stage(self, name: str) -> Stage:
        """One of `diagnose`, `instruct`, `curate`, `rehearse`."""
        return Stage(self.run, f"{self.folder}/{name}")

    def usage(self) -> dict[str, Any]:
        """What its replies cost; empty before they were asked for."""
        return self.stage("instruct").store.get_json("usage.json") or {}

    def rehearsal(self) -> dict[str, dict[str, Any]]:
        """Counts of its rehearsal by dataset; empty where there was none."""
        return dict((self.stage("rehearse").store.get_json("rehearse.json") or {}).get("datasets", {}))

    def studied(self) -> dict[str, int]:
        """How many samples there are to study, by dataset, as far as it got: after a rehearsal those that it left."""
        curated, rehearsed = (self.stage(name).facts() for name in ("curate", "rehearse"))
        return dict(rehearsed.get("studied") or curated.get("kept", {}))

    def funnel(self) -> dict[str, dict[str, int]]:
        """Samples kept and dropped with their reasons, by dataset."""
        return self.stage("curate").store.get_json("funnel.json") or {}


@dataclass(frozen=True)
class Iteration:
    """One iteration's folder, as far as it got."""

    run: Run
    number: int

    def stage(self, name: str) -> Stage:
        """One of its stages."""
        return self.run.stage(self.number, name)

    def scores(self) -> dict[str, dict[str, Any]]:
        """scores.json by part ("gsm8k.test"); empty before the evaluation is complete."""
        return self.stage("evaluate").store.get_json("scores.json") or {}

    def changes(self) -> dict[str, dict[str, Any]]:
        """ledger.json by part: what was learned and forgotten since the last iteration; empty for the first."""
        ledger = self.stage("evaluate").store.get_json("ledger.json") or {}
        return dict(ledger.get("parts", {}))

    @property
    def tested(self) -> bool:
        """Whether it has a test score."""
        return any(part.endswith(".test") for part in self.scores())

    def seconds(self) -> dict[str, float]:
        """Seconds by completed stage; in a search, of all its pools together."""
        stages = [self.stage(name) for name in STAGES]
        stages += [pool.stage(name) for pool in self.pools() if pool.searched for name in POOLED]
        sums: dict[str, float] = {}
        for stage in stages:
            if fact := stage.facts():
                sums[stage.name] = round(sums.get(stage.name, 0.0) + fact["seconds"], 2)
        return sums

    def usage(self) -> dict[str, Any]:
        """Calls, tokens, money, of all pools where there was a search; empty before the instructor was asked.

        With the second solutions that a rehearsal asked for, and with what an unfinished stage spent so far.
        """
        stages = [pool.stage(name) for name in PAYING for pool in self.pools()]
        stages += [] if self.number else [Stage(self.run, PROBE)]
        return sum_of(map(_usage_so_far, stages))

    def pools(self) -> list[Pool]:
        """Its own folder; of a search, those of its pools."""
        folder, number = f"iteration_{self.number}", str(self.number)
        inside = self.run.store.names(f"{folder}/search")
        names = sorted({name.split("/")[2] for name in inside if name.split("/")[2].startswith("pool")})
        searched = [
            Pool(self.run, f"{folder}/search/{name}", f"{number} {name.partition('_')[2]}".strip()) for name in names
        ]
        return searched or [Pool(self.run, folder, number)]


def sum_of(usages: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sums of these calls, tokens and money; a value that is known nowhere is None."""
    sums: dict[str, Any] = {}
    for usage in usages:
        for name, value in usage.items():
            sums[name] = value if sums.get(name) is None else sums[name] + (value or 0)
    return sums


def _usage_so_far(stage: Stage) -> dict[str, Any]:
    """Its usage.json; where more was spent than stands there, as before the stage is complete, from the ledger."""
    usage: dict[str, Any] = stage.store.get_json("usage.json") or {}
    settings = stage.run.record()["config"]["instructor"]
    sends = [send for name in PAID for send in entries(stage.store.inside(name), settings["max_tokens"])]
    spent = figures(total(sends), price_of(settings))
    if all(spent[name] <= usage.get(name, 0) for name in ("calls", "possibly_paid")):
        return usage
    answered = {send.key for send in sends if send.state == "done"}
    failed = {send.key for send in sends if send.state == "failed"} - answered
    return {"inherited": 0, "inherited_usd": None, **usage, **spent, "failed": len(failed)}


def budget_text(run: Run) -> str:
    """What is left of each limit that the run's last start had; possibly paid calls count at their worst case."""
    config = run.record()["config"]
    spent = sum(spent_in(run, config["instructor"]["max_tokens"]).values(), start=Spent())
    limits = caps_of(config["limits"], config["instructor"]).by_name(spent.at_most)
    sentences = [
        f"limits.{name} = {limit:,}: {counted:,.4f} spent, {max(limit - counted, 0):,.4f} left".replace(".0000", "")
        for name, (counted, limit) in limits.items()
    ]
    if sentences and spent.unknown.calls:
        sentences.append(f"of it {spent.unknown.calls} calls without a known price, at their worst case")
    return "; ".join(sentences) + ("." if sentences else "")


def next_stage(run: Run) -> str:
    """The stage that a start of an unfinished run goes on with, "iteration_1/diagnose"; "" for a finished run."""
    config = run.record()["config"]
    if run.stage(config["iterations"], "evaluate").facts():
        return ""
    begun = max(len(iterations(run)) - 1, 0)
    searched = config.get("search") is not None
    stages = ["evaluate", "search"] if searched else ["evaluate", "diagnose", "instruct", "curate", "train"]
    if config["curate"].get("rehearse") and not searched:
        stages.insert(-1, "rehearse")
    if not searched and not any(run.stage(begun, "diagnose").facts().get("cases", {"": 1}).values()):
        stages = stages[:2]  # Nothing to learn: the other stages are skipped.
    for name in stages:
        if not run.stage(begun, name).facts():
            return f"iteration_{begun}/{name}"
    return f"iteration_{begun + 1}/evaluate"


def test_counts(run: Run) -> Iterator[dict[str, Any]]:
    """The counts of every test in every iteration, as in scores.json."""
    scored = (iteration.scores().items() for iteration in iterations(run))
    return (counts for parts in scored for part, counts in parts if part.endswith(".test"))


def confidence(run: Run) -> float:
    """The level of the report's intervals."""
    return float(run.record()["config"]["report"]["confidence"])


def iterations(run: Run) -> list[Iteration]:
    """Those that have started, in order."""
    result: list[Iteration] = []
    while run.store.names(f"iteration_{len(result)}"):
        result.append(Iteration(run, len(result)))
    return result


def pools(run: Run) -> Iterator[Pool]:
    """The pools of every iteration, in order."""
    return (pool for iteration in iterations(run) for pool in iteration.pools())


def tests(run: Run) -> list[str]:
    """The benchmarks that have a test score in some iteration, in the job's order."""
    wanted = run.record()["config"]["evaluate"]["report_on"]
    scored = {part for iteration in iterations(run) for part in iteration.scores()}
    return [name for name in wanted if f"{name}.test" in scored]


def score_on(iteration: Iteration, name: str, confidence: float, group: str | None = None) -> Interval | None:
    """The score on one test (or one group of it) with its interval; None where it was not measured."""
    part = iteration.scores().get(f"{name}.test")
    if part is None:
        return None
    counts = part if group is None else part["groups"].get(group)
    return score(counts["right"], counts["n"], confidence) if counts and counts["n"] else None


def groups(run: Run, name: str) -> list[str]:
    """The kinds, subjects or types that one test is divided into."""
    parts = [iteration.scores().get(f"{name}.test", {}) for iteration in iterations(run)]
    return sorted({group for part in parts for group in part.get("groups", {})})


def attempts(iteration: Iteration, part: str) -> View[Attempt]:
    """The attempts of one part, read from its file."""
    return iteration.stage("evaluate").view(f"attempts/{part}.jsonl", Attempt)


def verdicts(iteration: Iteration, name: str) -> dict[str, bool]:
    """Right or not, by problem, on one test."""
    return {attempt.id: attempt.right for attempt in attempts(iteration, f"{name}.test")}


def verdicts_by_content(iteration: Iteration, name: str) -> dict[str, bool]:
    """The same by id and content, to compare runs: their test files may differ, and an id is only a row's number."""
    return {
        f"{attempt.id} {key_of(attempt.problem.question, attempt.problem.answer)}": attempt.right
        for attempt in attempts(iteration, f"{name}.test")
    }


def change(first: Iteration, last: Iteration, name: str, confidence: float) -> Interval | None:
    """The paired difference on one test; None where either was not measured."""
    part = f"{name}.test"
    if part not in first.scores() or part not in last.scores():
        return None
    return paired(verdicts(first, name), verdicts(last, name), confidence)


def funnel_rows(run: Run) -> Iterator[dict[str, Any]]:
    """attempts -> mistakes -> replies -> samples -> kept, one row an iteration and dataset."""
    for pool in pools(run):
        diagnosed = pool.stage("diagnose").facts()
        for dataset, cases in diagnosed.get("cases", {}).items():
            counts = diagnosed["attempts"][dataset]
            funnel = dict(pool.funnel().get(dataset, {}))
            yield {
                "iteration": pool.name,
                "dataset": dataset,
                "attempts": sum(n for verdict, n in counts.items() if verdict != "cut off"),
                "mistakes": counts.get("wrong", 0) + counts.get("unparsed", 0),
                "cases": cases,
                "cut off": counts.get("cut off", 0),
                "replies": pool.usage().get("replies"),
                "samples": funnel.pop("samples", None),
                "kept": funnel.pop("kept", None),
                "derived": funnel.pop("derived", 0),
                "replayed": _replayed(pool, dataset),
                "dropped": funnel,
            }


def refused(run: Run) -> int:
    """Examples that the target's chat template refused, so that the trainings left them out."""
    return sum(int(one.stage("train").facts().get("refused", 0)) for one in iterations(run))


def _replayed(pool: Pool, dataset: str) -> int | None:
    """Right answers of one dataset that were learned again; None where nothing was replayed, or a search chose."""
    lineage = Stage(pool.run, f"{pool.folder}/train").store.get_json("lineage.json") or {}
    if pool.searched or not (replay := lineage.get("replay")):
        return None
    return sum(int(count) for group, count in replay["groups"].items() if group.startswith(f"{dataset}/"))


def strategies(run: Run) -> str:
    """The schedule in a few words: "le, then lec"; of tests alone the model."""
    config = run.record()["config"]
    if not config["iterations"]:
        return f"tests of {config['target']['model']}"
    schedule = config["schedule"]["strategy"]
    if isinstance(schedule, list):
        return ", then ".join(schedule)
    return ", ".join(f"{k}: {v}" for k, v in schedule.items()) if isinstance(schedule, dict) else str(schedule)
