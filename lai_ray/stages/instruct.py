"""Asks the instructor for samples.  cases -> replies

In rounds: ask for the samples wanted, count those that pass the checks, ask for the shortfall. A recorded answer is
never asked for again, so the same command resumes a killed run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Model
from lai_ray.instructor.spending.budget import NOTHING, Amount
from lai_ray.instructor.spending.ledger import PAID, Spent, entries, figures, total
from lai_ray.instructor.spending.tokens import amount_used
from lai_ray.records import Case, Reply
from lai_ray.stages.calls import Calls, Receivers, Recorded, recording
from lai_ray.stages.curation.sample_filter import SampleFilter, Verdicts, kept_before
from lai_ray.stages.diagnose import Cases
from lai_ray.stages.dialogues import Dialogues, Pair
from lai_ray.stages.job import Job
from lai_ray.storage.keys import key_of, number_of
from lai_ray.storage.run import Stage
from lai_ray.storage.store import View

ROUNDS = 10
"""Most rounds of one iteration."""
WORTH_ASKING = 10
"""Rounds end when fewer than one in so many replies brings a new accepted sample."""


@dataclass(frozen=True)
class Replies:
    """The replies of one iteration, in the seeded order of cases and draws."""

    cases: Cases
    view: View[Reply]
    key: str
    config: Config
    dialogues_of: Mapping[str, int]
    """How many dialogues each dataset had, those without a request included."""
    verdicts: Verdicts = field(default_factory=dict)
    """On the samples judged so far, so that `curate` does not grade them again."""

    def dialogues(self, dataset: str) -> Iterator[tuple[Case, list[Reply]]]:
        """The dialogues of a dataset, each with its case, in order."""
        order = seeded_order(self.cases.view, dataset, self.config, self.cases.iteration)
        replies = (reply for reply in self.view if reply.case_id.partition("/")[0] == dataset)
        asked = itertools.groupby(replies, key=lambda reply: (reply.case_id, reply.draw))
        of_next, following = next(asked, (None, None))
        for case, draw in taken_in_order(self.cases.view, order, self._count(dataset)):
            if of_next != (case.id, draw):  # A dialogue without a request.
                yield case, []
                continue
            yield case, list(following or ())
            of_next, following = next(asked, (None, None))

    def _count(self, dataset: str) -> int:
        """Runs of earlier versions have no counts, and a reply in every dialogue."""
        if dataset in self.dialogues_of:
            return self.dialogues_of[dataset]
        return len({(r.case_id, r.draw) for r in self.view if r.case_id.partition("/")[0] == dataset})


def samples_per_request(wanted: int, cases: int) -> int:
    """n of the paper's prompts: enough for one request per mistake, and one more (as in the official scripts)."""
    return math.ceil(wanted / cases) + 1


def seeded_order(cases: Iterable[Case], dataset: str, config: Config, iteration: int) -> list[str]:
    """The ids of one dataset's cases in the order in which they are asked."""
    ids = [case.id for case in cases if case.id.partition("/")[0] == dataset]
    return sorted(ids, key=lambda case_id: (number_of(config.seed, iteration, case_id), case_id))


def instruct(stage: Stage, cases: Cases, target: Model, job: Job, executor: Executor) -> Replies:
    """Replies with `curate.samples_per_dataset` accepted samples, or as many as the limits allow."""
    curate = job.config.curate
    plans, most = kept_plans(stage), curate.most
    plan = {d: planned([kept.get(d) for kept in plans], most(d), n) for d, n in cases.counts.items() if n}
    stage.store.put_json("plan.json", plan)  # Kept by a resume and by --reuse, as it shapes every request.
    receivers, verdicts, wanted = Receivers(job, target), Verdicts(), curate.samples_per_dataset
    deciding = _deciding(receivers, stage.run.address_in_keys(job.config.instructor.base_url))
    key = key_of(cases.key, plan, deciding, wanted, *["solve again"] * curate.solve_again)
    if not stage.done(key):
        with recording(stage, rows=min(job.config.limits.max_in_flight, 500)) as recorded:
            calls = Calls(stage, receivers, recorded, executor)
            replies, dialogues = _ask_all(stage, cases, plan, calls, receivers, executor, verdicts)
        usage = usage_of(replies, recorded, job)
        if usage["inherited"]:
            stage.progress.report(f"  {usage['inherited']} replies were reused from earlier calls")
        stage.store.put_json("usage.json", usage)
        stage.finish(key, **usage, **calls.seconds, dialogues=dialogues)
    stage.check_until()
    dialogues = stage.facts().get("dialogues", {})
    return Replies(cases, stage.view("replies.jsonl", Reply), key, job.config, dialogues, verdicts)


