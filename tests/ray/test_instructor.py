"""The instructor's callers on a real Ray, against a provider on loopback that enforces its limits and misbehaves."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from lai_ray.config.settings import ClusterSettings, InstructorSettings, LimitSettings
from lai_ray.distributed.calls.ask import ask
from lai_ray.distributed.calls.rate_limiter import Gate, Leave
from lai_ray.distributed.calls.retry import Pace
from lai_ray.errors import StageError
from lai_ray.records import Answer, Request
from tests import provider

PACE = Pace(window=1.0, slack=0.5, backoff=0.05, unreachable=1.0, farewell=2.0, gate_idle=10.0)


def requests(count: int, max_tokens: int = 20) -> list[Request]:
    asked = [[{"role": "user", "content": f"q{i}"}] for i in range(count)]
    return [Request(f"p/{i}", f"key-{i}", messages, max_tokens, 0.8, i) for i, messages in enumerate(asked)]


def limits(**changes) -> LimitSettings:
    return LimitSettings(**{"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "max_in_flight": 8} | changes)


def asking(
    drawn, base_url, *, pace=PACE, timeout=20.0, stall_seconds=60.0, workers=2, key=None, logs=None, again=None, **limit
):
    settings = InstructorSettings(model="m", timeout=timeout, api_key_env=key)
    cluster = ClusterSettings(instructor_workers=workers, stall_seconds=stall_seconds)
    return ask(drawn, settings, limits(**limit), cluster, base_url, logs, again=again, pace=pace)


def answered(answers: list[Answer], count: int) -> None:
    assert sorted(a.key for a in answers) == sorted(f"key-{i}" for i in range(count))
    assert all(a.completion.text == f"echo: q{a.key[4:]}" for a in answers if a.completion.error is None)


def actors(name: str) -> list[int]:
    """Processes of this test's own Ray that run such an actor, the newest first."""
    found: list[tuple[float, int]] = []
    for child in psutil.Process().children(recursive=True):
        try:
            if " ".join(child.cmdline()).startswith(f"ray::{name}"):
                found.append((child.create_time(), child.pid))
        except psutil.Error:
            continue
    return [pid for _, pid in sorted(found, reverse=True)]


def kill_when(condition, name: str, victims: list[int]) -> threading.Thread:
    """SIGKILL one such actor once the condition holds."""

    def wait() -> None:
        end = time.monotonic() + 60
        while not condition() and time.monotonic() < end:
            time.sleep(0.01)
        victims.extend(actors(name)[:1])
        os.kill(victims[0], signal.SIGKILL)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_without_requests_nothing_is_started():
    assert list(asking([], "http://127.0.0.1:1/v1")) == []
    assert actors("Caller") == []


def test_every_request_is_answered_once_by_two_callers():
    with provider.serve(latency=0.02) as p:
        answers = list(asking(requests(60), p.base_url))
    answered(answers, 60)
    assert set(p.asked.values()) == {1}
    assert p.most_in_flight <= 8
    assert {a.completion.completion_tokens for a in answers} == {10}


def test_requests_are_drawn_only_as_calls_become_free():
    drawn: list[str] = []
    most = 0

    def one_by_one() -> Iterator[Request]:
        for request in requests(30):
            drawn.append(request.key)
            yield request

    with provider.serve(latency=0.05) as p:
        for count, _ in enumerate(asking(one_by_one(), p.base_url, max_in_flight=4)):
            most = max(most, len(drawn) - count)
    assert len(drawn) == 30
    assert most <= 4
    assert p.most_in_flight <= 4


def test_requests_per_minute_are_never_exceeded_and_nearly_used_up():
    drawn: dict[int | None, float] = {}

    def one_by_one() -> Iterator[Request]:
        for request in requests(24):
            drawn[request.seed] = time.monotonic()
            yield request

    with provider.serve(requests_per_window=6, window=1.0) as p:
        answers = list(asking(one_by_one(), p.base_url, requests_per_minute=6))
    answered(answers, 24)
    assert 429 not in p.statuses
    assert p.log[-1].at - p.log[0].at < 3 * 1.3 + 2.0, "three windows, and what a busy machine adds"
    waited = [seen.at - drawn[seen.body["seed"]] > 0.4 for seen in p.log[1:]]
    assert sum(waited) <= 4, "only the one at the head of the line is drawn before it can be sent"


def test_tokens_per_minute_are_never_exceeded():
    with provider.serve(tokens_per_window=100, window=1.0, counts="used", latency=0.02) as p:
        answers = list(asking(requests(20), p.base_url, tokens_per_minute=100))
    answered(answers, 20)
    assert 429 not in p.statuses


def test_a_provider_that_counts_what_was_reserved_refuses_some_and_all_are_answered():
    """Tokens are given back when a call is over; a provider that does not give them back says so with 429."""
    with provider.serve(tokens_per_window=100, window=1.0, counts="reserved", latency=0.02) as p:
        answers = list(asking(requests(20), p.base_url, tokens_per_minute=100))
    answered(answers, 20)
    assert len(p.log) < 40


