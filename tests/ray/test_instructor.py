"""Instructor calls on a real Ray, to a provider on loopback. What needs neither is in tests/unit/test_scheduler.py."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import replace

import psutil
import pytest

from lai_ray.config.settings import ClusterSettings, InstructorSettings, LimitSettings
from lai_ray.distributed.calls.ask import ask
from lai_ray.distributed.calls.retry import RetryTimes
from lai_ray.errors import StageError
from lai_ray.instructor.spending.budget import Budget, Caps
from lai_ray.instructor.spending.ledger import entries, total
from lai_ray.instructor.spending.reserve import BudgetReservation
from lai_ray.records import Answer, Request
from lai_ray.storage.answers import Answers
from lai_ray.storage.store import Store
from tests import provider
from tests.unit.test_calls_under_budget import CALLERS, FAULTS, billed, settle
from tests.unit.test_calls_under_budget import requests as budgeted

TIMES = RetryTimes(window=1.0, slack=0.5, backoff=0.05, unreachable=1.0, drain=2.0, limiter_idle=10.0)


def requests(count: int, max_tokens: int = 20) -> list[Request]:
    asked = [[{"role": "user", "content": f"q{i}"}] for i in range(count)]
    return [Request(f"p/{i}", f"key-{i}", messages, max_tokens, 0.8, i) for i, messages in enumerate(asked)]


def limits(**changes) -> LimitSettings:
    return LimitSettings(**{"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "max_in_flight": 8} | changes)


def asking(
    drawn,
    base_url,
    *,
    times=TIMES,
    timeout=20.0,
    stall_seconds=60.0,
    workers=2,
    key=None,
    logs=None,
    again=None,
    **limit,
):
    settings = InstructorSettings(model="m", timeout=timeout, api_key_env=key)
    cluster = ClusterSettings(instructor_workers=workers, stall_seconds=stall_seconds)
    return ask(drawn, settings, limits(**limit), cluster, base_url, logs, again=again, times=times)


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


def test_every_request_is_answered_once_by_two_callers():
    with provider.serve(latency=0.02) as p:
        answers = list(asking(requests(60), p.base_url))
    answered(answers, 60)
    assert set(p.asked.values()) == {1}
    assert p.most_in_flight <= 8
    assert {a.completion.completion_tokens for a in answers} == {10}


def test_a_provider_that_misbehaves_costs_attempts_and_no_answers(tmp_path):
    faults = ["429 after 0.2", "500", "broken JSON", "hang up", "hang", "503"]
    with provider.serve(fault=lambda number, body: faults[number % 11] if number % 11 < 6 else None) as p:
        answers = list(asking(requests(40), p.base_url, timeout=0.5, logs=str(tmp_path)))
    answered(answers, 40)
    assert [a.completion.error for a in answers] == [None] * 40
    assert len(p.log) > 60
    logged = (tmp_path / "instructor.log").read_text()
    assert logged.count(" p/") == len(p.log) - 40, "a line about each failed attempt"
    assert "500: The server had an error." in logged


def test_an_address_that_does_not_answer_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(StageError, match=rf"{url}.*instructor\.base_url"):
            list(asking(requests(20), url))


def test_a_key_that_the_workers_do_not_have_is_named_by_its_variable(monkeypatch):
    monkeypatch.setenv("LAI_TEST_LATE_KEY", "set after Ray was started")
    with provider.serve() as p, pytest.raises(StageError, match="LAI_TEST_LATE_KEY"):
        list(asking(requests(3), p.base_url, key="LAI_TEST_LATE_KEY"))
    assert p.log == []


def test_a_caller_that_is_killed_is_replaced_and_its_calls_are_sent_again():
    victims: list[int] = []
    with provider.serve(latency=0.2) as p:
        # One caller: of two, the newest may still be starting and hold no call to lose.
        killer = kill_when(lambda: len(p.log) > 20, "Caller", victims)
        answers = list(asking(requests(60), p.base_url, workers=1))
        killer.join()
    answered(answers, 60)
    assert len(victims) == 1
    assert 1 <= len(p.log) - 60 <= 8, "only what was in flight is sent a second time"


def test_a_bad_provider_and_a_killed_caller_take_no_more_than_the_budget_allows(tmp_path):
    """The same at many more faults: tests/unit/test_calls_under_budget.py."""
    victims: list[int] = []
    with (
        provider.serve(fault=lambda number, body: FAULTS.get(number % 13), latency=0.05) as p,
        Answers(Store(str(tmp_path))) as answers,
    ):
        reservation = BudgetReservation(Budget(Caps(tokens=6000)), answers, CALLERS)
        killer = kill_when(lambda: len(p.log) > 20, "Caller", victims)
        drawn = reservation.draw(budgeted(400))
        asked = asking(drawn, p.base_url, max_in_flight=CALLERS, timeout=1.0, again=reservation.again)
        good = settle(reservation, asked)
        killer.join()
    _, tokens = billed(p)
    spent = total(entries(Store(str(tmp_path)), 50)).at_most
    assert tokens <= spent.tokens <= 6000
    assert reservation.reached is not None and good > 10
    assert len(victims) == 1


def test_a_rate_limiter_that_is_killed_comes_back_with_a_full_window():
    victims: list[int] = []
    with provider.serve(requests_per_window=10, window=2.0) as p:
        killer = kill_when(lambda: len(p.log) >= 5, "RateLimiter", victims)
        answers = list(asking(requests(20), p.base_url, times=replace(TIMES, window=2.0), requests_per_minute=10))
        killer.join()
    answered(answers, 20)
    assert len(victims) == 1
    assert 429 not in p.statuses


def gone(name: str, seconds: float = 20.0) -> bool:
    """Whether no such actor is left, after waiting a little."""
    end = time.monotonic() + seconds
    while actors(name) and time.monotonic() < end:
        time.sleep(0.1)
    return not actors(name)


def test_answers_that_are_closed_early_leave_no_caller_behind():
    with provider.serve(latency=0.1) as p:
        answers = asking(requests(50), p.base_url, max_in_flight=3)
        next(answers)
        answers.close()
        assert gone("Caller")


@pytest.mark.soak
def test_a_rate_limiter_that_is_not_used_ends_itself():
    with provider.serve() as p:
        list(asking(requests(1), p.base_url, times=replace(TIMES, limiter_idle=0.5)))
    assert gone("RateLimiter", 40.0)


def test_two_jobs_with_one_key_share_one_rate_limiter_and_the_lower_limit_holds():
    """The job with the low limit starts first and takes longer; without sharing, each would have its own."""
    with provider.serve(requests_per_window=8, window=1.0) as p:
        slow = asking(requests(24), p.base_url, requests_per_minute=8, workers=1)
        answers = [next(slow)]
        others: list[Answer] = []
        other = threading.Thread(
            target=lambda: others.extend(asking(requests(12), p.base_url, requests_per_minute=1000, workers=1)),
            daemon=True,
        )
        other.start()
        answers += slow
        other.join(60)
    answered(answers, 24)
    answered(others, 12)
    assert 429 not in p.statuses


def test_a_limit_that_the_job_does_not_name_is_the_providers():
    unnamed = LimitSettings(max_in_flight=8)
    with provider.serve(requests_per_window=6, window=1.0, tells=True) as p:
        settings, cluster = InstructorSettings(model="m"), ClusterSettings(instructor_workers=1)
        answers = list(ask(requests(20), settings, unnamed, cluster, p.base_url, times=TIMES))
    answered(answers, 20)
    # Until the first replies arrive the limit is unknown; refusals report it too.
    assert p.statuses.count(429) <= 8