def _deciding(receivers: Receivers, address: str | None) -> dict[str, Any]:
    """The instructor settings that replies depend on; an open model by its identity.

    address: of the run's first start. Another one changes no key, so that what is complete stays so.
    """
    settings, common = receivers.job.config.instructor, {"api_key_env", "timeout", "parameters"}
    common |= {"format"} if settings.format == "text" else set()
    if receivers.instructor is None:
        decisive = settings.model_dump(exclude={*common, "max_model_len", "tensor_parallel", "dtype"})
        return decisive | {"base_url": address}
    return settings.model_dump(exclude={*common, "base_url"}) | {"model": receivers.instructor.identity}


def kept_plans(stage: Stage) -> list[dict[str, dict[str, int]]]:
    """The plans of this run so far and of the runs that are reused."""
    others = (run.store.get_json(f"{stage.folder}/plan.json") for run in stage.run.reuse)
    return [plan for plan in (stage.store.get_json("plan.json"), *others) if plan]


def planned(before: Iterable[dict[str, int] | None], wanted: int, cases: int) -> dict[str, int]:
    """The plan of one dataset. One that exists keeps its samples per request, so that recorded replies still apply.

    before: existing plans for this dataset, this run's first; one for another number of cases does not count.
    """
    kept = next((plan for plan in before if plan and plan["cases"] == cases), None)
    each = kept["samples_per_request"] if kept else samples_per_request(wanted, cases)
    return {"wanted": wanted, "cases": cases, "samples_per_request": each}


def _ask_all(
    stage: Stage, cases: Cases, plan: dict[str, dict[str, int]], calls: Calls, receivers: Receivers,
    executor: Executor, verdicts: Verdicts,
) -> tuple[View[Reply], dict[str, int]]:  # fmt: skip
    job = receivers.job
    asked: list[tuple[Dialogues, list[str], int]] = []
    for dataset, numbers in plan.items():
        each = numbers["samples_per_request"]
        settings = job.settings_for(cases.iteration, dataset, target=receivers.target, samples_per_request=each)
        strategy, benchmark = job.dialogue(cases.iteration, dataset), job.benchmark(dataset)
        dialogues = Dialogues(strategy, benchmark, settings, receivers, calls.recorded)
        order = seeded_order(cases.view, dataset, job.config, cases.iteration)
        checks = SampleFilter.of(job, dataset, strategy, executor, verdicts)
        asked.append((dialogues, order, _rounds(stage, dialogues, cases, order, numbers["wanted"], calls, checks)))
    replies = (
        reply
        for dialogues, order, count in asked
        for case, draw in taken_in_order(cases.view, order, count)
        for reply in dialogues.replay(case, draw)[0]
    )
    return stage.write("replies.jsonl", replies, Reply), {one.benchmark.name: count for one, _, count in asked}


def taken_in_order(cases: Iterable[Case], order: list[str], count: int) -> Iterator[Pair]:
    """The first `count` pairs of case and draw: every case once in the seeded order, then every case again, …"""
    wanted = set(order[:count])
    held = {case.id: case for case in cases if case.id in wanted}
    for i in range(count):
        yield held[order[i % len(order)]], i // len(order)


