"""Whether a response to a BIG-Bench Hard question ends in its target.  question, target, response -> Grade

Default rules, by what the target is:
    a choice "(B)"         as in `_choice_rules`, with the question's own options
    a number               as in `_math_rules`
    Yes/No, True/False, …  the last "answer is X", else the only such word of the last sentence that has one
    brackets, words        what follows the last "answer is" (or ends the last line), spaces and commas apart

Paper rule (phrase): the text between the first "the answer is" and the next full stop is the target, but for case.
"""

from __future__ import annotations

import re

from lai_ray.grading.choices import default_choice
from lai_ray.grading.numbers import clipped, final_number, is_right, read_number
from lai_ray.records import Grade

LABELS = (("yes", "no"), ("true", "false"), ("valid", "invalid"), ("plausible", "implausible"))
_OPTION = re.compile(r"^\(([A-Z])\)\s*(.*)$", re.M)
_LETTER = re.compile(r"\(([A-Z])\)")
_PHRASE = re.compile(r"answer(?:\s+to\s+[^.\n:]{0,80}?)?[\s*_]{0,8}(?:is|are|would be|:)[\s*_:]{0,8}", re.I)
_WORDS = re.compile(r"[^\W_]+(?:['’&.-]+[^\W_]+)*")


def paper_grade(target: str, response: str) -> Grade:
    """The verdict of the paper's release."""
    _, said, rest = response.partition("the answer is")
    if not said:
        return Grade(0.0, None, "none", "unparsed", 'no "the answer is" in the response')
    answer = rest[:10_000].partition(".")[0].strip()
    return Grade(float(answer.lower() == target.lower()), answer[:200], "phrase", "graded")


def default_grade(question: str, target: str, response: str) -> Grade:
    """The verdict by the default rules."""
    text = clipped(response).strip()
    letter = _LETTER.fullmatch(target.strip())
    options = dict(_OPTION.findall(question))
    if letter and len(options) > 1:
        found = default_choice(text, options)
        right = found.letter == letter[1]
        return _grade(f"({found.letter})" if found.letter else None, right, found.rule)
    if read_number(target) is not None:
        number = final_number(text)
        if number is None:
            return _grade(None, False, "no number in the response")
        return _grade(number.text, is_right(number.text, target), number.rule)
    labels = next((pair for pair in LABELS if target.lower() in pair), None)
    if labels:
        return _label(labels, target, text)
    return _sequence(target, text)


def _grade(answer: str | None, right: bool, rule: str) -> Grade:
    if answer is None:
        return Grade(0.0, None, "none", "unparsed", rule)
    return Grade(float(right), answer[:200], rule, "graded")


def _label(labels: tuple[str, str], target: str, text: str) -> Grade:
    said = _said(text)
    first = _WORDS.search(said) if said is not None else None
    if first and first.group().lower() in labels:
        return _grade(first.group(), first.group().lower() == target.lower(), "phrase")
    for sentence in reversed(re.split(r"[.!?]\s+|\n+", text)):
        named = {word.lower() for word in _WORDS.findall(sentence)} & set(labels)
        if len(named) == 1:
            word = named.pop()
            return _grade(word, word == target.lower(), "last_word")
        if named:
            break
    return _grade(None, False, f"neither {labels[0]} nor {labels[1]}, or both")


def _sequence(target: str, text: str) -> Grade:
    said = _said(text)
    if said is None:
        said, rule = text.rpartition("\n")[2], "last_line"
    else:
        rule = "phrase"
    if not said.strip():
        return _grade(None, False, "no answer")
    # Brackets may be part of what was asked for ("(", ">"), so they are no decoration there.
    wanted = _WORDS.findall(target.casefold())
    if wanted:
        return _grade(said.strip(" *.`"), _WORDS.findall(said.casefold()) == wanted, rule)
    brackets = re.findall(r"[(){}\[\]<>]", said)
    return _grade(" ".join(brackets) or None, brackets == target.split(), rule)


def _said(text: str) -> str | None:
    """What follows the last "answer is" on its line (or on the next, where the line ends there); None without one."""
    end = len(text)
    for _ in range(20):
        end = max(text.rfind("answer", 0, end), text.rfind("Answer", 0, end))
        if end < 0:
            return None
        match = _PHRASE.match(text, end)
        if match:
            return text[match.end() :].lstrip().partition("\n")[0].strip().rstrip(".").strip("*` ")
    return None
