"""One key, several jobs, and a provider that says what it allows.  what each says -> the limits that hold

Pure: whoever asks brings the time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lai_ray.config import LimitSettings

HEADER = "x-ratelimit-{}-{}"
"""OpenAI's names for the limit, what remains and the reset of requests and tokens; most such servers have them."""
LONGEST_RESET = 61.0
"""Seconds. What is full again later than this is the allowance of an hour or a day, not of a minute."""
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Told:
    """What the headers of one reply say of one kind: requests or tokens, a minute."""

    limit: int | None
    left: int | None


@dataclass(frozen=True, slots=True)
class Headers:
    """What the headers of one reply say."""

    requests: Told
    tokens: Told


NOTHING = Told(None, None)


def read(headers: Mapping[str, str]) -> Headers | None:
    """A reply's rate limits, or None where it tells none. What is no number, or not of a minute, counts as not said."""
    said = Headers(_told(headers, "requests"), _told(headers, "tokens"))
    return None if said == Headers(NOTHING, NOTHING) else said


def _told(headers: Mapping[str, str], kind: str) -> Told:
    if seconds(headers.get(HEADER.format("reset", kind), "")) > LONGEST_RESET:
        return NOTHING
    return Told(
        _count(headers.get(HEADER.format("limit", kind))), _count(headers.get(HEADER.format("remaining", kind)))
    )


def _count(text: str | None) -> int | None:
    """A number of requests or tokens; None where there is none, or a negative one ("-1": no limit)."""
    return int(text) if text is not None and text.strip().isascii() and text.strip().isdigit() else None


def seconds(text: str) -> float:
    """A reset as providers write it: "120ms", "1.5s", "6m0s", "1h2m3s", "12". 0 for anything else."""
    text = text.strip()
    if _PART.sub("", text) == "":
        return math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds: a minute, and at once."""

    requests: int
    tokens: int
    in_flight: int


@dataclass(slots=True)
class _Job:
    limits: LimitSettings
    seen: float


class Terms:
    """The limits that several jobs name for one key, and those that the provider's headers name.

    The lowest holds. A limit that no job names is the provider's; where that says nothing either, the default of
    LimitSettings. A job counts while it waits for leave, and until `patience` seconds after it last asked.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._jobs: dict[str, _Job] = {}
        self._said: dict[str, int] = {}

    def say(self, job: str, limits: LimitSettings, now: float) -> None:
        """A job asks for leave, and names its limits."""
        self._jobs[job] = _Job(limits, now)

    def tell(self, headers: Headers) -> None:
        """The provider names its limits."""
        for kind, told in (("requests", headers.requests), ("tokens", headers.tokens)):
            if told.limit is not None:
                self._said[kind] = told.limit

    def hold(self, now: float, waiting: str = "") -> Limits:
        """What holds now, for the jobs that asked lately and the one that waits. Somebody must have asked before."""
        if waiting in self._jobs:
            self._jobs[waiting].seen = now
        lately = {name: job for name, job in self._jobs.items() if now < job.seen + self._patience}
        self._jobs = lately or dict([max(self._jobs.items(), key=lambda item: item[1].seen)])
        named = [job.limits for job in self._jobs.values()]
        return Limits(
            self._rate("requests", named), self._rate("tokens", named), min(limits.max_in_flight for limits in named)
        )

    def _rate(self, kind: str, named: list[LimitSettings]) -> int:
        field = f"{kind}_per_minute"
        meant = [int(getattr(limits, field)) for limits in named if field in limits.model_fields_set]
        said = [self._said[kind]] if kind in self._said else []
        return max(1, min([*meant, *said] or [int(getattr(named[0], field))]))
