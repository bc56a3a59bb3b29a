"""When the instructor's callers try again, and when they give up."""

from __future__ import annotations

import pytest

from lai_ray.distributed.calls.retry import Pace, Patience
from lai_ray.engines.openai import Retry
from lai_ray.errors import StageError


def patience(**pace) -> Patience:
    return Patience(Pace(**pace), stall_seconds=100.0, address="http://here/v1")


def test_the_wait_doubles_up_to_a_longest_with_jitter():
    p = patience(backoff=1.0, longest_backoff=60.0)
    for attempts, longest in [(1, 2.0), (3, 8.0), (9, 60.0), (10_000, 60.0)]:
        waits = [p.delay(Retry("500"), attempts) for _ in range(50)]
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(set(waits)) > 1


def test_the_providers_word_goes_before_our_own_rule():
    assert 7.0 <= patience(backoff=0.5).delay(Retry("429", after=7.0, limited=True), 6) <= 7.5


def test_silence_ends_it_only_when_nobody_answered_in_between():
    p = patience(unreachable=30.0)
    assert p.unreached(0.0, "refused") == p.unreached(29.0, "refused") == ""
    p.reached()
    assert p.unreached(40.0, "refused") == p.unreached(69.0, "refused") == ""
    assert "nobody answers there: refused (3 attempts in 31 s)" in p.unreached(71.0, "refused")


def test_standstill_is_what_was_waited_in_one_piece():
    p = patience()
    p.still(99.0, "a call")
    p.moved()
    p.still(99.0, "a call")
    with pytest.raises(StageError, match="stood still for 101 s, waiting for a call"):
        p.still(2.0, "a call")
