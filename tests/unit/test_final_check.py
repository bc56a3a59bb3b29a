"""A sample's final number follows from its working, and its question asks something."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from lai_ray.instructor.parsing.choice_samples import choice_pieces
from lai_ray.instructor.parsing.questions import asks, asks_for_a_number
from lai_ray.instructor.parsing.text_samples import math_pieces
from tests.perf.arithmetic import TRAIN

SHELLS = "Iva finds 318 shells and then 264 more. How many has she?"
CONTRADICTS = "its final number contradicts the working"


def piece_of(working, question=SHELLS):
    (piece,) = math_pieces(f"1. Question: {question}\nAnswer: {working}\n")
    return piece


@pytest.mark.parametrize(
    ("working", "against"),
    [
        ("318 + 264 = 582\n#### 583", "318 + 264 = 582; #### 583"),
        ("318 + 264 = 582\n#### 318", "318 + 264 = 582; #### 318"),
        ("318 + 264 = 582\nSo Iva has 582 shells.\n#### 528", "318 + 264 = 582; #### 528"),
        ("Iva has 582 shells.\n#### 583", "583 is nowhere in the working; #### 583"),
        ("318 + 264 = 582. The answer is 583.", "318 + 264 = 582; #### 583"),
        ("318 and 264 make 582, so the answer is 582.\n#### 264", "the answer is 582; #### 264"),
        ("She has $\\boxed{582}$ of 318.\n#### 318", "the answer is 582; #### 318"),
        ("Shells = 318 + 264\n#### 264", "Shells = 318 + 264; #### 264"),
        ("318 + 264 = 582\n#### 58{,}200{,}000", "318 + 264 = 582; #### 58200000"),
        ("7 * 12.5 = 87.5\n#### 87.4", "7 * 12.5 = 87.5; #### 87.4"),
    ],
)
def test_a_final_number_that_contradicts_the_working_is_rejected_with_both(working, against):
    piece = piece_of(working)
    assert (piece.rejected, piece.note) == (CONTRADICTS, against)


@pytest.mark.parametrize(
    ("working", "answer"),
    [
        ("318 + 264 = 582\n#### 582", "582"),
        ("318 + 264 =\n582\n#### 582", "582"),
        ("#### 582", "582"),
        ("Both together: \\[318 + 264 = \\boxed{582}\\]", "582"),
        ("300 + 18 + 264 The answer is 582.", "582"),
        ("4 + 4 = 8. The answer is 8 + 574 = 582.", "582"),
        ("4 + 4 = 8\n#### 574 + 8 = 582", "582"),
        ("31 / 4 = 7.75, and a bus cannot be part of one.\n#### 8", "8"),
        ("31 / 4 = 7 remainder 3\n#### 8", "8"),
        ("20 / 3 = 6 2/3\n#### 7", "7"),
        ("100 / 3 = 33.333\n#### 33.33", "33.33"),
        ("1/2 + 1/4 = 3/4\n#### 0.75", "0.75"),
        ("5 * 30 = 150 cents\n#### 1.5", "1.5"),
        ("3 * 50 = 150 minutes\n#### 2.5", "2.5"),
        ("18 / 30 = 0.6\n#### 60", "60"),
        ("12 million - 8 million = 4 million\n#### 4", "4"),
        ("3 + 4 = 7, 7 - 2 = 5. The seven came first.\n#### 7", "7"),
        ("10 - 10 = 0\nNone are left.\n#### 0", "0"),
        ("Two and three more are five; each costs 9.\n#### 5", "5"),
        ("3x = 15\nx = 5\n#### 5", "5"),
        ("8 - 11 = -3\n#### 3", "3"),
        ("She has 1.00 of 318.00 left: 318.00\n#### 318", "318"),
        ("It takes 5 days.\n#### 5 days (120 hours)", "5"),
        ("She has 318 big shells + 264 small shells = **582 shells** in 12 boxes.\n#### 582", "582"),
        ("She gives **318** of 264 + 318 = 582 away.\n#### 582", "582"),
    ],
)
def test_a_final_number_that_follows_from_the_working_is_kept(working, answer):
    piece = piece_of(working)
    assert (piece.answer, piece.rejected) == (answer, None)


@pytest.mark.parametrize("stated", ["582 or 583", "5,8", "5-7", "5:30", "582\n\nNo, wait:\n#### 583"])
def test_a_final_line_with_several_numbers_is_rejected_unless_the_working_decides(stated):
    assert piece_of(f"She counts them.\n#### {stated}").rejected == "several final numbers"
    assert piece_of("318 + 264 = 582\n#### 582 of 600").rejected is None


def test_the_beginning_of_a_longer_number_is_never_the_gold_number():
    for long in ("1,200", "1{,}200", "1\\,200", "1 200", "$1.200.000", "1.2 million"):
        piece = piece_of(f"Together it makes {long}.\n#### {long}")
        assert float(piece.answer) in (1200, 1_200_000), long
        assert piece_of(f"Together it makes {long}.\n#### 1").rejected, long


def test_a_decimal_comma_is_no_excuse_for_the_beginning_of_a_longer_number():
    assert piece_of("3 * 400 = 1,200\n#### 1,20").rejected


@pytest.mark.parametrize(
    "text",
    ["", "28", "$28", "28 shells", "28?", "Question:", "**Question 2:**", "Answer: 28", "The answer is 28.", "#### 28",
     "So the total is 28.", "x = 5", "7 * 8 = 56", "<a word problem with one final number>", "[question]", "...", "B"],
)  # fmt: skip
def test_what_asks_nothing_is_no_question(text):
    assert not asks_for_a_number(text)
    assert math_pieces(f"1. Question: {text}\nAnswer: 3 + 4 = 7\n#### 7")[0].rejected == "no question"


@pytest.mark.parametrize(
    "text",
    ["Add 3 and 4.", "Find 28% of 50.", "7 * 8", "7 * 8 =", "5! = ?", "x + 3 = 8", "Solve for x: 2x = 8.",
     "Iva has 3 shells and finds 4. Sum?", "小明有3个苹果，又买了4个，一共几个", "28 shells, but how many pairs?"],
)  # fmt: skip
def test_an_imperative_or_an_expression_is_a_question(text):
    assert asks_for_a_number(text)


def test_a_stem_of_one_word_is_a_question_before_choices_and_a_letter_is_none():
    options = "A. grows\nB. shrinks\nC. stays\nD. ends"
    for stem, rejected in (("Inflation", None), ("2 + 2 =", None), ("B", "no question"), ("Question:", "no question")):
        (piece,) = choice_pieces(f"1. Question: {stem}\n{options}\nAnswer: A - It does.")
        assert piece.rejected == rejected, stem
    assert asks("Planets orbit")


@pytest.mark.skipif(not TRAIN.is_file(), reason=f"no GSM8K in {TRAIN.parent}")
def test_of_gsm8ks_own_solutions_hardly_any_is_rejected():
    with gzip.open(TRAIN, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][::5]
    pieces = [piece_of(re.sub(r"<<[^<>]*>>", "", row["answer"]), row["question"].replace("\n", " ")) for row in rows]
    assert [p.note for p in pieces if p.rejected in ("no question", "several final numbers")] == []
    assert sum(p.rejected == CONTRADICTS for p in pieces) <= 3  # Slips of the data: "70 + 40 = 100", "#### 110".
    wrong = [p for p, row in zip(pieces, rows, strict=True) if p.answer != row["answer"].split()[-1].replace(",", "")]
    assert [p.rejected for p in wrong if not p.rejected] == []
