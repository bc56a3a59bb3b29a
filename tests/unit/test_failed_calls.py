"""Calls that fail: the first alike end the stage early, some are never paid for again, and the way may be put right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.distributed import executor as ray_executor
from lai_ray.errors import ConfigError, StageError
from lai_ray.records import Answer, Completion, Request
from lai_ray.report import sections
from lai_ray.storage.run import Run
from tests.local import Crash, LocalExecutor, job

MANY = {"curate__samples_per_dataset": 600, "evaluate__max_train_problems": 150, "limits__max_in_flight": 4}
CUT_OFF = Completion("", "length", 10, 64, error="cut off at instructor.max_tokens = 64 before any text came")
REFUSED = Completion("", "error", error="400: request 17 of req_a1b2 is not to our taste")


class Failing(LocalExecutor):
    """Fails the requests that `failure` has a completion for."""

    def __init__(self, failure: Callable[[Request], Completion | None], **options: Any) -> None:
        super().__init__(**options)
        self.failure = failure

    def ask(self, requests: Any, *arguments: Any) -> Iterator[Answer]:
        given: dict[str, Request] = {}

        def drawn() -> Iterator[Request]:
            for request in requests:
                given[request.key] = request
                yield request

        for answer in super().ask(drawn(), *arguments):
            failed = self.failure(given[answer.key])
            yield answer if failed is None else Answer(answer.id, answer.key, failed, free=failed is REFUSED)

    @property
    def keys(self) -> set[str]:
        return {request.key for request in self.requests["ask"]}


def third(request: Request) -> bool:
    return int(request.key, 16) % 3 == 0


def usage(run: Run) -> dict[str, Any]:
    return run.store.get_json("iteration_0/instruct/usage.json")


def test_the_first_dozens_that_all_fail_alike_end_the_stage_in_the_providers_words(tmp_path):
    executor = Failing(lambda request: REFUSED)
    with pytest.raises(StageError, match=r"no more were sent: 400: .* not to our taste"):
        cli_run.run_job(job(tmp_path, **MANY), executor=executor)
    assert 24 <= executor.asked["ask"] <= 32
    again = LocalExecutor()
    cli_run.run_job(job(tmp_path, **MANY), executor=again, until="instruct")
    assert again.asked["ask"] > 60, "put right, the same command goes on"


def test_failures_in_other_words_or_that_the_job_allows_end_nothing_early(tmp_path):
    said = [Completion("", "error", error=f"400: I dislike {word}") for word in ("shells", "marbles")]
    mixed = Failing(lambda request: said[int(request.key, 16) % 2])
    with pytest.raises(StageError):
        cli_run.run_job(job(tmp_path, name="mixed", **MANY), executor=mixed)
    allowed = Failing(lambda request: REFUSED)
    cli_run.run_job(
        job(tmp_path, name="allowed", limits__max_failed_fraction=1.0, **MANY), executor=allowed, until="instruct"
    )
    assert min(mixed.asked["ask"], allowed.asked["ask"]) > 40


def test_one_answer_in_the_stage_is_enough_to_go_on_asking(tmp_path):
    answered: list[str] = []

    def all_but_the_first(request: Request) -> Completion | None:
        answered.extend([] if answered else [request.key])
        return None if request.key in answered else REFUSED

    executor = Failing(all_but_the_first)
    with pytest.raises(StageError):
        cli_run.run_job(job(tmp_path, **MANY), executor=executor)
    assert executor.asked["ask"] > 40


def test_a_cut_off_reply_without_text_is_paid_once_and_counts_as_failed_at_every_start(tmp_path):
    config = job(tmp_path, limits__max_failed_fraction=1.0)
    first = Failing(lambda request: CUT_OFF if third(request) else None, die_after={"ask": 12})
    with pytest.raises(Crash):
        cli_run.run_job(config, executor=first)
    cut = {request.key for request in first.requests["ask"] if third(request)}
    second = LocalExecutor()
    run = cli_run.run_job(config, executor=second).run
    assert len(cut) > 1 and second.requests["ask"]
    assert not cut & {request.key for request in second.requests["ask"]}
    figures = usage(run)
    assert figures["failed"] == len(cut)
    assert figures["calls"] == len(first.requests["ask"]) + len(second.requests["ask"]), "all were paid"


def test_too_many_of_them_stop_a_start_that_has_nothing_left_to_ask(tmp_path):
    config = job(tmp_path)
    first, second = Failing(lambda request: CUT_OFF if third(request) else None), LocalExecutor()
    for executor in (first, second):
        with pytest.raises(StageError, match=r"instructor\.max_tokens"):
            cli_run.run_job(config, executor=executor)
    assert first.asked["ask"] and not second.asked["ask"]


def test_other_failures_are_asked_again_at_the_next_start(tmp_path):
    first, second = Failing(lambda request: REFUSED if third(request) else None), LocalExecutor()
    with pytest.raises(StageError):
        cli_run.run_job(job(tmp_path), executor=first)
    cli_run.run_job(job(tmp_path), executor=second)
    assert {request.key for request in first.requests["ask"] if third(request)} <= {
        request.key for request in second.requests["ask"]
    }


def test_another_address_key_or_name_of_a_parameter_goes_on_and_repeats_nothing(tmp_path, monkeypatch):
    before = Failing(lambda request: REFUSED if third(request) else None)
    changes = {"instructor__base_url": "http://old/v1", "limits__max_failed_fraction": 1.0}
    run = cli_run.run_job(job(tmp_path, **changes), executor=before).run
    marker = run.store.get_json("iteration_0/instruct/done.json")
    monkeypatch.setenv("OTHER_KEY", "k")
    for put_right in (
        {"instructor__base_url": "http://new/v1"},
        {"instructor__api_key_env": "OTHER_KEY", "instructor__timeout": 9.0},
        {"instructor__parameters": {"max_tokens": "max_completion_tokens"}},
    ):
        again = LocalExecutor()
        cli_run.run_job(job(tmp_path, **(changes | put_right)), executor=again)
        assert not again.asked, put_right
    assert run.store.get_json("iteration_0/instruct/done.json") == marker, "failed calls are not repeated either"


def test_the_instructor_may_be_another_until_its_first_reply(tmp_path):
    failing = Failing(lambda request: REFUSED)
    with pytest.raises(StageError):
        cli_run.run_job(job(tmp_path, instructor__model="first"), executor=failing)
    other = {"instructor__model": "second", "instructor__max_tokens": 99, "instructor__temperature": 0.5}
    executor = LocalExecutor()
    cli_run.run_job(job(tmp_path, **other), executor=executor)
    assert executor.asked["ask"] and executor.asked["generate"] < 100, "the evaluation is kept"
    with pytest.raises(ConfigError, match=r"instructor\.temperature: 0\.5 there, 0\.8 now"):
        cli_run.run_job(job(tmp_path, **(other | {"instructor__temperature": 0.8})), executor=LocalExecutor())


def test_refusals_for_the_rate_limit_are_in_the_usage(tmp_path):
    class Limited(LocalExecutor):
        def ask(self, *arguments: Any) -> Iterator[Answer]:
            for answer in super().ask(*arguments):
                yield Answer(answer.id, answer.key, answer.completion, limited=2)

    executor = Limited()
    run = cli_run.run_job(job(tmp_path), executor=executor).run
    assert usage(run)["rate_limited"] == 2 * executor.asked["ask"]
    (table,) = sections.costs(run, 0.95)
    assert table.rows[0][table.columns.index("refused (429)")] == str(2 * executor.asked["ask"])


def test_a_request_is_not_booked_as_sent_where_ray_cannot_start(tmp_path, monkeypatch):
    def broken(config: Any) -> bool:
        raise StageError("Ray could not be started")

    monkeypatch.setattr(ray_executor, "start", broken)
    config, drawn = job(tmp_path), []
    asked = ray_executor.RayExecutor(config, None).ask(map(drawn.append, range(3)), config.instructor, config.limits)
    with pytest.raises(StageError, match="could not be started"):
        next(asked)
    assert not drawn
