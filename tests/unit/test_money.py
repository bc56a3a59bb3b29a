"""The loop under a budget: what is spent, reported, and recorded before a kill."""

from __future__ import annotations

import io
import random
import re
import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lai_ray.cli import run as cli_run
from lai_ray.cli.check import budget
from lai_ray.cli.check import check as cli_check
from lai_ray.cli.check.dry_run import replayed
from lai_ray.config.config import Config
from lai_ray.errors import StageError
from lai_ray.instructor.spending.budget import NOTHING, Amount, caps_of
from lai_ray.instructor.spending.ledger import Spent, entries, spent_in, total
from lai_ray.instructor.spending.tokens import worst_case
from lai_ray.records import Answer, Completion, Request
from lai_ray.report import facts, sections
from lai_ray.stages.progress_line import short
from lai_ray.storage.run import Run
from tests.local import Crash, LocalExecutor, job

CALLERS = 16
PRICED = {"instructor__usd_per_million_input": 10.0, "instructor__usd_per_million_output": 30.0}
MANY = {"instructor__max_tokens": 64, "limits__max_in_flight": CALLERS, "limits__max_failed_fraction": 1.0}


def usage(run: Run, folder: str = "iteration_0/instruct") -> dict[str, Any]:
    return run.store.get_json(f"{folder}/usage.json")


def ledger(run: Run, folder: str = "iteration_0/instruct") -> Spent:
    return total(entries(run.store.inside(f"{folder}/answers"), 64))


class Crowd(LocalExecutor):
    """Sixteen callers, a provider that charges when a request is sent, and kills.

    Replies come in any order; some are lost after they were paid for, some rejected unpaid, some refused.
    """

    def __init__(self, seed: int, folder: Path, lives: int) -> None:
        super().__init__()
        self.random, self.folder, self.lives = random.Random(seed), folder, lives
        self.taken = NOTHING
        self.sends = self.most_out = 0
        self.last_act = self.random.randint(5, 25)

    def ask(self, requests: Any, settings: Any, limits: Any, again: Any) -> Iterator[Answer]:
        out: deque[tuple[Request, Amount]] = deque()
        drawn, dry = iter(requests), False
        while not dry or out:
            while not dry and len(out) < CALLERS:
                request = next(drawn, "the end")
                if request is None:
                    assert out, "must wait with no request in flight"
                    break
                if dry := request == "the end":
                    break
                out.append((request, self._sent(request)))
                self.most_out = max(self.most_out, len(out))
            if not out:
                return
            out.rotate(self.random.randrange(len(out)))
            yield from self._answered(*out.popleft(), out, again)

    def _sent(self, request: Request) -> Amount:
        """What the provider charges for it; nothing for one in ten, which it rejects."""
        self.sends += 1
        if self.lives and self.sends == self.last_act:
            self._die()
        worst = worst_case(request.messages, request.max_tokens)
        share = self.random.choice([0.1, 0.5, 1.0])
        took = Amount(1, int(worst.input * share), int(worst.output * share))
        took = NOTHING if self.random.random() < 0.1 else took
        self.taken += took
        return took

    def _answered(self, request: Request, took: Amount, out: Any, again: Any) -> Iterator[Answer]:
        if took == NOTHING:
            yield Answer(request.id, request.key, Completion("", "error", error="400: no"), free=True)
        elif (fate := self.random.random()) < 0.1 and again(request):
            out.append((request, self._sent(request)))
        elif fate < 0.1:
            yield Answer(request.id, request.key, Completion("", "error", error="timeout; no room"))
        elif fate < 0.2:
            yield Answer(request.id, request.key, Completion("", "stop", took.input, took.output, error="refused"))
        else:
            yield Answer(request.id, request.key, Completion(self.reply(request), "stop", took.input, took.output))

    def _die(self) -> None:
        """As SIGKILL would: the disk keeps its state, whatever this process still writes as it ends."""
        self.lives -= 1
        self.last_act += self.random.randint(5, 25)
        left = self.folder.with_name("left behind")
        shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(self.folder, left)
        shutil.rmtree(left / "driver")
        raise Crash("killed")


