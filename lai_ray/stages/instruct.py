"""An instructor reads the mistakes and writes samples.  cases -> replies

In rounds: ask for what is wanted, see what passes the checks, ask for the shortfall. Whatever is recorded is never
asked again, so the same command goes on where a killed one stopped.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lai_ray.config import Config
from lai_ray.contracts import Benchmark, Executor, Improve, Strategy
from lai_ray.errors import StageError
from lai_ray.records import Answer, Case, Completion, Reply, Request
from lai_ray.rundir import Stage
from lai_ray.stages.accept import gate_for, judged, kept_before
from lai_ray.stages.diagnose import Cases, strategy_for
from lai_ray.stages.evaluate import stop_past_limit
from lai_ray.stages.select import benchmark
from lai_ray.store import Answers, View, key_of, number_of

ROUNDS = 10
"""Rounds after which what is there must do."""
BATCH = 32
"""Requests marked as sent in one write."""


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

    def request(self, case: Case, replies: list[Reply], draw: int) -> Request | None:
        """The next request of one dialogue, or None when it is over."""
        messages = self.strategy.next_messages(case, replies, self.benchmark, self.settings)
        if messages is None:
            return None
        asked = self.config.instructor
        run_seed = None if asked.reuse_across_seeds else self.settings.seed
        # The iteration is in it, so that a mistake made again is met with new problems, not with last round's.
        seed = number_of(run_seed, self.settings.iteration, case.id, len(replies), draw)
        key = key_of(asked.engine, asked.model, messages, asked.temperature, asked.max_tokens, seed)
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
            if completion.error is not None:
                break
        return replies, None


def samples_per_request(wanted: int, cases: int) -> int:
    """n of the paper's prompts: enough that one request a mistake would do, and one more (official scripts)."""
    return math.ceil(wanted / cases) + 1


def seeded_order(cases: Iterable[Case], dataset: str, config: Config, iteration: int) -> list[str]:
    """The ids of one dataset's cases in the order in which they are asked."""
    ids = [case.id for case in cases if case.id.partition("/")[0] == dataset]
    return sorted(ids, key=lambda case_id: (number_of(config.seed, iteration, case_id), case_id))


def instruct(stage: Stage, cases: Cases, settings: Improve, config: Config, executor: Executor) -> Replies:
    """Replies enough for `curate.samples_per_dataset` accepted samples, or as many as the limits allow."""
    wanted = config.curate.samples_per_dataset
    plan = _plan(stage, cases, wanted)
    key = key_of(cases.key, plan, config.instructor.model_dump(exclude={"api_key_env", "timeout"}), wanted)
    if not stage.done(key):
        with stage.answers() as answers:
            replies, spent = _ask_all(stage, cases, plan, settings, config, executor, answers)
            usage = _usage(replies, answers, config)
            if usage["inherited"]:
                stage.progress.say(f"  {usage['inherited']} replies were taken over from the run that is reused")
        stage.store.put_json("usage.json", usage)
        stage.finish(key, **usage, **spent)
    stage.reached()
    return Replies(cases, stage.view("replies.jsonl", Reply), key)


def _plan(stage: Stage, cases: Cases, wanted: int) -> dict[str, dict[str, int]]:
    """Decided once per dataset and iteration, and kept by a resume and by --reuse: it shapes every request."""
    kept: dict[str, dict[str, int]] | None = stage.store.get_json("plan.json")
    if kept is None and stage.run.reuse is not None:
        kept = stage.run.reuse.store.get_json(f"{stage.folder}/plan.json")
    plan = {dataset: planned((kept or {}).get(dataset), wanted, n) for dataset, n in cases.counts.items() if n}
    stage.store.put_json("plan.json", plan)
    return plan


def planned(kept: dict[str, int] | None, wanted: int, cases: int) -> dict[str, int]:
    """More samples than were wanted before come of further draws of the same requests, whose replies still apply."""
    each = kept["samples_per_request"] if kept and kept["cases"] == cases else samples_per_request(wanted, cases)
    return {"wanted": wanted, "cases": cases, "samples_per_request": each}


