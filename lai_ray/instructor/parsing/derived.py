"""The result of a worked solution that has no final line, where it is beyond doubt.  steps -> number

A solution ends in a sentence that states the value of its last equation as its first or last number ("So she has 12
plums."), or in that equation. Anything else is doubt: the value of an earlier equation beside it, a sum that is not
worked out, a time or a number in two units, a solution that corrects itself or stops before its conclusion. All passes
are linear.
"""

from __future__ import annotations

import re

from lai_ray.grading.numbers import PLAIN, FinalNumber, read_number

DERIVED = "derived"
"""The rule of such a number, and its mark in Problem.extra."""
_VALUE = rf"-?\s?\$?\s?(?:{PLAIN})(?:/\d+(?![\d/]))?"
_NUMBER = re.compile(rf"(?<![\w.,/])-?\$?(?:{PLAIN})(?:/\d+(?![\d/]))?(?![\d/])")
_EQUATION = re.compile(rf"=[\s\\($*{{]{{0,6}}({_VALUE})")
_OPERATION = re.compile(r"[\s\w)]{0,16}?[\s)]?(?:[-+*/×÷^=(]\s?[$(]?\d|\\(?:times|cdot|div|frac))")
"""Behind a number: it is the first of a calculation."""
_OPEN = re.compile(r"(?:[:=+*/×÷,-]|\b(?:and|is|are|by|of|the|so|to))[\s*$\\]*$")
_TWO_UNITS = re.compile(r"\d:\d|\d\s(?!(?:in|for|of|from|per|at|by|on)\b)[A-Za-z]{1,12},?\s(?:and\s)?\d")
_WORKING = re.compile(r"\d[\s\w)]{0,16}?\s?[-+*/×÷]\s?[$(]?\d")
_ENDED = re.compile(
    r"(?:[.!][*)\"'’]{0,3}|[\d)%}\]$*]|\d[ ]?(?:(?!and\b|then\b|so\b|but\b|from\b)[A-Za-z°²³/]{1,20}[ ]?){1,3})$", re.I
)
"""The end of a sentence, or a number with its unit."""
_CORRECTED = re.compile(
    r"\b(?:incorrect(?:ly)?|mistake|wrong|error|apolog\w+|re-?evaluat\w+|re-?visit|re-?calculat\w+|misinterpret\w*|"
    r"misread|oversight|confusion|contradict\w*|inconsisten\w+|impossible|not possible|not enough information|"
    r"does(?:n['’]t| not) (?:make sense|align|match|add up)|correct(?:ed|ion)|however|assum(?:e|ing|ption)|"
    r"approximately|or more|at least|rounded|round)\b", re.I
)  # fmt: skip
_SENTENCE = re.compile(r"(?<=[.!?*])\s+(?=[A-Z*\"(])|\n")
_MOST = 20_000
"""Characters of a solution. A longer one comes from a model that did not stop."""


def derived(steps: str) -> FinalNumber | None:
    """The result; None where there is doubt."""
    text = steps.strip()
    if not text or len(text) > _MOST or _CORRECTED.search(text) or _OPEN.search(text) or not _ENDED.search(text[-90:]):
        return None
    sentences = [part for part in _SENTENCE.split(text) if part.strip(" *-\\[]$")]
    last = sentences[-1] if sentences else ""
    values = [match[1] for match in _EQUATION.finditer(text) if not _OPERATION.match(text, match.end())]
    conclusion = last.rsplit("=", 1)[-1] if "=" in last else last
    if not values or _TWO_UNITS.search(conclusion) or _WORKING.search(conclusion):
        return None
    return _concluded(_NUMBER.findall(conclusion), values)


def _concluded(stated: list[str], values: list[str]) -> FinalNumber | None:
    """The value of the last equation, where the conclusion states it and none of the others'."""
    final = read_number(values[-1].strip())
    if final is None:
        return None
    read = [number.value for text in stated if (number := read_number(text))]
    found = set(read)
    others = {number.value for text in values if (number := read_number(text.strip()))} - {final.value}
    if final.value not in (*read[:1], *read[-1:]) or found & others or len(found) > 4:
        return None
    return FinalNumber(values[-1].strip(), DERIVED)
