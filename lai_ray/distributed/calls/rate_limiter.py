"""The rate limiter of all callers: one actor for a provider, model and key.  token estimates -> permits"""

from __future__ import annotations

import asyncio
import random
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import ray

from lai_ray.config.settings import LimitSettings
from lai_ray.errors import StageError
from lai_ray.instructor.rate_limit.headers import Headers
from lai_ray.instructor.rate_limit.limits import SharedLimits
from lai_ray.instructor.rate_limit.window import Lease, SlidingWindow


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission to send the first requests of a batch."""

    leases: list[int]
    """One for each request, at least one."""
    room: int
    """How many more requests like the last one would get a lease now."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of one lease."""

    lease: int
    tokens: int | None = None
    """Tokens that the provider counts; None where unknown, which keeps the estimate."""
    counted: bool = True
    """False for a call that was never sent or that the provider does not count."""
    limits: Headers | None = None
    """What the reply's headers report of the provider's limits."""
    seconds: float | None = None
    """From when the request left for the provider to its reply; None where unknown."""


class RateLimiter:
    """Holds the clock and the queue, first come, first served; the arithmetic is in `instructor/rate_limit`.

    It outlives the stage that started it, so that the next one, or another job, finds the last minute still counted.
    Each job passes its own limits; `instructor/rate_limit/limits.py` decides which hold.
    """

    def __init__(
        self,
        window: float,
        slack: float,
        lease_seconds: float,
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """window: seconds, `slack` longer than the provider's."""
        self._window = SlidingWindow(
            requests=1, tokens=1, in_flight=1, window=window, slack=slack, lease_seconds=lease_seconds,
            first_id=random.getrandbits(40) << 20,
        )  # fmt: skip
        self._limits = SharedLimits(window)
        self._held: dict[str, set[int]] = {}
        """Leases that were granted and not ended, by job."""
        self._ended: set[str] = set()
        """Jobs that a later start of their run has ended: what they still wait for is not granted."""
        self._queue = asyncio.Lock()  # asyncio's locks are first come, first served.
        self._changed = asyncio.Event()
        self._clock, self._idle_seconds, self._waiting, self._used_at = clock, idle_seconds, 0, clock()
        if _restarted():  # Earlier leases are unknown, so the whole window may be used up.
            self._window.penalise(clock() + window)

    async def acquire(self, job: str, limits: LimitSettings, estimates: Sequence[int]) -> Permit:
        """Wait for a lease for the first of these requests, and take as many more as are free at once.

        job: "RUN/START". The first request of a start ends the leases of the run's earlier starts: a run has one live
        driver, so those were killed. Their tokens still count.
        """
        self._waiting += 1
        await self._end_earlier_starts(job)
        self._limits.enter(job, limits, self._clock())
        try:
            async with self._queue:
                first = await self._first(job, estimates[0])
                if first is None:
                    raise StageError("another start of this run asks the instructor now; this one stops")
                leases = [first.id]
                for tokens in estimates[1:]:
                    lease = self._window.acquire(self._clock(), tokens)
                    if isinstance(lease, float):
                        break
                    leases.append(lease.id)
                self._held[job] |= set(leases)
                return Permit(leases, self._window.room(self._clock(), estimates[-1]))
        finally:
            self._waiting -= 1
            self._used_at = self._clock()
            self._limits.leave(job, self._used_at)

    async def _end_earlier_starts(self, job: str) -> None:
        if job not in self._held and job not in self._ended:
            run = job.partition("/")[0]
            for earlier in [other for other in self._held if other.partition("/")[0] == run]:
                self._ended.add(earlier)
                await self.settle([Finished(lease) for lease in self._held.pop(earlier)])
            self._held[job] = set()

    async def _first(self, job: str, tokens: int) -> Lease | None:
        """Wait for a lease: time, a finished call or the provider's headers may free one. None for a job that ended."""
        while job not in self._ended:
            if not isinstance(lease := self._try(tokens), float):
                return lease
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), lease)
        return None

    def _try(self, tokens: int) -> Lease | float:
        now = self._clock()
        limits = self._limits.current(now)
        self._window.set_limits(limits.requests, limits.tokens, limits.in_flight)
        return self._window.acquire(now, tokens)

    async def settle(self, calls: Sequence[Finished]) -> None:
        """End these leases.

        A call's seconds are counted back from now, as clocks differ between machines: its start is never too early.
        """
        now = self._clock()
        for call in calls:
            if call.limits:
                self._limits.observe(call.limits.requests.limit, call.limits.tokens.limit)
                self._window.observe(now, call.lease, call.limits.requests, call.limits.tokens)
        for call in calls:
            for held in self._held.values():
                held.discard(call.lease)
            if call.counted:
                self._window.settle(call.lease, call.tokens, None if call.seconds is None else now - call.seconds)
            else:
                self._window.release(call.lease)
        self._changed.set()

    async def penalise(self, seconds: float) -> None:
        """Grant nothing to any job for so long: the provider asked for it."""
        self._window.penalise(self._clock() + seconds)

    async def exit_when_idle(self) -> None:
        """End the actor after `idle_seconds` without a request."""
        while self._waiting or self._clock() < self._used_at + self._idle_seconds:
            await asyncio.sleep(min(self._idle_seconds, 30.0))
        ray.actor.exit_actor()


def _restarted() -> bool:
    """Whether this process is an actor that Ray restarted."""
    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    with warnings.catch_warnings():  # Ray warns of a deprecated call that it makes itself.
        warnings.simplefilter("ignore")
        return context.get_actor_id() is not None and bool(context.was_current_actor_reconstructed)
