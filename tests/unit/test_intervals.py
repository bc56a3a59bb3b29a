"""Intervals have the published values of their formulas."""

from __future__ import annotations

import math

import pytest

from lai_ray.common import intervals
from lai_ray.common.intervals import Interval


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_the_interval_of_a_score_is_wilsons(right, n, low, high):
    found = intervals.score(right, n)
    assert found.value == right / n
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_score_or_a_change_of_no_problems_is_refused():
    with pytest.raises(ValueError, match="no problem"):
        intervals.score(0, 0)
    with pytest.raises(ValueError, match="no problem"):
        intervals.paired({"a": True}, {"b": True})
    for empty in (intervals.mean_over, intervals.mean_of):
        with pytest.raises(ValueError, match=r"no \w+, no mean"):
            empty([])


def test_a_change_is_that_of_the_problems_answered_both_times():
    before = {"a": False, "b": False, "c": True, "d": True, "only before": True}
    after = {"a": True, "b": True, "c": False, "d": True, "only after": False}
    found = intervals.paired(before, after)
    half = 1.959964 * math.sqrt((3 / 4 - 1 / 16) * 4 / 3 / 4)
    assert found.value == 0.25
    assert (found.low, found.high) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))
    same = intervals.paired({"a": True}, {"a": True})
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("gained", "lost", "chance"), [(0, 0, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (3, 1, 0.625), (2, 2, 1.0)]
)
def test_the_sign_test_is_exact_and_two_sided(gained, lost, chance):
    assert intervals.sign_test(gained, lost) == pytest.approx(chance)


def test_the_mean_of_scores_has_the_joint_bounds_of_independent_ones():
    found = intervals.mean_over([Interval(0.5, 0.2, 0.6), Interval(0.7, 0.3, 1.0)])
    assert (found.value, found.low, found.high) == (
        pytest.approx(0.6), pytest.approx(0.6 - 0.25), pytest.approx(0.6 + math.sqrt(0.1) / 2)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("confidence", "freedom", "t"),
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 4, 2.776), (0.99, 9, 3.250), (0.9, 30, 1.697)],
)
def test_students_t_has_the_values_of_the_tables(confidence, freedom, t):
    assert intervals.t_of(confidence, freedom) == pytest.approx(t, abs=6e-4)


def test_the_mean_of_seeds_has_students_interval_and_one_seed_has_none():
    found = intervals.mean_of([0.1, 0.2, 0.6])
    half = 4.302653 * math.sqrt(0.07) / math.sqrt(3)
    assert (found.value, found.low, found.high) == (
        pytest.approx(0.3), pytest.approx(0.3 - half, abs=1e-5), pytest.approx(0.3 + half, abs=1e-5)
    )  # fmt: skip
    one = intervals.mean_of([0.4])
    assert (one.value, one.low, one.high) == (0.4, -math.inf, math.inf)
