"""Sliding window over requests and tokens per minute.  (now, estimate) -> lease or wait

A provider refuses what goes over its limits in any 60 seconds, so this counts in a sliding window rather than a bucket
that refills: a bucket of one minute's worth lets nearly twice the limit through in the first minute.
Pure: the caller passes the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from lai_ray.instructor.rate_limit.headers import RateLimit

MINUTE = 60.0
SHORTEST_WAIT = 0.001  # A wait below the clock's resolution would have the caller ask again at the same instant.
REPORTS = 32
"""Replies from which the use of other clients of the key is estimated. Calls overtake each other on the way, so one
reply alone may be wrong by as many as are in flight."""
QUANTILE = 0.75
"""Of these estimates, the one that is used."""
MARGIN = 0.02
"""Share of a limit kept free once others use the same key: what they use next is unknown."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Permission to send one request now."""

    id: int
    estimate: int


@dataclass(slots=True)
class _Charge:
    """What one granted request counts for until it leaves the window."""

    at: float
    """When it was granted; once settled, when it was sent: the provider counts it from then on."""
    tokens: int
    counted: tuple[int, int]
    """Our requests and tokens of the last minute when it was granted, itself included: what the provider counts of ours
    when it arrives."""
    old: bool = False
    """Granted more than a minute ago: still in our window, which is `slack` longer, and no longer in the provider's."""


class _Resource:
    """Requests or tokens. `total` counts in the window, `young` in the last minute."""

    def __init__(self, limit: int, window: float) -> None:
        self.limit, self.total, self.young, self._window = limit, 0, 0, window
        self._reported: int | None = None
        self._reports: deque[tuple[float, int]] = deque(maxlen=REPORTS)

    def observe(self, now: float, limit: int | None, left: int, counted: int) -> None:
        """The provider's limit and what was left of it when `counted` was our own use."""
        self._reported = limit
        self._reports.append((now, max(0, (self.limit if limit is None else limit) - left - counted)))

    def free(self, now: float) -> int:
        """What may be used now, beyond what counts already."""
        recent = [others for at, others in self._reports if now < at + self._window]
        others = sorted(recent)[int(QUANTILE * len(recent))] if recent else 0
        # A job's own limit may be lower than the provider's: others do not share it.
        theirs = self.limit if self._reported is None else self._reported
        left = theirs - others - round(MARGIN * theirs) if others else self.limit
        return min(self.limit, left) - self.total

    def wait(self, now: float, amount: int, charges: Iterable[tuple[float, int]]) -> float:
        """Seconds until enough of the charges (at, amount; in the order granted) have left; of all if it never fits."""
        over = amount - self.free(now)
        if over <= 0 or self.total <= 0:
            return 0.0
        leaves = now
        for at, charged in charges:
            # A charge that was sent late delays those granted after it, as in `_expire`.
            leaves, over = max(leaves, at + self._window), over - charged
            if over <= 0:
                break
        return leaves - now


