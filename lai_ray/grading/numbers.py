"""Which number a worked solution ends in, and whether it is the right one.  problem, response -> Grade

Default rules, first hit wins:
    marker       the number behind the last "####" before another question begins ("#### Step 1" is a heading)
    boxed        the last \\boxed{n}
    phrase       the last "answer is n", "answer: n" and their like
    last_number  the last number of the response
Compared as fractions; within 1e-4, or equal once the longer decimal is rounded like the shorter one, is right.

Paper rules (last_number): the last thing that looks like a number, of response and reference text alike; no fractions,
a leading zero counts as wrong, 1e-4 absolute.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from lai_ray.grading.worked_solutions import MARKER
from lai_ray.records import Grade

_SIGHT = 100_000
"""Characters read at each end of a response. What is longer is a model that never stopped."""
_LONGEST = 40
"""Characters of a number; see `_answers`."""
_TOLERANCE = Fraction(1, 10_000)

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_VALUE = rf"-?\s?\$?\s?(?:{_PLAIN})(?:\s?/\s?\d+(?![\d/])|\s\d+\s?/\s?\d+(?![\d/]))?"
_SIGN = r"(?:(?<![\w.)%])(?<![\d)%] )-\s?)?(?<![\w.])\$?\s?"  # "5-3" and "$5 - $3" hold 5 and 3, not -3
_NUMBER = re.compile(
    rf"(?<!/){_SIGN}(?:{_PLAIN})(?:\s?/\s?\d+(?![\d/])|\s\d+\s?/\s?\d+(?![\d/]))|{_SIGN}(?:{_PLAIN})", re.A
)
_LEAD = r"[\s*_:$\\(\[{]{0,8}(?:boxed\{)?\$?"
_MARKED = re.compile(
    rf"{MARKER}(?:{_LEAD}(?:(?:the|final)\s){{0,2}}(?:answer(?:\s+is)?)?){_LEAD}({_VALUE})", re.A | re.I
)
_BOXED = re.compile(rf"boxed\{{[\s$]{{0,8}}({_VALUE})", re.A)
_PHRASE = re.compile(
    rf"nswer[\s*_]{{0,8}}(?:to [^.\n]{{0,80}}?\b)?(?:(?:is|was|equals|be|becomes)\b|[:=]){_LEAD}"
    rf"(?:approximately|about|roughly|exactly|simply|indeed|thus|therefore|[a-z]\s*=)?{_LEAD}({_VALUE})",
    re.A | re.I,
)
_WORKING = re.compile(r"[\s*]*[-+*/×÷^=x][\s$(]*\d[^\n]*")
_ANOTHER = re.compile(r"\n[\s*#]*(?:\d+[.)]\s*)?(?:question|problem|q)\s*\d*\s*[*_]*:", re.I)
_FRAC = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_TOKEN = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?")
_DECIMAL = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)", re.A)
_OF_A_NUMBER = "0123456789,.-−$/ "
_TO_LAST_DIGIT = re.compile(r".*[0-9]", re.S)


class Number(NamedTuple):
    """A number as the text has it, its value, and the decimals it is written with."""

    text: str
    value: Fraction
    decimals: int | None
    """None for a fraction, which is exact."""


class Said(NamedTuple):
    """A number as it stands in a response, and the rule that found it. Its value is worked out when it is needed."""

    text: str
    rule: str


def read_number(text: str) -> Number | None:
    """The number that the whole text states: "1,234", "-$2.50", "3/4", "2 1/2"; None where it is none, or absurd."""
    bare = text.replace("$", "").replace(",", "").replace("- ", "-").strip()
    if bare.isdecimal() and bare.isascii() and len(bare) <= _LONGEST:
        return Number(text, Fraction(int(bare)), 0)
    if len(bare) > _LONGEST:
        return None
    top, slash, bottom = bare.partition("/")
    whole, gap, part = top.strip().partition(" ")
    if (slash and not (bottom.strip().isdecimal() and int(bottom))) or (gap and not (slash and part.isdecimal())):
        return None
    if not _DECIMAL.fullmatch(whole):
        return None
    value = Fraction(whole)
    if gap:
        share = Fraction(int(part), int(bottom))
        value = value - share if whole.startswith("-") else value + share
    elif slash:
        value /= int(bottom)
    return Number(text, value, None if slash else len(whole.partition(".")[2]))


def marked(text: str) -> Said | None:
    """The number behind the first "####" that has one: GSM8K's strict rule."""
    at = text.find(MARKER)
    return _first(_MARKED.search(text, at), "marker") if at >= 0 else None


def last_number(text: str) -> Said | None:
    """The last number of the text: the flexible rule. None where it is absurdly long, or there is none."""
    end = _end_of_digits(text)
    if not end:
        return None
    run = _run_before(text, end, _OF_A_NUMBER)
    bare = run.strip(" ")
    if bare.isdecimal() and run[0] == " " and bare.isascii():
        # Nearly every number: a plain one after a space.
        return Said(bare, "last_number") if len(bare) <= _LONGEST else None
    # Two characters more for what may not stand before a number.
    found = deque(_NUMBER.finditer(text[max(0, end - len(run) - 2) : end].replace("−", "-")), maxlen=1)
    said = found[0].group().strip() if found else ""
    return Said(said, "last_number") if said and read_number(said) else None


