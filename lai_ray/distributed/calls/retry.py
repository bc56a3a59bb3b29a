"""When a failed instructor call is sent again, and when the stage gives up.  outcomes -> delays, or an error"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lai_ray.contracts import Retry
from lai_ray.errors import StageError
from lai_ray.instructor.rate_limit.window import MINUTE


@dataclass(frozen=True)
class RetryTimes:
    """Times of these calls, in seconds. Constants, not settings; parameters so that tests need not wait for minutes."""

    window: float = MINUTE
    slack: float = 2.0
    """Longest way of a request to the provider, connecting included. The rate limiter's window is longer by this."""
    attempts: int = 8
    """Attempts at one request. Failed connections do not count."""
    backoff: float = 1.0
    longest_backoff: float = 60.0
    unreachable: float = 30.0
    """Without any connection for this long, the provider counts as unreachable."""
    drain: float = 5.0
    """After a fatal answer, the time for calls in flight to finish: they may be paid for."""
    report_wait: float = 30.0
    """A wait this long for the rate limit is reported once."""
    limiter_idle: float = 10 * MINUTE
    """A rate limiter that is unused for this long ends itself."""


class RetryPolicy:
    """Delays between attempts, and how long calls may go without a connection or progress.

    Has no clock of its own: times are seconds on the caller's clock.
    """

    def __init__(self, times: RetryTimes, *, stall_seconds: float, address: str) -> None:
        self.times, self.stall_seconds, self.address = times, stall_seconds, address
        self._idle = 0.0
        self._unreached_since: float | None = None
        self._unreached = 0

    def delay(self, retry: Retry, attempts: int) -> float:
        """Seconds until the next attempt, with jitter: as the provider asks, else doubled after each attempt."""
        if retry.after is not None:
            return retry.after + random.uniform(0, self.times.backoff)
        doubled = self.times.backoff * 2.0 ** min(attempts, 30)
        return min(doubled, self.times.longest_backoff) * random.uniform(0.5, 1.0)

    def reached(self) -> None:
        """Record that the provider replied, whatever the reply."""
        self._unreached_since, self._unreached = None, 0

    def unreached(self, now: float, reason: str) -> str:
        """Record a failed connection. Returns an error message after `times.unreachable` seconds of them, else "".

        Does not raise: calls on connections that are still open may yet be answered.
        """
        self._unreached += 1
        if self._unreached_since is None:
            self._unreached_since = now
        seconds = now - self._unreached_since
        if seconds <= self.times.unreachable:
            return ""
        return (
            f"the server does not answer: {reason} ({self._unreached} attempts in {seconds:.0f} s). Check that it is "
            "running, that instructor.base_url is correct, and that the workers can reach that address."
        )

    def progressed(self) -> None:
        """Record a result, or that the wait is for the rate limit or a retry's delay."""
        self._idle = 0.0

    def idle(self, seconds: float, awaited: str) -> None:
        """Record seconds without a result. Raises StageError after `stall_seconds` of them in a row."""
        self._idle += seconds
        if self._idle > self.stall_seconds:
            raise StageError(
                f"instruct: no progress for {self._idle:.0f} s, waiting for {awaited}. Answers received so far are "
                "kept; run the same command again to continue. If the provider is only slow, raise "
                "cluster.stall_seconds."
            )
