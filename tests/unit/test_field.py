"""Forms of answers that users of other evaluations complained of (docs/field.md), in both directions."""

from __future__ import annotations

import pytest

from lai_ray.grading import bbh
from lai_ray.grading.choices import default_choice
from lai_ray.grading.numbers import default_grade
from lai_ray.grading.numerals import in_digits

RIVERS = dict(zip("ABCD", ["Danube", "Volga", "Loire", "Tagus"], strict=True))


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        ("64", "Here is how to get the answer:\n\n1. 8 boxes of 10 are 80.\n2. 80 - 16 = 64.\n\nSo 64 are left.", True),
        ("1", "Here is how to get the answer:\n\n1. 8 boxes of 10 are 80.\n2. 80 - 16 = 64.\n\nSo 64 are left.", False),
        ("64", "The answer is 4 quarts * 16 bottles / quart = 64 bottles", True),
        ("4", "The answer is 4 quarts * 16 bottles / quart = 64 bottles", False),
        ("64", "#### 80 - 16 = 64", True),
        ("64", "The answer is 64 = 80 - 16.", True),
        ("64", "\\boxed{64 = 8 \\times 8}", True),
        ("64", "The answer is 64 - 3 more than Ida's 61", True),
        ("64", "The answer is 64, since 60 + 4 = 64 and 3 + 4 = 7", True),
        ("-6", "The answer is negative 6.", True),
        ("6", "The answer is negative 6.", False),
        ("1250.5", "The answer is 1.250,50 €", True),
        ("12.5", "It costs 12,50 €.", True),
        ("12", "It costs 12,50 €.", False),
        ("64", "<answer> 64 </answer> in 3 steps", True),
        ("64", '{"answer": 64, "steps": 3}', True),
        ("64", '{"steps": 3, "answer": "64", "sure": 1}', True),
        ("64", "### Answer\n64 bottles in 4 boxes", True),
        ("64", "**Final answer**\n\n64 of 80", True),
        ("64", "\\fbox{64} of 80", True),
        ("64", "\\boxed 64 of 80", True),
        ("8", "\\boxed{\\sqrt{64}}", True),
        ("64", "The answer is 64.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nThe answer is 3.", True),
        ("64", "The answer is 64</s> The answer is 3.", True),
        ("3", "The answer is 64</s> The answer is 3.", False),
        ("7", "The answer is seven.", True),
        ("72", "So the answer is: seventy-two apples.", True),
        ("105", "The answer is **one hundred and five**.", True),
        ("1200", "Answer: twelve hundred dollars", True),
        ("5200000", "#### five million two hundred thousand", True),
        ("-3", "\\boxed{\\text{minus three}}", True),
        ("12", "Twelve.", True),
        ("7", "The answer is one more than six, which is 7.", True),
        ("1", "I do not know which one.", False),
        ("23", "The answer is two three.", False),
        ("7", "3 + 4 = 7, \\boxed{7}. No, that is wrong. \\boxed{}", False),
        ("7", "I put it into \\boxed{}. 3 + 4 = 7", True),
        ("8", "The answer is 8. \\boxed{ }", True),
        ("64", "**Step 2:** She has **64** left of 80.", True),
        ("64", "She has **64 bottles.** left of 80.", True),
        ("20", "**Step 3:** 4 * 5 = 20", True),
        ("9", "**3.** 4 + 5 = 9", True),
        ("18", "He had **30**.\n12 are gone, so 18 are left", True),
    ],
)
def test_numbers_in_the_field(gold, response, right):
    assert default_grade(gold, response).score == right


@pytest.mark.parametrize(
    ("question", "gold", "response", "right"),
    [
        ("How many minutes does it take?", "120", "The answer is 2 hours (120 minutes).", True),
        ("How many hours does it take?", "120", "The answer is 2 hours (120 minutes).", False),
        ("How many hours does it take?", "2", "It takes 120 min, or 2 hrs", True),
        ("How many minutes does it take?", "120", "It takes 120 minutes (2 hours)", True),
        ("How many cents is that?", "500", "The answer is $5 (500 cents)", True),
        ("How many cookies are in the boxes?", "12", "The answer is 3 boxes (12 cookies)", True),
        ("How many cookies are there?", "12", "The answer is 3 boxes (12 cookies)", True),
        ("", "120", "The answer is 2 hours (120 minutes).", False),
    ],
)
def test_of_two_units_the_one_asked_for_counts(question, gold, response, right):
    assert default_grade(gold, response, question).score == right


@pytest.mark.parametrize("text", ["3, 50 and 2", "(3,50)", "1,25,300 of 7", "in 2020,50 came 3", "x,50"])
def test_a_comma_between_two_numbers_is_no_decimal_comma(text):
    assert "." not in in_digits(text)


@pytest.mark.parametrize(
    ("letter", "response"),
    [
        ("C", "A. Incorrect\nB. Incorrect\nC. Correct\nD. Incorrect"),
        ("C", "A is false. B is false. C is true. D is false."),
        ("C", "A: no. B: no. C: yes. D: no."),
        ("C", "A ❌\nB ❌\nC ✅\nD ❌"),
        ("B", "A. Danube: wrong\nB. Volga: right\nC. Loire: wrong\nD. Tagus: wrong"),
        ("C", "A is wrong; B is wrong; D is wrong."),
        ("B", "Answer: this asks for a river\n\nANSWER: b"),
        ("C", "B is tempting, and A is too old.\n\nANSWER: C\n"),
        ("C", "B is tempting, and A is too old.\n\nAnswer: $c$"),
        ("C", "Eliminating A, B, and D leaves C."),
        ("C", "The answer can't be A or B, so it's C."),
        ("D", "A is true, B is false, C is false and D is false. The answer is D."),
        (None, "A is correct. B is correct. C is incorrect. D is incorrect."),
        ("A", "A. Danube\n\nB is wrong, as the Volga is in Russia."),
    ],
)
def test_letters_that_are_each_called_right_or_wrong(letter, response):
    assert default_choice(response, RIVERS).letter == letter


def test_a_choice_whose_text_begins_like_a_verdict_is_chosen():
    choices = {"A": "No, since it rains", "B": "Yes, since it rains", "C": "No, since it snows", "D": "Yes, at noon"}
    assert default_choice("A. No, since it rains.\n\nB is wrong, C is wrong and D is false.", choices).letter == "A"
    assert default_choice("C. It ends there, though A is true, B is false and D is false.", RIVERS).letter == "C"


@pytest.mark.parametrize(
    ("target", "response", "right"),
    [
        ("No", "No, because yes would need two.", True),
        ("Yes", "Yes, they do. So there are no exceptions.", True),
        ("No", "Yes, they do. So there are no exceptions.", False),
        ("No", "Yes, at first sight. But then two are missing. So the answer is no.", True),
    ],
)
def test_a_verdict_at_the_start_of_a_response(target, response, right):
    assert bbh.default_grade("Is it so?\nOptions:\n- Yes\n- No", target, response).score == right
