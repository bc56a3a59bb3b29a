"""The budget's arithmetic: whatever happens to the calls, and whenever the process dies, no limit is exceeded."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lai_ray.errors import ConfigError
from lai_ray.instructor.rate_limit.meter import Meter
from lai_ray.instructor.spending.budget import NOTHING, Amount, Budget, Caps, Price, caps_of, price_of
from lai_ray.instructor.spending.ledger import entries, total
from lai_ray.instructor.spending.reserve import BudgetReservation
from lai_ray.instructor.spending.tokens import worst_case
from lai_ray.records import Answer, Completion, Mark, Request
from lai_ray.storage.answers import Answers
from lai_ray.storage.keys import encode, key_of
from lai_ray.storage.store import Store
from tests.local import job

CALLERS = 16
PRICE = Price(10.0, 30.0)
AMOUNTS = st.builds(Amount, st.just(1), st.integers(0, 5000), st.integers(1, 4096))


def test_a_request_is_refused_while_reservations_leave_no_room_and_admitted_once_they_are_settled_lower():
    budget = Budget(Caps(tokens=100))
    worst = Amount(1, 10, 50)
    assert budget.reserve(worst)
    assert not budget.reserve(worst)
    assert budget.exceeded(worst) == "max_tokens"
    budget.settle(worst, Amount(1, 10, 5))
    assert budget.reserve(worst)


def test_every_limit_counts_and_the_first_exceeded_one_is_named():
    budget = Budget(Caps(calls=2, tokens=1000, usd=0.01, price=PRICE), spent=Amount(1, 100, 100))
    assert budget.exceeded(Amount(1, 100, 100)) is None
    assert budget.exceeded(Amount(1, 100, 300)) == "max_usd"
    assert budget.exceeded(Amount(1, 800, 1)) == "max_tokens"
    assert budget.exceeded(Amount(2, 0, 0)) == "max_calls"


def test_a_request_may_use_exactly_the_limit():
    assert Budget(Caps(calls=1, tokens=10, usd=10 * 10 / 1e6, price=PRICE)).reserve(Amount(1, 10, 0))


def test_money_is_computed_from_tokens_and_needs_both_prices():
    assert PRICE.usd(Amount(3, 1_000_000, 100_000)) == 13.0
    assert price_of({"usd_per_million_input": 1.0, "usd_per_million_output": None}) is None
    assert caps_of({"max_usd": 1.0}, {"usd_per_million_input": 0.0, "usd_per_million_output": 0.0}).price == Price(0, 0)


def test_amounts_are_added_and_subtracted_part_by_part():
    assert Amount(3, 20, 10) - Amount(1, 5, 4) == Amount(2, 15, 6)
    assert Amount(3, 20, 10) + Amount(1, 5, 4) == Amount(4, 25, 14)
    assert (Amount(3, 20, 10).times(2), Amount(3, 20, 10).tokens) == (Amount(6, 40, 20), 30)


@dataclass
class Call:
    """What was reserved, what the provider really charges once it is sent, and what is written to the files."""

    worst: Amount
    charged: Amount
    written: Amount | None = None

    @property
    def counted(self) -> Amount:
        """As the next start reads it."""
        return self.worst if self.written is None else self.written


@settings(max_examples=300, deadline=None)
@given(
    caps=st.builds(Caps, st.none() | st.integers(1, 50), st.none() | st.integers(1, 10**5),
                   st.none() | st.floats(0.001, 3.0), st.just(PRICE)),
    events=st.lists(st.tuples(st.sampled_from(["send", "send", "refused", "replied", "lost", "kill"]), AMOUNTS,
                              st.floats(0, 1), st.integers(0, CALLERS - 1)), max_size=120),
)  # fmt: skip
def test_sixteen_callers_and_kills_never_exceed_any_limit(caps, events):
    calls: list[Call] = []
    out: list[Call] = []
    budget = Budget(caps)
    for event, worst, share, which in events:
        if event in ("send", "refused"):
            if len(out) < CALLERS and budget.reserve(worst):
                charged = Amount(1, round(worst.input * share), round(worst.output * share))
                calls.append(Call(worst, charged if event == "send" else NOTHING))
                out.append(calls[-1])
        elif event == "kill":  # Calls in flight stay marked, and the next start counts them at their worst case.
            out, budget = [], Budget(caps, sum((call.counted for call in calls), start=NOTHING))
        elif out:
            call = out.pop(which % len(out))
            call.written = call.charged if event == "replied" else call.worst
            budget.settle(call.worst, call.written)
        assert budget.spent == sum((call.counted for call in calls if not any(call is o for o in out)), start=NOTHING)
        taken = sum((call.charged for call in calls), start=NOTHING)
        assert all(counted <= limit for counted, limit in caps.by_name(taken).values())


@given(st.text(max_size=300))
def test_the_worst_case_is_a_token_per_byte_which_no_tokenizer_exceeds(text):
    found = worst_case([{"role": "user", "content": text}], 100)
    assert found.input > len(text.encode("utf-8", "surrogatepass"))
    assert (found.calls, found.output) == (1, 100)


def requests(count: int, max_tokens: int = 100) -> list[Request]:
    asked = [[{"role": "user", "content": f"question {i}"}] for i in range(count)]
    return [Request(f"r{i}", key_of(i), messages, max_tokens) for i, messages in enumerate(asked)]


def good(request: Request, prompt: int = 10, reply: int = 20) -> Answer:
    return Answer(request.id, request.key, Completion("text", "stop", prompt, reply))


def test_requests_are_marked_before_they_are_sent_and_never_more_than_may_be_in_flight(tmp_path):
    with Answers(Store(str(tmp_path))) as answers:
        reservation = BudgetReservation(Budget(Caps()), answers, max_in_flight=5)
        out: list[Request] = []
        for drawn in reservation.draw(requests(30)):
            out.append(drawn)
            marked = [entry.key for entry in entries(Store(str(tmp_path)), 100)]
            assert {request.key for request in out} <= set(marked)
            assert answers.possibly_paid <= 5
            if len(out) == 4:
                while out:
                    reservation.settle(good(out.pop()))


def test_near_the_end_of_the_budget_drawing_waits_for_calls_in_flight_and_then_continues(tmp_path):
    worst = worst_case(requests(1)[0].messages, 100)
    with Answers(Store(str(tmp_path))) as answers:
        reservation = BudgetReservation(Budget(Caps(tokens=2 * worst.tokens + 10)), answers, max_in_flight=CALLERS)
        drawn, sent = reservation.draw(requests(30)), []
        while (request := next(drawn)) is not None:
            sent.append(request)
        assert len(sent) == 2
        for request in sent:
            reservation.settle(good(request))
        assert next(drawn) is not None, "they used little, so there is room again"
        assert reservation.reached is None


def test_a_retry_of_a_possibly_paid_call_is_counted_again_and_refused_without_budget(tmp_path):
    (request,) = requests(1)
    worst = worst_case(request.messages, 100)
    with Answers(Store(str(tmp_path))) as answers:
        reservation = BudgetReservation(Budget(Caps(calls=2)), answers, max_in_flight=1)
        next(reservation.draw([request]))
        assert reservation.again(request)
        assert not reservation.again(request)
        lost = Answer(request.id, request.key, Completion("", "error", error="timeout"))
        assert not reservation.settle(lost), "still to send, once the budget allows it"
        assert reservation.budget.spent == worst + worst
    assert total(entries(Store(str(tmp_path)), 100)).at_most == worst + worst


def test_reservations_of_requests_that_were_not_sent_are_released_when_the_stage_stops(tmp_path):
    with Answers(Store(str(tmp_path))) as answers:
        reservation = BudgetReservation(Budget(Caps()), answers, max_in_flight=CALLERS)
        drawn = reservation.draw(requests(30))
        first = next(drawn)
        drawn.close()
        assert answers.possibly_paid == 1
    (entry,) = [e for e in entries(Store(str(tmp_path)), 100) if e.state == "sent"]
    assert entry.key == first.key


@pytest.mark.parametrize(
    ("answer", "state", "used"),
    [
        (Answer("r0", key_of(0), Completion("text", "stop", 10, 20)), "done", Amount(1, 10, 20)),
        (Answer("r0", key_of(0), Completion("text", "stop")), "done", None),
        (Answer("r0", key_of(0), Completion("", "stop", 10, 2, error="refused")), "failed", Amount(1, 10, 2)),
        (Answer("r0", key_of(0), Completion("", "error", error="400"), free=True), "failed", NOTHING),
        (Answer("r0", key_of(0), Completion("", "error", error="timeout")), "failed", None),
        (None, "sent", None),
    ],
)
def test_the_ledger_has_each_calls_state_reservation_usage_price_and_key(tmp_path, answer, state, used):
    request = requests(1)[0]
    with Answers(Store(str(tmp_path))) as answers:
        reservation = BudgetReservation(Budget(Caps(price=PRICE)), answers, max_in_flight=1)
        next(reservation.draw([request]))
        if answer is not None:
            reservation.settle(answer)
        assert answers.possibly_paid == (used is None and state != "done")
    (entry,) = entries(Store(str(tmp_path)), 100)
    worst = worst_case(request.messages, 100)
    assert (entry.key, entry.id, entry.state, entry.price) == (request.key, request.id, state, (10.0, 30.0))
    assert (entry.reserved, entry.used) == (worst, used)
    assert entry.counted == (worst if used is None else used)
    assert Answers(Store(str(tmp_path))).possibly_paid == (used is None and state != "done")


def test_marks_made_before_reservations_were_written_count_with_the_longest_prompt_seen(tmp_path):
    store = Store(str(tmp_path))
    store.put_lines("sent/00000.jsonl", [encode({"key": key_of(i)}) for i in range(3)])
    store.put_lines("00000.jsonl", [encode(Answer("a", key_of(0), Completion("text", "stop", 700, 20)))])
    spent = total(entries(store, 4096))
    assert spent.known == Amount(1, 700, 20)
    assert spent.unknown == Amount(2, 1400, 8192)
    assert spent.possibly_paid == Answers(store).possibly_paid == 2


def test_a_request_sent_in_two_starts_and_answered_once_was_possibly_paid_once(tmp_path):
    for i in range(2):
        with Answers(Store(str(tmp_path))) as answers:
            answers.mark_sent([Mark(key_of(0), "r0", 50, 100)])
            if i:
                answers.record(Answer("r0", key_of(0), Completion("text", "stop", 10, 20)))
    assert Answers(Store(str(tmp_path))).possibly_paid == 1
    assert total(entries(Store(str(tmp_path)), 100)).at_most == Amount(2, 60, 120)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits__max_usd": 0}, r"limits\.max_usd: .*greater than 0, not 0"),
        ({"limits__max_usd": -1.5}, r"limits\.max_usd: .*-1\.5"),
        ({"limits__max_usd": float("inf")}, r"limits\.max_usd: .*finite"),
        ({"limits__max_usd": float("nan")}, r"limits\.max_usd"),
        ({"limits__max_tokens": 0}, r"limits\.max_tokens: .*equal to 1, not 0"),
        ({"limits__max_calls": -3}, "limits.max_calls"),
        ({"instructor__usd_per_million_input": -1}, "instructor.usd_per_million_input"),
        ({"limits__max_usd": 5}, r"max_usd = 5.*'rules'.*instructor\.usd_per_million_input and "
         r"instructor\.usd_per_million_output.*unknown_price_is_free"),
        ({"limits__max_usd": 5, "instructor__usd_per_million_input": 1}, r"Set instructor\.usd_per_million_output "),
    ],
)  # fmt: skip
def test_an_invalid_budget_is_refused_with_the_setting_to_change(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        job(tmp_path, **change)


def test_an_unknown_price_is_accepted_with_unknown_price_is_free_and_in_a_job_without_calls(tmp_path):
    assert job(tmp_path, limits__max_usd=5, limits__unknown_price_is_free=True).limits.max_usd == 5
    assert job(tmp_path, limits__max_usd=5, iterations=0).limits.max_usd == 5


def test_rates_are_those_of_the_last_minute():
    meter = Meter(0.0)
    for second in range(10):
        meter.add(float(second), 100)
    assert meter.per_minute(10.0) == (60.0, 6000.0)
    assert meter.per_minute(65.0) == (4.0, 400.0)
    assert meter.per_minute(200.0) == (0.0, 0.0)
