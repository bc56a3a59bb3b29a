"""The choice a response commits to: by the default rules, and by the paper's with their defects."""

from __future__ import annotations

import time

import pytest

from lai_ray.grading.choices import default_choice, paper_choice
from lai_ray.grading.fuzzy_match import closest

CHOICES = {"A": "raw apple", "B": "pear", "C": "cherry pie", "D": "all of the above"}


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("Answer: B", "B"),
        (" B. pear\n\nExplanation: A pear is a fruit.", "B"),
        ("**Answer:** (D)", "D"),
        ("b", "B"),
        ("Answer: c.", "C"),
        ("(C)", "C"),
        ("$\\boxed{\\text{D}}$", "D"),
        ("The answer is A raw apple.", "A"),
        ("The answer is A good one, namely cherry pie.", "C"),
        ("A pear is a fruit.", "B"),
        ("The answer is A. Wait, no. The correct answer is C.", "C"),
        ("C. cherry pie. If there were no pies, the answer would be A.", "C"),
        ("The most suitable answer would be B.", "B"),
        ("The answer is not B. It is a pie, so the answer is C.", "C"),
        ("The function of vitamin A1 is D. all of the above", "D"),
        ("The fruit that fits is a pear (B), unlike the others.", "B"),
        ("Option C is the best one.", "C"),
        ("It is described by:\n\nB. pear\n\nPears grow on trees.", "B"),
        ("The best choice among A, B, C and D would be:\n\nC. cherry pie", "C"),
        ("cherry pie", "C"),
        ("It must be the cherry pie that he meant.", "C"),
    ],
)
def test_the_choice_a_response_commits_to(response, letter):
    assert default_choice(response, CHOICES).letter == letter


@pytest.mark.parametrize(
    ("response", "letter", "rule"),
    [
        ("Answer: B", "B", "lead"),
        ("The answer is A raw apple.", "A", "answer"),
        ("The answer is A good one, namely cherry pie.", "C", "text"),
        ("The answer is B. But if it were cold, the answer would be C.", "B", "answer"),
        ("$\\boxed{\\text{D}}$", "D", "answer"),
        ("C. cherry pie. If there were no pies, the answer would be A.", "C", "lead"),
        ("What fits is D. all of the above, as A and B and C do", "D", "quoted"),
        ("So pear (B) fits better than C or D", "B", "quoted"),
        ("It is described by:\n\nB. pear\n\nPears grow on trees.", "B", "quoted"),
        ("I would take B here", "B", "letter"),
        ("It must be the cherry pie that he meant.", "C", "text"),
    ],
)
def test_the_rule_that_found_the_choice_is_recorded(response, letter, rule):
    assert default_choice(response, CHOICES) == (letter, rule)


@pytest.mark.parametrize(
    "response",
    [
        "", "\n", "E", "Answer: E", "Answer: F - fig", "x" * 1000, "None of the options A, B, C, or D is right.",
        "The answer is B or C.", "The answer is A and B.", "I think A good answer would be hard to give.",
        "It depends: a pear or a cherry pie.", "None of the given choices is right, a pear least of all.",
    ],
)  # fmt: skip
def test_a_response_that_commits_to_none_or_several_is_unparsed(response):
    assert default_choice(response, CHOICES).letter is None


def test_labels_may_be_digits_and_fewer_or_more_than_four():
    digits = dict(zip("1234", ["one leg", "two legs", "3 legs", "none"], strict=True))
    assert default_choice("Answer: 3", digits).letter == "3"
    assert default_choice("(2) because birds stand on 2", digits).letter == "2"
    assert default_choice("They have 4 of them.", digits).letter is None
    assert default_choice("The answer is E.", CHOICES | {"E": "fig"}).letter == "E"


@pytest.mark.parametrize(
    ("response", "letter", "rule"),
    [
        ("The answer is B. pear", "B", "answer"),
        ("The answer is not B, it is C", "B", "first_letter"),
        ("I say C is correct", "C", "correct"),
        ("C. cherry pie", "C", "lead"),
        (" C. cherry pie", "C", "first_letter"),
        ("A pear it is", "A", "first_letter"),
        ("the cherries in a pie", "C", "fuzzy"),
    ],
)
def test_the_papers_rules_are_kept_with_their_defects(response, letter, rule):
    assert paper_choice(response, CHOICES) == (letter, rule)


def test_the_papers_rules_ignore_digits():
    assert paper_choice("Answer: 3", dict(zip("1234", "wxyz", strict=True))).letter != "3"


def test_the_closest_text_is_the_first_of_equals():
    assert closest("nothing alike", ["zzz", "qqq"]) == 0
    assert closest("the very best pear of all", ["apple", "pear"]) == 1
    assert closest("", ["", "a"]) == 0


@pytest.mark.parametrize(
    "text", ["A" * 10**7, "answer is " * 10**6, " A B" * 2_500_000, "boxed{" * 10**6, "answer to " * 10**6, "a" * 10**7]
)
def test_ten_megabytes_are_graded_in_seconds(text):
    started = time.monotonic()
    default_choice(text, CHOICES)
    paper_choice(text, CHOICES)
    assert time.monotonic() - started < 5
