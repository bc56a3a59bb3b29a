"""What a provider's reply says of its limits.  HTTP headers -> limits and what is left"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

HEADER = "x-ratelimit-{}-{}"
"""OpenAI's names for the limit, what remains and the reset of requests and tokens; most such servers have them."""
LONGEST_RESET = 61.0
"""Seconds. What is full again later than this is the allowance of an hour or a day, not of a minute."""
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Told(NamedTuple):
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
