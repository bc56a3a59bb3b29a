"""How the paper's release reads an instructor's reply, retold from a description of its rules, not from its code.

Described are: for math, heads "Question n:", "Sample n:", "**Question:**", "[QUESTION]" and answer heads "Answer:",
"**Answer:**", "[ANSWER]"; for choice, "Question n:" or "Question:", perhaps behind "##" or "###", then "Answer:", and
everything after the last blank line cut (which takes options that stand behind one); for code, only "### Question n:"
and a Python fence. Where the description leaves room, the reading that takes more samples was chosen, but for math's
heads: those stand at the beginning of a line, choice's may stand anywhere in it.
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
    found = []
    for part in head.split(reply)[1:]:
        pair = answer.split(part, maxsplit=1)
        if len(pair) == 2:
            found.append((pair[0].strip().rpartition("\n\n")[0] or pair[0].strip(), pair[1].strip()))
    return found


OFFICIAL: dict[str, Callable[[str], list[tuple[str, str]]]] = {"math": math, "choice": choice, "code": code}