def test_a_provider_that_misbehaves_costs_attempts_and_no_answers():
    faults = ["429 after 0.2", "500", "broken JSON", "hang up", "hang", "503"]
    with provider.serve(fault=lambda number, body: faults[number % 11] if number % 11 < 6 else None) as p:
        answers = list(asking(requests(40), p.base_url, timeout=0.5))
    answered(answers, 40)
    assert [a.completion.error for a in answers] == [None] * 40
    assert len(p.log) > 60


def test_while_a_provider_asks_to_wait_nobody_calls():
    with provider.serve(fault=lambda number, body: "429 after 1.0" if number == 20 else None) as p:
        answered(list(asking(requests(60), p.base_url, max_in_flight=2)), 60)
    refused = next(seen.at for seen in p.log if seen.status == 429)
    assert sum(refused + 0.3 < seen.at < refused + 0.95 for seen in p.log) == 0


def test_a_request_that_never_succeeds_is_given_up_and_the_others_are_not(tmp_path):
    with provider.serve(fault=lambda number, body: "500" if body["seed"] == 3 else None) as p:
        pace = replace(PACE, attempts=3)
        answers = {a.key: a.completion for a in asking(requests(6), p.base_url, pace=pace, logs=str(tmp_path))}
    assert answers.pop("key-3").error == "gave up after 3 attempts: 500: The server had an error."
    assert [completion.error for completion in answers.values()] == [None] * 5
    assert p.asked["q3"] == 3
    logged = next(tmp_path.iterdir()).read_text()
    assert logged.count("p/3: 500: The server had an error.") == 3


def test_a_wrong_key_stops_everything_at_once_in_the_providers_words():
    with (
        provider.serve(fault=lambda number, body: "401", latency=0.05) as p,
        pytest.raises(StageError, match=r"401: Incorrect API key provided\.") as error,
    ):
        list(asking(requests(500), p.base_url))
    assert len(p.log) <= 8
    assert p.base_url in str(error.value)
    assert "the same command goes on" in str(error.value)


def test_an_empty_account_stops_the_run_but_calls_in_flight_come_home():
    with provider.serve(latency=0.4) as p:

        def fault(number, body):
            if number == 5:
                p.latency = 0.0  # The refusal overtakes the calls that are under way.
                return "no credit"
            return None

        p.fault = fault
        came = []
        with pytest.raises(StageError, match=r"You exceeded your quota.*\n.*credit"):
            came.extend(a.key for a in collected(asking(requests(100), p.base_url), came))
    assert len(came) == p.statuses.count(200) >= 5


def collected(answers: Iterator[Answer], came: list[str]) -> Iterator[Answer]:
    """Keeps what came before the error."""
    for answer in answers:
        came += [answer.key] if answer.completion.error is None else []
    return iter(())


def test_where_nobody_listens_the_error_names_the_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(
            StageError, match=f"the instructor at {url} cannot go on: nobody answers.*instructor.base_url"
        ):
            list(asking(requests(20), url))


