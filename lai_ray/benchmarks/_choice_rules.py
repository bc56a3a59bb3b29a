"""Which choice a response commits to.  choices, response -> letter

Default rules, for the letters that the question has:
    answer       the last "answer is X", "choice: X", "\\boxed{X}" and their like, unless negated or one of several
    lead         a letter the response opens with: "B", "B. text", "(B)", "**B**", "Option B …"
    correct      the last "X is correct"
    line         a line that opens with a letter and its delimiter, where only one letter does so
    letter       the only letter that stands alone in the text ("A" as an article does not)
    text         the text of the only choice that occurs
The later of answer and lead wins: the last commitment counts. What commits to none, or to several, is unparsed.

Paper rules, first hit wins, always for A to D: answer, correct, lead, first_letter, fuzzy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from lai_ray.benchmarks._closest import closest

_SIGHT = 20_000
"""Characters read at each end of a response. What is longer is a model that never stopped."""


class Choice(NamedTuple):
    """A letter (None where there is none), and the rule that found it, or the reason why none did."""

    letter: str | None
    rule: str


@cache
def _patterns(letters: str) -> dict[str, re.Pattern[str]]:
    x = f"[{letters}]"
    # Alone: not inside a word, and no possessive, variable or abbreviation ("A's", "A=3", "vitamin B12", "A.D.").
    alone = rf"({x})(?![\w=’']|\.\w)"
    dressed = rf"[\s\"'“‘`$*_(\[{{<]*(?:\\?(?:boxed|text|textbf|mathrm|mathbf)\{{)*(?:(?:option|choice|letter|answer)\s+)?[\s\"'“‘`*_(\[]*"
    return {
        name: re.compile(pattern)
        for name, pattern in {
            "answer": (
                r"(?:nswer|hoice|ption|esponse|olution)(?:\s+(?:letter|key))?[\"”*_)]*"
                r"(?:\s+(?!not\b|n't)(?:to|for|of|in|among|from|given|that|which|would|should|must|will|has|here|based|"
                rf"provided|here|below|above|by|as|you|I|we)\b[^.\n:;]{{0,90}}?)?\s*(?:\b(?:is|was|be|remains)\b(?!\s+(?:not|n't)\b)"
                rf"(?:\s+(?:therefore|thus|most\s+likely|likely|probably|clearly|indeed|either|simply|definitely|correctly|actually|hence|then|still))?\s*:?|[:=])"
                rf"{dressed}{alone}"
            ),
            "boxed": rf"boxed\{{[\s{{\\a-z(]*{alone}",
            "lead": rf"[\s\"'“‘`*_#>(\[]*(?:(?:option|choice|answer|letter)[\s:*_(]+)?[*_(\[]*{alone}",
            "correct": (
                rf"(?<![\w'’]){alone}[)\]\"*_.:,]*(?:[^.\n]{{0,60}}?)?\s(?:is|would\s+be|are|seems|must\s+be)\s+"
                r"(?:the\s+|an?\s+|also\s+|most\s+|indeed\s+)*(?:most\s+|best\s+|only\s+|single\s+)*"
                r"(?:correct|right|accurate|appropriate|best|suitable|answer|true\b)"
            ),
            "line": rf"^[ \t>*_\-•(\[]*{alone}[)\].:*_]+(?:\s|$)",
            "letter": rf"(?<![\w'’\\&./-]){alone}",
        }.items()
    }


_NEGATED = re.compile(r"\b(?:not|n't|cannot|never|incorrect|wrong|isn’t|isn't|false)\b[^.\n]{0,40}$", re.I)
_LIST = re.compile(r"[)\]*_]*\s*(?:,|/|&|\band\b|\bor\b)\s*(?:and\s+|or\s+)?[(\[*_]*[A-J](?![\w'’])")
_ARTICLE = re.compile(r"\s+[a-z]")
_WORDS = re.compile(r"[^\W_]+")


def default_choice(response: str, choices: Mapping[str, str]) -> Choice:
    """The choice that a response commits to, by the default rules.

    choices: letter -> text. Letters may be digits, as some of ARC's are.
    """
    text = (response if len(response) <= 2 * _SIGHT else f"{response[:_SIGHT]}\n{response[-_SIGHT:]}").strip()
    if not text:
        return Choice(None, "empty")
    find = _patterns("".join(choices))
    lead = _committed(find["lead"].match(text), text, choices)
    said = _last_answer(find, text, choices)
    if said:
        return Choice(said, "answer")
    if lead:
        return Choice(lead, "lead")
    return _looser(find, text, choices)


def _last_answer(find: Mapping[str, re.Pattern[str]], text: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the last statement of an answer; statements that are negated, or name several, are passed over."""
    at = text.rfind("boxed{")
    if at >= 0 and (match := find["boxed"].match(text, at)):
        return match[1]
    found: tuple[int, str] | None = None
    for word in ("nswer", "hoice", "ption", "esponse", "olution"):
        at = len(text)
        for _ in range(30):
            at = text.rfind(word, 0, at)
            if at < 0 or (found and at < found[0]):
                break
            letter = _committed(find["answer"].match(text, at), text, choices)
            if letter:
                found = (at, letter)
                break
    return found[1] if found else None


