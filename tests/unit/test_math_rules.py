"""Final numbers of worked solutions: by the default rules, and by the paper's with its defects."""

from __future__ import annotations

import time

import pytest

from lai_ray.grading.numbers import default_grade, final_number, last_token, paper_grade, read_number


@pytest.mark.parametrize(
    ("response", "number", "rule"),
    [
        ("#### 42", "42", "marker"),
        ("#### Step 1: add\nso 5+3 = 8 and the answer is 8 apples in 3 days", "8", "phrase"),
        ("#### 40 at first. No, there are two: #### 21", "21", "marker"),
        ("#### 40\n\nQuestion: What is 2 + 2?\nAnswer: #### 4", "40", "marker"),
        ("#### **15** plums", "15", "marker"),
        ("#### The answer is $1,200", "1200", "marker"),
        ("The answer is \\boxed{1,234}. I used 3 steps.", "1234", "boxed"),
        ("The final answer is $\\frac{3}{4}$ of 20", "3/4", "phrase"),
        ("**Answer:** 7 cats in 3 days", "7", "phrase"),
        ("The answer is 5. Wait, I forgot one: the answer is 6, not in 2 days.", "6", "phrase"),
        ("The answer is 7 + 3 = 10 over 2 days", "10", "phrase"),
        ("so she has 2 1/2 hours", "5/2", "last_number"),
        ("It takes 3/4 of an hour", "3/4", "last_number"),
        ("She owes −4 dollars", "-4", "last_number"),
        ("= -$3.50.", "-7/2", "last_number"),
        ("He has $72 left ($144 - $72).", "72", "last_number"),
        ("10-3", "3", "last_number"),
        ("on 5/12/2020", "2020", "last_number"),
    ],
)
def test_the_number_a_response_commits_to(response, number, rule):
    found = final_number(response)
    assert found is not None
    assert (str(read_number(found.text).value), found.rule) == (number, rule)


@pytest.mark.parametrize("response", ["", "none", "####", "x" * 10_000, "1" * 5_000])
def test_no_number_is_unparsed(response):
    grade = default_grade("5", response)
    assert (grade.score, grade.status) == (0.0, "unparsed")


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        ("1,000", "#### 1000.0", True),
        ("1/4", "#### 0.25", True),
        ("40/1", "#### 40", True),
        ("4.33", "#### 13/3", True),
        ("4.33", "#### 4.3333", True),
        ("17.6666", "#### 17.67", True),
        ("4.33", "#### 4", False),
        ("4.33", "#### 4.34", False),
        ("4.33", "#### 4.335", True),
        ("4.33", "#### 4.3355", False),
        ("4.3", "#### 4.34", True),
        ("4.3", "#### 4.36", False),
        ("4.34", "#### 4.3", False),
        ("5", "#### 5.0001", True),
        ("5", "#### 5.0002", False),
        ("3/4", "The final answer is $\\frac{3}{4}$ of 20", True),
        ("5", "#### 5.4", False),
        ("5", "#### 25", False),
        ("12", "#### 012", True),
        ("3", "#### 3/0", False),
    ],
)
def test_numbers_are_compared_by_value(gold, response, right):
    assert default_grade(gold, response).score == float(right)


def test_gsm8k_has_a_strict_and_a_flexible_score_beside():
    grade = default_grade("8", "The answer is 8 apples in 3 days")
    assert (grade.score, grade.further) == (1.0, {"strict": 0.0, "flexible": 0.0})
    assert default_grade("8", "#### 8").further == {"strict": 1.0, "flexible": 1.0}


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        ("#### 42", "so 42 apples in 3 days", False),
        ("#### 42", "in 3 days 42", True),
        ("#### 1,200", "$1,200.", True),
        ("#### 3", "= +3", True),
        ("#### -3", "5-3", True),
        ("#### 7", "007", False),
        ("#### 0.5", "0.50001", True),
        ("#### 3/4", "3/4", True),
        ("#### 3/4", "0.75", False),
        ("no number", "4", False),
    ],
)
def test_the_papers_rule_takes_the_last_token_of_both(gold, response, right):
    assert paper_grade(gold, response).score == float(right)


def test_a_token_is_read_whole_wherever_the_text_is_cut():
    for padding in range(70, 90):
        assert last_token("x" * 500 + "1,234,567" + " " * padding) == "1234567"
        assert final_number("x " * 500 + "1,234,567" + " " * padding).text == "1,234,567"


@pytest.mark.parametrize("text", ["#### " * 2_000_000, "9" * 10_000_000, "the answer is " * 700_000, "a 1" * 3_000_000])
def test_ten_megabytes_are_graded_in_seconds(text):
    started = time.monotonic()
    default_grade("5", text)
    paper_grade("#### 5", text)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("text", "value"), [("0.1", "1/10"), ("$1,234.50", "2469/2"), ("-3/4", "-3/4"), ("2 1/2", "5/2"), (".5", "1/2")]
)
def test_a_number_is_read_exactly(text, value):
    number = read_number(text)
    assert number is not None
    assert str(number.value) == value


@pytest.mark.parametrize("text", ["", "x", "ten", "1 2", "1/0", "3/4/5", "1/x", "--1", "9" * 41])
def test_what_is_no_number_is_none(text):
    assert read_number(text) is None
