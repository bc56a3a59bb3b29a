"""Requests and tokens per minute, exactly, on a clock that the caller holds.  (now, estimate) -> lease or wait

A provider refuses what goes over its limits in any 60 seconds, so this counts in a sliding window rather than a bucket
that refills: a bucket of one minute's worth lets nearly twice the limit through in the first minute.
Nothing here reads a clock, sleeps or knows of other processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

MINUTE = 60.0
SHORTEST_WAIT = 0.001  # A wait below the clock's resolution would have the caller ask again at the same instant.
REPORTS = 32
"""What a provider said is left, in so many replies, tells what others use: calls overtake each other on the way, so one
reply alone may be wrong by as many as are under way."""
OFTEN = 0.75
"""So often the others are taken to use no more than this."""
MARGIN = 0.02
"""Share of a limit left alone once others use the same key: what they take next is not known yet."""


Said = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Lease:
    """Leave to send one request now."""

    id: int
    estimate: int


@dataclass(slots=True)
class _Charge:
    """What one granted request counts for, until a window later."""

    at: float
    """When it was granted; once it is settled, when it was sent: the provider counts it from then on."""
    tokens: int
    counted: tuple[int, int]
    """Requests and tokens of the last minute when it was granted, itself included: what the provider counts of us when
    it arrives."""
    old: bool = False
    """Granted more than a minute ago: still in the window here, which is a little longer, and no more in theirs."""


class _Kind:
    """One thing that is limited: requests, or tokens. `total` counts in the window, `young` in the last minute."""

    def __init__(self, limit: int, window: float) -> None:
        self.limit, self.total, self.young, self._window = limit, 0, 0, window
        self._said: int | None = None
        self._reports: deque[tuple[float, int]] = deque(maxlen=REPORTS)

    def tell(self, now: float, limit: int | None, left: int, counted: int) -> None:
        """The provider said that so much is left of its limit, when we had used so much."""
        self._said = limit
        self._reports.append((now, max(0, (self.limit if limit is None else limit) - left - counted)))

    def free(self, now: float) -> int:
        """What may be used now, over and above what counts already."""
        recent = [others for at, others in self._reports if now < at + self._window]
        others = sorted(recent)[int(OFTEN * len(recent))] if recent else 0
        theirs = self.limit if self._said is None else self._said  # A job's own limit may be lower: that is ours alone.
        left = theirs - others - round(MARGIN * theirs) if others else self.limit
        return min(self.limit, left) - self.total

    def wait(self, now: float, amount: int, charges: Iterable[tuple[float, int]]) -> float:
        """Seconds until enough of the charges (at, amount; in the order granted) have left; all, if it never fits."""
        over = amount - self.free(now)
        if over <= 0 or self.total <= 0:
            return 0.0
        leaves = now
        for at, charged in charges:
            # One that was sent late keeps those granted after it waiting, as in `_forget`.
            leaves, over = max(leaves, at + self._window), over - charged
            if over <= 0:
                break
        return leaves - now


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
        slack: float = 0.0,
        lease_seconds: float = 10 * MINUTE,
        first_id: int = 0,
    ) -> None:
        """requests, tokens: per `window` seconds.  in_flight: leases out at once.

        slack: by so many seconds `window` is longer than the provider's.
        lease_seconds: a lease neither settled nor released for so long no longer counts as in flight (its holder died).
        first_id: leases are numbered from here, so that a restarted quota does not take an old lease for its own.
        """
        self.in_flight, self.window, self.lease_seconds = in_flight, window, lease_seconds
        self._slack = slack
        self._requests, self._tokens = _Kind(requests, window), _Kind(tokens, window)
        self._next_id = first_id
        self._charges: dict[int, _Charge] = {}  # Oldest first: dicts keep the order of insertion, and ids only grow.
        self._young: deque[int] = deque()  # Leases granted in the last minute, oldest first.
        self._out: deque[int] = deque()  # Leases in the order granted; a settled one is dropped when it comes first.
        self._open: set[int] = set()
        self._granted_at: dict[int, float] = {}
        self._closed_until = float("-inf")

    def limit(self, requests: int, tokens: int, in_flight: int) -> None:
        """Other limits from now on."""
        self._requests.limit, self._tokens.limit, self.in_flight = requests, tokens, in_flight

    def acquire(self, now: float, estimate: int) -> Lease | float:
        """A lease for one request of about `estimate` tokens, or the seconds to wait before asking again.

        The wait is the shortest after which it may fit; a settled or released lease may make room sooner. A request
        larger than the token limit is let through when nothing else counts in the window, and then has it to itself.
        `now` never goes back. Raises ValueError for a negative estimate.
        """
        if estimate < 0:
            raise ValueError(f"an estimate is 0 tokens or more, not {estimate}")
        self._forget(now)
        charges = self._charges.values()
        wait = max(
            self._closed_until - now,
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
        self._out.append(lease.id)
        self._open.add(lease.id)
        self._granted_at[lease.id] = now
        return lease

    def room(self, now: float, estimate: int) -> int:
        """How many more requests of about `estimate` tokens could be granted now, larger than the limit apart."""
        self._forget(now)
        if now < self._closed_until:
            return 0
        by_count = min(self._requests.free(now), self.in_flight - len(self._open))
        return max(0, min(by_count, self._tokens.free(now) // max(estimate, 1)))

    def settle(self, lease_id: int, used: int | None, sent_at: float | None = None) -> None:
        """The request is over and used so many tokens: what was reserved above that is free again.

        None keeps the estimate, for a call of which nobody knows what the provider counted. sent_at: when it left for
        the provider, where that is known: its window begins then, however long it was on the way from here. An unknown
        lease is ignored: its holder was given up for dead, or the quota was restarted since.
        """
        self._open.discard(lease_id)
        charge = self._charges.get(lease_id)
        if charge is not None and sent_at is not None:
            charge.at = max(charge.at, sent_at)
        if charge is not None and used is not None:
            self._count(0, used - charge.tokens, young=not charge.old)
            charge.tokens = used

    def release(self, lease_id: int) -> None:
        """The request was never sent: it counts for nothing."""
        self._open.discard(lease_id)
        charge = self._charges.pop(lease_id, None)
        if charge is not None:
            self._count(-1, -charge.tokens, young=not charge.old)

    def tell(self, now: float, lease_id: int, requests: Said, tokens: Said) -> None:
        """The reply to this request said so much is left. What neither that nor our own use explains, others use.

        requests, tokens: (the provider's limit a minute, what is left of it), each None where it was not said.
        Their use is taken to go on as in the last replies, for one window. An unknown lease is ignored.
        """
        charge = self._charges.get(lease_id)
        if charge is None:
            return
        kinds = (self._requests, requests), (self._tokens, tokens)
        for (kind, (limit, left)), counted in zip(kinds, charge.counted, strict=True):
            if left is not None:
                kind.tell(now, limit, left, counted)

    def penalise(self, until: float) -> None:
        """Nothing more before `until`: the provider said so. An earlier, longer closure stays."""
        self._closed_until = max(self._closed_until, until)

    def _forget(self, now: float) -> None:
        """Drop what left the window, and the leases whose holders are taken for dead."""
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
        while self._out and (
            self._out[0] not in self._open or now >= self._granted_at[self._out[0]] + self.lease_seconds
        ):
            lease_id = self._out.popleft()
            self._open.discard(lease_id)
            del self._granted_at[lease_id]

    def _count(self, requests: int, tokens: int, *, young: bool = True) -> None:
        for kind, amount in ((self._requests, requests), (self._tokens, tokens)):
            kind.total += amount
            kind.young += amount if young else 0

    def _flight_wait(self, now: float) -> float:
        """Until the oldest lease out expires; settling one is sooner, and wakes whoever waits."""
        if len(self._open) < self.in_flight:
            return 0.0
        oldest = next(lease_id for lease_id in self._out if lease_id in self._open)
        return self._granted_at[oldest] + self.lease_seconds - now
