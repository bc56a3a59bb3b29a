"""An open model as the instructor, on Ray: the target's engines, the instructor's requests, under a budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lai_ray.config.settings import InstructorSettings, LimitSettings
from lai_ray.distributed.executor import RayExecutor
from lai_ray.errors import DataError, StageError
from lai_ray.instructor.spending.budget import Budget, Caps
from lai_ray.instructor.spending.reserve import BudgetReservation
from lai_ray.instructor.spending.tokens import worst_case
from lai_ray.records import Answer, Request
from lai_ray.storage.answers import Answers
from lai_ray.storage.keys import key_of
from lai_ray.storage.store import Store
from tests.ray.test_session import config

SETTINGS = InstructorSettings(engine="scripted", model="toy", max_tokens=50)


def request(i: int, text: str = "") -> Request:
    return Request(f"p/{i}", key_of(i), [{"role": "user", "content": f"{i} plus 1 {text}"}], 50, 0.8, i)


def asked(requests: Iterator[Request | None], logs: str) -> Iterator[Answer]:
    executor = RayExecutor(config(cpus_per_replica=0.9, instructor_replicas=2, target_replicas=1), logs)
    yield from executor.ask(requests, SETTINGS, LimitSettings())
    executor.close()


def lifetimes(logs: str) -> int:
    return sum(path.read_text().count("engine ready") for path in Path(logs).glob("engine-*.log"))


def test_all_requests_that_may_be_drawn_run_in_one_lifetime_of_the_engines(logs):
    answers = {a.id: a for a in asked((request(i, "refuse this" if i == 3 else "") for i in range(300)), logs)}
    assert len(answers) == 300
    assert answers["p/7"].completion.text == "The answer is 8."
    assert [(a.id, a.free) for a in answers.values() if a.completion.error] == [("p/3", True)]
    assert lifetimes(logs) in (1, 2)  # One of the two may have answered all before the other started.


def test_waves_of_requests_stay_within_the_budget_and_every_answer_is_recorded(tmp_path, logs):
    worst = worst_case(request(0).messages, 50)
    with Answers(Store(str(tmp_path / "answers"))) as answers:
        # Room for five at their worst, and, since most use a fraction of that, for all of them in a few waves.
        reservation = BudgetReservation(
            Budget(Caps(tokens=5 * worst.tokens + 20)), answers, max_in_flight=64, marks=False
        )
        most = 0
        for answer in asked(reservation.draw(request(i) for i in range(12)), logs):
            most = max(most, len(reservation.in_flight))
            assert reservation.settle(answer)
        assert most == 5
        assert reservation.reached is None and not reservation.in_flight
        assert len(answers) == 12
    assert not [name for name in Store(str(tmp_path / "answers")).names() if name.startswith("sent/")]


def test_the_engines_own_error_ends_the_stage(logs):
    with pytest.raises(DataError, match="fault: break"):
        list(asked(iter([request(1), request(2, "break the engine")]), logs))


def test_engines_that_cannot_be_placed_are_named_as_the_instructors(logs):
    executor = RayExecutor(config(cpus_per_replica=3.0, instructor_replicas=1, stall_seconds=3), logs)
    with pytest.raises(StageError, match=r"^instruct: .*3 s, after 0 results.*3 CPU"):
        list(executor.ask(iter([request(0)]), SETTINGS, LimitSettings()))
    executor.close()
