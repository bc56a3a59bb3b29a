"""Whether the text of a sample's question is one.  text -> bool

A problem may be an imperative, an expression or a sentence to be completed ("Inflation", before choices); a heading, a
number, an answer or a placeholder of the requested form asks nothing.
"""

from __future__ import annotations

import re

from lai_ray.instructor.parsing.headings import ANSWER, HEAD

_WORD = re.compile(r"[^\W\d_]{2,}|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_PLACEHOLDER = re.compile(r"\s*(?:<[^<>\n]{1,200}>|\[[^\[\]\n]{1,200}\]|\.{2,}|…)\s*")
_NUMBER = r"[-−]?\s?[$€£₹]?\s?\d[\d,.]*(?:\s?/\s?\d+)?\s?%?"
_EQUATION = re.compile(r"\d\s?%?[\s)]*[-+−–*/×÷^x=].*|\d!.*", re.S)
_SOLVED = re.compile(rf".*=[\s\\(]*{_NUMBER}[\s.)$\\]*", re.S)
_LEADS = r"(?:(?:so|thus|hence|therefore|the|her|his|their|final|correct|right|total)[\s,]{1,3}){0,4}"
_ANSWER_ALONE = re.compile(
    rf"\W*{_LEADS}(?:(?:answer|result|solution|total|答案)\s{{0,3}}(?:is|was|=|:|是|为)?[\s*:]{{0,3}})?"
    rf"{_NUMBER}(?:\s[^\W\d_]{{1,20}}){{0,3}}[\s.!*]*",
    re.I,
)
_LETTER_ALONE = re.compile(r"\W*(?:(?:the\s)?(?:correct\s)?(?:answer|option|choice)\W*(?:is\W+)?)?[A-J]\W*", re.I)


def asks(text: str) -> bool:
    """Whether a text asks something, or states something to be completed: not a heading, a number or a placeholder."""
    if not text.strip():
        return False
    bare = ANSWER.sub("", HEAD.sub("", text.strip(), count=1), count=1).strip("*_# \n")
    if not bare or _PLACEHOLDER.fullmatch(bare) or _LETTER_ALONE.fullmatch(bare):
        return False
    return bool(_WORD.search(bare)) or _is_expression(bare)


def asks_for_a_number(text: str) -> bool:
    """As `asks`, of a word problem: "28 apples" and "The answer is 28." are none."""
    return asks(text) and ("?" in text or "？" in text or not _ANSWER_ALONE.fullmatch(text))


def _is_expression(text: str) -> bool:
    """Whether a text without words is something to work out: "7 * 8", "7 * 8 =", "x + 3 = 8"; "7 * 8 = 56" is not."""
    if _EQUATION.search(text) is None:
        return False
    unknown = re.search(r"[a-z?？_□]", text, re.I) is not None
    return unknown or not _SOLVED.fullmatch(text)
