"""Requests and tokens per minute, on a virtual clock."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lai_ray.instructor.rate_limit.headers import UNKNOWN
from lai_ray.instructor.rate_limit.window import MINUTE, Lease, SlidingWindow
from lai_ray.instructor.spending.tokens import estimate, used
from lai_ray.records import Completion


def window(requests: int = 1000, tokens: int = 10**9, in_flight: int = 1000, **more: float) -> SlidingWindow:
    return SlidingWindow(requests=requests, tokens=tokens, in_flight=in_flight, **more)  # type: ignore[arg-type]


def granted(result: Lease | float) -> Lease:
    assert isinstance(result, Lease), f"must wait {result} s"
    return result


def test_the_request_after_the_last_of_a_minute_waits_until_the_first_is_a_minute_old():
    q = window(requests=2)
    granted(q.acquire(0.0, 1))
    granted(q.acquire(10.0, 1))
    assert q.acquire(15.0, 1) == 45.0
    granted(q.acquire(60.0, 1))
    assert q.acquire(60.0, 1) == 10.0


def test_tokens_are_reserved_and_what_was_not_used_is_freed():
    q = window(tokens=100)
    lease = granted(q.acquire(0.0, 90))
    assert q.acquire(1.0, 20) == 59.0
    q.settle(lease.id, 30)
    granted(q.acquire(1.0, 20))
    granted(q.acquire(1.0, 50))
    assert q.acquire(1.0, 1) == 59.0


def test_tokens_used_beyond_the_estimate_are_counted_too():
    q = window(tokens=100)
    q.settle(granted(q.acquire(0.0, 10)).id, 95)
    assert q.acquire(1.0, 10) == 59.0


def test_a_call_whose_tokens_are_unknown_keeps_its_estimate():
    q = window(tokens=100)
    q.settle(granted(q.acquire(0.0, 60)).id, None)
    assert q.acquire(0.0, 60) == MINUTE


def test_a_request_that_was_never_sent_counts_for_nothing():
    q = window(requests=1, tokens=10, in_flight=1)
    first = granted(q.acquire(0.0, 10))
    assert isinstance(q.acquire(0.0, 10), float), "it holds the only place"
    q.release(first.id)
    assert granted(q.acquire(0.0, 10)).id != first.id


def test_a_request_larger_than_the_token_limit_is_admitted_alone():
    q = window(tokens=100)
    granted(q.acquire(0.0, 40))
    granted(q.acquire(5.0, 40))
    assert q.acquire(10.0, 500) == 55.0
    granted(q.acquire(65.0, 500))
    assert q.acquire(66.0, 1) == 59.0


def test_calls_in_flight_are_limited_and_a_settled_one_makes_room():
    q = window(in_flight=1)
    lease = granted(q.acquire(0.0, 1))
    assert isinstance(q.acquire(1.0, 1), float)
    q.settle(lease.id, 1)
    granted(q.acquire(1.0, 1))


def test_the_lease_of_a_dead_caller_expires():
    q = window(in_flight=1, lease_seconds=100)
    granted(q.acquire(0.0, 1))
    assert q.acquire(40.0, 1) == 60.0
    granted(q.acquire(100.0, 1))


def test_nothing_is_granted_during_a_penalty_and_a_shorter_one_does_not_end_it():
    q = window()
    q.penalise(30.0)
    q.penalise(10.0)
    assert q.acquire(0.0, 1) == 30.0
    granted(q.acquire(30.0, 1))


def test_room_is_how_many_more_of_that_size_would_be_granted_now():
    q = window(requests=5, tokens=100, in_flight=3)
    assert (q.room(0.0, 10), q.room(0.0, 50), q.room(0.0, 500)) == (3, 2, 0)
    q.settle(granted(q.acquire(0.0, 60)).id, 60)
    assert (q.room(0.0, 10), q.room(0.0, 20), q.room(60.0, 20)) == (3, 2, 3)
    q.penalise(70.0)
    assert q.room(60.0, 20) == 0


def test_what_the_provider_leaves_less_than_we_used_is_used_by_others():
    q = window(requests=100)
    lease = granted(q.acquire(0.0, 1))
    q.observe(1.0, lease.id, (100, 79), UNKNOWN)  # One of us, twenty of others.
    assert q.room(1.0, 1) == 100 - 1 - 20 - 2
    assert q.room(61.0, 1) == 100, "after a window without reports the use of others is unknown"


def test_a_limit_found_out_from_a_reply_is_not_taken_for_others_use():
    q = window(requests=500)
    lease = granted(q.acquire(0.0, 1))
    q.observe(1.0, lease.id, (60, 59), UNKNOWN)
    q.set_limits(60, 10**9, 1000)
    assert q.room(1.0, 1) == 59


def test_a_lower_limit_of_our_own_is_not_shared_with_others():
    q = window(requests=100)
    lease = granted(q.acquire(0.0, 1))
    q.observe(1.0, lease.id, (1000, 599), UNKNOWN)  # Four hundred of others.
    assert q.room(1.0, 1) == 99


def test_one_reply_that_was_overtaken_on_its_way_changes_nothing():
    q = window(requests=100)
    leases = [granted(q.acquire(0.0, 1)) for _ in range(5)]
    for lease, left in zip(leases, [99, 98, 90, 96, 95], strict=True):
        q.observe(1.0, lease.id, (None, left), UNKNOWN)
    assert q.room(1.0, 1) == 95


def test_other_limits_hold_from_then_on():
    q = window(requests=2, tokens=100, in_flight=9)
    granted(q.acquire(0.0, 50))
    q.set_limits(1, 100, 9)
    assert q.acquire(1.0, 1) == 59.0
    q.set_limits(5, 60, 9)
    assert q.acquire(1.0, 20) == 59.0
    q.set_limits(5, 100, 1)
    assert q.acquire(1.0, 20) > 59.0
    q.set_limits(5, 100, 2)
    granted(q.acquire(1.0, 20))


@pytest.mark.parametrize("seed", range(5))
def test_beside_another_client_the_rest_is_used_and_nothing_refused(seed):
    """A provider's sliding minute on a virtual clock; another client takes a fifth, our calls overtake each other."""
    rng = random.Random(seed)
    limit, others = 300, 60
    q = window(requests=limit, in_flight=64, window=MINUTE + 1, slack=1)
    counted = [(-second, "other") for second in range(60, 0, -1)]  # (arrival, whose)
    under_way = [(0.5, "other arrives", 0, 0)]  # A heap: (when, what, lease, left).
    refused, late, now = 0, 0, 0.0
    while now < 600:
        lease = q.acquire(now, 1)
        if isinstance(lease, Lease):
            heapq.heappush(under_way, (now + rng.uniform(0.01, 0.2), "arrives", lease.id, 0))
            continue
        now = min(now + lease, under_way[0][0])
        while under_way[0][0] <= now:
            at, what, which, left = heapq.heappop(under_way)
            if what == "answered":
                q.observe(now, which, (limit, left), UNKNOWN)
                q.settle(which, 1)
                continue
            counted = [one for one in counted if one[0] > at - MINUTE]
            full = len(counted) >= limit
            counted += [] if full else [(at, what)]
            if what == "other arrives":
                heapq.heappush(under_way, (at + rng.uniform(0.6, 1.4) * MINUTE / others, what, 0, 0))
                continue
            refused += full
            late += at > 180 and not full
            heapq.heappush(under_way, (at + rng.uniform(1, 8), "answered", which, limit - len(counted)))
    assert refused == 0
    assert late >= 0.95 * (limit - others) * 7, "of what the other leaves, after the first three minutes"


