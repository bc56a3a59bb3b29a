"""How long the instructor's callers try again, and when they give up.  what went wrong -> a wait, or an error"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lai_ray.contracts import Retry
from lai_ray.errors import StageError
from lai_ray.instructor.rate_limit.window import MINUTE


@dataclass(frozen=True)
class Pace:
    """Constants of this room rather than settings, given by name so that tests need not wait for minutes. Seconds."""

    window: float = MINUTE
    slack: float = 2.0
    """Longest way from a caller to the provider, connecting included: the quota's window is a minute and this."""
    attempts: int = 8
    """Of one request. An attempt that nobody answered at all does not count."""
    backoff: float = 1.0
    longest_backoff: float = 60.0
    unreachable: float = 30.0
    """Without any connection for so long, nobody is there."""
    farewell: float = 5.0
    """After a fatal answer, how long calls in flight, which may be paid for, may take to come home."""
    say_wait: float = 30.0
    """A wait for the quota of this length is said once."""
    gate_idle: float = 10 * MINUTE
    """A quota actor that nobody used for so long ends itself."""


class Patience:
    """Counts silence and standstill. Knows no clock: times are seconds on whatever clock the caller reads."""

    def __init__(self, pace: Pace, *, stall_seconds: float, address: str) -> None:
        self.pace, self.stall_seconds, self.address = pace, stall_seconds, address
        self._still = 0.0
        self._silent_since: float | None = None
        self._unreached = 0

    def delay(self, retry: Retry, attempts: int) -> float:
        """Seconds until another attempt, after so many: the provider's word, else doubled every time; with jitter."""
        if retry.after is not None:
            return retry.after + random.uniform(0, self.pace.backoff)
        doubled = self.pace.backoff * 2.0 ** min(attempts, 30)
        return min(doubled, self.pace.longest_backoff) * random.uniform(0.5, 1.0)

    def reached(self) -> None:
        """Somebody answered, whatever it was."""
        self._silent_since, self._unreached = None, 0

    def unreached(self, now: float, why: str) -> str:
        """No connection came about. Says what is wrong when none has for `pace.unreachable` seconds, else "".

        It does not raise: whoever counts may hold answers that came home by connections still open.
        """
        self._unreached += 1
        if self._silent_since is None:
            self._silent_since = now
        silent = now - self._silent_since
        if silent <= self.pace.unreachable:
            return ""
        return (
            f"nobody answers there: {why} ({self._unreached} attempts in {silent:.0f} s). Is the server running, is "
            "instructor.base_url right, and can the workers reach that address?"
        )

    def moved(self) -> None:
        """Something came home, or what is waited for is the quota or the time to try again."""
        self._still = 0.0

    def still(self, seconds: float, awaited: str) -> None:
        """Nothing came home in so many seconds of waiting. Raises StageError past `stall_seconds` of them."""
        self._still += seconds
        if self._still > self.stall_seconds:
            raise StageError(
                f"the instructor stood still for {self._still:.0f} s, waiting for {awaited}. What was answered "
                "is kept; the same command goes on from there. Is the provider only slow? Raise cluster.stall_seconds."
            )