def test_a_server_that_comes_back_is_asked_again():
    """Connections that do not come about use up no attempts."""
    pace = replace(PACE, attempts=2, unreachable=30.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with provider.serve() as later:
        timer = threading.Timer(6.0, later.listen_on, args=[port])
        timer.start()
        found = list(asking(requests(5), f"http://127.0.0.1:{port}/v1", pace=pace))
    answered(found, 5)
    assert not [answer.completion.error for answer in found if answer.completion.error]


def test_a_key_that_the_workers_do_not_have_is_said_with_the_variables_name(monkeypatch):
    monkeypatch.setenv("LAI_TEST_LATE_KEY", "set after Ray was started")
    with (
        provider.serve() as p,
        pytest.raises(StageError, match="names the variable LAI_TEST_LATE_KEY, which is not set here"),
    ):
        list(asking(requests(3), p.base_url, key="LAI_TEST_LATE_KEY"))
    assert p.log == []


def test_a_provider_that_asks_to_wait_longer_than_the_stage_may_stand_still_ends_it():
    with (
        provider.serve(fault=lambda number, body: "429 after 3600") as p,
        pytest.raises(StageError, match="asks to wait 3,600 s"),
    ):
        list(asking(requests(3), p.base_url))
    assert len(p.log) <= 3


def test_standing_still_is_an_error_that_says_what_was_waited_for():
    with (
        provider.serve(fault=lambda number, body: "hang") as p,
        pytest.raises(StageError, match=r"stood still for \d+ s, waiting for \d calls in flight to http://127"),
    ):
        list(asking(requests(3), p.base_url, timeout=100.0, stall_seconds=8.0))
    assert 1 <= len(p.log) <= 3


def test_a_caller_that_is_killed_is_replaced_and_its_calls_are_sent_again():
    victims: list[int] = []
    with provider.serve(latency=0.2) as p:
        # Late enough that both callers are up: one that is still starting holds no call to lose.
        killer = kill_when(lambda: len(p.log) > 160, "Caller", victims)
        answers = list(asking(requests(240), p.base_url))
        killer.join()
    answered(answers, 240)
    assert len(victims) == 1
    assert 1 <= len(p.log) - 240 <= 8, "only what was in flight is sent a second time"


def test_a_quota_actor_that_is_killed_comes_back_with_the_window_taken_for_full():
    victims: list[int] = []
    with provider.serve(requests_per_window=10, window=2.0) as p:
        killer = kill_when(lambda: len(p.log) >= 15, "Gate", victims)
        pace = replace(PACE, window=2.0)
        answers = list(asking(requests(30), p.base_url, pace=pace, requests_per_minute=10))
        killer.join()
    answered(answers, 30)
    assert len(victims) == 1
    assert 429 not in p.statuses


def gone(name: str, seconds: float = 20.0) -> bool:
    """Whether no such actor is left, after waiting a little."""
    end = time.monotonic() + seconds
    while actors(name) and time.monotonic() < end:
        time.sleep(0.1)
    return not actors(name)


def test_whoever_stops_listening_leaves_no_caller_behind_and_no_lease_out():
    with provider.serve(latency=0.1) as p:
        for _ in range(2):
            answers = asking(requests(50), p.base_url, max_in_flight=3)
            next(answers)
            answers.close()
        assert gone("Caller")
        answered(list(asking(requests(10), p.base_url, max_in_flight=3, stall_seconds=15.0)), 10)


def test_a_second_round_still_counts_the_requests_of_the_first():
    with provider.serve(requests_per_window=6, window=4.0) as p:
        for _ in range(2):
            answered(list(asking(requests(6), p.base_url, pace=replace(PACE, window=4.0), requests_per_minute=6)), 6)
    assert p.statuses == [200] * 12


@pytest.mark.soak
def test_a_quota_actor_that_nobody_uses_ends_itself():
    with provider.serve() as p:
        list(asking(requests(1), p.base_url, pace=replace(PACE, gate_idle=0.5)))
    assert gone("Gate", 40.0)


def test_leave_is_given_first_come_first_served():
    """A large request in front is not overtaken by small ones that would fit."""

    async def order() -> list[str]:
        gate, hundred = Gate(0.3, 0.0, 60.0, 60.0), limits(tokens_per_minute=100)
        came: list[str] = []

        async def one(name: str, tokens: int) -> None:
            await gate.acquire("job", hundred, [tokens])
            came.append(name)

        await gate.acquire("job", hundred, [60])
        await asyncio.gather(*(one(name, tokens) for name, tokens in [("large", 90), ("small", 10), ("tiny", 1)]))
        return came

    assert asyncio.run(order()) == ["large", "small", "tiny"]


def test_leave_for_many_requests_is_one_round_trip():
    async def leave() -> Leave:
        return await Gate(60.0, 0.0, 60.0, 60.0).acquire("job", limits(requests_per_minute=5), [1] * 8)

    given = asyncio.run(leave())
    assert len(set(given.leases)) == 5
    assert given.room == 0


def test_two_jobs_with_one_key_share_one_quota_and_the_lower_limit_holds():
    """The job with the low limit asks first and for longer: alone, either would have its own."""
    with provider.serve(requests_per_window=8, window=1.0) as p:
        slow = asking(requests(40), p.base_url, requests_per_minute=8)
        came = [next(slow)]
        hasty: list[Answer] = []
        other = threading.Thread(
            target=lambda: hasty.extend(asking(requests(12), p.base_url, requests_per_minute=1000)), daemon=True
        )
        other.start()
        came += slow
        other.join(60)
    answered(came, 40)
    answered(hasty, 12)
    assert 429 not in p.statuses


def test_a_limit_that_the_job_does_not_name_is_the_providers():
    unnamed = LimitSettings(max_in_flight=8)
    with provider.serve(requests_per_window=6, window=1.0, tells=True) as p:
        settings, cluster = InstructorSettings(model="m"), ClusterSettings(instructor_workers=1)
        answers = list(ask(requests(30), settings, unnamed, cluster, p.base_url, pace=PACE))
    answered(answers, 30)
    # Until the first replies are here nobody knows; refusals tell it too.
    assert p.statuses.count(429) <= 8


def test_tokens_stay_reserved_where_the_provider_counts_so():
    with provider.serve(tokens_per_window=100, window=1.0, counts="reserved", latency=0.02) as p:
        answers = list(asking(requests(20), p.base_url, tokens_per_minute=100, counted_tokens="reserved"))
    answered(answers, 20)
    assert 429 not in p.statuses
