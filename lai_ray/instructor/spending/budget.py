"""What may still be spent: reserved in the worst case before sending, settled with what was used.  amount -> yes or no

Arithmetic alone: nothing here reads a clock, a file or a message. As long as no call uses more than was reserved for
it, what is spent never exceeds a limit, however many calls are out and whenever the process dies.
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
        """So many of them."""
        return Amount(self.calls * count, self.input * count, self.output * count)

    @property
    def tokens(self) -> int:
        """In and out together."""
        return self.input + self.output


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Price:
    """US$ per million tokens."""

    input: float
    output: float

    def usd(self, amount: Amount) -> float:
        """Money for these tokens. Worked out from whole tokens each time, so that no rounding adds up."""
        return (amount.input * self.input + amount.output * self.output) / 1e6


def price_of(settings: dict[str, Any]) -> Price | None:
    """The price in a job's [instructor] table; None where it is not given whole."""
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
        """(of this amount, at most) under the name of each limit that is set."""
        usd = self.price.usd(amount) if self.price else 0.0
        counted = {"max_calls": amount.calls, "max_tokens": amount.tokens, "max_usd": usd}
        most = {"max_calls": self.calls, "max_tokens": self.tokens, "max_usd": self.usd}
        return {name: (counted[name], limit) for name, limit in most.items() if limit is not None}


def caps_of(limits: dict[str, Any], instructor: dict[str, Any]) -> Caps:
    """The limits of a job's [limits] and [instructor] tables."""
    return Caps(limits.get("max_calls"), limits.get("max_tokens"), limits.get("max_usd"), price_of(instructor))


class Budget:
    """Spent, reserved, and what may be added. `spent` begins with what earlier starts of the run spent."""

    def __init__(self, caps: Caps, spent: Amount = NOTHING) -> None:
        self.caps, self.spent, self.reserved = caps, spent, NOTHING

    def obstacle(self, worst: Amount) -> str | None:
        """The limit that stands in the way of spending so much more, beside what is reserved; None when none does."""
        after = self.caps.by_name(self.spent + self.reserved + worst)
        return next((name for name, (counted, limit) in after.items() if counted > limit), None)

    def reserve(self, worst: Amount) -> bool:
        """Set this much aside, if it is there."""
        if self.obstacle(worst) is not None:
            return False
        self.reserved += worst
        return True

    def settle(self, worst: Amount, used: Amount) -> None:
        """What was set aside is free again, and this much of it (or, by a provider's fault, beyond it) is spent."""
        self.reserved -= worst
        self.spent += used