def until_it_ends(config: Config, executor: Crowd) -> str:
    """Start, and start again after each kill; returns the error that ends it, or ""."""
    while True:
        try:
            cli_run.run_job(config, until="0/instruct", executor=executor)
            return ""
        except Crash:
            shutil.rmtree(executor.folder)
            executor.folder.with_name("left behind").rename(executor.folder)
        except StageError as error:
            return str(error)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("max_usd", 1.2), ("max_usd", 1.7), ("max_calls", 40), ("max_calls", 80), ("max_tokens", 90_000)],
)
def test_sixteen_callers_a_bad_provider_and_kills_never_spend_more_than_allowed(tmp_path, name, limit):
    changes = {"curate__samples_per_dataset": 600, "evaluate__max_train_problems": 150, **MANY, **PRICED}
    config = job(tmp_path, **changes, **{f"limits__{name}": limit})
    crowd = Crowd(len(name) + int(limit), tmp_path / "small", lives=3)
    message = until_it_ends(config, crowd)
    caps = caps_of(config.limits.model_dump(), config.instructor.model_dump())
    taken, most = caps.by_name(crowd.taken)[name]
    assert taken <= most
    spent = sum(spent_in(Run.read(str(tmp_path / "small")), 64).values(), start=Spent())
    assert taken <= caps.by_name(spent.at_most)[name][0], "the files never count less than was charged"
    assert taken > most / 4, "and it is used"
    assert crowd.lives < 3
    assert crowd.most_out > 4
    assert f"limits.{name} = {limit:,} " in message, message


def test_reaching_the_budget_reports_spent_and_left_and_a_raised_one_continues(tmp_path):
    first, second = LocalExecutor(), LocalExecutor()
    changes = {"curate__samples_per_dataset": 30, **PRICED}
    with pytest.raises(StageError) as stopped:
        cli_run.run_job(job(tmp_path, limits__max_usd=0.15, **changes), executor=first)
    message = str(stopped.value)
    asked = first.asked["ask"]
    assert 0 < asked < 15
    assert f"{asked} calls, {30 * asked} tokens, {asked * 0.0007:,.4f} US$ " in message
    left = int(re.search(r"with (\d+) requests", message)[1])
    wanted = float(re.search(r"next request needs ([0-9.]+) US\$", message)[1])
    assert wanted > 0.15
    run = cli_run.run_job(job(tmp_path, limits__max_usd=100, **changes), executor=second).run
    assert second.asked["ask"] >= left
    assert not {r.key for r in first.requests["ask"]} & {r.key for r in second.requests["ask"]}
    assert usage(run)["calls"] == asked + second.asked["ask"]


def test_the_budget_is_that_of_the_whole_run_all_iterations_together(tmp_path):
    run = cli_run.run_job(job(tmp_path), executor=LocalExecutor()).run
    calls = usage(run)["calls"]
    more = LocalExecutor()
    with pytest.raises(StageError, match=rf"limits\.max_calls = {calls + 2} "):
        cli_run.run_job(job(tmp_path, iterations=2, limits__max_calls=calls + 2), executor=more)
    assert more.asked["ask"] == 2


def test_the_pools_of_a_search_share_the_budget_and_the_report_counts_them(tmp_path):
    search = {"search__neighbours": [1, 3], "search__samples_per_dataset": [10]}
    executor = LocalExecutor()
    with pytest.raises(StageError, match=r"limits\.max_calls = 7 "):
        cli_run.run_job(job(tmp_path, limits__max_calls=7, **search), executor=executor)
    assert executor.asked["ask"] == 7
    run = cli_run.run_job(job(tmp_path, limits__max_calls=100, **search), executor=executor).run
    pools = [usage(run, f"iteration_0/search/pool_k_{k}/instruct")["calls"] for k in (1, 3)]
    assert facts.iterations(run)[0].usage()["calls"] == sum(pools) == executor.asked["ask"]
    assert f"max_calls = 100: {sum(pools)} spent, {100 - sum(pools)} left" in sections.costs(run, 0.95)[0].note


def test_usage_json_is_the_sum_of_the_ledgers_entries(tmp_path):
    changes = {"curate__samples_per_dataset": 100, **MANY, **PRICED}
    crowd = Crowd(7, tmp_path / "small", lives=2)
    assert until_it_ends(job(tmp_path, **changes), crowd) == ""
    run = Run.read(str(tmp_path / "small"))
    figures, found = usage(run), list(entries(run.store.inside("iteration_0/instruct/answers"), 64))
    known = [entry.used for entry in found if entry.used is not None]
    unknown = [entry.reserved for entry in found if entry.used is None]
    assert len(found) >= crowd.sends, "every send has its mark, also those before a kill"
    assert {entry.state for entry in found} == {"sent", "done", "failed"}
    assert figures["calls"] == sum(amount.calls for amount in known)
    assert figures["prompt_tokens"] == sum(amount.input for amount in known)
    assert figures["completion_tokens"] == sum(amount.output for amount in known)
    assert figures["usd"] == pytest.approx(sum(10e-6 * a.input + 30e-6 * a.output for a in known))
    assert figures["possibly_paid"] == len(unknown) > 0
    assert figures["unknown_prompt_tokens"] == sum(amount.input for amount in unknown)
    assert figures["unknown_completion_tokens"] == sum(amount.output for amount in unknown)
    assert figures["prompt_tokens"] <= crowd.taken.input <= figures["prompt_tokens"] + figures["unknown_prompt_tokens"]
    assert {entry.price for entry in found} == {(10.0, 30.0)}