class SlidingWindow:
    """At most `requests` requests and `tokens` tokens in any `window` seconds, and `in_flight` requests at once.

    The caller keeps the order: a request that must wait is tried again before any later one.
    """

    def __init__(
        self,
        *,
        requests: int,
        tokens: int,
        in_flight: int,
        window: float = MINUTE,
        slack: float = 0.0,
        lease_seconds: float = 10 * MINUTE,
        first_id: int = 0,
    ) -> None:
        """requests, tokens: per `window` seconds.  in_flight: open leases at once.

        slack: seconds by which `window` is longer than the provider's.
        lease_seconds: a lease not settled or released after this time no longer counts as in flight: its holder died.
        first_id: leases are numbered from here, so that after a restart an old lease is not taken for a new one.
        """
        self.in_flight, self.window, self.lease_seconds = in_flight, window, lease_seconds
        self._slack = slack
        self._requests, self._tokens = _Resource(requests, window), _Resource(tokens, window)
        self._next_id = first_id
        self._charges: dict[int, _Charge] = {}  # Oldest first: dicts keep the order of insertion, and ids only grow.
        self._young: deque[int] = deque()  # Leases granted in the last minute, oldest first.
        self._open: dict[int, float] = {}  # Leases in flight -> when they were granted, oldest first.
        self._paused_until = float("-inf")

    def set_limits(self, requests: int, tokens: int, in_flight: int) -> None:
        """Replace the limits from now on."""
        self._requests.limit, self._tokens.limit, self.in_flight = requests, tokens, in_flight

    def acquire(self, now: float, estimate: int) -> Lease | float:
        """A lease for one request of about `estimate` tokens, or the seconds to wait before asking again.

        The wait is the shortest after which it may fit; a settled or released lease may make room sooner. A request
        larger than the token limit is granted when nothing else counts in the window. `now` never goes back.
        Raises ValueError for a negative estimate.
        """
        if estimate < 0:
            raise ValueError(f"an estimate is 0 tokens or more, not {estimate}")
        self._expire(now)
        charges = self._charges.values()
        wait = max(
            self._paused_until - now,
            self._requests.wait(now, 1, ((charge.at, 1) for charge in charges)),
            self._tokens.wait(now, estimate, ((charge.at, charge.tokens) for charge in charges)),
            self._flight_wait(now),
        )
        if wait > 0:
            return max(wait, SHORTEST_WAIT)
        lease = Lease(self._next_id, estimate)
        self._next_id += 1
        self._count(1, estimate)
        self._charges[lease.id] = _Charge(now, estimate, (self._requests.young, self._tokens.young))
        self._young.append(lease.id)
        self._open[lease.id] = now
        return lease

    def room(self, now: float, estimate: int) -> int:
        """How many more requests of about `estimate` tokens could be granted now; 0 for one larger than the limit."""
        self._expire(now)
        if now < self._paused_until:
            return 0
        by_count = min(self._requests.free(now), self.in_flight - len(self._open))
        return max(0, min(by_count, self._tokens.free(now) // max(estimate, 1)))

    def settle(self, lease_id: int, used: int | None, sent_at: float | None = None) -> None:
        """The request is over and used so many tokens: what was reserved above that is free again.

        used: None where it is unknown, which keeps the estimate.  sent_at: when it left for the provider, where known:
        its window begins then. An unknown lease is ignored: it had expired, or the process was restarted since.
        """
        self._open.pop(lease_id, None)
        charge = self._charges.get(lease_id)
        if charge is not None and sent_at is not None:
            charge.at = max(charge.at, sent_at)
        if charge is not None and used is not None:
            self._count(0, used - charge.tokens, young=not charge.old)
            charge.tokens = used

    def release(self, lease_id: int) -> None:
        """The request was never sent and does not count."""
        self._open.pop(lease_id, None)
        charge = self._charges.pop(lease_id, None)
        if charge is not None:
            self._count(-1, -charge.tokens, young=not charge.old)

    def observe(self, now: float, lease_id: int, requests: RateLimit, tokens: RateLimit) -> None:
        """The limits that the reply to this request reported: what is neither left nor used by us, others use.

        Their use is assumed to continue as in the last replies, for one window. An unknown lease is ignored.
        """
        charge = self._charges.get(lease_id)
        if charge is None:
            return
        resources = (self._requests, requests), (self._tokens, tokens)
        for (resource, (limit, left)), counted in zip(resources, charge.counted, strict=True):
            if left is not None:
                resource.observe(now, limit, left, counted)

    def penalise(self, until: float) -> None:
        """Grant nothing before `until`: the provider asked for it. An earlier, longer pause stays."""
        self._paused_until = max(self._paused_until, until)

    def _expire(self, now: float) -> None:
        """Drop what left the window, and the leases whose holders died."""
        while self._young:
            charge = self._charges.get(self._young[0])
            if charge is not None and now < charge.at + self.window - self._slack:
                break
            if charge is not None:
                charge.old = True
                self._requests.young -= 1
                self._tokens.young -= charge.tokens
            self._young.popleft()
        while self._charges:
            oldest = next(iter(self._charges))
            if now < self._charges[oldest].at + self.window:
                break
            charge = self._charges.pop(oldest)
            self._count(-1, -charge.tokens, young=not charge.old)
        while self._open and now >= self._oldest_open() + self.lease_seconds:
            self._open.pop(next(iter(self._open)))

    def _count(self, requests: int, tokens: int, *, young: bool = True) -> None:
        for resource, amount in ((self._requests, requests), (self._tokens, tokens)):
            resource.total += amount
            resource.young += amount if young else 0

    def _flight_wait(self, now: float) -> float:
        """Until the oldest open lease expires; settling one is sooner, and the caller then tries again."""
        if len(self._open) < self.in_flight:
            return 0.0
        return self._oldest_open() + self.lease_seconds - now

    def _oldest_open(self) -> float:
        return next(iter(self._open.values()))
