"""Whatever comes from a provider is an answer, a retry or the end of the run, and costs what it was billed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lai_ray.config.settings import InstructorSettings
from lai_ray.contracts import Answered, Fatal, Outcome, Retry
from lai_ray.instructor.provider.replies import Reader, retry_after
from lai_ray.records import Completion


def read(body: Any, status: int = 200, headers: dict[str, str] | None = None, **names: str) -> Outcome:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    settings = InstructorSettings(model="m", max_tokens=48)
    return Reader(settings, names, lambda message: message).outcome(status, data, headers or {})


def chat(content: Any, reason: str = "stop", usage: Any = (7, 5), **message: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]} if isinstance(usage, tuple) else usage
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": reason}], "usage": counts}


def completion(body: Any, **options: Any) -> Completion:
    outcome = read(body, **options)
    assert isinstance(outcome, Answered)
    return outcome.completion


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "one "}, {"type": "output_text", "text": "two"}], "one two"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "reasoning", "text": "hm"}, {"text": "said"}], "said"),
        (["a", {"type": "text", "text": {"value": "b"}}], "ab"),
        ({"type": "text", "text": "alone"}, "alone"),
        ("half a \ud83d pair", "half a ? pair"),
    ],
)
def test_the_text_parts_of_a_reply_are_joined_and_thoughts_left_out(content, text):
    assert completion(chat(content)) == Completion(text, "stop", 7, 5)


@pytest.mark.parametrize(
    "body",
    [
        {}, [], [3], "hello", None, 5, {"choices": []}, {"choices": None}, {"choices": "x"}, {"choices": [None]},
        {"choices": [{"message": None}]}, {"choices": [{"message": "text"}]},
        {"choices": [{"message": {"content": 3}}]},
        {"result": "ok"}, b"<html><body>It works!</body></html>", b"data: {}\n\n", b"upstream error", b"\xff\xfe\x00",
    ],
)  # fmt: skip
def test_what_nobody_foresaw_fails_its_own_row_with_a_quote_and_costs_nothing(body):
    outcome = read(body)
    assert isinstance(outcome, Answered) and outcome.free
    shown = body if isinstance(body, bytes) else json.dumps(body).encode()
    begins = repr(shown.decode(errors="replace"))[1:8]
    assert outcome.completion.error.startswith("not a chat completion: ")
    assert begins in outcome.completion.error
    assert len(outcome.completion.error) < 250


def test_a_page_instead_of_json_names_the_address():
    assert "instructor.base_url" in completion(b"<html></html>").error
    assert "instructor.base_url" not in completion({"choices": []}).error


def test_tokens_beside_an_odd_reply_are_counted():
    outcome = read({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}})
    assert isinstance(outcome, Answered) and not outcome.free
    assert (outcome.completion.prompt_tokens, outcome.completion.completion_tokens) == (9, 4)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (None, (0, 0)),
        ([], (0, 0)),
        ({}, (0, 0)),
        ({"prompt_tokens": -3, "completion_tokens": 5}, (0, 0)),
        ({"prompt_tokens": None, "completion_tokens": 5}, (0, 0)),
        ({"prompt_tokens": "8", "completion_tokens": 5}, (0, 0)),
        ({"prompt_tokens": 8, "completion_tokens": True}, (0, 0)),
        ({"prompt_tokens": 8.0, "completion_tokens": 0}, (8, 0)),
        ({"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}, (8, 5)),
        ({"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 63}, (8, 55)),
        ({"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": "many"}, (8, 5)),
    ],
)
def test_tokens_are_counted_both_or_not_at_all_and_thoughts_are_in_the_total(usage, counts):
    found = completion(chat("hi", usage=usage))
    assert (found.prompt_tokens, found.completion_tokens) == counts
    assert (found.text, found.error) == ("hi", None)


def error(message: str, code: Any = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, **more}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, error("Your wallet is empty", 402)),
        (200, error("Your wallet is empty", "402")),
        (200, error("Pay first", "insufficient_quota")),
        (200, error("No such user", 401)),
        (200, error("not known", "invalid_api_key")),
        (200, {"error": "Insufficient credits on this account"}),
        (400, [error("API key not valid", 400, status="INVALID_ARGUMENT")]),
        (400, [error("Bad", 400, details=[{"reason": "API_KEY_INVALID"}])]),
        (400, error("Your credit balance is too low for this request")),
        (403, error("The API key has expired")),
        (422, error("Incorrect API key provided")),
        (429, error("Spent", type="insufficient_quota")),
        (400, error("nothing of that name", "model_not_found")),
        (200, {"choices": [{"finish_reason": "error", "error": {"code": 402, "message": "empty"}}]}),
    ],
)
def test_an_empty_account_a_bad_key_or_model_ends_the_run_under_any_status_and_costs_nothing(status, body):
    outcome = read(body, status)
    assert isinstance(outcome, Fatal) and outcome.free
    told = body[0] if isinstance(body, list) else body
    told = told["choices"][0] if "choices" in told else told
    words = told["error"] if isinstance(told["error"], str) else told["error"]["message"]
    assert words in outcome.message and "?" in outcome.message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, error("This input was flagged by moderation")),
        (400, error("Blocked by the content filter: 'her account balance is too low'", "content_filter")),
        (400, error("Flagged: 'The API key is not valid, said Tom'")),
        (400, error("The prompt has 9,000 tokens, more than the limit")),
        (413, error("Too long")),
        (200, error("Something is odd")),
        (200, {"detail": "Nobody knows"}),
        (200, error("No", 400)),
    ],
)
def test_an_error_of_one_prompt_fails_its_own_row_in_the_providers_words(status, body):
    outcome = read(body, status)
    assert isinstance(outcome, Answered) and outcome.free
    assert (body["error"]["message"] if "error" in body else body["detail"]) in outcome.completion.error


@pytest.mark.parametrize(
    ("status", "body", "limited", "free"),
    [
        (200, error("Slow down", 429), True, True),
        (200, error("Slow down", "rate_limit_exceeded"), True, True),
        (200, {"error": "Rate limit reached"}, True, True),
        (429, [error("You exceeded your current quota, retry in 20 s", 429, status="RESOURCE_EXHAUSTED")], True, True),
        (200, error("Behind us something failed", 502), False, True),
        (200, error("The model is overloaded, try again"), False, True),
        (500, error("Oh"), False, True),
        (504, error("The model took too long"), False, False),
        (408, b"", False, False),
        (500, {**error("Half way"), "usage": {"prompt_tokens": 5, "completion_tokens": 2}}, False, False),
        (200, b'{"choices": [{"mess', False, False),
        (200, b"", False, False),
    ],
)
def test_what_may_succeed_later_is_tried_again_and_free_unless_it_may_be_billed(status, body, limited, free):
    outcome = read(body, status)
    assert isinstance(outcome, Retry)
    assert (outcome.limited, outcome.free, outcome.reached) == (limited, free, True)


@pytest.mark.parametrize("reason", ["error", "network_error", "insufficient_system_resource"])
def test_half_a_reply_that_its_provider_broke_off_is_tried_again_and_never_kept(reason):
    outcome = read(chat("1. Question: How many", reason))
    assert isinstance(outcome, Retry) and not outcome.free and reason in outcome.why


def test_an_error_beside_a_choice_counts_for_more_than_its_text():
    body = chat("1. Question: How many")
    body["choices"][0]["error"] = {"code": 503, "message": "went away"}
    outcome = read(body)
    assert isinstance(outcome, Retry) and outcome.why == "503: went away"


@pytest.mark.parametrize("content", [None, "", "  ", "<think>Let me see, first", []])
def test_a_reply_without_text_that_was_cut_off_names_the_setting_and_is_final(content):
    found = completion(chat(content, "length", reasoning_content="Let me see"))
    assert "instructor.max_tokens = 48" in found.error and found.final


def test_half_a_text_that_was_cut_off_is_kept():
    found = completion(chat("1. Question: How", "length"))
    assert found.error is None and not found.final


def test_an_empty_reply_may_be_asked_for_again_and_says_where_its_text_went():
    found = completion(chat("", reasoning="All of it is here."))
    assert "reasoning" in found.error and not found.final
    assert completion(chat("")).error == "the reply is empty"


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "sensitive"])
def test_a_filtered_reply_is_final_and_a_refusal_in_a_part_is_one(reason):
    found = completion(chat(None, reason))
    assert "content filter" in found.error and found.final
    assert completion(chat([{"type": "refusal", "refusal": "I will not"}])).error == "refused: I will not"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-limit-requests": "0", "x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "0"},
        {"x-ratelimit-limit-tokens": "9" * 5000},
        {"x-ratelimit-limit-tokens": "1e3", "x-ratelimit-limit-requests": "60, 60;w=60"},
        {"x-ratelimit-limit-tokens": "²", "x-ratelimit-limit-requests": ""},
    ],
)
def test_a_limit_that_is_none_says_nothing(headers):
    outcome = read(chat("hi"), headers=headers)
    assert isinstance(outcome, Answered) and outcome.limits is None


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "nan"}, {"retry-after-ms": "inf"}, {"retry-after": "-3"}, {"retry-after": "²"},
        {"retry-after": "Mon, 01 Jan 99999 00:00:00 GMT"}, {"retry-after-ms": "soon"},
    ],
)  # fmt: skip
def test_a_wait_that_is_none_says_nothing(headers):
    assert retry_after(headers) is None
    assert retry_after({"retry-after-ms": "soon", "retry-after": "4"}) == 4.0