def final_number(text: str) -> Said | None:
    """What a response commits to, by the first default rule that finds it."""
    if "frac{" in text:
        text = _FRAC.sub(r"\1/\2", text)
    return _last_marked(text) or _last_said(text) or last_number(text)


def default_grade(gold: str, response: str) -> Grade:
    """The verdict by the default rules; strict and flexible stand in `further`."""
    text = sighted(response)
    strict, flexible = marked(text), last_number(text)
    if "frac{" in text:
        found = final_number(text)
    else:
        found = (_last_marked(text) if strict else None) or _last_said(text) or flexible
    right = {said.text: float(is_right(said.text, gold)) for said in {strict, flexible, found} if said}
    further = {"strict": right[strict.text] if strict else 0.0, "flexible": right[flexible.text] if flexible else 0.0}
    if found is None:
        return Grade(0.0, None, "none", "unparsed", "no number in the response", further)
    return Grade(right[found.text], found.text, found.rule, "graded", "", further)


def paper_grade(reference: str, response: str) -> Grade:
    """The verdict of the paper's release: `reference` is the gold text, read by the same rule as the response."""
    found, gold = last_token(response), last_token(reference)
    if found is None:
        return Grade(0.0, None, "none", "unparsed", "no number in the response")
    if gold is None or _refused(found) or _refused(gold):
        return Grade(0.0, found[:_LONGEST], "last_number", "graded", "no Python literal, so wrong" if gold else "")
    right = found == gold or abs(Decimal(found) - Decimal(gold)) < Decimal("1e-4")
    return Grade(float(right), found, "last_number", "graded")


def is_right(said: str, gold: str) -> bool:
    """Whether a number is the gold one: as a fraction, within 1e-4, or when the two differ by rounding alone."""
    if said == gold:
        return True
    found, wanted = read_number(said), read_number(gold)
    if found is None or wanted is None:
        return False
    if found.decimals == wanted.decimals == 0:
        return found.value == wanted.value
    off = abs(found.value - wanted.value)
    if off <= _TOLERANCE:
        return True
    # 13/3, 4.3333 and 4.33 are one answer; 4 and 4.33 are two: rounding is forgiven from the second decimal on,
    # and to whatever decimals the gold answer itself is rounded to.
    places = [n for n in (found.decimals, wanted.decimals) if n is not None]
    shorter = min(places, default=0)
    return (shorter >= 2 or 1 <= shorter == wanted.decimals) and off <= Fraction(1, 2 * 10**shorter)


def last_token(text: str) -> str | None:
    """The last number-like token of a text, without commas and plus sign; None where there is none."""
    run = _run_before(text, _end_of_digits(text), "0123456789,.+-")
    if run.isdecimal():
        return run
    tokens = deque(_TOKEN.finditer(run), maxlen=1)
    return tokens[0].group().replace(",", "").lstrip("+") if tokens else None


def _end_of_digits(text: str) -> int:
    """Where the last digit ends: every number ends there or before. 0 where there is none."""
    match = _TO_LAST_DIGIT.match(text)
    return match.end() if match else 0


def _run_before(text: str, end: int, of: str) -> str:
    """The characters of a kind that stand in a row before `end`."""
    for size in (32, 400, end):
        start = max(0, end - size)
        tail = text[start:end]
        rest = len(tail.rstrip(of))
        if rest or not start:
            return tail[rest:]
    return ""


def sighted(text: str) -> str:
    """Both ends of an absurdly long response."""
    return text if len(text) <= 2 * _SIGHT else f"{text[:_SIGHT]}\n{text[-_SIGHT:]}"


def _last_marked(text: str) -> Said | None:
    """The number behind the last "####" that has one, of those before the text goes on to another question."""
    at = text.find(MARKER)
    if at < 0:
        return None
    found = None
    for match in _MARKED.finditer(text, at):
        if found and _ANOTHER.search(text, at, match.start()):
            break
        found, at = _first(match, "marker") or found, match.end()
    return found


def _last_said(text: str) -> Said | None:
    """The last number that is boxed, or that the text calls the answer."""
    found = None
    at = text.rfind("boxed{")
    if at >= 0:
        found = _first(_BOXED.match(text, at), "boxed")
    end = len(text)
    for _ in range(20):
        end = max(text.rfind("nswer", 0, end), text.rfind("NSWER", 0, end))
        if end < 0 or (found and end < at):
            break
        said = _PHRASE.match(text, end)
        if said:
            # "The answer is 7 + 3 = 10": what is worked out there is the answer.
            working = _WORKING.match(text, said.end())
            stated = working.group().rpartition("=")[2] if working else said[1]
            return next(_numbers(stated, "phrase"), None) or found
    return found


def _numbers(text: str, rule: str) -> Iterator[Said]:
    return (Said(m.group().strip(), rule) for m in _NUMBER.finditer(text) if read_number(m.group().strip()))


def _first(match: re.Match[str] | None, rule: str) -> Said | None:
    return Said(match[1].strip(), rule) if match and read_number(match[1].strip()) else None


def _refused(token: str) -> bool:
    """Whether the token is no Python literal, so that the release's `eval` fails: "007" is none, "0" and "0.5" are."""
    bare = token.lstrip("-")
    return len(bare) > 4300 or ("." not in bare and bare.startswith("0") and bare.strip("0") != "")
