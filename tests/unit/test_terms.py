"""The rate limits that apply: those of several jobs, and those in a provider's headers."""

from __future__ import annotations

import pytest

from lai_ray.config.settings import LimitSettings
from lai_ray.instructor.rate_limit.headers import UNKNOWN, Headers, RateLimit, read, seconds
from lai_ray.instructor.rate_limit.limits import Limits, SharedLimits


def test_headers_report_the_limit_and_what_is_left():
    result = read(
        {
            "x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "120ms", "x-ratelimit-remaining-tokens": "12",
        }
    )  # fmt: skip
    assert result == Headers(RateLimit(500, 499), RateLimit(None, 12))


@pytest.mark.parametrize("headers", [{}, {"x-ratelimit-limit-requests": "-1"}, {"x-ratelimit-limit-tokens": "many"}])
def test_headers_without_a_usable_limit(headers):
    assert read(headers) is None


def test_a_limit_per_day_is_not_taken_for_one_per_minute():
    daily = {"x-ratelimit-limit-requests": "14400", "x-ratelimit-reset-requests": "2m59.56s"}
    assert read(daily) is None
    both = daily | {"x-ratelimit-limit-tokens": "6000", "x-ratelimit-reset-tokens": "7.66s"}
    assert read(both) == Headers(UNKNOWN, RateLimit(6000, None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("120ms", 0.12), ("1.5s", 1.5), ("6m0s", 360), ("1h2m3s", 3723), ("12", 12), ("0s", 0), ("", 0), ("soon", 0)],
)  # fmt: skip
def test_how_providers_write_a_time(text, expected):
    assert seconds(text) == pytest.approx(expected)


def asks(limits: SharedLimits, job: str, now: float, **settings: int) -> None:
    """Waits for a permit and gets it at once."""
    limits.enter(job, LimitSettings(**settings), now)
    limits.leave(job, now)


def test_the_lower_of_two_jobs_limits_holds_while_both_are_there():
    limits = SharedLimits(60.0)
    asks(limits, "a", 0.0, requests_per_minute=100, tokens_per_minute=10, max_in_flight=4)
    asks(limits, "b", 1.0, requests_per_minute=50, tokens_per_minute=20, max_in_flight=8)
    assert limits.current(2.0) == Limits(50, 10, 4)
    assert limits.current(60.5) == Limits(50, 20, 8)
    assert limits.current(1000.0) == Limits(50, 20, 8), "the last job that asked, when that was long ago"


def test_a_job_that_waits_for_long_is_still_there():
    limits = SharedLimits(60.0)
    limits.enter("b", LimitSettings(requests_per_minute=50), 0.0)
    asks(limits, "a", 500.0, requests_per_minute=100)
    assert limits.current(501.0).requests == 50
    limits.leave("b", 502.0)
    assert limits.current(503.0).requests == 50
    asks(limits, "a", 570.0, requests_per_minute=100)
    assert limits.current(570.0).requests == 100


def test_the_provider_lowers_a_limit_of_a_job_and_replaces_a_default():
    limits = SharedLimits(60.0)
    asks(limits, "a", 0.0, requests_per_minute=100)
    assert limits.current(1.0).tokens == LimitSettings().tokens_per_minute
    limits.observe(1000, 2_000_000)
    assert limits.current(1.0) == Limits(100, 2_000_000, LimitSettings().max_in_flight)
    limits.observe(60, None)
    assert limits.current(1.0).requests == 60
