"""The outcomes of calls to an OpenAI-compatible server: one attempt per call, over HTTP on loopback."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from lai_ray.config.settings import InstructorSettings
from lai_ray.contracts import Answered, Fatal, Retry
from lai_ray.engines import openai as engine
from lai_ray.engines.openai import OpenAIEngine
from lai_ray.errors import ConfigError
from lai_ray.instructor.provider.replies import retry_after
from lai_ray.records import Request
from tests import provider


def request(text: str = "hello", seed: int | None = 7) -> Request:
    return Request("p/0@0.0", "key", [{"role": "user", "content": text}], 64, 0.8, seed)


def outcome_of(base_url: str, request: Request, **settings):
    async def once():
        return await OpenAIEngine(InstructorSettings(model="m", **settings), base_url).call(request)

    return asyncio.run(once())


def after(fault: str, **settings):
    with provider.serve(fault=lambda number, body: fault) as p:
        outcome = outcome_of(p.base_url, request(), **settings)
        assert len(p.log) == 1, "one call is one attempt"
    return outcome


def test_a_good_reply_keeps_its_text_its_reason_and_its_tokens():
    with provider.serve(reply_tokens=12) as p:
        outcome = outcome_of(p.base_url, request("12345678"))
    completion = outcome.completion
    assert completion.text == "echo: 12345678"
    assert (completion.finish_reason, completion.error) == ("stop", None)
    assert (completion.prompt_tokens, completion.completion_tokens) == (2, 12)


def test_model_messages_temperature_limit_and_seed_are_sent():
    with provider.serve() as p:
        outcome_of(p.base_url, request())
        outcome_of(p.base_url, request(seed=None))
    messages = [{"role": "user", "content": "hello"}]
    assert p.log[0].body == {"model": "m", "messages": messages, "temperature": 0.8, "max_tokens": 64, "seed": 7}
    assert "seed" not in p.log[1].body


@pytest.mark.parametrize("fault", ["401", "403", "404", "no credit"])
def test_an_error_of_every_request_is_fatal_with_the_providers_message(fault):
    outcome = after(fault)
    assert isinstance(outcome, Fatal)
    message = "You exceeded your quota." if fault == "no credit" else provider.WORDS[int(fault)]
    assert message in outcome.message
    assert "?" in outcome.message, "no advice"


@pytest.mark.parametrize("fault", ["408", "409", "429", "500", "502", "503", "broken JSON", "hang up"])
def test_a_temporary_error_is_worth_another_attempt(fault):
    outcome = after(fault)
    assert isinstance(outcome, Retry)
    assert outcome.reached
    assert outcome.limited == (fault == "429")


def test_the_wait_that_a_provider_asks_for_is_returned():
    assert after("429 after 2.5").after == 2.5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_a_wait_is_seconds_milliseconds_or_a_date(headers, seconds):
    assert retry_after(headers, now=10.0) == seconds


@pytest.mark.parametrize(
    ("fault", "error"),
    [("400", "400: This model's maximum context length"), ("refused", "refused: I cannot"), ("empty", "is empty")],
)
def test_an_error_of_this_request_alone_is_an_answer_with_an_error(fault, error):
    outcome = after(fault)
    assert isinstance(outcome, Answered)
    assert error in outcome.completion.error


def test_a_reply_cut_off_by_length_is_kept():
    completion = after("cut off").completion
    assert completion.finish_reason == "length"
    assert completion.error is None


def test_a_hanging_server_is_abandoned_after_the_timeout():
    outcome = after("hang", timeout=0.3)
    assert outcome == Retry("timeout after 0.3 s")


def test_a_closed_port_is_not_reached():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outcome = outcome_of(f"http://127.0.0.1:{port}/v1", request())
    assert isinstance(outcome, Retry)
    assert not outcome.reached


def test_the_key_comes_from_the_named_variable(monkeypatch):
    monkeypatch.setenv("LAI_TEST_KEY", "secret-123\n")
    with provider.serve() as p:
        outcome_of(p.base_url, request(), api_key_env="LAI_TEST_KEY")
        outcome_of(p.base_url, request())
    assert [seen.key for seen in p.log] == ["secret-123", "none"]


def test_a_key_in_a_providers_message_is_removed(monkeypatch):
    monkeypatch.setenv("LAI_TEST_KEY", "secret-123")
    monkeypatch.setitem(provider.WORDS, 401, "Incorrect key secret-123 provided.")
    outcome = after("401", api_key_env="LAI_TEST_KEY")
    assert "Incorrect key *** provided." in outcome.message
    assert "LAI_TEST_KEY" in outcome.message


def test_an_unset_key_is_an_error_before_anything_starts(monkeypatch):
    monkeypatch.delenv("LAI_TEST_KEY", raising=False)
    settings = InstructorSettings(model="m", api_key_env="LAI_TEST_KEY")
    with pytest.raises(ConfigError, match=r"instructor\.api_key_env.*LAI_TEST_KEY.*export LAI_TEST_KEY"):
        engine.check(settings)
    monkeypatch.setenv("LAI_TEST_KEY", "k")
    engine.check(settings)
    engine.check(InstructorSettings(model="m"))


def test_a_key_that_cannot_be_sent_is_an_error_that_does_not_show_it(monkeypatch):
    monkeypatch.setenv("LAI_TEST_KEY", "schlüssel")
    with pytest.raises(ConfigError, match="LAI_TEST_KEY") as error:
        engine.check(InstructorSettings(model="m", api_key_env="LAI_TEST_KEY"))
    assert "schl" not in str(error.value)


def test_the_seconds_of_a_call_count_from_when_it_was_sent():
    """Many calls that start at once are sent one after the other; the wait of the last must not count."""

    async def many() -> tuple[list[float], float]:
        client = OpenAIEngine(InstructorSettings(model="m"), p.base_url)
        began = time.monotonic()
        outcomes = await asyncio.gather(*(client.call(request(str(i))) for i in range(40)))
        return [outcome.seconds for outcome in outcomes], time.monotonic() - began

    with provider.serve(latency=0.3) as p:
        each, whole = asyncio.run(many())
    assert all(0.3 <= seconds <= whole for seconds in each)
    assert len({round(seconds, 6) for seconds in each}) > 1
    assert after("500").seconds is not None and after("401").seconds is not None


def test_a_prompt_that_cannot_be_sent_fails_its_own_row():
    with provider.serve() as p:
        outcome = outcome_of(p.base_url, request("half a \ud83d pair"))
    assert isinstance(outcome, Answered) and outcome.free
    assert "cannot be sent" in outcome.completion.error and not p.log


def test_parameters_are_sent_under_the_servers_names():
    with provider.serve() as p:
        outcome_of(p.base_url, request(), parameters={"max_tokens": "max_completion_tokens", "seed": "random_seed"})
        outcome_of(p.base_url, request(), parameters={"temperature": ""})
    first, second = ({key for key in seen.body if key not in ("model", "messages")} for seen in p.log)
    assert first == {"max_completion_tokens", "random_seed", "temperature"} and second == {"max_tokens", "seed"}
    assert p.log[0].body["max_completion_tokens"] == 64


def test_a_limit_of_a_reply_may_be_renamed_but_not_left_out():
    with pytest.raises(ValueError, match="max_tokens"):
        InstructorSettings(model="m", parameters={"max_tokens": ""})
    with pytest.raises(ValueError, match="top_p"):
        InstructorSettings(model="m", parameters={"top_p": ""})