def test_replies_without_a_count_of_tokens_are_counted_at_their_worst(tmp_path):
    class Silent(LocalExecutor):
        def ask(self, *arguments: Any) -> Iterator[Answer]:
            for answer in super().ask(*arguments):
                yield Answer(answer.id, answer.key, Completion(answer.completion.text, "stop"))

    run = cli_run.run_job(job(tmp_path, **PRICED), executor=Silent()).run
    figures, spent = usage(run), ledger(run)
    assert (figures["usd"], figures["possibly_paid"]) == (0.0, 0)
    assert figures["calls"] == spent.unknown.calls > 0
    assert figures["unknown_usd"] > 0


def test_a_price_may_be_set_or_changed_in_a_run_that_has_begun(tmp_path):
    run = cli_run.run_job(job(tmp_path), executor=LocalExecutor()).run
    assert usage(run)["usd"] is None
    again = LocalExecutor()
    cli_run.run_job(job(tmp_path, **PRICED), executor=again)
    assert not again.asked["ask"] + again.asked["train"] + again.asked["generate"]
    assert usage(run)["usd"] == pytest.approx(usage(run)["calls"] * 0.0007)


def pools_of(config: Config) -> list[budget.KnownPool]:
    own = cli_run.existing(config)
    with replayed(config, [own]) as replay:
        return list(budget.known_pools(replay, own))


def check(config: Config) -> str:
    console = Console(width=300, file=io.StringIO())
    own = cli_run.existing(config)
    with replayed(config, [own] if own else []) as replay:
        cli_check.show(config, console, replay, own)
    return console.file.getvalue()


def test_check_gives_a_range_before_the_evaluation_and_the_budgets_verdict(tmp_path):
    output = check(job(tmp_path, limits__max_usd=1000, limits__max_calls=3, **PRICED))
    assert "mistakes are known" not in output
    assert re.search(r"word_problems +20% +48 +2 +15 ", output)
    assert re.search(r"limits.max_usd +1,000 .* enough", output)
    assert re.search(r"limits.max_calls +3 +0 +3 +\d+ to \d+ +too low; \d+", output)


def test_check_gives_a_number_once_the_mistakes_are_known_and_nothing_is_left_when_it_is_done(tmp_path):
    cli_run.run_job(job(tmp_path), until="diagnose", executor=LocalExecutor())
    config = job(tmp_path, limits__max_calls=100, **PRICED)
    run = cli_run.existing(config)
    (pool,) = pools_of(config)
    assert pool.to_come == pool.likely
    (found,) = pool.by_dataset.values()
    assert found.mistakes == run.stage(0, "diagnose").facts()["cases"]["word_problems"]
    assert re.search(rf"0 +word_problems +{found.mistakes} +\d+ +{found.likely.calls} ", check(config))
    executor = LocalExecutor()
    cli_run.run_job(config, executor=executor)
    sent = sum(len(m["content"]) for r in executor.requests["ask"] for m in r.messages)
    assert found.likely.input == pytest.approx(sent / 4, rel=0.01), "the prompts are those that are sent"
    (pool,) = pools_of(config)
    assert pool.to_come == NOTHING
    assert re.search(rf"limits.max_calls +100 +{executor.asked['ask']} +\d+ +0 +enough", check(config))


def test_after_an_iteration_the_forecast_uses_the_rates_of_its_replies(tmp_path):
    cli_run.run_job(job(tmp_path), executor=LocalExecutor())
    config = job(tmp_path, iterations=2)
    cli_run.run_job(config, until="1/diagnose", executor=LocalExecutor())
    _, pool = pools_of(config)
    (found,) = pool.by_dataset.values()
    # 20 tokens for the two samples of a reply, as before.
    assert found.likely.output == 10 * found.samples_per_request * found.likely.calls


def test_the_progress_line_has_accepted_samples_rates_and_money(tmp_path, monkeypatch):
    monkeypatch.setattr("lai_ray.common.progress.EVERY", -1.0)
    console = Console(width=300, file=io.StringIO())
    cli_run.run_job(job(tmp_path, **PRICED), executor=LocalExecutor(), console=console)
    (last,) = re.findall(r"instruct: word_problems, round 1: 15/15 .*", console.file.getvalue())
    assert re.search(r"\d+ samples accepted; \d+/500 requests and [0-9.]+k?/300k tokens a minute; 15 calls, 450", last)
    assert "0.0105 US$, about 0.0105 after this round" in last


def test_large_numbers_are_shortened():
    assert [short(n) for n in (7, 999, 12_345, 300_000, 2e8, 3e9)] == ["7", "999", "12.3k", "300k", "200M", "3G"]
