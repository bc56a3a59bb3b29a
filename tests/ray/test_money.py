"""Real callers under a budget: a provider that loses replies it was paid for, and callers that die."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lai_ray.errors import StageError
from lai_ray.instructor.spending.budget import Budget, Caps
from lai_ray.instructor.spending.ledger import entries, total
from lai_ray.records import Answer, Request
from lai_ray.stages.reservation import Purse
from lai_ray.storage.answers import Answers
from lai_ray.storage.store import Store, key_of
from tests import provider
from tests.ray.test_instructor import PACE, asking, kill_when

CALLERS = 16
FAULTS = {0: "429 after 0.1", 1: "500", 2: "broken JSON", 3: "hang up", 4: "hang", 5: "400", 6: "empty", 7: "refused"}
FREE = ("429 after 0.1", "400", "401")
LOST = ("500", "broken JSON", "hang up", "hang")


def requests(count: int) -> list[Request]:
    asked = [[{"role": "user", "content": f"question {i}"}] for i in range(count)]
    return [Request(f"p/{i}", key_of(i), messages, 50, 0.8, i) for i, messages in enumerate(asked)]


def taken(p: provider.Provider) -> tuple[int, int]:
    """Calls and tokens that the provider takes money for: all that a lost reply may have had, nothing for a 4xx."""
    calls = tokens = 0
    for number, seen in enumerate(p.log):
        fault = p.fault(number, seen.body)
        if fault not in FREE:
            prompt = sum(len(m["content"]) for m in seen.body["messages"]) // 4
            calls, tokens = calls + 1, tokens + prompt + (50 if fault in LOST else p.reply_tokens)
    return calls, tokens


def settle(purse: Purse, asked: Iterator[Answer]) -> int:
    """Take everything home; how many have an answer."""
    came = 0
    for answer in asked:
        came += answer.completion.error is None
        purse.take(answer)
    return came


@pytest.mark.parametrize("caps", [Caps(calls=60), Caps(tokens=6000)])
def test_sixteen_calls_in_flight_at_a_bad_provider_take_no_more_than_allowed(tmp_path, caps):
    victims: list[int] = []
    with provider.serve(fault=lambda number, body: FAULTS.get(number % 13), latency=0.05) as p, \
            Answers(Store(str(tmp_path))) as answers:  # fmt: skip
        purse = Purse(Budget(caps), answers, CALLERS)
        killer = kill_when(lambda: len(p.log) > 20, "Caller", victims)
        asked = asking(purse.draw(requests(400)), p.base_url, max_in_flight=CALLERS, timeout=1.0, again=purse.again)
        came = settle(purse, asked)
        killer.join()
    calls, tokens = taken(p)
    spent = total(entries(Store(str(tmp_path)), 50))
    for (_, limit), took in zip(caps.by_name(spent.at_most).values(), [calls if caps.calls else tokens], strict=True):
        assert took <= limit
    assert calls <= spent.at_most.calls, "every call that was paid for stands in the ledger"
    assert tokens <= spent.at_most.tokens
    assert purse.reached is not None
    assert came > 10
    assert p.most_in_flight > 4
    assert len(victims) == 1


def test_a_wrong_key_costs_nothing_and_the_ledger_says_so(tmp_path):
    with provider.serve(fault=lambda number, body: "401") as p, Answers(Store(str(tmp_path))) as answers:
        purse = Purse(Budget(Caps()), answers, CALLERS)
        drawn = purse.draw(requests(100))
        asked = asking(drawn, p.base_url, again=purse.again, pace=replace(PACE, farewell=2.0))
        with pytest.raises(StageError, match="401"):
            settle(purse, asked)
        drawn.close()
        assert not purse.out
        assert answers.possibly_paid == 0
    spent = total(entries(Store(str(tmp_path)), 50))
    assert spent.at_most.calls == 0
