"""The rate limits that a provider's reply reports.  HTTP headers -> limits and what is left of them"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

HEADER = "x-ratelimit-{}-{}"
"""OpenAI's names for the limit, what remains and the reset of requests and tokens; most such servers have them."""
LONGEST_RESET = 61.0
"""Seconds. A limit that resets later than this is one per hour or day, not per minute."""
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class RateLimit(NamedTuple):
    """A limit per minute and what is left of it, each None where the provider does not report it."""

    limit: int | None
    left: int | None


UNKNOWN = RateLimit(None, None)


@dataclass(frozen=True, slots=True)
class Headers:
    """The limits in the headers of one reply."""

    requests: RateLimit
    tokens: RateLimit


def read(headers: Mapping[str, str]) -> Headers | None:
    """A reply's rate limits; None where it has none. A value that is no number, or not per minute, is left out."""
    limits = Headers(_rate_limit(headers, "requests"), _rate_limit(headers, "tokens"))
    return None if limits == Headers(UNKNOWN, UNKNOWN) else limits


def _rate_limit(headers: Mapping[str, str], kind: str) -> RateLimit:
    if seconds(headers.get(HEADER.format("reset", kind), "")) > LONGEST_RESET:
        return UNKNOWN
    limit, left = (_count(headers.get(HEADER.format(name, kind), "")) for name in ("limit", "remaining"))
    return UNKNOWN if limit == 0 else RateLimit(limit, left)  # 0: none is set.


def _count(text: str) -> int | None:
    """A number of requests or tokens; None where there is none, or a negative one ("-1": no limit)."""
    return int(text) if re.fullmatch(r"\s*[0-9]{1,15}\s*", text) else None


def seconds(text: str) -> float:
    """A reset as providers write it: "120ms", "1.5s", "6m0s", "1h2m3s", "12". 0 for anything else."""
    text = text.strip()
    if _PART.sub("", text) == "":
        return math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0
