"""Whether a solution's final number follows from its own working.  working, final number -> what it contradicts

Three signs of a final number that does not: the working calls another number its answer, its last equation comes to
another one that nothing corrects afterwards, or the number is nowhere in it. Rounding, cents for dollars and minutes
for hours are no contradiction; a working without numbers, or without an equation, decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

from lai_ray.grading.arithmetic_check import Result, last_result
from lai_ray.grading.numbers import UNSTATED, Number, final_number, is_right, numbers_in, read_number
from lai_ray.grading.numerals import SCALES, in_digits

_RATIOS = (100, 60, 3600, 24, 12, 7)
"""Between two units of one quantity: a result in cents may be given in dollars."""
_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
_ROUNDS = re.compile(r"\bround|\bremainder\b|\bwhole\b|\bnearest\b", re.I)


def final_line(line: str, working: str, final: Number) -> str:
    """The other numbers of the line that states the final one, where the working does not decide between them; ""
    for none. "5 days (120 hours)" is one number, "1,20" and "5 or 6" are two."""
    others = [number for number in numbers_in(in_digits(line)) if not _is_among([_of(number)], final, False)]
    decided = others and _comes_to(last_result(working), final, False)
    return "" if decided else ", ".join(number.text for number in others)


def contradiction(working: str, final: Number) -> str:
    """What the final number contradicts in the working, as written there; "" where it contradicts nothing."""
    present = [number for reading in _readings(working) for number in numbers_in(reading)]
    if not present:
        return ""
    rounds = bool(_ROUNDS.search(working))
    stated = final_number(working)
    if stated and stated.rule not in UNSTATED and not _agrees(_numbers(stated.text), final, rounds):
        return f"the answer is {stated.text}"
    result = last_result(working)
    ends = last_result(f"= {working.strip().rpartition(chr(10))[2]}")  # A sum that is not worked out: "3 + 4".
    if _comes_to(result, final, rounds) or _comes_to(ends, final, rounds):
        return ""
    if result:
        beside = [number for reading in _readings(result.beside) for number in numbers_in(reading)]
        if not _agrees(beside, final, rounds) and not _in_words(result.beside, final):
            return result.statement
    if final.value and not _agrees(present, final, rounds) and not _in_words(working, final):
        return f"{final.text} is nowhere in the working"
    return ""


def cut_off(working: str, final: Number) -> str:
    """The number in which the working ends, where the final one is the beginning of it; "" where it is not."""
    last = [number for reading in _readings(working) for number in list(numbers_in(reading))[-1:]]
    if any(is_right(final.text, number.text) for number in last):
        return ""
    return next((each.text for each in last if _bare(each.text).startswith(_bare(final.text))), "")


def _bare(number: str) -> str:
    return re.sub(r"[,$\s]", "", number)


def _readings(text: str) -> tuple[str, ...]:
    """The text in plain digits, with "5 million" as 5,000,000 and as 5."""
    return tuple(dict.fromkeys((in_digits(text), in_digits(text, SCALES))))


def _numbers(text: str) -> list[Number]:
    number = read_number(text)
    return [number] if number else []


def _comes_to(result: Result | None, final: Number, rounds: bool) -> bool:
    return result is not None and _is_among(((value, result.decimals) for value in result.values), final, rounds)


def _agrees(numbers: Iterable[Number], final: Number, rounds: bool) -> bool:
    return _is_among(map(_of, numbers), final, rounds)


def _of(number: Number) -> tuple[Fraction, int | None]:
    return number.value, number.decimals


def _is_among(values: Iterable[tuple[Fraction, int | None]], final: Number, rounds: bool) -> bool:
    """Whether the final number is one of these, with their decimals: but for its sign, its unit, and rounding."""
    wanted = abs(final.value)
    return any(
        value == wanted
        or abs(value - wanted) < _slack(decimals, final.decimals)
        or (rounds and final.decimals == 0 and abs(value - wanted) <= 1)
        or any(value * ratio == wanted or wanted * ratio == value for ratio in _RATIOS)
        for value, decimals in ((abs(value), decimals) for value, decimals in values)
    )


def _slack(decimals: int | None, final: int | None) -> Fraction:
    """By how much less two numbers may differ: a unit of the last decimal of the shorter one, where that is rounded."""
    if final is not None and (decimals is None or decimals > final):
        return Fraction(1, 10**final)
    return Fraction(1, 10**decimals) if decimals and (final is None or decimals >= 2) else Fraction(0)


def _in_words(text: str, final: Number) -> bool:
    """Whether the text has the number as a word: "so five are left"."""
    whole = 0 < final.value <= len(_WORDS) and final.value.denominator == 1
    return whole and re.search(rf"\b{_WORDS[int(final.value) - 1]}\b", text, re.I) is not None
