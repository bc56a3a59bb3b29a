"""Requests and tokens per minute, exactly, on a clock that the caller holds.  (now, estimate) -> lease or wait

A provider refuses what goes over its limits in any 60 seconds, so this counts in a sliding window rather than a bucket
that refills: a bucket of one minute's worth lets nearly twice the limit through in the first minute.
Nothing here reads a clock, sleeps or knows of other processes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

MINUTE = 60.0
SHORTEST_WAIT = 0.001  # A wait below the clock's resolution would have the caller ask again at the same instant.


@dataclass(frozen=True, slots=True)
class Lease:
    """Leave to send one request now."""

    id: int
    estimate: int


@dataclass(slots=True)
class _Charge:
    """What one granted request counts for, from the moment it was granted until a window later."""

    at: float
    tokens: int


class Quota:
    """At most `requests` requests and `tokens` tokens in any `window` seconds, and `in_flight` requests at once.

    Order is the caller's affair: whoever gets a wait asks again before anybody behind it may (`distributed/` does so).
    """

    def __init__(
        self,
        *,
        requests: int,
        tokens: int,
        in_flight: int,
        window: float = MINUTE,
        lease_seconds: float = 10 * MINUTE,
        first_id: int = 0,
    ) -> None:
        """requests, tokens: per `window` seconds.  in_flight: leases out at once.

        lease_seconds: a lease neither settled nor released for so long no longer counts as in flight (its holder died).
        first_id: leases are numbered from here, so that a restarted quota does not take an old lease for its own.
        """
        self.requests, self.tokens, self.in_flight = requests, tokens, in_flight
        self.window, self.lease_seconds = window, lease_seconds
        self._next_id = first_id
        self._charges: dict[int, _Charge] = {}  # Oldest first: dicts keep the order of insertion, and ids only grow.
        self._out: deque[int] = deque()  # Leases in the order granted; a settled one is dropped when it comes first.
        self._open: set[int] = set()
        self._granted_at: dict[int, float] = {}
        self._charged_tokens = 0
        self._closed_until = float("-inf")

    def acquire(self, now: float, estimate: int) -> Lease | float:
        """A lease for one request of about `estimate` tokens, or the seconds to wait before asking again.

        The wait is the shortest after which it may fit; a settled or released lease may make room sooner. A request
        larger than the token limit is let through when nothing else counts in the window, and then has it to itself.
        `now` never goes back. Raises ValueError for a negative estimate.
        """
        if estimate < 0:
            raise ValueError(f"an estimate is 0 tokens or more, not {estimate}")
        self._forget(now)
        wait = max(self._closed_until - now, self._request_wait(now), self._token_wait(now, estimate))
        wait = max(wait, self._flight_wait(now))
        if wait > 0:
            return max(wait, SHORTEST_WAIT)
        lease = Lease(self._next_id, estimate)
        self._next_id += 1
        self._charges[lease.id] = _Charge(now, estimate)
        self._charged_tokens += estimate
        self._out.append(lease.id)
        self._open.add(lease.id)
        self._granted_at[lease.id] = now
        return lease

    def room(self, now: float, estimate: int) -> int:
        """How many more requests of about `estimate` tokens could be granted now, larger than the limit apart."""
        self._forget(now)
        if now < self._closed_until:
            return 0
        by_count = min(self.requests - len(self._charges), self.in_flight - len(self._open))
        return max(0, min(by_count, (self.tokens - self._charged_tokens) // max(estimate, 1)))

    def settle(self, lease_id: int, used: int | None) -> None:
        """The request is over and used so many tokens: what was reserved above that is free again.

        None keeps the estimate, for a call of which nobody knows what the provider counted. An unknown lease is
        ignored: its holder was given up for dead, or the quota was restarted since.
        """
        self._open.discard(lease_id)
        charge = self._charges.get(lease_id)
        if charge is not None and used is not None:
            self._charged_tokens += used - charge.tokens
            charge.tokens = used

    def release(self, lease_id: int) -> None:
        """The request was never sent: it counts for nothing."""
        self._open.discard(lease_id)
        charge = self._charges.pop(lease_id, None)
        if charge is not None:
            self._charged_tokens -= charge.tokens

    def penalise(self, until: float) -> None:
        """Nothing more before `until`: the provider said so. An earlier, longer closure stays."""
        self._closed_until = max(self._closed_until, until)

    def _forget(self, now: float) -> None:
        """Drop what left the window, and the leases whose holders are taken for dead."""
        while self._charges:
            oldest = next(iter(self._charges))
            if now < self._charges[oldest].at + self.window:
                break
            self._charged_tokens -= self._charges.pop(oldest).tokens
        while self._out and (
            self._out[0] not in self._open or now >= self._granted_at[self._out[0]] + self.lease_seconds
        ):
            lease_id = self._out.popleft()
            self._open.discard(lease_id)
            del self._granted_at[lease_id]

    def _request_wait(self, now: float) -> float:
        if len(self._charges) < self.requests:
            return 0.0
        return next(iter(self._charges.values())).at + self.window - now

    def _token_wait(self, now: float, estimate: int) -> float:
        """Until enough of the oldest charges have left; all of them, for a request larger than the limit."""
        over = self._charged_tokens + estimate - self.tokens
        if over <= 0 or self._charged_tokens <= 0:
            return 0.0
        for charge in self._charges.values():
            over -= charge.tokens
            if over <= 0:
                return charge.at + self.window - now
        return charge.at + self.window - now

    def _flight_wait(self, now: float) -> float:
        """Until the oldest lease out expires; settling one is sooner, and wakes whoever waits."""
        if len(self._open) < self.in_flight:
            return 0.0
        oldest = next(lease_id for lease_id in self._out if lease_id in self._open)
        return self._granted_at[oldest] + self.lease_seconds - now
