"""Every request passes here on its way out, every answer on its way home.  requests -> those the budget allows

Reserved in the worst case, written down as sent, sent, settled with what was used: in this order, so that a kill at any
moment leaves nothing spent that the next start does not count.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

from lai_ray.config.config import Config
from lai_ray.instructor.spending.budget import NOTHING, Amount, Budget, Price, caps_of
from lai_ray.instructor.spending.ledger import Spent, spent_in
from lai_ray.instructor.spending.tokens import amount_used, worst_case
from lai_ray.records import Answer, Completion, Mark, Request
from lai_ray.storage.answers import Answers
from lai_ray.storage.run import Run

AHEAD = 8
"""Requests marked as sent in one write, at most; those not on their way yet count as in flight."""


@dataclass
class Purse:
    """The budget of a run, at work in one stage."""

    budget: Budget
    answers: Answers
    max_in_flight: int
    marks: bool = True
    """Whether requests are marked as sent. Not to a model in the cluster: what a kill loses there nobody was paid for.
    """
    out: dict[str, Amount] = field(default_factory=dict)
    """What is reserved for each request that is marked and not home, by key."""
    held_back: set[str] = field(default_factory=set)
    """Requests that the budget kept from another attempt: still to ask."""
    reached: str | None = None
    """The limit that ended the drawing."""

    def draw(self, requests: Iterable[Request]) -> Generator[Request | None]:
        """The requests, as long as the budget lasts. None: nothing more before something came home."""
        rest = iter(requests)
        following = next(rest, None)
        while following is not None:
            batch: list[Request] = []
            while following is not None and len(batch) < self._room and self._reserve(following):
                batch.append(following)
                following = next(rest, None)
            if batch:
                yield from self._sent(batch)
            elif self.out:
                yield None
            elif following is not None:
                self.reached = self.budget.obstacle(worst_case(following.messages, following.max_tokens))
                return

    def again(self, request: Request) -> bool:
        """Whether one that may have been paid for may be sent once more: what was reserved for it counts as spent."""
        worst = self.out[request.key]
        if not self.budget.reserve(worst):
            self.held_back.add(request.key)
            return False
        self.budget.settle(worst, worst)
        self._mark([request])
        return True

    def take(self, answer: Answer) -> bool:
        """Write down what came home. False when it is neither answered nor failed, but held back by the budget."""
        worst = self.out.pop(answer.key)
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
        return max(1, min(AHEAD, self.max_in_flight - len(self.out)))

    def _reserve(self, request: Request) -> bool:
        worst = worst_case(request.messages, request.max_tokens)
        if not self.budget.reserve(worst):
            return False
        self.out[request.key] = worst
        return True

    def _sent(self, batch: list[Request]) -> Iterator[Request]:
        self._mark(batch)
        for number, request in enumerate(batch, 1):
            try:
                yield request
            except GeneratorExit:
                for left in batch[number:]:
                    self.take(Answer(left.id, left.key, Completion("", "error", error="never sent"), free=True))
                raise

    def _mark(self, requests: list[Request]) -> None:
        if not self.marks:
            return
        price = self.budget.caps.price
        given = (price.input, price.output) if price else None
        amounts = ((request, self.out[request.key]) for request in requests)
        self.answers.mark_sent([Mark(r.key, r.id, worst.input, worst.output, given) for r, worst in amounts])


def purse(run: Run, answers: Answers, config: Config) -> Purse:
    """With what every earlier start and every other stage of the run has spent, possibly paid calls at their worst."""
    spent = sum(spent_in(run, config.instructor.max_tokens).values(), start=Spent())
    caps = caps_of(config.limits.model_dump(), config.instructor.model_dump())
    marks = not config.instructor.in_cluster
    return Purse(Budget(caps, spent.at_most), answers, config.limits.max_in_flight, marks)


def money(price: Price | None, amount: Amount) -> str:
    """As "0.1234 US$", or nothing without a price."""
    return f"{price.usd(amount):,.4f} US$" if price else ""


def said(budget: Budget) -> str:
    """What was spent, in calls, tokens and money."""
    spent = budget.spent
    parts = [f"{spent.calls:,} calls", f"{spent.tokens:,} tokens", money(budget.caps.price, spent)]
    return ", ".join(part for part in parts if part)


def exhausted(purse: Purse, pending: list[Request]) -> str:
    """What a person is told when the budget ends: spent, still to ask, and how to go on."""
    name, budget = purse.reached or "max_calls", purse.budget
    worst = sum((worst_case(r.messages, r.max_tokens) for r in pending), start=NOTHING)
    counted, limit = budget.caps.by_name(budget.spent + worst)[name]
    first = budget.caps.by_name(budget.spent + worst_case(pending[0].messages, pending[0].max_tokens))[name][0]
    needed, everything = (f"{n:,.4f} US$" if name == "max_usd" else f"{n:,.0f}" for n in (first, counted))
    return (
        f"limits.{name} = {limit:,} is reached with {len(pending)} requests still to ask: {said(budget)} spent so far, "
        f"possibly paid calls at their worst included. The next request wants it at {needed}, and all of those "
        f"{len(pending)} at {everything} at most. Every reply is kept; raise it and start the same command again."
    )
