"""An instructor reads the mistakes and writes samples.  cases -> replies

In rounds: ask for what is wanted, see what passes the checks, ask for the shortfall. Whatever is recorded is never
asked again, so the same command goes on where a killed one stopped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from lai_ray.config.config import Config
from lai_ray.config.settings import CurateSettings
from lai_ray.contracts import Benchmark, Executor, Improve, Model, Strategy
from lai_ray.errors import StageError
from lai_ray.instructor.spending.budget import NOTHING, Amount, price_of
from lai_ray.instructor.spending.ledger import entries, total
from lai_ray.instructor.spending.tokens import amount_used
from lai_ray.records import Case, Completion, Message, Reply, Request
from lai_ray.stages.curation.duplicates import Kept
from lai_ray.stages.curation.sample_filter import Gate, gate_for, judged, kept_before
from lai_ray.stages.diagnose import Cases, dialogue_for
from lai_ray.stages.evaluate import stop_past_limit
from lai_ray.stages.progress_line import Watch
from lai_ray.stages.reservation import Purse, exhausted, purse
from lai_ray.stages.select import benchmark
from lai_ray.storage import models
from lai_ray.storage.answers import Answers
from lai_ray.storage.run import Stage
from lai_ray.storage.store import View, key_of, number_of

ROUNDS = 10
"""Rounds after which what is there must do."""
WORTH_ASKING = 10
"""A further round is asked for while of so many replies at least one brought a sample that is kept."""


@dataclass(frozen=True)
class Replies:
    """The instructor's replies of one iteration, in the seeded order of cases and draws."""

    cases: Cases
    view: View[Reply]
    key: str

    def dialogues(self, dataset: str) -> Iterator[tuple[Case, list[Reply]]]:
        """Each dialogue of a dataset with its case, in order."""
        mine = (r for r in self.view if r.case_id.partition("/")[0] == dataset)
        wanted = {reply.case_id for reply in self.view if reply.case_id.partition("/")[0] == dataset}
        cases = {case.id: case for case in self.cases.view if case.id in wanted}
        for (case_id, _), replies in itertools.groupby(mine, key=lambda reply: (reply.case_id, reply.draw)):
            yield cases[case_id], list(replies)


@dataclass
class Dialogues:
    """Replays dialogues from what is recorded. No state of its own: the same answers give the same dialogues."""

    strategy: Strategy
    benchmark: Benchmark
    settings: Improve
    config: Config
    answers: Answers
    failed: dict[str, Completion]
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds until first replies came ("starting"), and from then on ("working")."""
    instructor: Model | None = None
    """The open model that is asked; None for a server's."""

    def request(self, case: Case, replies: list[Reply], draw: int) -> Request | None:
        """The next request of one dialogue, or None when it is over."""
        messages = self.strategy.next_messages(case, replies, self.benchmark, self.settings)
        if messages is None:
            return None
        asked = self.config.instructor
        if self.instructor is not None:
            messages = without_system(messages)
        run_seed = None if asked.reuse_across_seeds else self.settings.seed
        # The iteration is in it, so that a mistake made again is met with new problems, not with last round's.
        # A later turn by what it asks: an edited parser finds other samples before it, and must not have it paid again.
        place = key_of(messages) if replies else 0
        seed = number_of(run_seed, self.settings.iteration, case.id, place, draw)
        who = [self.instructor.identity, asked.max_model_len] if self.instructor else asked.model
        key = key_of(asked.engine, who, messages, asked.temperature, asked.max_tokens, seed)
        reply_id = f"{case.id}@{len(replies)}.{draw}"
        return Request(reply_id, key, messages, asked.max_tokens, asked.temperature, seed)

    def replay(self, case: Case, draw: int) -> tuple[list[Reply], Request | None]:
        """The replies so far, and the request that is still to be answered."""
        replies: list[Reply] = []
        while (request := self.request(case, replies, draw)) is not None:
            if request.key in self.answers:
                completion = self.answers.get(request.key)
            elif request.key in self.failed:
                completion = self.failed[request.key]
            else:
                return replies, request
            replies.append(Reply(request.id, case.id, len(replies), draw, request.messages, completion))
            if completion.error is not None and not getattr(self.strategy, "after_errors", False):
                break
        return replies, None


