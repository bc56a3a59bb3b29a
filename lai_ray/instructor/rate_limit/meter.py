"""Requests and tokens in the last minute, on a clock that the caller holds.  (now, tokens) -> rates"""

from __future__ import annotations

from collections import deque

from lai_ray.instructor.rate_limit.window import MINUTE


class Meter:
    """Counts the calls answered in the last minute; in the first one, extrapolates to a minute."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._recent: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def add(self, now: float, tokens: int) -> None:
        """One call with so many tokens."""
        self._recent.append((now, tokens))
        self._tokens += tokens

    def per_minute(self, now: float) -> tuple[float, float]:
        """Requests and tokens a minute. `now` never goes back."""
        while self._recent and self._recent[0][0] <= now - MINUTE:
            self._tokens -= self._recent.popleft()[1]
        share = MINUTE / min(max(now - self._began, 1.0), MINUTE)
        return len(self._recent) * share, self._tokens * share
