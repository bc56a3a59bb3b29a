"""Fences in an instructor's programs: read as CommonMark has them, and mended where they are glued or missing."""

from __future__ import annotations

import pytest

from lai_ray.grading.fences import closing, code_blocks
from lai_ray.instructor.parsing.code_samples import code_pieces
from lai_ray.instructor.parsing.text_samples import math_pieces


def item(number, name, factor, docstring="Times {factor}."):
    question = f'def {name}(n: int) -> int:\n    """ {docstring.format(factor=factor)} """'
    answer = f"def {name}(n: int) -> int:\n    return {factor} * n"
    tests = f"assert {name}(1) == {factor}\nassert {name}(0) == 0"
    sections = zip(("Question", "Answer", "Tests"), (question, answer, tests), strict=True)
    return f"{number}. " + "".join(f"{head}:\n```python\n{code}\n```\n" for head, code in sections)


def in_a_docstring(signs):
    return item(1, "twice", 2, f"Times 2.\n\n    {signs}\n    twice(1)\n    {signs}\n   ")


FIRST, SECOND = item(1, "twice", 2), item(2, "thrice", 3)
BOTH = f"{FIRST}\n{SECOND}"
SHAPES = {
    "as asked": BOTH,
    "tildes": BOTH.replace("```", "~~~"),
    "four": BOTH.replace("```", "````"),
    "a title behind the language": BOTH.replace("```python", '```python title="a.py"'),
    "no fence closed": BOTH.replace("\n```\n", "\n"),
    "the first not closed": BOTH.replace('"""\n```\n', '"""\n', 1),
    "the answer's opening missing": BOTH.replace("Answer:\n```python", "Answer:", 1),
    "the tests' opening missing": BOTH.replace("Tests:\n```python", "Tests:", 1),
    "closing glued": BOTH.replace("* n\n```", "* n```"),
    "opening glued": BOTH.replace("```python\ndef", "```python def"),
    "opening glued without a language": BOTH.replace("```python\ndef", "```def"),
    "on the heading's line": BOTH.replace("Answer:\n```", "Answer: ```"),
    "a fence in a docstring": in_a_docstring("```") + SECOND,
    "other signs in a docstring": in_a_docstring("~~~") + SECOND,
    "a heading in a docstring": BOTH.replace(
        "    return 2", '    """By 2.\n\nAnswer: 2 n.\n\nTests: none.\n"""\n    return 2'
    ),
    "Markdown around each": f"````markdown\n{FIRST}````\n\n````markdown\n{SECOND}````",
    "Markdown around both": f"````md\n{BOTH}````",
    "three around threes": f"```\n{BOTH}```",
    "Markdown within": BOTH.replace("Answer:\n```python\n", "Answer:\n````markdown\nHere:\n```python\n").replace(
        "* n\n```\nTests", "* n\n```\n````\nTests"
    ),
    "a draft in a thought": f"<think>\n1. Question:\n```python\ndef twice(n\n</think>\n{BOTH}",
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_both_programs_are_read_whole_however_they_are_fenced(shape):
    pieces = code_pieces(SHAPES[shape])
    assert [(p.extra.get("entry"), p.rejected) for p in pieces] == [("twice", None), ("thrice", None)]
    for piece, factor in zip(pieces, (2, 3), strict=True):
        assert piece.answer.startswith(f"def {piece.extra['entry']}") and piece.answer.endswith(f"{factor} * n")
        assert len(piece.extra["test"].splitlines()) == 2
        assert "Times" in piece.question and "```" not in piece.answer


@pytest.mark.parametrize("around", ["```\n{}```", "```text\n{}```", "~~~\n{}~~~"])
def test_word_problems_may_each_be_in_a_fence_of_their_own(around):
    texts = [f"{n}. Question: {name} has 3 pens and gets 4. How many?\nAnswer: 3 + 4 = 7\n#### 7\n" for n, name in
             ((1, "Tom"), (2, "Ann"))]  # fmt: skip
    pieces = math_pieces("Here they are.\n" + "\n\n".join(map(around.format, texts)))
    assert [(p.question[:3], p.response, p.rejected) for p in pieces] == [
        (name, "3 + 4 = 7\n#### 7", None) for name in ("Tom", "Ann")
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [("```\na\n```", 2), ("````\n```\n````", 2), ("```\n~~~\n```", 2), ("```\n```python\n```", 2), ("```\na", 2),
     ("```\n    ```\n```", 2), ('```\nx = """\n```\n"""\n```', 4)],
)  # fmt: skip
def test_a_fence_closes_where_commonmark_says_or_where_the_docstring_has_ended(text, line):
    assert closing(text.split("\n"), 0) == line


def test_a_thousand_openings_within_each_other_are_read_once():
    assert code_blocks("```markdown\n" * 1000 + "```python\nx = 1\n```")
