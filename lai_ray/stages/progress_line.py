"""What the progress line says while the instructor is asked.  answers -> a short note"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from lai_ray.config.settings import LimitSettings
from lai_ray.instructor.rate_limit.meter import Meter
from lai_ray.instructor.spending.budget import NOTHING, Amount, Budget
from lai_ray.instructor.spending.tokens import amount_used
from lai_ray.records import Answer


@dataclass
class Watch:
    """Counts what comes home in one stage."""

    limits: LimitSettings | None
    """None where nobody limits the pace."""
    budget: Budget
    accepted: int = 0
    came: Amount = NOTHING
    meter: Meter = field(default_factory=lambda: Meter(time.monotonic()))

    def saw(self, answer: Answer) -> None:
        """One more came home."""
        used = amount_used(answer.completion) or Amount(1)
        self.came += used
        self.meter.add(time.monotonic(), used.tokens)

    def note(self, left: int) -> str:
        """Accepted samples; the last minute's requests and tokens against the limits; spent, and after `left` more."""
        requests, tokens = self.meter.per_minute(time.monotonic())
        limits, spent = self.limits, self.budget.spent
        most = (f"/{short(limits.requests_per_minute)}", f"/{short(limits.tokens_per_minute)}") if limits else ("", "")
        parts = [
            f"{self.accepted} samples accepted",
            f"{requests:.0f}{most[0]} requests and {short(tokens)}{most[1]} tokens a minute",
            f"{spent.calls} calls, {short(spent.tokens)} tokens",
        ]
        if price := self.budget.caps.price:
            each = price.usd(self.came) / max(self.came.calls, 1)
            parts.append(f"{price.usd(spent):.4f} US$, about {price.usd(spent) + left * each:.4f} after this round")
        return "; ".join(parts)

    def figures(self) -> dict[str, float]:
        """The same for machines: rates beside their limits, and what the whole run has spent."""
        requests, tokens = self.meter.per_minute(time.monotonic())
        spent, price = self.budget.spent, self.budget.caps.price
        found: dict[str, float] = {"requests_per_minute": requests, "tokens_per_minute": tokens}
        found |= {"spent_calls": spent.calls, "spent_tokens": spent.tokens}
        found |= {"spent_usd": price.usd(spent)} if price else {}
        if self.limits:
            found["requests_per_minute_limit"] = self.limits.requests_per_minute
            found["tokens_per_minute_limit"] = self.limits.tokens_per_minute
        return found


def short(number: float) -> str:
    """1,234,567 as "1.2M", 12,345 as "12k"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"