def without_system(messages: list[Message]) -> list[Message]:
    """A system message at the head of the user's: the chat templates of many open models know no system role."""
    match messages:
        case [{"role": "system", "content": system}, {"role": "user", "content": user}, *rest]:
            return [{"role": "user", "content": f"{system}\n\n{user}"}, *rest]
    return messages


def samples_per_request(wanted: int, cases: int) -> int:
    """n of the paper's prompts: enough that one request a mistake would do, and one more (official scripts)."""
    return math.ceil(wanted / cases) + 1


def seeded_order(cases: Iterable[Case], dataset: str, config: Config, iteration: int) -> list[str]:
    """The ids of one dataset's cases in the order in which they are asked."""
    ids = [case.id for case in cases if case.id.partition("/")[0] == dataset]
    return sorted(ids, key=lambda case_id: (number_of(config.seed, iteration, case_id), case_id))


def instructor_for(config: Config, target: Model, known: dict[str, str]) -> Model | None:
    """The open model that is asked in an iteration: a named one, or its target. None where a server is asked.

    `known` is the identity of a named one, resolved once at the start.
    """
    if not config.instructor.in_cluster:
        return None
    if config.instructor.model == "target":
        return target
    return Model(models.locate(config.instructor.model, setting="instructor.model"), known["instructor"])


def instruct(
    stage: Stage, cases: Cases, settings: Improve, config: Config, executor: Executor, instructor: Model | None = None
) -> Replies:
    """Replies enough for `curate.samples_per_dataset` accepted samples, or as many as the limits allow.

    instructor: see `instructor_for`.
    """
    wanted = config.curate.samples_per_dataset
    plan = _plan(stage, cases, config.curate)
    key = key_of(cases.key, plan, _deciding(config, instructor), wanted, *["solve again"] * config.curate.solve_again)
    if not stage.done(key):
        with stage.answers(rows=min(config.limits.max_in_flight, 500)) as answers:
            replies, spent = _ask_all(stage, cases, plan, settings, config, executor, answers, instructor)
        usage = _usage(replies, answers, config)
        if usage["inherited"]:
            stage.progress.say(f"  {usage['inherited']} replies were taken over from what was asked before")
        stage.store.put_json("usage.json", usage)
        stage.finish(key, **usage, **spent)
    stage.reached()
    return Replies(cases, stage.view("replies.jsonl", Reply), key)


def _deciding(config: Config, instructor: Model | None) -> dict[str, Any]:
    """The instructor's settings as far as replies depend on them, an open model by what it is."""
    if instructor is None:
        here = {"max_model_len", "tensor_parallel", "dtype"}
        return config.instructor.model_dump(exclude={"api_key_env", "timeout", *here})
    server = {"api_key_env", "timeout", "base_url"}
    return config.instructor.model_dump(exclude=server) | {"model": instructor.identity}


def _plan(stage: Stage, cases: Cases, curate: CurateSettings) -> dict[str, dict[str, int]]:
    """Decided once per dataset and iteration, and kept by a resume and by --reuse: it shapes every request."""
    plans = kept_plans(stage)
    plan = {d: planned([kept.get(d) for kept in plans], curate.most(d), n) for d, n in cases.counts.items() if n}
    stage.store.put_json("plan.json", plan)
    return plan


def kept_plans(stage: Stage) -> list[dict[str, dict[str, int]]]:
    """What was decided before: in this run, and in those that are reused."""
    others = (run.store.get_json(f"{stage.folder}/plan.json") for run in stage.run.reuse)
    return [plan for plan in (stage.store.get_json("plan.json"), *others) if plan]


def planned(before: Iterable[dict[str, int] | None], wanted: int, cases: int) -> dict[str, int]:
    """More samples than were wanted before come of further draws of the same requests, whose replies still apply.

    before: what was decided for this dataset elsewhere, the nearest first; for other cases it says nothing.
    """
    kept = next((plan for plan in before if plan and plan["cases"] == cases), None)
    each = kept["samples_per_request"] if kept else samples_per_request(wanted, cases)
    return {"wanted": wanted, "cases": cases, "samples_per_request": each}


