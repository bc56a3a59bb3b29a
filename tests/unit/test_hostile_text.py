"""Long and repetitive text, as models that never stop write it: no grader and no parser takes long."""

from __future__ import annotations

import time

import pytest

from lai_ray.grading import bbh
from lai_ray.grading.choices import default_choice
from lai_ray.grading.numbers import default_grade
from lai_ray.grading.programs import Prompted, default_program
from lai_ray.instructor.parsing.choice_samples import choice_pieces
from lai_ray.instructor.parsing.code_samples import code_pieces
from lai_ray.instructor.parsing.text_samples import answer_pieces, math_pieces

LENGTH = 200_000
RIVERS = dict(zip("ABCD", ["Danube", "Volga", "Loire", "Tagus"], strict=True))
PROMPT = Prompted("def f(x):\n    pass\n", "f")
READERS = {
    "number": lambda text: default_grade("7", text, "How many million?"),
    "choice": lambda text: default_choice(text, RIVERS),
    "words": lambda text: bbh.default_grade("Sort these.", "alpha beta", text),
    "program": lambda text: default_program(text, PROMPT),
    "word problems": math_pieces,
    "choices": choice_pieces,
    "short answers": answer_pieces,
    "programs": code_pieces,
}
ASKED = "1. Question: How many are they?\nAnswer: "
CODED = "1. Question:\nf\nAnswer:\ndef f(x): return x\nTests:\n"
HOSTILE = [
    ("number", "", "#### 1 + 2 = "), ("number", "\\boxed{", "\n"), ("number", "", "\\text{"), ("number", "", "<think>"),
    ("number", "The answer is ", "one and "), ("number", "", "5 apples (5 "), ("number", "", "**5 a "),
    ("number", "", "boxed{}"), ("number", "", "\\boxed{ $ ."), ("number", "", "answer is seven "),
    ("choice", "", "A, "), ("choice", "", "Answer: "), ("words", "", "。"), ("words", "", "alpha\n"),
    ("program", "", "@a\n"), ("program", "", "A\n"), ("program", "", "```\n"), ("program", "", "x,"),
    ("word problems", ASKED, "3 + 4 = 7\n"), ("word problems", ASKED, "("), ("word problems", ASKED, "9"),
    ("word problems", "", "\nQuestion 1\n"), ("word problems", ASKED, "1. alpha\n"),
    ("choices", "1. Question: q\n", "A. x\n"), ("choices", "1. Question: q\n", "A. "), ("short answers", ASKED, "\n"),
    ("programs", CODED, "assert f(\n"), ("programs", "", "1. Question:\n```python\n"),
    ("programs", "", "```\nAnswer:\n"),
    ("word problems", "", "{"), ("word problems", "", "{/*"),
    ("word problems", "", '{"a":"'), ("word problems", '[{"question": "', '"a" '),
    ("word problems", "", '{"question":"x","answer":"y"},'), ("choices", "", '{"question":{"question":'),
    ("choices", "", "<question>"), ("choices", "", "<question>a</question><answer>"), ("choices", "", "<A>"),
    ("choices", "", "| Question | Answer |\n|---|---|\n"), ("choices", "", "1. Question: Answer: "),
    ("choices", "1. Question: q\n", "Option A: x\nB: y\n"), ("choices", "1. Question: q\n", "A x / B y"),
    ("short answers", "", "###Question:"), ("programs", "", "- question: |\n"),
    ("programs", "1. Question:\n", "```python\ndef f(x): pass\n```\n"),
]  # fmt: skip


@pytest.mark.parametrize(("reader", "before", "unit"), HOSTILE)
def test_200_000_characters_of_anything_are_read_within_seconds(reader, before, unit):
    text = (before + unit * LENGTH)[:LENGTH]
    started = time.process_time()
    READERS[reader](text)
    assert time.process_time() - started < 3  # Below 1 s on an idle core; those mended took 4 s to minutes.
