"""The budget: worst-case amounts reserved before sending, settled with what was used.  amount -> allowed or not

Pure. As long as no call uses more than was reserved for it, what is spent never exceeds a limit, however many calls are
in flight and whenever the process dies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Amount:
    """Calls, and tokens in and out."""

    calls: int = 0
    input: int = 0
    output: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.calls + other.calls, self.input + other.input, self.output + other.output)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.calls - other.calls, self.input - other.input, self.output - other.output)

    def times(self, count: int) -> Amount:
        """This amount `count` times."""
        return Amount(self.calls * count, self.input * count, self.output * count)

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input + self.output


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Price:
    """US$ per million tokens."""

    input: float
    output: float

    def usd(self, amount: Amount) -> float:
        """The price of these tokens. Computed from token counts each time, so that rounding errors do not add up."""
        return (amount.input * self.input + amount.output * self.output) / 1e6


def price_of(settings: dict[str, Any]) -> Price | None:
    """The price in a job's [instructor] table; None unless both halves are set."""
    price_in, price_out = settings.get("usd_per_million_input"), settings.get("usd_per_million_output")
    return None if price_in is None or price_out is None else Price(price_in, price_out)


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that may be spent; None for no limit. Without a price, money is not counted."""

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    price: Price | None = None

    def by_name(self, amount: Amount) -> dict[str, tuple[float, float]]:
        """(counted in this amount, limit) by the name of each limit that is set."""
        usd = self.price.usd(amount) if self.price else 0.0
        counted = {"max_calls": amount.calls, "max_tokens": amount.tokens, "max_usd": usd}
        most = {"max_calls": self.calls, "max_tokens": self.tokens, "max_usd": self.usd}
        return {name: (counted[name], limit) for name, limit in most.items() if limit is not None}


def caps_of(limits: dict[str, Any], instructor: dict[str, Any]) -> Caps:
    """The limits of a job's [limits] and [instructor] tables."""
    return Caps(limits.get("max_calls"), limits.get("max_tokens"), limits.get("max_usd"), price_of(instructor))


class Budget:
    """Amounts spent and reserved against the caps. `spent` begins with what earlier starts of the run spent."""

    def __init__(self, caps: Caps, spent: Amount = NOTHING) -> None:
        self.caps, self.spent, self.reserved = caps, spent, NOTHING

    def exceeded(self, worst: Amount) -> str | None:
        """The limit that this much more, beside what is reserved, would exceed; None when there is none."""
        after = self.caps.by_name(self.spent + self.reserved + worst)
        return next((name for name, (counted, limit) in after.items() if counted > limit), None)

    def reserve(self, worst: Amount) -> bool:
        """Reserve this much if the limits allow it; returns whether they do."""
        if self.exceeded(worst) is not None:
            return False
        self.reserved += worst
        return True

    def settle(self, worst: Amount, used: Amount) -> None:
        """Release what was reserved and count what was used, which a faulty provider may report as more."""
        self.reserved -= worst
        self.spent += used
