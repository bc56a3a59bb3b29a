"""English numbers in words, and answers that name one amount in two units.  text -> digits

Number words are read only where a text calls no number in digits its answer.
"""

from __future__ import annotations

import re

_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: i for i, word in enumerate(_UNITS)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_LARGE = {"thousand": 1_000, "million": 1_000_000}
_WORD = "|".join(sorted([*_SMALL, *_LARGE, "hundred"], key=len, reverse=True))
WORDED = rf"(?:negative\s|minus\s)?\b(?:{_WORD})(?:(?:[\s-]{{1,2}}|\sand\s)(?:{_WORD}))*\b"
"""Regular expression of a number in words."""


def value_of(words: str) -> int | None:
    """The number that such words name; None for words in an order that names none ("two three")."""
    names = re.sub(r"-|\band\b", " ", words.lower()).split()
    negative = names[0] in ("negative", "minus")
    total = part = 0
    last = 1_000_000_000
    room = 1_000
    for name in names[negative:]:
        if name in _LARGE:
            if not part or _LARGE[name] >= last:
                return None
            last = _LARGE[name]
            total, part, room = total + part * last, 0, 1_000
        elif name == "hundred":
            if not 0 < part < 100:
                return None
            part, room = 100 * part, 100
        else:
            value = _SMALL[name]
            if value >= room:
                return None
            part, room = part + value, 10 if value >= 20 else 0
    return -(total + part) if negative else total + part


_AMOUNT = r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+)?"
_TWO_UNITS = re.compile(
    rf"({_AMOUNT})\s?([A-Za-z%¢]{{0,14}})\s?(?:,\s?|\s)?(?:\(|=\s?|or\s|i\.e\.,?\s|that is,?\s|which is\s)"
    rf"(?:(?:or|i\.e\.,?|that is,?|which is|equals?|about|=)\s){{0,2}}({_AMOUNT})\s?([A-Za-z%¢]{{1,14}})\s?\)?",
    re.A,
)
_ASKED = re.compile(r"\b(?:how\s(?:many|much)|in|of|what)\s(?:total\s|whole\s|more\s)?([a-z$]{1,14})", re.I)
_NAMES = {
    "min": "minute", "mins": "minute", "hr": "hour", "hrs": "hour", "h": "hour", "sec": "second", "secs": "second",
    "s": "second", "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "kilometre": "kilometer",
    "metre": "meter", "centimetre": "centimeter", "kg": "kilogram", "g": "gram", "lb": "pound", "lbs": "pound",
    "ft": "foot", "feet": "foot", "in": "inch", "inches": "inch", "oz": "ounce", "l": "liter", "litre": "liter",
    "ml": "milliliter", "¢": "cent", "%": "percent", "yd": "yard", "yds": "yard",
}  # fmt: skip


def in_unit_asked(text: str, question: str) -> str:
    """The text with "2 hours (120 minutes)" as "120 minutes" where the question asks for minutes and not for hours."""
    asked = {_unit(word) for word in _ASKED.findall(question)}
    return _TWO_UNITS.sub(lambda match: _in_one(match, asked), text) if asked else text


def _in_one(match: re.Match[str], asked: set[str]) -> str:
    first = "dollar" if "$" in match[1] else _unit(match[2])
    second = "dollar" if "$" in match[3] else _unit(match[4])
    if not first or first == second or (first in asked) == (second in asked):
        return match[0]
    return f"{match[1]} {match[2]}" if first in asked else f"{match[3]} {match[4]}"


def _unit(word: str) -> str:
    word = word.lower()
    return _NAMES.get(word) or _NAMES.get(word.removesuffix("s")) or word.removesuffix("s")