def test_settling_twice_or_what_was_never_granted_changes_nothing():
    q = window(tokens=100)
    lease = granted(q.acquire(0.0, 50))
    q.settle(lease.id, 20)
    q.settle(lease.id, 20)
    q.settle(12345, 10)
    q.release(54321)
    granted(q.acquire(0.0, 80))
    assert isinstance(q.acquire(0.0, 1), float)


def test_the_estimate_is_a_token_for_four_characters_and_the_longest_reply():
    messages = [{"role": "system", "content": "x" * 9}, {"role": "user", "content": "y" * 4}]
    assert estimate(messages, 100) == 104


def test_usage_that_the_provider_did_not_report_is_unknown_not_zero():
    assert used(Completion("text", "stop")) is None
    assert used(Completion("text", "stop", 3, 4)) == 7


@st.composite
def traffic(draw: st.DrawFn) -> list[tuple[float, int, float, float]]:
    """Requests: (seconds since the last one arrived, estimate, share of it used, seconds under way)."""
    one = st.tuples(st.floats(0, 20), st.integers(0, 150), st.floats(0, 1), st.floats(0, 90))
    return draw(st.lists(one, min_size=1, max_size=60))


@settings(max_examples=200, deadline=None)
@given(traffic(), st.integers(1, 8), st.integers(1, 200), st.integers(1, 5))
def test_no_minute_ever_holds_more_than_the_limits(arrivals, requests, tokens, in_flight):
    q = window(requests, tokens, in_flight, lease_seconds=1e6)
    now, arrived, sent = 0.0, 0.0, []  # sent: [granted at, estimate, used, over at, lease]
    for gap, amount, share, lasts in arrivals:
        arrived += gap
        now = max(now, arrived)
        while True:
            settle_until(q, sent, now)
            result = q.acquire(now, amount)
            if isinstance(result, Lease):
                break
            ends = [call[3] for call in sent if call[4] is not None]
            now = max(now, min([now + result, *ends]))  # Woken by time or by a call that ends, whichever is first.
        sent.append([now, amount, int(amount * share), now + lasts, result.id])
        check_the_window(sent, now, requests, tokens)
        assert sum(call[3] > now for call in sent) <= in_flight or lasts == 0


