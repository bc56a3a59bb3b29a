"""Which limits hold: what several jobs name, and what a provider's headers say."""

from __future__ import annotations

import pytest

from lai_ray.config.settings import LimitSettings
from lai_ray.instructor.rate_limit.headers import NOTHING, Headers, Told, read, seconds
from lai_ray.instructor.rate_limit.limits import Limits, Terms


def test_headers_say_limit_and_what_is_left():
    said = read(
        {
            "x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "120ms", "x-ratelimit-remaining-tokens": "12",
        }
    )  # fmt: skip
    assert said == Headers(Told(500, 499), Told(None, 12))


@pytest.mark.parametrize("headers", [{}, {"x-ratelimit-limit-requests": "-1"}, {"x-ratelimit-limit-tokens": "many"}])
def test_headers_that_say_nothing_of_use(headers):
    assert read(headers) is None


def test_the_allowance_of_a_day_is_not_taken_for_that_of_a_minute():
    daily = {"x-ratelimit-limit-requests": "14400", "x-ratelimit-reset-requests": "2m59.56s"}
    assert read(daily) is None
    both = daily | {"x-ratelimit-limit-tokens": "6000", "x-ratelimit-reset-tokens": "7.66s"}
    assert read(both) == Headers(NOTHING, Told(6000, None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("120ms", 0.12), ("1.5s", 1.5), ("6m0s", 360), ("1h2m3s", 3723), ("12", 12), ("0s", 0), ("", 0), ("soon", 0)],
)  # fmt: skip
def test_how_providers_write_a_time(text, expected):
    assert seconds(text) == pytest.approx(expected)


def asks(terms: Terms, job: str, now: float, **limits: int) -> None:
    """Asks and is let through at once."""
    terms.enter(job, LimitSettings(**limits), now)
    terms.leave(job, now)


def test_the_lower_of_two_jobs_limits_holds_while_both_are_there():
    terms = Terms(60.0)
    asks(terms, "a", 0.0, requests_per_minute=100, tokens_per_minute=10, max_in_flight=4)
    asks(terms, "b", 1.0, requests_per_minute=50, tokens_per_minute=20, max_in_flight=8)
    assert terms.hold(2.0) == Limits(50, 10, 4)
    assert terms.hold(60.5) == Limits(50, 20, 8)
    assert terms.hold(1000.0) == Limits(50, 20, 8), "the last one that asked, when that was long ago"


def test_a_job_that_waits_for_long_is_still_there():
    terms = Terms(60.0)
    terms.enter("b", LimitSettings(requests_per_minute=50), 0.0)
    asks(terms, "a", 500.0, requests_per_minute=100)
    assert terms.hold(501.0).requests == 50
    terms.leave("b", 502.0)
    assert terms.hold(503.0).requests == 50
    asks(terms, "a", 570.0, requests_per_minute=100)
    assert terms.hold(570.0).requests == 100


def test_the_provider_lowers_a_named_limit_and_replaces_one_that_nobody_named():
    terms = Terms(60.0)
    asks(terms, "a", 0.0, requests_per_minute=100)
    assert terms.hold(1.0).tokens == LimitSettings().tokens_per_minute
    terms.tell(1000, 2_000_000)
    assert terms.hold(1.0) == Limits(100, 2_000_000, LimitSettings().max_in_flight)
    terms.tell(60, None)
    assert terms.hold(1.0).requests == 60
