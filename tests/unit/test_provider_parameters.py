"""A parameter that a server refuses is learned from its first refusal, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from lai_ray.contracts import Answered, Retry
from tests.unit.test_provider_replies import error, read

NEW_NAME = {"max_tokens": "max_completion_tokens"}
LEFT_OUT = {"seed": ""}
AS_IT_IS = {"temperature": ""}


@pytest.mark.parametrize(
    ("status", "body", "names"),
    [
        (400, error("Unsupported: 'max_tokens'. Use 'max_completion_tokens'.", "unsupported_parameter"), NEW_NAME),
        (400, error("Not for this model", "unsupported_parameter", param="max_tokens"), NEW_NAME),
        (400, error("max_tokens is not supported here; send max_completion_tokens instead"), NEW_NAME),
        (400, error("Upstream failed", 400, metadata={"raw": "'max_tokens' is not supported with o9"}), NEW_NAME),
        (200, error("Unsupported parameter: 'max_tokens'", 400), NEW_NAME),
        (400, error("Only the default (1) value is supported", "unsupported_value", param="temperature"), AS_IT_IS),
        (400, error("temperature must be 1"), AS_IT_IS),
        (400, error("invalid temperature: only 1 is allowed for this model"), AS_IT_IS),
        (400, error("`temperature` is deprecated for this model."), AS_IT_IS),
        (422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 7}]}, LEFT_OUT),
        (422, {"message": {"detail": [{"loc": ["body", "seed"], "msg": "extra fields", "type": "extra"}]}}, LEFT_OUT),
        (400, [error('Unknown name "seed": Cannot find field.', 400, status="INVALID_ARGUMENT")], LEFT_OUT),
        (400, error("Unrecognized request argument supplied: seed"), LEFT_OUT),
        (400, {"message": 'json: unknown field "seed"'}, LEFT_OUT),
        (422, {"detail": "Additional properties are not allowed ('seed' was unexpected)"}, LEFT_OUT),
        (500, error("generate() got an unexpected keyword argument 'seed'"), LEFT_OUT),
        (
            422,
            {"detail": [{"loc": ["body", "seed"], "msg": "Extra"}, {"loc": ["body", "temperature"], "msg": "Extra"}]},
            LEFT_OUT | AS_IT_IS,
        ),
    ],
)  # fmt: skip
def test_a_refusal_that_names_a_parameter_is_learned_from_and_costs_nothing(status, body, names):
    outcome = read(body, status)
    assert isinstance(outcome, Retry)
    assert (outcome.parameters, outcome.free) == (names, True)


@pytest.mark.parametrize(
    ("body", "setting"),
    [
        (error("max_tokens is too large: 9000. At most 4096 are supported", param="max_tokens"), "max_tokens"),
        (error("'max_tokens' or 'max_completion_tokens' is too large for the context of 2048"), "max_tokens"),
        (error("temperature must be between 0 and 1"), "temperature"),
        (error("`temperature` must be strictly positive"), "temperature"),
        ({"detail": [{"loc": ["body", "temperature"], "msg": "should be less than or equal to 1"}]}, "temperature"),
    ],
)
def test_a_value_that_a_server_does_not_allow_is_the_users_to_change_and_names_the_setting(body, setting):
    outcome = read(body, 400)
    assert isinstance(outcome, Answered) and outcome.free
    assert f"instructor.{setting}" in outcome.completion.error


@pytest.mark.parametrize(
    "body",
    [
        error("The prompt was flagged: 'A seed is not allowed to freeze'"),
        {"detail": [{"loc": ["body", "messages"], "msg": "should be text", "input": "seed is not supported"}]},
        error("The conversation about seeds and temperatures is too long"),
        error("Invalid role"),
        error("top_p is not supported"),
    ],
)
def test_an_error_about_something_else_is_no_lesson(body):
    outcome = read(body, 400)
    assert isinstance(outcome, Answered) and outcome.completion.error


def test_a_parameter_under_its_last_name_is_not_renamed_again():
    refused = error("Unsupported parameter: 'max_completion_tokens'", "unsupported_parameter")
    outcome: Any = read(refused, 400, max_tokens="max_completion_tokens")
    assert isinstance(outcome, Answered) and "instructor.parameters" in outcome.completion.error
    assert isinstance(read(error("'seed' is unsupported"), 400, seed=""), Answered), "it was not sent"
