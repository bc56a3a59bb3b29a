"""Replies as JSON, tags, tables, on one line and in other words are read whole, and never by half."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from lai_ray.instructor.parsing.choice_samples import choice_pieces
from lai_ray.instructor.parsing.code_samples import code_pieces
from lai_ray.instructor.parsing.lenient_json import objects
from lai_ray.instructor.parsing.records import records
from lai_ray.instructor.parsing.text_samples import answer_pieces, math_pieces
from tests import drift, drift_dressed
from tests.unit.test_drift import judged, samples


@pytest.mark.parametrize("kind", drift.KINDS)
def test_samples_are_read_in_every_dress_and_none_by_half(kind):
    replies = list(drift_dressed.replies(0, 2, (kind,)))
    counts, wrong = judged(replies)
    assert len({reply.shape for reply in replies}) >= 70
    assert counts["read"] >= 0.99 * counts["wanted"], wrong
    assert counts["false"] == 0, wrong


@pytest.mark.parametrize("kind", drift.KINDS)
def test_a_reply_cut_anywhere_gives_its_first_samples_or_nothing(kind):
    counts: Counter[str] = Counter()
    for reply in drift_dressed.replies(1, 1, (kind,)):
        if reply.shape.startswith(("JSON", "tag", "table")):
            for at in range(0, len(reply.text), max(1, len(reply.text) // 8)):
                cut = drift.Drifted(kind, reply.shape, reply.text[:at], reply.items, True)
                found, wrong = judged([cut])
                assert found["false"] == 0, (wrong, cut.text, samples(cut))
                counts += found
    assert counts["read"] > 0.2 * counts["wanted"]


LATEX = r'[{"question": "What is \frac{6}{2} \times 3?", "answer": "It is \( 3 \times 3 = 9 \).\n#### 9"}]'


def test_latex_with_single_backslashes_keeps_them():
    (piece,) = math_pieces(LATEX)
    assert piece.rejected is None and piece.question == r"What is \frac{6}{2} \times 3?"
    assert r"\( 3 \times 3 = 9 \)." in piece.response


@pytest.mark.parametrize("value", ["a\tb", 'say "a", then: b', "\\times", "naïve 😀", "{[}]", "a\\n", "it's", "x // y"])
def test_whatever_json_writes_is_read_back(value):
    for ascii_only in (True, False):
        text = json.dumps([{"question": value, "answer": value}], ensure_ascii=ascii_only)
        assert objects(text, lambda found: "question" in found).taken == [{"question": value, "answer": value}]


@pytest.mark.parametrize("text", [
    '{"question": "He said "go", then left. How many?", "answer": "4"}',
    '{"question": "How many?" "answer": "4"}', '{"question": "How many?", "answer": }', '{"question": "How many"',
])  # fmt: skip
def test_what_is_no_json_gives_nothing(text):
    assert objects(text, lambda found: True).taken == []


def test_a_reply_that_holds_a_little_json_is_read_as_text():
    reply = '1. Question: The file {"question": 1, "answer": 2} is read 3 times. How many?\nAnswer: 2 * 3 = 6\n#### 6'
    assert records(reply) == []
    assert [piece.answer for piece in math_pieces(reply)] == ["6"]


def test_an_index_is_no_letter_and_a_text_is():
    head = '[{"question": "Which river?", "options": ["Danube", "Volga", "Loire", "Tagus"], "answer": '
    assert choice_pieces(head + "2}]")[0].rejected
    piece = choice_pieces(head + '"Loire"}]')[0]
    assert (piece.rejected, piece.answer, piece.response) == (None, "C", "Answer: C")


def test_a_result_that_contradicts_its_solution_is_dropped():
    reply = '[{"problem": "How many are 3 and 4?", "solution": "3 + 4 = 7", "final_answer": 8}]'
    assert math_pieces(reply)[0].rejected == "its final number contradicts the working"


def test_short_answers_are_fields_too():
    assert [piece.answer for piece in answer_pieces('{"question": "Opposite of up?", "answer": "down"}')] == ["down"]


def test_a_first_word_a_is_no_letter():
    reply = "1. Question: Which is warm?\nA. ice\nB. a fever\nC. snow\nD. frost\nAnswer: A fever warms.\nAnswer: B"
    piece = choice_pieces(reply)[0]
    assert piece.rejected or piece.answer == "B"


def test_two_parts_that_were_not_told_apart_are_dropped():
    reply = "1. Question: Which?\nA. x\nB. y\nC. z\nD. w Answer: none of these\nAnswer: B"
    assert choice_pieces(reply)[0].rejected == "its question holds an answer"


def test_tests_at_the_end_of_an_answer_are_no_part_of_it():
    code = "def f(x):\n    return x"
    asked = "1. Question:\n```python\ndef f(x):\n    ''' x '''\n```\n"
    reply = f"{asked}Answer:\n```python\n{code}\nassert f(1) == 1\nassert f(2) == 2\n```"
    piece = code_pieces(reply)[0]
    assert piece.rejected is None and piece.answer == code
    assert piece.extra["test"].count("assert") == 2
