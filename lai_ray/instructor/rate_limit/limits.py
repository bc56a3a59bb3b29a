"""One key, several jobs, and a provider that says what it allows.  what each says -> the limits that hold

Pure: whoever asks brings the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from lai_ray.config.settings import LimitSettings


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds: a minute, and at once."""

    requests: int
    tokens: int
    in_flight: int


@dataclass(slots=True)
class _Job:
    limits: LimitSettings
    asking: int
    seen: float


class Terms:
    """The limits that several jobs name for one key, and those that the provider's headers name.

    The lowest holds. A limit that no job names is the provider's; where that says nothing either, the default of
    LimitSettings. A job counts while it waits for leave, and for `patience` seconds after.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._jobs: dict[str, _Job] = {}
        self._said: dict[str, int] = {}

    def enter(self, job: str, limits: LimitSettings, now: float) -> None:
        """A job asks for leave, and names its limits."""
        asking = self._jobs[job].asking if job in self._jobs else 0
        self._jobs[job] = _Job(limits, asking + 1, now)

    def leave(self, job: str, now: float) -> None:
        """It waits no longer."""
        self._jobs[job].asking -= 1
        self._jobs[job].seen = now

    def tell(self, requests: int | None, tokens: int | None) -> None:
        """The provider names its limits; None where it does not."""
        said = {"requests": requests, "tokens": tokens}
        self._said |= {kind: limit for kind, limit in said.items() if limit is not None}

    def hold(self, now: float) -> Limits:
        """What holds now. Some job must have entered before."""
        last = max(job.seen for job in self._jobs.values())
        self._jobs = {
            name: job
            for name, job in self._jobs.items()
            if job.asking or now < job.seen + self._patience or job.seen == last
        }
        named = [job.limits for job in self._jobs.values()]
        return Limits(
            self._rate("requests", named), self._rate("tokens", named), min(limits.max_in_flight for limits in named)
        )

    def _rate(self, kind: str, named: list[LimitSettings]) -> int:
        field = f"{kind}_per_minute"
        meant = [int(getattr(limits, field)) for limits in named if field in limits.model_fields_set]
        said = [self._said[kind]] if kind in self._said else []
        return max(1, min([*meant, *said] or [int(getattr(named[0], field))]))