def settle_until(q: SlidingWindow, sent: list[list], now: float) -> None:
    for call in sent:
        if call[4] is not None and call[3] <= now:
            q.settle(call[4], call[2])
            call[4] = None


def check_the_window(sent: list[list], now: float, requests: int, tokens: int) -> None:
    """The window that ends now is the fullest that the newest request is in."""
    recent = [call for call in sent if now < call[0] + MINUTE]
    counted = sum(call[1] if call[4] is not None else call[2] for call in recent)
    assert len(recent) <= requests
    others = counted - recent[-1][1]
    assert counted <= tokens or others == 0, "over the limit, and not alone"


def test_a_request_counts_from_when_it_was_sent_however_late_that_was():
    q = window(requests=2, tokens=1000)
    late = granted(q.acquire(0.0, 1))
    granted(q.acquire(0.5, 1))
    q.settle(late.id, 1, sent_at=4.0)
    # The provider got it at 4: of the two, the later granted must wait with it, for order is by grant.
    assert q.acquire(30.0, 1) == pytest.approx(34.0)
    assert isinstance(q.acquire(63.9, 1), float)
    assert granted(q.acquire(64.1, 1))


def test_a_request_never_counts_from_before_it_was_granted():
    q = window(requests=1, tokens=1000)
    q.settle(granted(q.acquire(10.0, 1)).id, 1, sent_at=3.0)
    assert q.acquire(20.0, 1) == pytest.approx(50.0)


@pytest.mark.parametrize("seed", range(5))
def test_calls_that_are_long_on_their_way_are_never_refused(seed):
    """From permit to provider up to 20 s, as beside a busy process; our window is exactly the provider's."""
    rng, q, limit = random.Random(seed), window(requests=20), 20
    arrivals: list[float] = []
    events: list[tuple[float, int, float]] = []  # (reply at, lease, sent at)
    now = 0.0
    while now < 600:
        while events and events[0][0] <= now:
            _, lease, sent = heapq.heappop(events)
            q.settle(lease, 1, sent_at=sent)
        got = q.acquire(now, 1)
        if isinstance(got, Lease):
            sent = now + rng.choice([0.01, 0.1, rng.uniform(0, 20)])
            arrivals.append(sent)
            heapq.heappush(events, (sent + rng.uniform(0.1, 30), got.id, sent))
        else:
            now = min([now + got, *(event[0] for event in events[:1])])
    arrivals.sort()
    most = max(sum(a - MINUTE < b <= a for b in arrivals) for a in arrivals)
    assert most <= limit
    assert len(arrivals) > 0.75 * limit * 10, "and most of the limit is used all the same"
