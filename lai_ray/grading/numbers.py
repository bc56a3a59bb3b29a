"""The final number of a worked solution, and whether it is the right one.  gold answer, response -> Grade

Default rules, in this order, without thoughts and before another question of its own (`answer_part`), on numbers in
plain digits (`numerals`):
    marker       the number after the last "####" ("#### Step 1" is a heading)
    boxed        the number in the last \\boxed{…}, the last side of an equation there
    phrase       the last "answer is n", "answer: n" and similar
    words        the last such phrase with a number in words ("the answer is seven"), or a response of nothing else
    empty_box    the last number after an empty last \\boxed{}: what precedes it is no answer
    bold         a bold number alone in the last line that has a number
    last_number  the last number of the response
Numbers are compared as exact fractions. Right: within 1e-4, or equal once the longer decimal is rounded like the
shorter one. Text that a model wrote is never evaluated as code.

Paper rules (last_number): the last number-like token of the response and of the reference text; no fractions, a leading
zero counts as wrong, tolerance 1e-4.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from lai_ray.grading.answer_part import asks_first, own_parts, unclosed, without_thoughts
from lai_ray.grading.number_words import WORDED, in_unit_asked, value_of
from lai_ray.grading.numerals import in_digits, scales_in
from lai_ray.records import Grade

MARKER = "####"
"""GSM8K's marker: the final number follows it."""
PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
"""Regular expression of an unsigned number: "1,234.5", "12", ".5"."""
UNSTATED = frozenset({"last_number", "bold", "empty_box"})
"""Rules that find a number which the response does not call its answer."""
_MAX_SIDE = 100_000
"""Characters read at each end of a response. A longer one comes from a model that never stopped."""
_MAX_NUMBER = 40
"""Characters of a number. A longer one comes from a model that repeats a digit, and parsing it takes quadratic time."""
_TOLERANCE = Fraction(1, 10_000)

_VALUE = rf"-?\s?\$?\s?(?:{PLAIN})(?:\s?/\s?\d+(?![\d/])|\s\d+\s?/\s?\d+(?![\d/]))?"
_SIGN = r"(?:(?<![\w.)%])(?<![\d)%] )-\s?)?(?<![\w.])\$?\s?"  # "5-3" and "$5 - $3" hold 5 and 3, not -3
_NUMBER = re.compile(
    rf"(?<!/){_SIGN}(?:{PLAIN})(?:\s?/\s?\d+(?![\d/])|\s\d+\s?/\s?\d+(?![\d/]))|{_SIGN}(?:{PLAIN})", re.A
)
_LEAD = r"[\s*_:$\\(\[{]{0,8}(?:boxed\{|<(?:b|strong|em|u|answer)>)?\$?"
_MARKED = re.compile(
    rf"{MARKER}(?:{_LEAD}(?:(?:the|final)\s){{0,2}}(?:answer(?:\s+is)?)?){_LEAD}({_VALUE})", re.A | re.I
)
_BOXED = re.compile(r"boxed\s?\{\s{0,4}((?:[^{}\n]|\{[^{}\n]{0,80}\}){0,200})")
_PHRASE = re.compile(
    rf"nswer[\s*_\"']{{0,8}}(?:to [^.\n]{{0,80}}?\b)?(?:(?:is|was|equals|be|becomes)\b|[:=>])\s?[\"']?{_LEAD}"
    rf"(?:approximately|about|roughly|exactly|simply|indeed|thus|therefore|[a-z]\s*=)?{_LEAD}({_VALUE})",
    re.A | re.I,
)
_HEADED = re.compile(rf"nswer[ \t*_:#=]{{0,8}}\n[-=\s]{{0,12}}{_LEAD}({_VALUE})", re.A | re.I)
"""A number below a heading."""
_PHRASE_WORDED = re.compile(
    rf"(?:nswer[\s*_]{{0,8}}(?:(?:is|was|equals)\b|[:=])\s?|{MARKER}|boxed\s?\{{){_LEAD}({WORDED})"
    r"(?=[\s*_\"'$}]{0,8}(?:[.,;!)}\n]|$|(?!more\b|less\b|of\b|times\b)[a-z]+\b[\s*_\"'$}]{0,8}(?:[.,;!)}\n]|$)))",
    re.A | re.I,
)
_ALL_WORDED = re.compile(rf"[\s*_\"'$(]{{0,8}}({WORDED})(?:\s[a-z]{{1,20}}){{0,2}}[\s*_\"'$).!]{{0,8}}", re.A | re.I)
_BOLD = re.compile(rf"\*\*\s?({_VALUE})(?:\s?(?:%|[a-z]{{1,20}}\b)){{0,3}}\s?\.?\s?\*\*", re.A | re.I)
_EMPTY_BOX = re.compile(r"boxed\s?\{[\s$?_.]{0,8}\}")
_PHRASE_CJK = re.compile(
    rf"(?:答案|正解|정답)\s?(?:应该|應該|应|應)?(?:是|为|為|は|은|는)?\s?[:：]?{_LEAD}({_VALUE})", re.A
)
_HEADING = re.compile(r"[\s#*_]{0,12}(?:(?:the|final|correct)\s){0,2}a", re.I)
_OPERATION = re.compile(
    r"[\s*)]{0,8}(?:[A-Za-z]+\s){0,3}(?:[-+*/×÷^x]|\\(?:times|cdot|div)|plus\b|minus\b|times\b|divided\sby\b)[\s$(]{0,4}\d"
)
"""After a number: it is the first of a calculation."""
_EQUALS = re.compile(r"[\s*)]{0,8}=\s?[$(]?\s?\d")
_REST = re.compile(r"(?:[^\n.]|\.(?=\d)){0,400}")
"""The rest of a sentence."""
_LISTED = re.compile(r"[.)][ \t]+(?=\S)")
"""After a number that begins a line: it numbers that line."""
_TOKEN = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?")
_DECIMAL = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)", re.A)
_NUMBER_CHARACTERS = "0123456789,.-−$/ "
_TO_LAST_DIGIT = re.compile(r".*[0-9]", re.S)


