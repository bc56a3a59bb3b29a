"""When a failed call is sent again, and when the stage gives up."""

from __future__ import annotations

import pytest

from lai_ray.contracts import Retry
from lai_ray.distributed.calls.retry import RetryPolicy, RetryTimes
from lai_ray.errors import StageError


def policy(**times) -> RetryPolicy:
    return RetryPolicy(RetryTimes(**times), stall_seconds=100.0, address="http://here/v1")


def test_the_delay_doubles_up_to_a_longest_with_jitter():
    p = policy(backoff=1.0, longest_backoff=60.0)
    for attempts, longest in [(1, 2.0), (3, 8.0), (9, 60.0), (10_000, 60.0)]:
        delays = [p.delay(Retry("500"), attempts) for _ in range(50)]
        assert all(longest / 2 <= delay <= longest for delay in delays)
        assert len(set(delays)) > 1


def test_a_delay_that_the_provider_asks_for_takes_precedence():
    assert 7.0 <= policy(backoff=0.5).delay(Retry("429", after=7.0, limited=True), 6) <= 7.5


def test_failed_connections_are_an_error_only_without_a_reply_in_between():
    p = policy(unreachable=30.0)
    assert p.unreached(0.0, "refused") == p.unreached(29.0, "refused") == ""
    p.reached()
    assert p.unreached(40.0, "refused") == p.unreached(69.0, "refused") == ""
    message = p.unreached(71.0, "refused")
    assert "refused (3 attempts in 31 s)" in message and "instructor.base_url" in message


def test_only_seconds_in_a_row_are_a_stall():
    p = policy()
    p.idle(99.0, "a call")
    p.progressed()
    p.idle(99.0, "a call")
    with pytest.raises(StageError, match=r"101 s, waiting for a call.*cluster\.stall_seconds"):
        p.idle(2.0, "a call")
