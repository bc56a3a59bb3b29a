"""The paper's parser of replies, implemented from a description of its rules, not from its code.  reply -> samples

Described are: for math, the headings "Question n:", "Sample n:", "**Question:**", "[QUESTION]" and the answer headings
"Answer:", "**Answer:**", "[ANSWER]"; for choice, "Question n:" or "Question:", optionally after "##" or "###", then
"Answer:", with everything after the last blank line cut (including options after one); for code, only "### Question n:"
and a Python fence. Where the description is ambiguous, the reading that yields more samples was chosen, except that
math's headings are at the start of a line, while choice's may be anywhere in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_MATH_HEAD = re.compile(r"^(?:Question \d+:|Sample \d+:|\*\*Question:\*\*|\[QUESTION\])", re.M)
_MATH_ANSWER = re.compile(r"\*\*Answer:\*\*|\[ANSWER\]|Answer:")
_CHOICE_HEAD = re.compile(r"(?:#{2,3} )?Question(?: \d+)?:")
_CODE = re.compile(r"### Question \d+:(.*?)```python\n(.*?)```", re.S)


def math(reply: str) -> list[tuple[str, str]]:
    """(question, response) of each sample."""
    return _split(reply, _MATH_HEAD, _MATH_ANSWER)


def choice(reply: str) -> list[tuple[str, str]]:
    """(question, response) of each sample."""
    return [(question, f"Answer: {answer}") for question, answer in _split(reply, _CHOICE_HEAD, re.compile("Answer:"))]


def code(reply: str) -> list[tuple[str, str]]:
    """(question, response) of each sample."""
    return [(question.strip(), source) for question, source in _CODE.findall(reply)]


def _split(reply: str, head: re.Pattern[str], answer: re.Pattern[str]) -> list[tuple[str, str]]:
    pairs = []
    for part in head.split(reply)[1:]:
        pair = answer.split(part, maxsplit=1)
        if len(pair) == 2:
            pairs.append((pair[0].strip().rpartition("\n\n")[0] or pair[0].strip(), pair[1].strip()))
    return pairs


OFFICIAL: dict[str, Callable[[str], list[tuple[str, str]]]] = {"math": math, "choice": choice, "code": code}