class Number(NamedTuple):
    """A number as written, its value, and the number of its decimals."""

    text: str
    value: Fraction
    decimals: int | None
    """None for a fraction, which is exact."""


class FinalNumber(NamedTuple):
    """A number as written in a response, and the rule that found it. Its value is computed only where it is needed."""

    text: str
    rule: str


def read_number(text: str) -> Number | None:
    """The number that the whole text states: "1,234", "-$2.50", "3/4", "2 1/2"; None for anything else, x/0 included,
    and for more than 40 characters."""
    bare = text.replace("$", "").replace(",", "").replace("- ", "-").strip()
    if bare.isdecimal() and bare.isascii() and len(bare) <= _MAX_NUMBER:
        return Number(text, Fraction(int(bare)), 0)
    if len(bare) > _MAX_NUMBER:
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


def marked_number(text: str) -> FinalNumber | None:
    """The number after the first "####" that has one: GSM8K's strict rule."""
    return _first_marked(in_digits(text))


def marked_result(text: str) -> FinalNumber | None:
    """The number after the last "####" that has one; of an equation there, its result."""
    return _last_marked(in_digits(text))


def _first_marked(text: str) -> FinalNumber | None:
    start = text.find(MARKER)
    return _valid(_MARKED.search(text, start), "marker") if start >= 0 else None


def last_number(text: str) -> FinalNumber | None:
    """The last number of the text: the flexible rule. None where there is none, or it has more than 40 characters."""
    return _last(in_digits(text))


def _last(text: str) -> FinalNumber | None:
    end = _end_of_digits(text)
    if not end:
        return None
    run = _run_before(text, end, _NUMBER_CHARACTERS)
    bare = run.strip(" ")
    if bare.isdecimal() and run[0] == " " and bare.isascii():
        # Nearly every number: a plain one after a space.
        return FinalNumber(bare, "last_number") if len(bare) <= _MAX_NUMBER else None
    # Two characters more, for what may not precede a number.
    matches = deque(_NUMBER.finditer(text[max(0, end - len(run) - 2) : end].replace("−", "-")), maxlen=1)
    number = matches[0].group().strip() if matches else ""
    return FinalNumber(number, "last_number") if number and read_number(number) else None


def numbers_in(text: str) -> Iterator[Number]:
    """The numbers of a text in plain digits (`in_digits`), in order."""
    return filter(None, (read_number(match.group().strip()) for match in _NUMBER.finditer(text)))


def final_number(text: str) -> FinalNumber | None:
    """The number that a response gives as its answer, by the first default rule that finds one."""
    return _final(in_digits(text))


def _final(text: str) -> FinalNumber | None:
    parts = list(own_parts(text))
    for part in parts:
        # Of questions that it asks itself step by step, the last number of the first is no answer.
        number = _last_marked(part) or _last_stated(part) or _last_worded(part)
        number = number or (None if asks_first(part) else _unstated(part))
        if number:
            return number
    return next(filter(None, map(_unstated, parts)), None)


