"""Enforces the budget: reserves the worst case, marks as sent, settles with the tokens used.  requests -> allowed ones

In this order, so that whatever was spent before a kill is counted by the next start.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

from lai_ray.instructor.spending.budget import NOTHING, Amount, Budget, Price
from lai_ray.instructor.spending.tokens import amount_used, worst_of
from lai_ray.records import Answer, Completion, Mark, Request
from lai_ray.storage.answers import Answers

BATCH = 8
"""Most requests marked as sent in one write; those not sent yet count as in flight."""


@dataclass
class BudgetReservation:
    """Applies the budget of a run to the requests of one stage to one receiver."""

    budget: Budget
    answers: Answers
    max_in_flight: int
    marks: bool = True
    """Whether requests are marked as sent. Not for a model in the cluster: a call lost there is not billed."""
    in_flight: dict[str, Amount] = field(default_factory=dict)
    """By key, what is reserved for each request that is marked and not answered."""
    held_back: set[str] = field(default_factory=set)
    """Keys of requests that the budget kept from another attempt: still to ask."""
    reached: str | None = None
    """The limit that ended the requests."""
    stopped: bool = False
    """Whether no more requests are drawn; those in flight are still answered."""

    def draw(self, requests: Iterable[Request]) -> Generator[Request | None]:
        """The requests, as long as the budget lasts. None: no more until one in flight is answered."""
        rest = iter(requests)
        following = next(rest, None)
        while following is not None and not self.stopped:
            batch: list[Request] = []
            while following is not None and len(batch) < self._room and self._reserve(following):
                batch.append(following)
                following = next(rest, None)
            if batch:
                yield from self._sent(batch)
            elif self.in_flight:
                yield None
            elif following is not None:
                self.reached = self.budget.exceeded(worst_of(following))
                return

    def again(self, request: Request) -> bool:
        """Whether a possibly paid request may be sent once more. If so, its first reservation counts as spent."""
        worst = self.in_flight[request.key]
        if not self.budget.reserve(worst):
            self.held_back.add(request.key)
            return False
        self.budget.settle(worst, worst)
        self._mark([request])
        return True

    def settle(self, answer: Answer) -> bool:
        """Record an answer and what it used. False for one that the budget held back."""
        worst = self.in_flight.pop(answer.key)
        used = NOTHING if answer.free else amount_used(answer.completion) or worst
        self.budget.settle(worst, used)
        if answer.completion.error is None:
            self.answers.record(answer)
        else:
            self.answers.fail(answer)
        held_back = answer.key in self.held_back
        self.held_back.discard(answer.key)
        return not held_back

    @property
    def _room(self) -> int:
        return max(1, min(BATCH, self.max_in_flight - len(self.in_flight)))

    def _reserve(self, request: Request) -> bool:
        worst = worst_of(request)
        if not self.budget.reserve(worst):
            return False
        self.in_flight[request.key] = worst
        return True

    def _sent(self, batch: list[Request]) -> Iterator[Request]:
        self._mark(batch)
        for number, request in enumerate(batch, 1):
            try:
                yield request
            except GeneratorExit:
                for left in batch[number:]:
                    self.settle(Answer(left.id, left.key, Completion("", "error", error="never sent"), free=True))
                raise

    def _mark(self, requests: list[Request]) -> None:
        if not self.marks:
            return
        price = self.budget.caps.price
        given = (price.input, price.output) if price else None
        amounts = ((request, self.in_flight[request.key]) for request in requests)
        self.answers.mark_sent([Mark(r.key, r.id, worst.input, worst.output, given) for r, worst in amounts])

    def exhausted(self, pending: list[Request]) -> str:
        """The error message when the budget is used up: what was spent, what is still to ask, and how to continue."""
        name, budget = self.reached or "max_calls", self.budget
        worst = sum((worst_of(r) for r in pending), start=NOTHING)
        counted, limit = budget.caps.by_name(budget.spent + worst)[name]
        first = budget.caps.by_name(budget.spent + worst_of(pending[0]))[name][0]
        needed, everything = (f"{n:,.4f} US$" if name == "max_usd" else f"{n:,.0f}" for n in (first, counted))
        return (
            f"limits.{name} = {limit:,} is reached with {len(pending)} requests still to ask: {amounts_of(budget)} "
            f"spent so far, possibly paid calls at their worst included. The next request needs {needed}, and all "
            f"{len(pending)} at most {everything}. Every reply is kept; raise the limit and start the same command "
            "again."
        )


def money(price: Price | None, amount: Amount) -> str:
    """As "0.1234 US$"; empty without a price."""
    return f"{price.usd(amount):,.4f} US$" if price else ""


def amounts_of(budget: Budget) -> str:
    """What was spent in calls, tokens and money."""
    spent = budget.spent
    parts = [f"{spent.calls:,} calls", f"{spent.tokens:,} tokens", money(budget.caps.price, spent)]
    return ", ".join(part for part in parts if part)