def _ask_all(
    stage: Stage, cases: Cases, plan: dict[str, dict[str, int]], settings: Improve, config: Config,
    executor: Executor, answers: Answers,
) -> tuple[View[Reply], dict[str, float]]:  # fmt: skip
    failed: dict[str, Completion] = {}
    spent: dict[str, float] = {}
    everything: list[tuple[Dialogues, list[str], int]] = []
    for dataset, numbers in plan.items():
        told = replace(settings, samples_per_request=numbers["samples_per_request"])
        strategy = strategy_for(config, settings.iteration, dataset)
        dialogues = Dialogues(strategy, benchmark(config, dataset), told, config, answers, failed, spent)
        order = seeded_order(cases.view, dataset, config, settings.iteration)
        asked = _rounds(stage, dialogues, cases, order, numbers, executor)
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
    executor: Executor,
) -> int:  # fmt: skip
    """Ask, check, ask for the shortfall; returns how many (case, draw) were asked."""
    wanted, dataset = numbers["wanted"], dialogues.benchmark.name
    asked = math.ceil(wanted / numbers["samples_per_request"])
    before = kept_before(stage, dialogues.settings.iteration, dataset, dialogues.config)
    for round_number in range(1, ROUNDS + 1):
        pairs = list(taken_in_order(cases.view, order, asked))
        _ask(stage, dialogues, pairs, f"{stage.folder}: {dataset}, round {round_number}", executor)
        gate = gate_for(dataset, wanted, before.copy(), dialogues.config)
        heard = ((case, dialogues.replay(case, draw)[0]) for case, draw in pairs)
        accepted = sum(s.dropped is None for s in judged(heard, gate, dialogues.settings, dialogues.config, dataset))
        stage.progress.say(f"  {dataset}: {accepted} of {wanted} samples accepted from {asked} replies")
        if accepted >= wanted or accepted == 0:
            break
        asked += math.ceil((wanted - accepted) / (accepted / asked))
    return asked


def _ask(stage: Stage, dialogues: Dialogues, pairs: list[tuple[Case, int]], what: str, executor: Executor) -> None:
    """Carry every one of these dialogues to its end, all of one turn together."""
    config = dialogues.config
    while pending := [request for case, draw in pairs if (request := dialogues.replay(case, draw)[1]) is not None]:
        allowed = _within_budget(stage, dialogues.answers, pending, config)
        with stage.progress.track(what, len(allowed)) as tracker:
            for answer in executor.ask(_marked(allowed, dialogues.answers), config.instructor, config.limits):
                if answer.completion.error is None:
                    dialogues.answers.record(answer)
                else:
                    dialogues.failed[answer.key] = answer.completion
                tracker.advance()
            for name, seconds in tracker.times().items():
                dialogues.spent[name] = round(dialogues.spent.get(name, 0.0) + seconds, 2)
        asked = len(dialogues.answers) + len(dialogues.failed)
        stop_past_limit(
            len(dialogues.failed), asked, config.limits.max_failed_fraction, next(iter(dialogues.failed.values()), None)
        )
        if len(allowed) < len(pending):
            raise StageError(
                f"limits.max_calls = {config.limits.max_calls} is reached with {len(pending) - len(allowed)} requests "
                "still to ask. Every reply is kept; raise it and start the same command again."
            )


def _marked(requests: list[Request], answers: Answers) -> Iterator[Request]:
    """The requests, each written down as sent before it is."""
    for start in range(0, len(requests), BATCH):
        batch = requests[start : start + BATCH]
        answers.mark_sent(batch)
        yield from batch


def _within_budget(stage: Stage, answers: Answers, pending: list[Request], config: Config) -> list[Request]:
    if config.limits.max_calls is None:
        return pending
    here = int(stage.folder.partition("/")[0].removeprefix("iteration_"))
    before = sum(
        usage["calls"] + usage["failed"] + usage["possibly_paid"]
        for i in range(here)
        if (usage := stage.run.stage(i, stage.name).store.get_json("usage.json"))
    )
    left = config.limits.max_calls - before - answers.paid_count - answers.possibly_paid
    return pending[: max(left, 0)]


def _usage(replies: View[Reply], answers: Answers, config: Config) -> dict[str, Any]:
    """What one iteration's replies cost: paid in this run, and (`inherited…`) in the run it takes over from.

    `usd` is None where the job gives no price.
    """
    paid, inherited = _sum(answers.paid()), _sum(answers.inherited())
    errors = [reply.completion.error is not None for reply in replies]
    return {
        "replies": len(errors),
        "calls": paid["calls"],
        "failed": sum(errors),
        "cut_off": paid["cut_off"],
        "possibly_paid": answers.possibly_paid,
        "prompt_tokens": paid["prompt_tokens"],
        "completion_tokens": paid["completion_tokens"],
        "usd": _price(paid, config),
        "inherited": inherited["calls"],
        "inherited_usd": _price(inherited, config),
    }


def _sum(answers: Iterable[Answer]) -> Counter[str]:
    total: Counter[str] = Counter()
    for answer in answers:
        done = answer.completion
        total.update(
            calls=1, cut_off=int(done.finish_reason == "length"),
            prompt_tokens=done.prompt_tokens, completion_tokens=done.completion_tokens,
        )  # fmt: skip
    return total


def _price(tokens: Counter[str], config: Config) -> float | None:
    price_in, price_out = config.instructor.usd_per_million_input, config.instructor.usd_per_million_output
    if price_in is None or price_out is None:
        return None
    return (tokens["prompt_tokens"] * price_in + tokens["completion_tokens"] * price_out) / 1e6