def _ask_all(
    stage: Stage, cases: Cases, plan: dict[str, dict[str, int]], settings: Improve, config: Config,
    executor: Executor, answers: Answers, instructor: Model | None,
) -> tuple[View[Reply], dict[str, float]]:  # fmt: skip
    budget = purse(stage.run, answers, config)
    failed: dict[str, Completion] = {}
    spent: dict[str, float] = {}
    everything: list[tuple[Dialogues, list[str], int]] = []
    for dataset, numbers in plan.items():
        told = replace(settings, samples_per_request=numbers["samples_per_request"])
        strategy = dialogue_for(config, settings.iteration, dataset)
        dialogues = Dialogues(strategy, benchmark(config, dataset), told, config, answers, failed, spent, instructor)
        order = seeded_order(cases.view, dataset, config, settings.iteration)
        asked = _rounds(stage, dialogues, cases, order, numbers, executor, budget)
        everything.append((dialogues, order, asked))
    return stage.write("replies.jsonl", _in_order(everything, cases), Reply), spent


def _in_order(everything: list[tuple[Dialogues, list[str], int]], cases: Cases) -> Iterator[Reply]:
    for dialogues, order, asked in everything:
        for case, draw in taken_in_order(cases.view, order, asked):
            yield from dialogues.replay(case, draw)[0]


def taken_in_order(cases: Iterable[Case], order: list[str], count: int) -> Iterator[tuple[Case, int]]:
    """The first `count` (case, draw) of the seeded order: every case once, then every case a second time, …"""
    wanted = set(order[:count])
    held = {case.id: case for case in cases if case.id in wanted}
    for i in range(count):
        yield held[order[i % len(order)]], i // len(order)


def _rounds(
    stage: Stage, dialogues: Dialogues, cases: Cases, order: list[str], numbers: dict[str, int],
    executor: Executor, purse: Purse,
) -> int:  # fmt: skip
    """Ask, check, ask for the shortfall; returns how many (case, draw) were asked."""
    wanted, dataset = numbers["wanted"], dialogues.benchmark.name
    asked = math.ceil(wanted / numbers["samples_per_request"])
    before = kept_before(stage, dialogues.settings.iteration, dataset, dialogues.config)
    accepted, had, new = 0, 0, asked
    others = stage.progress.figures.get("samples_accepted", 0)  # Of the datasets before this one.
    for round_number in range(1, ROUNDS + 1):
        pairs = list(taken_in_order(cases.view, order, asked))
        what = f"{stage.folder}: {dataset}, round {round_number}"
        _ask(stage, dialogues, pairs, what, executor, purse, _running(dialogues, wanted, before))
        gate = gate_for(dataset, wanted, before.copy(), dialogues.config)
        had, accepted = accepted, sum(_accepted(dialogues, case, draw, gate) for case, draw in pairs)
        stage.progress.figures["samples_accepted"] = others + accepted
        stage.progress.say(f"  {dataset}: {accepted} of {wanted} samples accepted from {asked} replies")
        if accepted >= wanted:
            break
        if (accepted - had) * WORTH_ASKING < new:
            stage.progress.say(f"  {dataset}: {accepted - had} new samples in {new} replies: more are not asked for")
            break
        # Never more than were asked so far: where most are dropped, thousands of calls would not mend that.
        new = min(math.ceil((wanted - accepted) / (accepted / asked)), asked)
        asked += new
    return asked


def _accepted(dialogues: Dialogues, case: Case, draw: int, gate: Gate) -> int:
    """Samples of one dialogue that pass, once it is over."""
    replies, further = dialogues.replay(case, draw)
    if further is not None:
        return 0
    found = judged([(case, replies)], gate, dialogues.settings, dialogues.config, dialogues.benchmark.name)
    return sum(sample.dropped is None for sample in found)


