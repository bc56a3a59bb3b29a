"""The progress line of a stage's calls: samples, rates, money.  answers -> a short note"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from lai_ray.config.settings import LimitSettings
from lai_ray.instructor.rate_limit.meter import Meter
from lai_ray.instructor.spending.budget import NOTHING, Amount, Budget
from lai_ray.instructor.spending.tokens import amount_used
from lai_ray.records import Answer


@dataclass
class ProgressLine:
    """Counts the answers to a group of calls."""

    limits: LimitSettings | None
    """None where the rate is not limited."""
    budget: Budget
    accepted: int | None = 0
    """Samples so far; None for calls that bring none."""
    used: Amount = NOTHING
    meter: Meter = field(default_factory=lambda: Meter(time.monotonic()))

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        used = amount_used(answer.completion) or Amount(1)
        self.used += used
        self.meter.add(time.monotonic(), used.tokens)

    def note(self, left: int) -> str:
        """Accepted samples; requests and tokens a minute, with limits; spent now and after `left` more calls."""
        requests, tokens = self.meter.per_minute(time.monotonic())
        limits, spent = self.limits, self.budget.spent
        most = (f"/{short(limits.requests_per_minute)}", f"/{short(limits.tokens_per_minute)}") if limits else ("", "")
        parts = [
            *([] if self.accepted is None else [f"{self.accepted} samples accepted"]),
            f"{requests:.0f}{most[0]} requests and {short(tokens)}{most[1]} tokens a minute",
            f"{spent.calls} calls, {short(spent.tokens)} tokens",
        ]
        if price := self.budget.caps.price:
            each = price.usd(self.used) / max(self.used.calls, 1)
            parts.append(f"{price.usd(spent):.4f} US$, about {price.usd(spent) + left * each:.4f} after this round")
        return "; ".join(parts)

    def figures(self) -> dict[str, float]:
        """As numbers, for status files: rates and their limits, and what the whole run has spent."""
        requests, tokens = self.meter.per_minute(time.monotonic())
        spent, price = self.budget.spent, self.budget.caps.price
        rates: dict[str, float] = {"requests_per_minute": requests, "tokens_per_minute": tokens}
        rates |= {"spent_calls": spent.calls, "spent_tokens": spent.tokens}
        rates |= {"spent_usd": price.usd(spent)} if price else {}
        if self.limits:
            rates["requests_per_minute_limit"] = self.limits.requests_per_minute
            rates["tokens_per_minute_limit"] = self.limits.tokens_per_minute
        return rates


def short(number: float) -> str:
    """1,234,567 as "1.2M", 12,345 as "12k"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"