def _unstated(text: str) -> FinalNumber | None:
    """The number of a text that calls none its answer."""
    at = max(text.rfind("boxed{"), text.rfind("boxed {"))
    if at >= 0 and (box := _EMPTY_BOX.match(text, at)):
        number = _last(text[box.end() :])
        return number._replace(rule="empty_box") if number else None
    return _last_bold(text) or _last(text)


def _last_bold(text: str) -> FinalNumber | None:
    """The last number alone in bold, in the last line that has a number."""
    end = _end_of_digits(text)
    start = text.rfind("\n", 0, end) + 1
    if text.find("**", start) < 0:
        return None
    line = text[start : text.find("\n", end) if text.find("\n", end) >= 0 else len(text)]
    matches = (m for m in _BOLD.finditer(line) if not (m.start() == 0 and m.end() < len(line)))
    last = deque(matches, maxlen=1)
    return FinalNumber(last[0][1].strip(), "bold") if last and read_number(last[0][1].strip()) else None


def _last_worded(text: str) -> FinalNumber | None:
    """The last number in words that the text calls its answer, or that is all of it."""
    match = _ALL_WORDED.fullmatch(text) if len(text) < 120 else None
    if match is None:
        last = deque(_PHRASE_WORDED.finditer(text), maxlen=1)
        match = last[0] if last else None
    value = value_of(match[1]) if match else None
    return None if value is None else FinalNumber(str(value), "words")


def final_grade(gold: str, response: str, question: str = "") -> Grade:
    """The verdict by the default rules."""
    return replace(default_grade(gold, response, question), further={})


def default_grade(gold: str, response: str, question: str = "") -> Grade:
    """The verdict by the default rules, with GSM8K's strict and flexible scores in `further`.

    Where the question counts in thousands or millions, an answer of "5 million" is right for 5 and for 5,000,000; where
    it asks for minutes, "2 hours (120 minutes)" is right for 120.
    """
    answer = without_thoughts(clipped(response))
    if answer is None:
        return replace(unclosed(), further={"strict": 0.0, "flexible": 0.0})
    grade = _graded(gold, in_digits(answer))
    if grade.score == 1 or not question:
        return grade
    units, asked = scales_in(question), in_unit_asked(answer, question)
    if not units and asked == answer:
        return grade
    other = _graded(gold, in_digits(asked, units))
    return other if other.score > grade.score else grade


def _graded(gold: str, text: str) -> Grade:
    strict, flexible, final = _first_marked(text), _last(text), _final(text)
    right = {number: number is not None and is_right(number.text, gold) for number in {strict, flexible, final}}
    return _grade(final, right[final], {"strict": float(right[strict]), "flexible": float(right[flexible])})


def _grade(final: FinalNumber | None, right: bool, further: dict[str, float]) -> Grade:
    if final is None:
        return Grade(0.0, None, "none", "unparsed", "no number in the response", further)
    return Grade(float(right), final.text, final.rule, "graded", "", further)


def paper_grade(reference: str, response: str) -> Grade:
    """The verdict of the paper's release. reference: the gold text, read by the same rule as the response."""
    token, gold = last_token(response), last_token(reference)
    if token is None:
        return Grade(0.0, None, "none", "unparsed", "no number in the response")
    if gold is None or _no_literal(token) or _no_literal(gold):
        return Grade(0.0, token[:_MAX_NUMBER], "last_number", "graded", "no Python literal, so wrong" if gold else "")
    right = token == gold or abs(Decimal(token) - Decimal(gold)) < Decimal("1e-4")
    return Grade(float(right), token, "last_number", "graded")


def is_right(answer: str, gold: str) -> bool:
    """Whether a number equals the gold one: as a fraction, within 1e-4, or where the two differ by rounding alone."""
    if answer == gold:
        return True
    given, wanted = read_number(answer), read_number(gold)
    if given is None or wanted is None:
        return False
    if given.decimals == wanted.decimals == 0:
        return given.value == wanted.value
    difference = abs(given.value - wanted.value)
    if difference <= _TOLERANCE:
        return True
    # 13/3, 4.3333 and 4.33 are one answer; 4 and 4.33 are two: rounding is accepted from the second decimal on,
    # and to whatever decimals the gold answer itself is rounded to.
    places = [n for n in (given.decimals, wanted.decimals) if n is not None]
    shorter = min(places, default=0)
    return (shorter >= 2 or 1 <= shorter == wanted.decimals) and difference <= Fraction(1, 2 * 10**shorter)


