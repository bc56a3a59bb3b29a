"""The scheduler of instructor calls, its callers and its rate limiter on a virtual clock: minutes take no time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from lai_ray.config.settings import LimitSettings
from lai_ray.distributed.calls.rate_limiter import Finished, Permit, RateLimiter
from lai_ray.distributed.calls.retry import RetryTimes
from lai_ray.distributed.calls.scheduler import MOST_DEATHS
from lai_ray.errors import StageError
from lai_ray.records import Answer, Request
from tests.virtual import PROVIDERS, VirtualLoop, VirtualRay

MINUTE = {"window": 60.0}


def requests(count: int, max_tokens: int = 20) -> list[Request]:
    asked = [[{"role": "user", "content": f"q{i}"}] for i in range(count)]
    return [Request(f"p/{i}", f"key-{i}", messages, max_tokens, 0.8, i) for i, messages in enumerate(asked)]


def answered(answers: list[Answer], count: int) -> None:
    assert sorted(a.key for a in answers) == sorted(f"key-{i}" for i in range(count))
    assert all(a.completion.text == f"echo: q{a.key[4:]}" for a in answers if a.completion.error is None)


def errors(answers: list[Answer]) -> dict[str, str]:
    return {a.key: a.completion.error for a in answers if a.completion.error is not None}


@pytest.fixture
def ray() -> Iterator[VirtualRay]:
    runtime = VirtualRay()
    yield runtime
    runtime.close()


def test_every_request_is_answered_once_and_no_more_are_in_flight_than_allowed(ray):
    drawn: list[str] = []
    most = 0

    def one_by_one() -> Iterator[Request]:
        for request in requests(30):
            drawn.append(request.key)
            yield request

    with ray.serving(latency=0.05) as p:
        answers = []
        for answer in ray.scheduler(one_by_one(), p, max_in_flight=4).answers():
            most = max(most, len(drawn) - len(answers))
            answers.append(answer)
    answered(answers, 30)
    assert set(p.asked.values()) == {1}
    assert most == p.most_in_flight == 4, "a request is drawn when a call is free"


def test_requests_per_minute_are_never_exceeded_and_used_up(ray):
    drawn: dict[int | None, float] = {}

    def one_by_one() -> Iterator[Request]:
        for request in requests(24):
            drawn[request.seed] = ray.now()
            yield request

    with ray.serving(requests_per_window=6, **MINUTE) as p:
        answers = list(ray.scheduler(one_by_one(), p, requests_per_minute=6).answers())
    answered(answers, 24)
    assert 429 not in p.statuses
    assert p.log[-1].at - p.log[0].at < 3 * 62 + 1, "three windows of a minute and its slack"
    waited = [seen.at - drawn[seen.body["seed"]] > 1 for seen in p.log[1:]]
    assert sum(waited) <= 4, "only the first in the queue is drawn before it can be sent"


@pytest.mark.parametrize(
    ("counts", "counted", "refused"),
    [("used", "used", False), ("reserved", "reserved", False), ("reserved", "used", True)],
)
def test_tokens_per_minute_are_never_exceeded_where_both_sides_count_alike(ray, counts, counted, refused):
    """Where they do not, the provider refuses some calls, and all are answered in the end."""
    with ray.serving(tokens_per_window=100, counts=counts, latency=1, **MINUTE) as p:
        answers = list(ray.scheduler(requests(20), p, tokens_per_minute=100, counted_tokens=counted).answers())
    answered(answers, 20)
    assert (429 in p.statuses) == refused
    assert len(p.log) < 40


def test_a_limit_that_the_job_does_not_name_is_the_providers(ray):
    with ray.serving(requests_per_window=6, tells=True, **MINUTE) as p:
        scheduler = ray.scheduler(requests(30), p, workers=1)
        scheduler.limits = LimitSettings(max_in_flight=8)
        answered(list(scheduler.answers()), 30)
    assert p.statuses.count(429) <= 2, "those sent before the first reply"


def test_a_second_stage_counts_the_requests_of_the_first(ray):
    with ray.serving(requests_per_window=6, **MINUTE) as p:
        for _ in range(2):
            scheduler = ray.scheduler(requests(6), p, requests_per_minute=6, stall_seconds=120)
            answered(list(scheduler.answers()), 6)
            scheduler.close()
    assert p.statuses == [200] * 12
    assert p.log[6].at - p.log[0].at >= 60


def test_a_wait_for_the_rate_limit_is_reported_once_and_is_no_stall(ray):
    reported: list[str] = []
    with ray.serving() as p:
        scheduler = ray.scheduler(requests(3), p, requests_per_minute=1, stall_seconds=5, report=reported.append)
        answered(list(scheduler.answers()), 3)
    assert ray.now() > 120
    assert len(reported) == 2 and all("1 requests and" in line for line in reported), "once for each wait"


def test_nothing_is_sent_while_the_provider_asks_to_wait(ray):
    with ray.serving(fault=lambda number, body: "429 after 30" if number == 20 else None, latency=0.01) as p:
        answered(list(ray.scheduler(requests(60), p, max_in_flight=2).answers()), 60)
    refused = next(seen.at for seen in p.log if seen.status == 429)
    assert not [seen for seen in p.log if refused + 0.1 < seen.at < refused + 30]


def test_a_request_that_never_succeeds_is_given_up_and_the_others_are_not(ray):
    with ray.serving(fault=lambda number, body: "500" if body["seed"] == 3 else None) as p:
        answers = list(ray.scheduler(requests(6), p, times=RetryTimes(attempts=3)).answers())
    answered(answers, 6)
    assert list(errors(answers)) == ["key-3"] and "gave up after 3 attempts: 500" in errors(answers)["key-3"]
    assert p.asked["q3"] == 3


def test_faults_cost_attempts_and_no_answers(ray):
    faults = ["429 after 0.2", "500", "broken JSON", "hang up", "hang", "503"]
    with ray.serving(fault=lambda number, body: faults[number % 11] if number % 11 < 6 else None) as p:
        answers = list(ray.scheduler(requests(200), p, timeout=5.0, times=RetryTimes(attempts=50)).answers())
    answered(answers, 200)
    assert not errors(answers)
    assert len(p.log) > 300


def test_a_request_that_the_budget_does_not_allow_again_is_an_error(ray):
    with ray.serving(fault=lambda number, body: "hang up" if body["seed"] == 1 else None) as p:
        answers = list(ray.scheduler(requests(3), p, may_resend=lambda request: False).answers())
    assert list(errors(answers)) == ["key-1"] and "budget" in errors(answers)["key-1"]
    assert p.asked["q1"] == 1


def all_until_it_fails(scheduler: Any, answers: list[Answer]) -> str:
    with pytest.raises(StageError) as error:  # noqa: PT012  # What came before the error counts.
        for answer in scheduler.answers():
            answers.append(answer)
    scheduler.close()
    return str(error.value)


def test_a_wrong_key_stops_everything_at_once_in_the_providers_words(ray):
    answers: list[Answer] = []
    with ray.serving(fault=lambda number, body: "401", latency=0.05) as p:
        message = all_until_it_fails(ray.scheduler(requests(500), p), answers)
    assert "401" in message and p.base_url in message
    assert len(p.log) <= 8
    assert all(answer.free for answer in answers), "nothing was paid for"


def test_calls_in_flight_are_awaited_after_a_fatal_answer(ray):
    answers: list[Answer] = []
    with ray.serving(latency=0.4) as p:

        def fault(number: int, body: Any) -> str | None:
            p.latency = 0.0 if number == 5 else 0.4  # The refusal overtakes the calls in flight.
            return "no credit" if number == 5 else None

        p.fault = fault
        assert "no credit" in all_until_it_fails(ray.scheduler(requests(100), p), answers)
    received = [answer for answer in answers if answer.completion.error is None]
    assert len(received) == p.statuses.count(200) >= 5


def test_a_call_that_hangs_after_a_fatal_answer_is_awaited_for_some_seconds_only(ray):
    with ray.serving(fault=lambda number, body: "no credit" if number == 3 else "hang") as p:
        all_until_it_fails(ray.scheduler(requests(100), p, timeout=1000.0), [])
    assert ray.now() < 10


def test_an_address_that_does_not_answer_is_named(ray):
    message = all_until_it_fails(ray.scheduler(requests(20), "virtual://nowhere"), [])
    assert "virtual://nowhere" in message and "instructor.base_url" in message
    assert 30 < ray.now() < 100


def test_a_server_that_comes_back_is_asked_again_and_failed_connections_are_no_attempts(ray):
    with ray.serving() as p:
        del PROVIDERS[p.base_url]
        ray.loop.call_later(20.0, PROVIDERS.__setitem__, p.base_url, p)
        answers = list(ray.scheduler(requests(5), p, times=RetryTimes(attempts=2)).answers())
    answered(answers, 5)
    assert not errors(answers)
    assert p.log[0].at > 20


def test_a_provider_that_asks_to_wait_longer_than_the_stage_may_stall_ends_it(ray):
    with ray.serving(fault=lambda number, body: "429 after 3600") as p:
        message = all_until_it_fails(ray.scheduler(requests(3), p), [])
    assert "3,600 s" in message and "cluster.stall_seconds" in message
    assert len(p.log) <= 3


def test_a_stall_is_an_error_that_names_what_is_awaited(ray):
    with ray.serving(fault=lambda number, body: "hang") as p:
        message = all_until_it_fails(ray.scheduler(requests(3), p, timeout=1000.0, stall_seconds=8.0), [])
    assert f"3 calls in flight to {p.base_url}" in message and "cluster.stall_seconds" in message
    assert 8 < ray.now() < 12


def test_callers_that_do_not_start_are_a_stall(ray):
    ray.startup = 1000.0
    with ray.serving() as p:
        message = all_until_it_fails(ray.scheduler(requests(3), p, stall_seconds=8.0), [])
    assert "2 of 2 callers" in message and "rate limiter" in message
    assert not p.log


def test_a_caller_that_dies_is_replaced_and_its_calls_are_sent_again(ray):
    reported: list[str] = []
    with ray.serving(latency=0.2) as p:
        scheduler = ray.scheduler(requests(100), p, report=reported.append)
        answers = []
        for answer in scheduler.answers():
            answers.append(answer)
            if len(answers) == 40:
                ray.callers[0].die()
        scheduler.close()
    answered(answers, 100)
    assert not errors(answers)
    assert len(ray.callers) == 3
    assert 1 <= len(p.log) - 100 <= 8, "only calls in flight are sent a second time"
    assert len(reported) == 2 and "possibly paid" in reported[1]


def test_calls_of_a_dead_caller_that_the_budget_does_not_allow_again_are_errors(ray):
    with ray.serving(latency=0.2) as p:
        answers = []
        for answer in ray.scheduler(requests(20), p, workers=1, may_resend=lambda request: False).answers():
            answers.append(answer)
            if len(answers) == 8:
                ray.callers[0].die()
    answered(answers, 20)
    assert set(p.asked.values()) == {1}
    assert errors(answers) and all("budget" in error for error in errors(answers).values())


def test_callers_that_keep_dying_end_the_stage(ray):
    start = ray.caller

    def dead(*arguments: Any) -> Any:
        actor = start(*arguments)
        actor.die()
        return actor

    ray.caller = dead
    with ray.serving() as p:
        message = all_until_it_fails(ray.scheduler(requests(3), p), [])
    assert f"{MOST_DEATHS + 1} instructor callers died" in message


def test_a_scheduler_that_is_closed_early_leaves_no_lease_open(ray):
    with ray.serving(latency=0.1) as p:
        for _ in range(3):
            scheduler = ray.scheduler(requests(50), p, max_in_flight=3)
            next(scheduler.answers())
            scheduler.close()
        began = ray.now()
        answered(list(ray.scheduler(requests(10), p, max_in_flight=3).answers()), 10)
    assert ray.now() - began < 5


def test_a_start_after_a_killed_one_of_the_same_run_does_not_wait_for_its_leases(ray):
    with ray.serving(latency=0.1) as p:
        for _ in range(3):  # Each is killed with calls in flight: never closed.
            next(ray.scheduler(requests(50), p, max_in_flight=3, run="runs/mine/logs").answers())
        began = ray.now()
        answered(list(ray.scheduler(requests(10), p, max_in_flight=3, run="runs/mine/logs").answers()), 10)
    assert ray.now() - began < 5


def test_a_permit_that_grew_old_while_the_reader_was_busy_is_not_used(ray):
    with ray.serving(requests_per_window=6, **MINUTE) as p:
        answers = []
        for answer in ray.scheduler(requests(24), p, requests_per_minute=6).answers():
            answers.append(answer)
            ray.sleep(7.0)
    answered(answers, 24)
    assert 429 not in p.statuses


def with_limiter(work: Any, window: float = 60.0) -> Any:
    """Run a coroutine function with a rate limiter on a virtual clock."""
    loop = VirtualLoop()

    async def run() -> Any:
        return await work(RateLimiter(window, 0.0, 60.0, 60.0, clock=loop.time))

    return loop.run_until_complete(run())


def test_permits_are_given_first_come_first_served():
    """A large request in front is not overtaken by small ones that would fit."""
    granted: list[str] = []
    limits = LimitSettings(requests_per_minute=10**6, tokens_per_minute=100, max_in_flight=8)

    async def work(limiter: RateLimiter) -> None:
        async def one(name: str, tokens: int) -> None:
            await limiter.acquire("job", limits, [tokens])
            granted.append(name)

        await limiter.acquire("job", limits, [60])
        await asyncio.gather(*(one(name, tokens) for name, tokens in [("large", 90), ("small", 10), ("tiny", 1)]))

    with_limiter(work)
    assert granted == ["large", "small", "tiny"]


def test_another_run_waits_for_the_leases_of_a_killed_one_until_they_expire():
    limits = LimitSettings(requests_per_minute=10**6, tokens_per_minute=10**9, max_in_flight=2)

    async def work(limiter: RateLimiter) -> list[float]:
        times = []
        for job in ("mine/first", "mine/second", "other/first"):
            await limiter.acquire(job, limits, [1, 1])
            times.append(limiter._clock())
        return times

    assert with_limiter(work) == [0.0, 0.0, 60.0]


def test_what_a_killed_start_still_waits_for_is_not_granted_after_a_new_start():
    limits = LimitSettings(requests_per_minute=10**6, tokens_per_minute=10**9, max_in_flight=1)

    async def work(limiter: RateLimiter) -> list[Any]:
        held = await limiter.acquire("other/1", limits, [1])
        killed = asyncio.ensure_future(limiter.acquire("mine/1", limits, [1, 1, 1]))
        await asyncio.sleep(0)
        resumed = asyncio.ensure_future(limiter.acquire("mine/2", limits, [1]))
        await asyncio.sleep(0)
        await limiter.settle([Finished(lease) for lease in held.leases])
        results = await asyncio.gather(killed, resumed, return_exceptions=True)
        return [*results, limiter._clock()]

    killed, resumed, now = with_limiter(work)
    assert isinstance(killed, StageError) and len(resumed.leases) == 1 and now == 0.0


def test_one_call_gets_permits_for_many_requests():
    limits = LimitSettings(requests_per_minute=5, tokens_per_minute=10**9, max_in_flight=8)

    async def work(limiter: RateLimiter) -> Permit:
        return await limiter.acquire("job", limits, [1] * 8)

    permit = with_limiter(work)
    assert len(set(permit.leases)) == 5
    assert permit.room == 0


def test_calls_that_the_provider_does_not_count_free_their_place_at_once():
    limits = LimitSettings(requests_per_minute=2, tokens_per_minute=10**9, max_in_flight=8)

    async def work(limiter: RateLimiter) -> list[float]:
        times = []
        for counted in (False, True, True):
            permit = await limiter.acquire("job", limits, [1, 1])
            times.append(limiter._clock())
            await limiter.settle([Finished(lease, counted=counted) for lease in permit.leases])
        return times

    assert with_limiter(work) == [0.0, 0.0, 60.0]


def test_a_parameter_that_the_server_refuses_is_left_out_by_all_callers_and_costs_no_attempt(ray):
    reported: list[str] = []
    learned: dict[str, str] = {}
    with ray.serving(fault=lambda number, body: "refuses seed", latency=0.5) as p:
        scheduler = ray.scheduler(
            requests(40), p, times=RetryTimes(attempts=1), report=reported.append, learned=learned
        )
        answers = list(scheduler.answers())
        scheduler.close()
        refused = p.statuses.count(422)
        again = list(ray.scheduler(requests(9), p, times=RetryTimes(attempts=1), learned=learned).answers())
    answered(answers, 40)
    assert not errors(answers) and learned == {"seed": ""}
    assert 1 <= refused <= 8, "those in flight when the first was refused"
    assert len(reported) == 1 and "no seed: 422" in reported[0]
    assert p.statuses.count(422) == refused, "the next stage knows it"
    answered(again, 9)


def test_a_caller_that_replaces_a_dead_one_knows_what_was_learned(ray):
    with ray.serving(fault=lambda number, body: "refuses seed", latency=0.2) as p:
        answers = []
        for answer in ray.scheduler(requests(60), p, workers=1).answers():
            answers.append(answer)
            if len(answers) == 20:
                ray.callers[0].die()
                refused = p.statuses.count(422)
    answered(answers, 60)
    assert p.statuses.count(422) == refused


def test_an_answer_counts_the_refusals_for_the_rate_limit_before_it(ray):
    faults = {1: "429 after 0.2", 2: "429 after 0.2"}
    with ray.serving(fault=lambda number, body: faults.get(number) if body["seed"] == 1 else None) as p:
        answers = list(ray.scheduler(requests(3), p, max_in_flight=1).answers())
    assert {answer.key: answer.limited for answer in answers} == {"key-0": 0, "key-1": 2, "key-2": 0}


def test_an_engine_that_raises_fails_the_row_alone(ray, monkeypatch):
    from tests.virtual import VirtualEngine

    call = VirtualEngine.call

    async def raising(self: Any, request: Request) -> Any:
        if request.seed == 1:
            raise ValueError("of this row")
        return await call(self, request)

    monkeypatch.setattr(VirtualEngine, "call", raising)
    with ray.serving() as p:
        answers = list(ray.scheduler(requests(4), p).answers())
    answered(answers, 4)
    assert list(errors(answers)) == ["key-1"] and "of this row" in errors(answers)["key-1"]
