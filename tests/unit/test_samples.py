"""Samples are parsed from replies in many layouts; an item that is no sample is rejected with the reason."""

from __future__ import annotations

import pytest

from lai_ray.instructor.parsing.choice_samples import choice_pieces
from lai_ray.instructor.parsing.headings import reply_lines
from lai_ray.instructor.parsing.text_samples import math_pieces

PLUMS = "Nia has 3 bags of 4 plums. How many plums has she?"
PEARS = "Tom had 9 pears and ate 2. How many has he left?"

MATH = {
    "as asked": f"1. Question: {PLUMS}\nAnswer: 3 x 4 = 12\n#### 12\n\n2. Question: {PEARS}\nAnswer: 9 - 2 = 7\n#### 7",
    "bold": f"**1. Question:** {PLUMS}\n**Answer:** 3 x 4 = 12\n**#### 12**\n\n**2. Question:** {PEARS}\n"
    "**Answer:** 9 - 2 = 7\n#### **7**",
    "headings": f"### Question 1\n{PLUMS}\n\n### Answer\n3 x 4 = 12\n#### 12\n\n---\n\n### Question 2\n{PEARS}\n\n"
    "### Answer\n9 - 2 = 7\n#### 7\n\n---",
    "brackets": f"[QUESTION]\n{PLUMS}\n[ANSWER]\n3 x 4 = 12\n#### 12\n[QUESTION]\n{PEARS}\n[ANSWER]\n9 - 2 = 7\n#### 7",
    "samples": f"Sample 1:\nQuestion: {PLUMS}\nSolution: 3 x 4 = 12\n#### 12\n\nSample 2:\nQuestion: {PEARS}\n"
    "Solution: 9 - 2 = 7\n#### 7",
    "bare numbers": f"1. {PLUMS}\nAnswer: 3 x 4 = 12\n#### 12\n2. {PEARS}\nAnswer: 9 - 2 = 7\n#### 7",
    "numbered steps": f"1. {PLUMS}\nAnswer:\n1. There are 3 bags.\n2. 3 x 4 = 12\n#### 12\n2. {PEARS}\nAnswer:\n"
    "1. 9 - 2 = 7\n#### 7",
    "chatter": f"Sure, here they are!\n\nQuestion 1: {PLUMS}\nAnswer: 3 x 4 = 12\n#### 12\n\nQuestion 2: {PEARS}\n"
    "Answer: 9 - 2 = 7\n#### 7\n\nI hope this helps. Ask me for more!",
    "boxed": f"Problem 1: {PLUMS}\nSolution: 3 x 4 = 12, so $\\boxed{{12}}$.\n\n"
    f"Problem 2: {PEARS}\nSolution: 9 - 2 = 7.\nThe final answer is 7.",
    "Q and A": f"Q1: {PLUMS}\nA: 3 x 4 = 12\n#### 12\n\nQ2: {PEARS}\nA: 9 - 2 = 7\n#### 7",
}


@pytest.mark.parametrize("layout", MATH)
def test_a_math_reply_is_parsed_in_every_layout(layout):
    pieces = math_pieces(MATH[layout])
    assert [(p.question, p.answer, p.rejected) for p in pieces] == [(PLUMS, "12", None), (PEARS, "7", None)]
    assert all(p.response.endswith(f"#### {p.answer}") and "uestion" not in p.response for p in pieces)
    assert "3 x 4 = 12" in pieces[0].response


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (f"1. Question: {PLUMS}\nAnswer: 3 x 4 = 12, and then", "no final #### line"),
        (f"1. Question: {PLUMS}\nAnswer: 3 x 4 = 12\n####", "no final #### line"),
        (f"1. Question: {PLUMS}\nAnswer: 3 x 4 = 12\n#### 1", "cut off"),
        (f"1. Question: {PLUMS}", "no answer"),
        ("1. Question:\nAnswer: 3\n#### 3", "no question"),
    ],
)
def test_a_math_item_that_is_cut_off_is_rejected(reply, reason):
    assert reason in str(math_pieces(reply)[-1].rejected)


@pytest.mark.parametrize(
    ("stated", "number"), [("1,200", "1200"), ("$4.50", "4.50"), ("-3", "-3"), ("3/4", "3/4"), ("12 plums", "12")]
)
def test_the_final_number_is_normalised(stated, number):
    piece = math_pieces(f"1. Question: {PLUMS}\nAnswer: so it is\n#### {stated}")[0]
    assert (piece.answer, piece.response) == (number, f"so it is\n#### {number}")


STEM = "Which of these is a fruit?"
FOUR = {"A": "a stone", "B": "a pear", "C": "a bird", "D": "a cloud"}
LINES = "\n".join(f"{x}. {text}" for x, text in FOUR.items())
CHOICE = {
    "as asked": f"1. Question: {STEM}\n{LINES}\nAnswer: B - A pear grows on a tree.",
    "blank line before the options": f"1. Question: {STEM}\n\n{LINES}\n\nAnswer: B - A pear grows on a tree.",
    "bold": f"**Question 1:** {STEM}\n\n**A)** a stone\n**B)** a pear\n**C)** a bird\n**D)** a cloud\n\n"
    "**Answer:** **B** - A pear grows on a tree.",
    "headings": f"### Question 1:\n{STEM}\n(A) a stone\n(B) a pear\n(C) a bird\n(D) a cloud\n### Answer:\n(B) "
    "A pear grows on a tree.",
    "one line": f"1. {STEM} A) a stone B) a pear C) a bird D) a cloud\nCorrect answer: B\nExplanation: "
    "A pear grows on a tree.",
    "options head": f"Sample 1\nQuestion: {STEM}\nOptions:\n{LINES}\nAnswer: B. A pear grows on a tree.",
    "explanation apart": f"1. Question: {STEM}\n{LINES}\nAnswer: B\n\nExplanation: A pear grows on a tree.",
    "bullets": f"1. **Question:** {STEM}\n- A. a stone\n- B. a pear\n- C. a bird\n- D. a cloud\n\n"
    "**Answer:** B - A pear grows on a tree.",
    "answer by its text": f"1. Question: {STEM}\n{LINES}\nAnswer: a pear",
}