def _rounds(
    stage: Stage, dialogues: Dialogues, cases: Cases, order: list[str], wanted: int, calls: Calls, checks: SampleFilter
) -> int:
    """Ask, check, ask for the shortfall; returns how many dialogues were asked."""
    dataset, asks = dialogues.benchmark.name, dialogues.strategy.asks
    # Without a request a case has one sample, the same in every draw.
    asked = math.ceil(wanted / dialogues.settings.samples_per_request) if asks else min(wanted, len(order))
    before = kept_before(stage, cases.iteration, dataset, dialogues.receivers.job.config)
    accepted, had, new, what = 0, 0, asked, "replies" if asks else "cases"
    others = stage.progress.figures.get("samples_accepted", 0)  # Of earlier datasets.
    for round_number in range(1, ROUNDS + 1):
        pairs = list(taken_in_order(cases.view, order, asked))
        by_id = {case.id: case for case, _ in pairs}
        checks.start(before.copy())
        calls.ask(
            f"{stage.folder}: {dataset}, round {round_number}",
            lambda pairs=pairs: dialogues.pending(pairs),  # type: ignore[misc]
            _counter(dialogues, by_id, checks),
        )
        checks.start(before.copy())
        had, accepted = accepted, min(_accepted(dialogues, pairs, checks), wanted)
        stage.progress.figures["samples_accepted"] = others + accepted
        stage.progress.report(f"  {dataset}: {accepted} of {wanted} samples accepted from {asked} {what}")
        if accepted >= wanted:
            break
        if not asks and asked == len(order):
            break
        if asks and (accepted - had) * WORTH_ASKING < new:
            stage.progress.report(f"  {dataset}: {accepted - had} new samples in {new} replies: asking for no more")
            break
        # At most as many as so far: where most samples are dropped, thousands of calls would not change that.
        new = min(math.ceil((wanted - accepted) / max(accepted / asked, 1 / asked)), asked)
        new = new if asks else min(new, len(order) - asked)
        asked += new
    return asked


def _accepted(dialogues: Dialogues, pairs: Iterable[Pair], checks: SampleFilter) -> int:
    """How many samples of the finished dialogues pass."""
    replayed = ((case, dialogues.replay(case, draw)) for case, draw in pairs)
    finished = ((case, replies) for case, (replies, call) in replayed if call is None)
    return sum(sample.dropped is None for sample in checks.judged(finished, dialogues.settings))


def _counter(dialogues: Dialogues, cases: dict[str, Case], checks: SampleFilter) -> Callable[[str], int]:
    """Counts a round's samples as they arrive, for the progress line; the count that decides is in seeded order."""
    if dialogues.benchmark.runs_code:  # Its checks are slow; they run once, after the round.
        return lambda request_id: 0

    def count(request_id: str) -> int:
        case_id, _, turn = request_id.rpartition("@")
        return _accepted(dialogues, [(cases[case_id], int(turn.partition(".")[2]))], checks)

    return count


def usage_of(replies: Iterable[Reply], recorded: Recorded, job: Job) -> dict[str, Any]:
    """The cost of one stage's replies: paid in this run, and (`inherited…`) in the runs it reuses.

    `calls`, tokens and `usd` are as the provider counted, failed calls included; `unknown…` is the most that calls
    without a count may have used. Money is None without a price. The entries of the ledger
    (`lai_ray.instructor.spending.ledger`) add up to these figures. Calls to the target cost nothing.
    """
    price, longest = job.price, job.config.instructor.max_tokens
    answers = [one for one in recorded.answers.values() if one.store.where.rpartition("/")[2] in PAID]
    spent = sum((total(entries(one.store, longest)) for one in answers), start=Spent())
    inherited = sum((amount_used(a.completion) or Amount(1) for one in answers for a in one.inherited()), start=NOTHING)
    errors = [reply.completion.error is not None for reply in replies]
    return {
        "replies": len(errors),
        **figures(spent, price),
        "failed": sum(errors),
        "cut_off": sum(answer.completion.finish_reason == "length" for one in answers for answer in one.paid()),
        "inherited": inherited.calls,
        "inherited_usd": price and price.usd(inherited),
    }
