"""Calls under a budget, on a virtual clock: a provider that loses replies it was paid for, and callers that die."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lai_ray.errors import StageError
from lai_ray.instructor.spending.budget import Budget, Caps
from lai_ray.instructor.spending.ledger import entries, total
from lai_ray.instructor.spending.reserve import BudgetReservation
from lai_ray.records import Answer, Request
from lai_ray.storage.answers import Answers
from lai_ray.storage.keys import key_of
from lai_ray.storage.store import Store
from tests.provider import Provider
from tests.virtual import VirtualRay

CALLERS = 16
FAULTS = {0: "429 after 0.1", 1: "500", 2: "broken JSON", 3: "hang up", 4: "hang", 5: "400", 6: "empty", 7: "refused"}
FREE = ("429 after 0.1", "400", "401", "500")
LOST = ("broken JSON", "hang up", "hang")


def requests(count: int) -> list[Request]:
    asked = [[{"role": "user", "content": f"question {i}"}] for i in range(count)]
    return [Request(f"p/{i}", key_of(i), messages, 50, 0.8, i) for i, messages in enumerate(asked)]


def billed(p: Provider) -> tuple[int, int]:
    """Calls and tokens that the provider bills: all that a lost reply may have had, nothing for an error."""
    calls = tokens = 0
    for number, seen in enumerate(p.log):
        fault = p.fault(number, seen.body)
        if fault not in FREE:
            prompt = sum(len(m["content"]) for m in seen.body["messages"]) // 4
            calls, tokens = calls + 1, tokens + prompt + (50 if fault in LOST else p.reply_tokens)
    return calls, tokens


def settle(reservation: BudgetReservation, answers: Iterator[Answer]) -> int:
    """Record every answer; how many have no error."""
    good = 0
    for answer in answers:
        good += answer.completion.error is None
        reservation.settle(answer)
    return good


@pytest.fixture
def ray() -> Iterator[VirtualRay]:
    runtime = VirtualRay()
    yield runtime
    runtime.close()


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("caps", [Caps(calls=60), Caps(tokens=6000)])
def test_sixteen_calls_in_flight_at_a_bad_provider_take_no_more_than_allowed(tmp_path, ray, caps, start):
    def fault(number: int, body: Any) -> str | None:
        if number == 20:
            ray.loop.call_soon(ray.callers[0].die)
        return FAULTS.get((start + number) % 13)

    with ray.serving(fault=fault, latency=0.05) as p, Answers(Store(str(tmp_path))) as answers:
        reservation = BudgetReservation(Budget(caps), answers, CALLERS)
        scheduler = ray.scheduler(
            reservation.draw(requests(400)), p, max_in_flight=CALLERS, timeout=1.0, may_resend=reservation.again
        )
        good = settle(reservation, scheduler.answers())
    assert len(ray.callers) == 3, "one died"
    p.fault = lambda number, body: FAULTS.get((start + number) % 13)
    calls, tokens = billed(p)
    spent = total(entries(Store(str(tmp_path)), 50))
    [(_, limit)] = caps.by_name(spent.at_most).values()
    assert (calls if caps.calls else tokens) <= limit
    assert calls <= spent.at_most.calls, "the ledger has every call that was billed"
    assert tokens <= spent.at_most.tokens
    assert reservation.reached is not None
    assert good > 10
    assert p.most_in_flight > 4


def test_a_wrong_key_costs_nothing_in_the_ledger(tmp_path, ray):
    with ray.serving(fault=lambda number, body: "401") as p, Answers(Store(str(tmp_path))) as answers:
        reservation = BudgetReservation(Budget(Caps()), answers, CALLERS)
        drawn = reservation.draw(requests(100))
        scheduler = ray.scheduler(drawn, p, max_in_flight=CALLERS, may_resend=reservation.again)
        with pytest.raises(StageError, match="401"):
            settle(reservation, scheduler.answers())
        drawn.close()
        assert not reservation.in_flight
        assert answers.possibly_paid == 0
    assert total(entries(Store(str(tmp_path)), 50)).at_most.calls == 0