@pytest.mark.parametrize("layout", CHOICE)
@pytest.mark.parametrize("around", ["{}", "Here you are:\n\n{}\n\nGood luck with these questions!", "---\n{}\n---\n"])
def test_a_choice_reply_is_parsed_in_every_layout(layout, around):
    (piece,) = choice_pieces(around.format(CHOICE[layout]))
    assert (piece.question, piece.answer, piece.rejected) == (STEM, "B", None)
    assert piece.extra == {"choices": FOUR}
    assert piece.response.startswith("Answer: B")
    assert ("grows on a tree." in piece.response) == (layout != "answer by its text")


@pytest.mark.parametrize(
    ("first", "last", "rejected"),
    [
        ("It grows.", "It grows on a", "mid-sentence"),
        ("It grows", "It grows on a", "None"),
        ("It grows.", "It grows.", "None"),
        ("It grows", "It grows on a tree and it", "None"),
        ("It grows", "It grows on a tree and it is", "mid-sentence"),
    ],
)
def test_a_last_explanation_without_a_full_stop_is_cut_off_where_the_others_have_one_or_it_is_long(
    first, last, rejected
):
    reply = f"1. Question: {STEM}\n{LINES}\nAnswer: B - {first}\n\n2. Question: Is it?\n{LINES}\nAnswer: B - {last}"
    one, other = choice_pieces(reply)
    assert one.rejected is None and rejected in str(other.rejected)


@pytest.mark.parametrize(
    ("reply", "lines"),
    [
        ("```\nx = 1\n```\n1. Question: a", ["```", "x = 1", "```", "1. Question: a"]),
        ("```\n1. Question: a\n```", ["1. Question: a"]),
        ("```text\n1. Question: a", ["1. Question: a"]),
        ("1. Question: a\n```\n2. x\n```", ["1. Question: a", "```", "2. x", "```"]),
        ("> 1. Question: a\n> Answer: b", ["1. Question: a", "Answer: b"]),
    ],
)
def test_only_what_encloses_the_whole_reply_is_removed(reply, lines):
    assert reply_lines(reply) == lines


def test_several_choice_items_in_a_row():
    asked = [f"Which of these is a fruit number {i}?" for i in range(1, 6)]
    reply = "\n\n".join(f"{i}. Question: {q}\n{LINES}\nAnswer: B - Yes it is." for i, q in enumerate(asked, 1))
    assert [p.question for p in choice_pieces(reply) if not p.rejected] == asked


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (f"1. Question: {STEM}\nA. a stone\nB. a pear\nAnswer: B", "choices A, B where A, B, C, D are wanted"),
        (f"1. Question: {STEM}\nAnswer: B", "choices none where"),
        (f"1. Question: {STEM}\n{LINES}", "no answer (cut off?)"),
        (f"1. Question: {STEM}\n{LINES}\nAnswer: E - none", "none of the choices"),
        (f"1. Question: {STEM}\n{LINES}\nAnswer: it depends", "none of the choices"),
        (f"1. Question: {STEM}\n{LINES}\nAnswer: B - a bird", "with the text of C"),
        (f"1. Question: {STEM}\n{LINES}\nAnswer: B - The correct answer is C, a bird.", "names another choice"),
        (f"1. Question: {STEM}\n{LINES}\nAnswer: B - So option (D) is the best one.", "names another choice"),
        (f"1. Question: {STEM}\n{LINES}\nAnswer: B - The right choice is a cloud.", "names another choice"),
        (f"1. Question: {STEM}\nA. a\nB. b\nC. A\nD. d\nAnswer: B", "two equal choices"),
        (f"1. Question: {STEM}\n{LINES}\nAnswer: B - A pear grows on a tree and that is why", "mid-sentence"),
    ],
)
def test_a_choice_item_that_is_inconsistent_or_cut_off_is_rejected(reply, reason):
    (piece,) = choice_pieces(reply)
    assert reason in str(piece.rejected)


@pytest.mark.parametrize(
    "why",
    [
        "Option C is not right, since a bird is an animal.",
        "The answer is B; A, C and D grow on no tree.",
        "The correct answer is a pear.",
        "Choice A is incorrect because a stone is none.",
        "The best answer is A pear, which is a fruit.",
    ],
)
def test_an_explanation_may_say_why_the_others_are_wrong(why):
    (piece,) = choice_pieces(f"1. Question: {STEM}\n{LINES}\nAnswer: B - {why}")
    assert (piece.answer, piece.rejected) == ("B", None)


def test_a_solution_with_a_false_step_is_rejected_and_the_step_quoted():
    (piece,) = math_pieces(f"1. Question: {PLUMS}\nAnswer: 3 x 4 = 13\n#### 13")
    assert (piece.rejected, piece.note) == ("false statement", "3 x 4 = 13")
    assert piece.answer == "13"


@pytest.mark.parametrize("reply", ["", "I would rather not.", "\n\n---\n", "x" * 100_000, "1. " * 10_000])
def test_other_text_holds_no_sample(reply):
    assert not [p for p in math_pieces(reply) + choice_pieces(reply) if p.rejected is None]
