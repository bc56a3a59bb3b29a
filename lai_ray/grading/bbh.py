"""The verdict on a response to a BIG-Bench Hard question.  question, target, response -> Grade

Default rules, by the type of the target:
    a choice "(B)"         the rules of `choices`, with the question's own options
    a number               the rules of `numbers`
    Yes/No, True/False, …  the last "answer is X", else the only such word of the last sentence that has one
    brackets, words        the text after the last "answer is", else the last line, without regard to spaces and commas

Paper rule (phrase): the text between the first "the answer is" and the next full stop equals the target, except for
case.
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
    _, phrase, rest = response.partition("the answer is")
    if not phrase:
        return Grade(0.0, None, "none", "unparsed", 'no "the answer is" in the response')
    answer = rest[:10_000].partition(".")[0].strip()
    return Grade(float(answer.lower() == target.lower()), answer[:200], "phrase", "graded")


def default_grade(question: str, target: str, response: str) -> Grade:
    """The verdict by the default rules."""
    text = clipped(response).strip()
    letter = _LETTER.fullmatch(target.strip())
    options = dict(_OPTION.findall(question))
    if letter and len(options) > 1:
        choice = default_choice(text, options)
        return _grade(f"({choice.letter})" if choice.letter else None, choice.letter == letter[1], choice.rule)
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
    stated = _stated_answer(text)
    first = _WORDS.search(stated) if stated is not None else None
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
    stated, rule = _stated_answer(text), "phrase"
    if stated is None:
        stated, rule = text.rpartition("\n")[2], "last_line"
    if not stated.strip():
        return _grade(None, False, "no answer")
    # A target without words is brackets; elsewhere brackets are decoration.
    wanted = _WORDS.findall(target.casefold())
    if wanted:
        return _grade(stated.strip(" *.`"), _WORDS.findall(stated.casefold()) == wanted, rule)
    brackets = re.findall(r"[(){}\[\]<>]", stated)
    return _grade(" ".join(brackets) or None, brackets == target.split(), rule)


def _stated_answer(text: str) -> str | None:
    """The text after the last "answer is" on its line (on the next, where the line ends there); None without one."""
    end = len(text)
    for _ in range(20):
        end = max(text.rfind("answer", 0, end), text.rfind("Answer", 0, end))
        if end < 0:
            return None
        match = _PHRASE.match(text, end)
        if match:
            return text[match.end() :].lstrip().partition("\n")[0].strip().rstrip(".").strip("*` ")
    return None
