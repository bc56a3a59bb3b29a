"""The comparison of two engines' texts: where they part, and how likely the two tokens were there."""

from __future__ import annotations

from tests.perf.exported import compared

OURS = {"texts": ["2", "2 +", "2 + 3"], "gaps": [5.0, 0.0004, 4.0]}


def test_the_same_text_has_no_gap():
    assert compared("2 + 3", OURS) is None


def test_the_gap_is_that_of_the_first_token_that_is_not_shared():
    assert compared("2 - 3", OURS) == 0.0004
    assert compared("7", OURS) == 5.0


def test_a_text_that_ends_too_soon_parts_where_the_other_goes_on():
    assert compared("2 +", OURS) == 4.0


def test_a_text_that_goes_on_parts_at_the_end_of_the_other():
    assert compared("2 + 3 = 5", OURS) == 4.0
