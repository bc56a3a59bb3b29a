"""`make bench`: benches are found by import, and a ratio's interval says what it is worth."""

from __future__ import annotations

import random
import statistics

import pytest

from tests.conftest import keep_durations
from tests.perf.bench import Figure, benches, interval, line_of, table


def test_every_file_is_a_bench():
    assert {"generation", "ray_data_llm"} <= set(benches())


def test_seven_pairs_give_the_whole_range_and_nine_leave_out_the_extremes():
    assert interval([5, 3, 1, 2, 7, 6, 4]) == interval([1, 2, 3, 4, 5, 6, 7])
    seven, nine = interval([1, 2, 3, 4, 5, 6, 7]), interval(range(1, 10))
    assert (seven.low, seven.high, round(seven.confidence, 3)) == (1, 7, 0.984)
    assert (nine.low, nine.high, round(nine.confidence, 3)) == (2, 8, 0.961)


def test_too_few_pairs_say_how_little_they_are_worth():
    assert interval([1, 2, 3]).confidence == pytest.approx(0.75)
    assert interval([1]).confidence == 0


def test_the_interval_holds_the_median_as_often_as_it_says():
    rng = random.Random(0)
    found = [interval([rng.gauss(1, 0.1) for _ in range(11)]) for _ in range(4000)]
    assert statistics.mean(i.low <= 1 <= i.high for i in found) == pytest.approx(found[0].confidence, abs=0.015)


def test_a_line_holds_the_median_of_the_pairs_ratios():
    line = line_of(Figure("speed", "tokens/s", values=[90, 50, 100], baselines=[100, 100, 100], reach="≥ 0.95"))
    assert (line["value"], line["baseline"], line["ratio"], line["low"], line["high"]) == (90, 100, 0.9, 0.5, 1.0)
    assert line["pairs"] == 3 and line["ratios"] == [0.9, 0.5, 1.0]
    assert "0.900" in table([line]) and "≥ 0.95" in table([line])


def test_durations_are_kept_the_longest_first_and_the_last_of_each(tmp_path):
    path = tmp_path / "durations.tsv"
    keep_durations({"a::one": 1.0, "b::two[x y]": 3.5}, path)
    keep_durations({"a::one": 5.25, "c::three": 0.001}, path)
    assert path.read_text() == "5.25\ta::one\n3.50\tb::two[x y]\n0.00\tc::three\n"