def _running(dialogues: Dialogues, wanted: int, before: Kept) -> Callable[[Case, int], int]:
    """Counts a round's samples as they come, for the progress line; the count that matters is made in seeded order."""
    if dialogues.benchmark.runs_code:  # Its checks take long; they are made once, after the round.
        return lambda case, draw: 0
    gate = gate_for(dialogues.benchmark.name, wanted, before.copy(), dialogues.config)
    return lambda case, draw: _accepted(dialogues, case, draw, gate)


def _ask(
    stage: Stage, dialogues: Dialogues, pairs: list[tuple[Case, int]], what: str, executor: Executor, purse: Purse,
    heard: Callable[[Case, int], int],
) -> None:  # fmt: skip
    """Carry every one of these dialogues to its end, all of one turn together.

    Raises StageError when the budget ends before they do; what was in flight has come home by then.
    """
    config, settings = dialogues.config, dialogues.config.instructor
    if dialogues.instructor is not None:
        settings = settings.model_copy(update={"model": dialogues.instructor.path})
    watch = Watch(None if dialogues.instructor else config.limits, purse.budget)
    figures = stage.progress.figures
    before = figures.get("samples_accepted", 0)
    while pending := {r.id: (case, draw) for case, draw, r in _pending(dialogues, pairs)}:
        requests = (request for _, _, request in _pending(dialogues, pairs))
        with stage.progress.track(what, len(pending)) as tracker, closing(purse.draw(requests)) as drawn:
            for answer in executor.ask(drawn, settings, config.limits, purse.again):
                if purse.take(answer) and answer.completion.error is not None:
                    dialogues.failed[answer.key] = answer.completion
                watch.saw(answer)
                watch.accepted += heard(*pending[answer.id])
                figures |= {**watch.figures(), "samples_accepted": before + watch.accepted}
                tracker.advance(note=watch.note(len(pending) - tracker.done - 1))
            for name, seconds in tracker.times().items():
                dialogues.spent[name] = round(dialogues.spent.get(name, 0.0) + seconds, 2)
        asked = len(dialogues.answers) + len(dialogues.failed)
        stop_past_limit(
            len(dialogues.failed), asked, config.limits.max_failed_fraction, next(iter(dialogues.failed.values()), None)
        )
        if purse.reached:
            raise StageError(exhausted(purse, [request for _, _, request in _pending(dialogues, pairs)]))


def _pending(dialogues: Dialogues, pairs: list[tuple[Case, int]]) -> Iterator[tuple[Case, int, Request]]:
    """The dialogues that are not over, each with its next request."""
    for case, draw in pairs:
        if (request := dialogues.replay(case, draw)[1]) is not None:
            yield case, draw, request


def _usage(replies: View[Reply], answers: Answers, config: Config) -> dict[str, Any]:
    """What one iteration's replies cost: paid in this run, and (`inherited…`) in the run it takes over from.

    `calls`, tokens and `usd` are what the provider counted, of failed rows too; `unknown…` is the most that the calls
    without a count may have taken beside it. Money is None where the job gives no price. The entries of the ledger
    (`lai_ray.instructor.spending.ledger`) add up to these figures.
    """
    price = price_of(config.instructor.model_dump())
    spent = total(entries(answers.store, config.instructor.max_tokens))
    inherited = sum((amount_used(a.completion) or Amount(1) for a in answers.inherited()), start=NOTHING)
    errors = [reply.completion.error is not None for reply in replies]
    return {
        "replies": len(errors),
        "calls": spent.known.calls + spent.silent,
        "failed": sum(errors),
        "cut_off": sum(answer.completion.finish_reason == "length" for answer in answers.paid()),
        "possibly_paid": spent.possibly_paid,
        "prompt_tokens": spent.known.input,
        "completion_tokens": spent.known.output,
        "usd": price and price.usd(spent.known),
        "unknown_prompt_tokens": spent.unknown.input,
        "unknown_completion_tokens": spent.unknown.output,
        "unknown_usd": price and price.usd(spent.unknown),
        "inherited": inherited.calls,
        "inherited_usd": price and price.usd(inherited),
    }
