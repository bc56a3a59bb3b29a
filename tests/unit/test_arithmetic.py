"""The arithmetic of a worked solution is checked in every notation."""

from __future__ import annotations

import time

import pytest

from lai_ray.grading.arithmetic_check import false_statements
from tests.perf import arithmetic


@pytest.mark.parametrize(
    "text",
    [
        "3 bags of 4: 3 * 4 = 12 plums, and 12 - 2 = 10 are left.",
        "$1,200 + $300 = $1,500",
        "2.5 x 4 = 10.0",
        "20% of 50 = 10, and 20/100 = 20%",
        "100% - 25% = 75%",
        "5 + 3 = 8 * 2 = 16",
        "2 + 2 * 3 = 2 + 6 = 8",
        "2(3 + 4) = 14 and (20-10)/2=5",
        "6 pounds / (1/4 pound per skewer) = 24 skewers",
        "6 / 1/4 = 24",
        "2 1/2 * 4 = 10",
        "10 / 3 = 3.33 and 10 / 3 = 3",
        "25 cents * 4 = $1",
        "2 hours x 60 minutes/hour = 120 minutes",
        "2 hours * 3 = 360 minutes",
        "$3.25 (sandwich) + $1.25 (water) = $4.50",
        "half of 10 + 2 = 7",
        "1/4 cup = 60 grams",
        "x + 5 = 20, so x = 20 - 5 = 15",
        "Price = Cost * 3",
        "7 million * 2 = 14 million and 3 dozen * 2 = 72",
        "Total cost\n= 9 * 4\n= 36",
        r"\[3 \times 200 + 25 = 600 + 25 = \boxed{625}\]",
        r"\frac{1}{2} \times 10 = 5",
        "5 km at 6:30 + 45 = 7:15",
        "1 / 0 = 3",
        "2 ^ 99999999 = 1",
        "The code is a == b, and 3 != 4, 3 + 1 >= 2",
        "2 + 3 != 6, 2 + 3 <= 6, 2 * 3 == 7",
        "10 / 4 = 3 and 10 / 4 = 2, 1 / 8 = 13% and 1 / 8 = 12%",
        "6 / 2/3 = 9 and 6 / 2/3 = 1",
        "20 + 5 = 25 * 2 = 50",
        "180 * 2/3 = 180 * 0.6667",
        "2 ^ 3 = 8 and 2 ^ 21 = 5 and 2 ^ -1 = 5 and 2 - 3 = -1",
        "3 * 2 ^ 21 = 5 and 3 + 2 ^ 0.5 = 5",
        "7 + 7 = 2 * (3 + 4)",
        "50 cents * 3 = $1.50",
        "3 feet * 2 = 72 inches",
        "1 hour + 20 minutes = 21",
        "60 minutes = 2 hours",
        "25 minutes * 3 = 5 pages * 3",
        "1/4 of the total = 16",
        "12 more than 3 * 4 = 25",
        "twice 3 * 4 = 25",
        "one third of 3 * 4 = 5",
        "3 of 30 = 11",
        "5 3-point shots * 2 = 11",
        "8 + Semester 2 = 11",
        "8 + minutes in 8 = 17",
        "3 (x) * 2 = 7",
        "2.5 1/2 * 4 = 11",
        "2 * 3 = 6)",
        "12 = 13",
        "5 + 7 = 12 = 13 apples",
        "5 + 7 = 12 boxes = 13",
        "5 + 7 = 12 = $13",
        "5 + 7 = 12 = 13%",
        "3 am + 4 = 8",
        "3 percent * 4 = 13",
        "10:30 + 4 = 13",
        "1.2.3 + 4 = 13",
        "5 + = 3",
        "5 - 3 apples - left = 1",
        "5 - 3 = 3 * easy",
        "123456789012345678901 + 1 = 3",
    ],
)
def test_a_true_or_undecidable_statement_is_not_reported(text):
    assert false_statements(text) == []


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("So 3 * 4 = 13 plums.", "3 * 4 = 13"),
        ("$1,200 + $300 = $1,600", "$1,200 + $300 = $1,600"),
        ("20% of 50 = 11", "20% of 50 = 11"),
        ("2 + 2 * 3 = 2 + 6 = 9", "2 + 6 = 9"),
        ("2 hours x 60 minutes/hour = 130 minutes", "2 hours x 60 minutes/hour = 130"),
        ("- **8 apples + Ana's 5 = 12 apples**", "8 apples + Ana's 5 = 12"),
        ("Total cost\n= 9 * 4\n= 35", "9 * 4 = 35"),
        (r"\(600 \div 25 = 25\)", "600 / 25 = 25"),
        ("10 / 3 = 3.34", "10 / 3 = 3.34"),
        ("12 * 5 = 60 = 61", "60 = 61"),
        ("25 cents * 4 = $2", "25 cents * 4 = $2"),
        ("9 multiplied by 3 = 26", "9 multiplied by 3 = 26"),
        ("9 divided by (2 + 1) = 4", "9 divided by (2 + 1) = 4"),
        ("7 times 3 = 22", "7 times 3 = 22"),
        ("1/2 of 30 = 16", "1/2 of 30 = 16"),
        ("7 minus 3 = 5", "7 minus 3 = 5"),
        ("3 thousand + 1 = 3002", "3 thousand + 1 = 3002"),
        ("40 cm^3 + 2 = 43", "40 cm + 2 = 43"),
        ("3(4 + 1) = 16", "3(4 + 1) = 16"),
        ("3 miles (4 + 1) = 16", "(4 + 1) = 16"),
        ("-3 + 5 = 3", "-3 + 5 = 3"),
        ("3 (apples) * 2 = 7", "3 (apples) * 2 = 7"),
        (") 3 * 2 = 7", "3 * 2 = 7"),
        ("( 3 * 2 = 7", "3 * 2 = 7"),
        ("2 1/2 * 4 = 11", "2 1/2 * 4 = 11"),
        ("10 miles - 2 = 9", "10 miles - 2 = 9"),
        ("all of 3 * 4 = 13", "3 * 4 = 13"),
        ("8 + Riley's 5 = 14", "8 + Riley's 5 = 14"),
        ("8 + her original 98 = 107", "8 + her original 98 = 107"),
        ("25 pages * 3 = 5 pages * 3", "25 pages * 3 = 5 pages * 3"),
        ("1 / 4 cup = 15 grams", "1 / 4 cup = 15"),
        ("20 + 5 = 25 * 2 = 51", "25 * 2 = 51"),
        ("20 + 5 = 24 * 2 = 48", "20 + 5 = 24 * 2"),
        ("180 * 2/3 = 180 * 0.668", "180 * 2/3 = 180 * 0.668"),
        ("10 / 3 = 3.4", "10 / 3 = 3.4"),
        ("10 / 4 = 4", "10 / 4 = 4"),
        ("10 / 4 = 1", "10 / 4 = 1"),
        ("1 / 8 = 14%", "1 / 8 = 14%"),
        ("3 feet * 2 = 73 inches", "3 feet * 2 = 73"),
        ("2 ^ 20 = 5", "2 ^ 20 = 5"),
        ("6 / 2 / 3 = 2", "6 / 2 / 3 = 2"),
        ("12345678901234567890 + 1 = 3", "12345678901234567890 + 1 = 3"),
        (r"\text{cost} 3 \cdot 2 = 7", "3 * 2 = 7"),
        (r"\frac{6}{3} + 1 = 4", "((6)/(3)) + 1 = 4"),
        ("2³ + 1 = 10", "2^3 + 1 = 10"),
        ("<<3*2=6>> 3 · 2 = 7", "3 * 2 = 7"),
        ("1. 3 * 2 = **7**", "3 * 2 = 7"),
        ("3 - 2 - 1 = 1", "3 - 2 - 1 = 1"),
        ("5 - 3 = 3 - easy", "5 - 3 = 3"),
        ("2 * 7 = (3 + 4) * 3", "2 * 7 = (3 + 4) * 3"),
        ("3 nickels + 1 nickel = 21 cents", "3 nickels + 1 nickel = 21"),
    ],
)
def test_a_false_statement_is_quoted(text, false):
    assert false_statements(text) == [false]


@pytest.mark.parametrize(
    "text", ["(" * 1900 + "1" + "=2", "1+" * 900 + "1=2", "9" * 1000 + "=1", "1=" * 900, "((9^20)^20)^20 = 1\n" * 50]
)
def test_absurd_text_costs_little_and_raises_nothing(text):
    started = time.process_time()
    false_statements(text)
    assert time.process_time() - started < 2


@pytest.mark.skipif(not arithmetic.TRAIN.exists(), reason="GSM8K is not here (LAI_TEST_DATA)")
def test_gsm8k_has_few_false_alarms_and_planted_errors_are_found():
    rows = arithmetic.solutions()[::5]  # All of them are in docs/results/checks.md.
    assert len(rows) > 1400
    assert len(arithmetic.alarms(rows)) <= 0.01 * len(rows)
    planted = list(arithmetic.planted(rows))
    for form in {each.form for each in planted}:
        caught = [each.caught for each in planted if each.form == form]
        assert sum(caught) >= 0.85 * len(caught), form