def _looser(find: Mapping[str, re.Pattern[str]], text: str, choices: Mapping[str, str]) -> Choice:
    correct = [m for m in find["correct"].finditer(text) if not _NEGATED.search(text, max(0, m.start() - 60), m.start())]
    letters = [letter for m in correct if (letter := _committed(m, text, choices, article=False))]
    if letters:
        return Choice(letters[-1], "correct")
    for rule in ("line", "letter"):
        flags = find[rule] if rule == "letter" else re.compile(find[rule].pattern, re.M)
        named = {x for m in flags.finditer(text) if (x := _committed(m, text, choices, several=True))}
        if len(named) == 1:
            return Choice(named.pop(), rule)
        if named:
            break
    meant = _by_text(text, choices)
    if meant:
        return Choice(meant, "text")
    return Choice(None, "names several choices" if named else "names no choice")


def _committed(
    match: re.Match[str] | None, text: str, choices: Mapping[str, str], *, article: bool = True, several: bool = False
) -> str | None:
    """The letter of a match, unless it is the article "A", or the first of a list ("A, B and C")."""
    if not match:
        return None
    end = match.end(1)
    if not several and _LIST.match(text, end):
        return None
    if article and match[1] == "A" and _ARTICLE.match(text, end):
        # "The answer is A raw apple" is the choice when that is what choice A says.
        rest = _folded(text[end : end + 200])
        return "A" if rest.startswith(_folded(choices["A"])[:60]) else None
    return match[1]


def _by_text(text: str, choices: Mapping[str, str]) -> str | None:
    """The only choice whose text occurs in the response as whole words; one that is part of another gives way."""
    folded = f" {_folded(text)} "
    there = {x: said for x, choice in choices.items() if (said := _folded(choice)) and f" {said} " in folded}
    longest = [x for x, said in there.items() if not any(said != other and said in other for other in there.values())]
    return longest[0] if len(longest) == 1 else None


def _folded(text: str) -> str:
    return " ".join(_WORDS.findall(text.casefold()))


_PAPER = (
    (
        "answer",
        re.compile(
            r"(?:choose|(?:answer|choice)(?![^A-D]{0,20}?(?:n't|not))[\s\S]{0,60}?(?:is|:|be))[^A-D]{0,100}?\b([A-D])\b"
        ),
    ),
    (
        "correct",
        re.compile(
            r"\b([A-D])\b(?![^.]{0,8}?(?:n't|not)[^.]{0,5}?(?:correct|right))[^.]{0,10}?\b(?:correct|right)\b"
        ),
    ),
    ("lead", re.compile(r"^([A-D])(?:[.,:]|$)")),
    ("first_letter", re.compile(r"(?<![a-zA-Z])([A-D])(?![a-zA-Z=])")),
)


def paper_choice(response: str, choices: Mapping[str, str]) -> Choice:
    """The choice by the five rules of the paper's release: A to D whatever the labels, nothing stripped."""
    text = response if len(response) <= 2 * _SIGHT else f"{response[:_SIGHT]}\n{response[-_SIGHT:]}"
    for rule, pattern in _PAPER:
        match = pattern.search(text)
        if match:
            return Choice(match[1], rule)
    return Choice(list(choices)[closest(text, list(choices.values()))], "fuzzy")
