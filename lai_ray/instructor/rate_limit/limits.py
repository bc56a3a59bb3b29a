"""The limits of several jobs that share one key with its provider.  limits of each -> the lowest

Pure: the caller passes the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from lai_ray.config.settings import LimitSettings


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests and tokens per minute, and requests at once."""

    requests: int
    tokens: int
    in_flight: int


@dataclass(slots=True)
class _Job:
    limits: LimitSettings
    waiting: int
    seen: float


class SharedLimits:
    """The limits that several jobs set for one key, and those that the provider's headers report.

    The lowest applies. Where no job sets a limit it is the provider's, or else the default of LimitSettings. A job
    counts while it waits for a permit, and for `linger_seconds` after.
    """

    def __init__(self, linger_seconds: float) -> None:
        self._linger_seconds = linger_seconds
        self._jobs: dict[str, _Job] = {}
        self._reported: dict[str, int] = {}

    def enter(self, job: str, limits: LimitSettings, now: float) -> None:
        """A job begins to wait for a permit, with its limits."""
        waiting = self._jobs[job].waiting if job in self._jobs else 0
        self._jobs[job] = _Job(limits, waiting + 1, now)

    def leave(self, job: str, now: float) -> None:
        """It no longer waits."""
        self._jobs[job].waiting -= 1
        self._jobs[job].seen = now

    def observe(self, requests: int | None, tokens: int | None) -> None:
        """The provider's limits; None for one that it does not report."""
        limits = {"requests": requests, "tokens": tokens}
        self._reported |= {kind: limit for kind, limit in limits.items() if limit is not None}

    def current(self, now: float) -> Limits:
        """The limits that apply now. At least one job must have entered before."""
        last = max(job.seen for job in self._jobs.values())
        self._jobs = {
            name: job
            for name, job in self._jobs.items()
            if job.waiting or now < job.seen + self._linger_seconds or job.seen == last
        }
        limits = [job.limits for job in self._jobs.values()]
        return Limits(
            self._rate("requests", limits), self._rate("tokens", limits), min(x.max_in_flight for x in limits)
        )

    def _rate(self, kind: str, limits: list[LimitSettings]) -> int:
        field = f"{kind}_per_minute"
        rates = [int(getattr(one, field)) for one in limits if field in one.model_fields_set]
        rates += [self._reported[kind]] if kind in self._reported else []
        return max(1, min(rates or [int(getattr(limits[0], field))]))