def last_token(text: str) -> str | None:
    """The last number-like token of a text, without commas and plus sign; None where there is none."""
    run = _run_before(text, _end_of_digits(text), "0123456789,.+-")
    if run.isdecimal():
        return run
    tokens = deque(_TOKEN.finditer(run), maxlen=1)
    return tokens[0].group().replace(",", "").lstrip("+") if tokens else None


def _end_of_digits(text: str) -> int:
    """The index behind the last digit: every number ends there or before. 0 where there is none."""
    match = _TO_LAST_DIGIT.match(text)
    return match.end() if match else 0


def _run_before(text: str, end: int, characters: str) -> str:
    """The longest run of these characters that ends at `end`."""
    for size in (32, 400, end):
        start = max(0, end - size)
        tail = text[start:end]
        rest = len(tail.rstrip(characters))
        if rest or not start:
            return tail[rest:]
    return ""


def clipped(text: str) -> str:
    """The text; of one longer than 200,000 characters its first and last 100,000."""
    return text if len(text) <= 2 * _MAX_SIDE else f"{text[:_MAX_SIDE]}\n{text[-_MAX_SIDE:]}"


def _last_marked(text: str) -> FinalNumber | None:
    """The number after the last "####" that has one; of an equation there its result."""
    at = text.find(MARKER)
    last = None
    for match in _MARKED.finditer(text, at) if at >= 0 else ():
        last = match if _valid(match, "marker") else last
    return _result(last, text, "marker") if last else None


def _last_boxed(text: str) -> tuple[FinalNumber | None, int]:
    """The number in the last box, and where that begins; -1 where there is none."""
    at = max(text.rfind("boxed{"), text.rfind("boxed {"))
    box = _BOXED.match(text, at) if at >= 0 else None
    return (_side_alone(box[1], "boxed") if box else None), at


def _last_stated(text: str) -> FinalNumber | None:
    """The last number that is boxed, or that the text calls the answer."""
    boxed, at = _last_boxed(text)
    end = len(text)
    for _ in range(20):
        end = max(text.rfind("nswer", 0, end), text.rfind("NSWER", 0, end))
        if end < 0 or (boxed and end < at):
            break
        if text.startswith("</", end - 3):
            continue  # What is behind the tag is no answer.
        phrase = _PHRASE.match(text, end) or _below_heading(text, end)
        if phrase and not _numbers_a_line(phrase, text):
            return _result(phrase, text, "phrase") or boxed
    if boxed or text.isascii():
        return boxed
    called = deque(_PHRASE_CJK.finditer(text), maxlen=1)
    return _result(called[0], text, "phrase") if called else None


def _below_heading(text: str, at: int) -> re.Match[str] | None:
    """The number below the heading "Answer", whose second letter is at `at`."""
    line = text[max(0, text.rfind("\n", max(0, at - 40), at)) : at]
    return _HEADED.match(text, at) if _HEADING.fullmatch(line) else None


def _numbers_a_line(match: re.Match[str], text: str) -> bool:
    """Whether a number is that of a list: "Here is the answer:\\n1. Add the two"."""
    return "\n" in match.group().rstrip() and _LISTED.match(text, match.end()) is not None


def _result(match: re.Match[str], text: str, rule: str) -> FinalNumber | None:
    """The number of a match; of an equation that begins there its result: "7 + 3 = 10" and "10 = 7 + 3" are 10."""
    if not (_OPERATION.match(text, match.end()) or _EQUALS.match(text, match.end())):
        return _valid(match, rule)
    rest = _REST.match(text, match.end())[0]  # type: ignore[index]
    return _side_alone(match[1] + rest, rule) or _valid(match, rule)


def _side_alone(equation: str, rule: str) -> FinalNumber | None:
    """The first number of the last side that is no calculation; of the last side where all are."""
    numbers = [next(_found(side), None) for side in reversed(equation.split("="))]
    alone = (one for one in numbers if one and not _OPERATION.match(one.string, one.end()))
    one = next(alone, None) or numbers[0]
    return FinalNumber(one.group().strip(), rule) if one else None


def _found(text: str) -> Iterator[re.Match[str]]:
    return (match for match in _NUMBER.finditer(text) if read_number(match.group().strip()))


def _valid(match: re.Match[str] | None, rule: str) -> FinalNumber | None:
    return FinalNumber(match[1].strip(), rule) if match and read_number(match[1].strip()) else None


def _no_literal(token: str) -> bool:
    """Whether the token is no Python literal, so that the release's `eval` fails: "007" is none, "0" and "0.5" are."""
    bare = token.lstrip("-")
    return len(bare) > 4300 or ("." not in bare and bare.startswith("0") and bare.strip("0") != "")
