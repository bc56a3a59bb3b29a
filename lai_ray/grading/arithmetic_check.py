"""Checks the arithmetic of a worked solution: every "a op b = c" in its text.  text -> false statements, last result

Handles units, currency, percent, thousands commas, fractions, brackets and chains; a statement with a side that names a
quantity in words or by a letter is not checked. Exact fractions; text that a model wrote is never evaluated as code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise, product

from lai_ray.grading.equations import BEFORE, Token, below, lines, segments

_UNKNOWN = {"half", "twice", "squared", "cubed", "percent", "am", "pm"}
"""Units that change a number's value: a statement with one is not checked."""
_MEASURES = {
    unit: (kind, Fraction(size))
    for kind, units in {
        "money": "cents:1 cent:1 ¢:1 pennies:1 nickels:5 dimes:10 quarters:25 dollars:100 dollar:100 $:100",
        "time": "seconds:1 second:1 minutes:60 minute:60 min:60 hours:3600 hour:3600 days:86400 day:86400 weeks:604800 "
        "week:604800",
        "years": "months:1 month:1 years:12 year:12 decades:120",
        "length": "inches:1 inch:1 feet:12 foot:12 ft:12 yards:36 yard:36",
        "metres": "mm:1 cm:10 centimeters:10 m:1000 meters:1000 meter:1000 km:1000000 kilometers:1000000",
        "mass": "ounces:1 ounce:1 oz:1 pounds:16 pound:16 lb:16 lbs:16",
        "grams": "mg:1 g:1000 grams:1000 gram:1000 kg:1000000 kilograms:1000000",
        "volume": "ml:1 milliliters:1 liters:1000 liter:1000 l:1000",
        "cups": "cups:1 cup:1 pints:2 pint:2 quarts:4 quart:4 gallons:16 gallon:16",
    }.items()
    for unit, _, size in (pair.partition(":") for pair in units.split())
}
"""Unit -> (what it measures, its size in the smallest unit)."""


@dataclass(frozen=True)
class _Side:
    """One side of an equals sign."""

    tokens: list[Token]
    start: int
    end: int
    whole: bool

    @property
    def computes(self) -> bool:
        return any(token.kind == "op" for token in self.tokens)

    @property
    def units(self) -> set[str]:
        named = {unit.lower() for token in self.tokens for unit in token.units}
        return named | ({"$"} if any(token.text.startswith("$") for token in self.tokens) else set())


def false_statements(text: str) -> list[str]:
    """The false statements "a op b = c" of a text, as written, in order.

    text: a worked solution, prose with Markdown or LaTeX. A result may be rounded or truncated to its written decimals.
    A line that begins with "=" continues the previous one. Never raises.
    """
    return [statement for line in lines(text) for statement in _false_in(line)]


@dataclass(frozen=True)
class Result:
    """What the last equation of a text comes to."""

    statement: str
    """The equation, as written."""
    values: set[Fraction]
    """Its possible values: "5 thousand" is 5 or 5,000."""
    decimals: int | None
    """Those it is written with; None for a fraction or an expression, which is exact."""
    beside: str
    """The text before it on its line, and all text behind it."""


def last_result(text: str) -> Result | None:
    """The result of the last equation of a text; None where there is none, or its value is unknown. Never raises."""
    rows = text.split("\n")
    for at in range(len(rows) - 1, -1, -1):
        for line in lines(rows[at]):
            made = segments(line)
            right = _head(made[-1]) if len(made) > 1 else None
            values = _values(right.tokens) if right else None
            if right is None or not values:
                return None
            left = _tail(made[-2])
            start = left.start if left else 0
            if right.tokens[0].percent:  # "= 15% of 300" states 15 and 45.
                values |= _values(right.tokens[:1])
            written = max(token.decimals for token in right.tokens)
            exact = right.computes or (not written and any(value.denominator > 1 for value in values))
            beside = "\n".join([f"{line[:start]} ; {line[right.end :]}", *rows[at + 1 :]])
            return Result(line[start : right.end].strip(), values, None if exact else written, beside)
    return None


def _false_in(line: str) -> Iterator[str]:
    for i, (left, right) in enumerate(pairwise(segments(line))):
        one, other = _tail(left), _head(right)
        if one is None or other is None or not _checked(one, other, i > 0):
            continue
        if not _holds(one, other):
            yield line[one.start : other.end].strip()


def _tail(tokens: list[Token]) -> _Side | None:
    """The expression at the end of a segment; None where there is none, or it has an unknown."""
    at = _operand_back(tokens, len(tokens) - 1)
    if at is None:
        return None
    while at > 0 and tokens[at - 1].kind == "op":
        before = _operand_back(tokens, at - 2)
        if before is None:
            return _side(tokens, 0, len(tokens)) if at == 1 and tokens[0].text == "-" else None
        at = before
    return None if _means_more(tokens, at) else _side(tokens, at, len(tokens))


def _means_more(tokens: list[Token], at: int) -> bool:
    """Whether the tokens before an expression are part of the statement: "half of 10", "5 more than 3 * 4"."""
    if at == 0:
        return False
    previous = tokens[at - 1]
    if previous.kind == "bad" or (previous.kind in ("number", "close") and not previous.units):
        return True
    words = [
        word.lower()
        for token in tokens[max(0, at - 3) : at]
        for word in (*([token.text] if token.kind == "word" else ()), *token.units)
    ]
    if previous.kind == "stop":
        return False
    if words[-1:] == ["of"]:
        return bool(words[-2:-1]) and (
            words[-2] in BEFORE or words[-2].endswith(("third", "thirds", "fourths", "half"))
        )
    return bool(words) and words[-1] in BEFORE


def _operand_back(tokens: list[Token], at: int) -> int | None:
    if at < 0:
        return None
    if tokens[at].kind == "number":
        return at
    depth = 0
    for i in range(at, -1, -1):
        depth += (tokens[i].kind == "close") - (tokens[i].kind == "open")
        if depth == 0:
            return i if tokens[at].kind == "close" else None
    return None


def _head(tokens: list[Token]) -> _Side | None:
    """The expression at the start of a segment; None as in `_tail`."""
    start = 1 if tokens and tokens[0].text == "-" else 0
    at = _operand(tokens, start)
    if at is None:
        return None
    while at < len(tokens) and tokens[at].kind == "op":
        following = _operand(tokens, at + 1)
        if following is None:
            dash = tokens[at].text == "-" and at + 1 < len(tokens) and tokens[at + 1].kind == "word"
            if not (dash or at + 1 == len(tokens)):
                return None
            break
        at = following
    return _side(tokens, 0, at)


def _operand(tokens: list[Token], at: int) -> int | None:
    if at >= len(tokens):
        return None
    if tokens[at].kind == "number":
        return at + 1
    depth = 0
    for i in range(at, len(tokens)):
        depth += (tokens[i].kind == "open") - (tokens[i].kind == "close")
        if depth == 0:
            return i + 1 if tokens[at].kind == "open" else None
    return None


def _side(tokens: list[Token], start: int, end: int) -> _Side | None:
    taken = tokens[start:end]
    for token in taken:
        unknown = any(
            "?" in u or "_" in u or (len(u) == 1 and u not in "aLmghl") or u.lower() in _UNKNOWN for u in token.units
        )
        if unknown or token.kind not in ("number", "op", "open", "close"):
            return None
    return _Side(taken, taken[0].start, taken[-1].end, whole=len(taken) == len(tokens))


def _checked(left: _Side, right: _Side, chained: bool) -> bool:
    if left.computes:
        return not (_names_a_share(left, right) or _mixes_units(left) or _relates(left, right))
    # "= 12 = 13" at the end of a chain; but "60 minutes = 1 hour" is no arithmetic.
    return (
        chained
        and left.whole
        and not left.units
        and not right.units
        and not any(token.percent or token.text[:1] in "$£€₹" for token in [*left.tokens, *right.tokens])
    )


def _names_a_share(left: _Side, right: _Side) -> bool:
    """Whether the statement defines a share: "1/4 cup = 15 grams"."""
    if [token.kind for token in left.tokens] != ["number", "op", "number"] or left.tokens[1].text != "/":
        return False
    top, bottom = left.tokens[0], left.tokens[2]
    above = any(token.value is not None and token.value > 1 for token in right.tokens)
    return left.tokens[1].tight and bottom.tight and below(top, bottom) and above


def _mixes_units(side: _Side) -> bool:
    """Whether a sum has several units of one measure, "1 hour + 20 minutes"; "20 minutes/hour * 3 hours" is no sum."""
    measured = {_MEASURES[unit] for unit in side.units if unit in _MEASURES}
    sums = any(token.text in ("+", "-") for token in side.tokens)
    return sums and len({kind for kind, _ in measured}) < len(measured)


def _relates(left: _Side, right: _Side) -> bool:
    """Whether the statement relates two quantities: "25 minutes * 3 = 5 pages * 3", "1/4 of the total = 16"."""
    apart = right.computes and left.units and right.units and not left.units & right.units
    return bool(apart) or left.tokens[-1].units[:1] == ["of"]


def _holds(left: _Side, right: _Side) -> bool:
    lefts, rights = _values(left.tokens), _values(right.tokens)
    if not lefts or not rights:
        return True
    # "20 + 5 = 25 * 2 = 50" is bad style, not a false sum: its first number is the result of the left side.
    if right.computes and right.tokens[0].kind == "number" and right.tokens[0].value is not None:
        rights |= _values(right.tokens[:1])
    if any(_close(a, b, right) for a, b in product(lefts, rights)):
        return True
    return any(_converted(a, b, left, right) for a, b in product(lefts, rights))


def _close(value: Fraction, stated: Fraction, right: _Side) -> bool:
    if value == stated:
        return True
    last = right.tokens[-1]
    places = last.decimals + (2 if last.percent and abs(stated) < 1 else 0)
    unit = Fraction(1, 10**places)
    if right.computes and any(token.decimals >= 2 for token in right.tokens):
        return abs(value - stated) <= abs(value) / 1000  # "180 * 2/3 = 180 * 0.6667"
    return abs(value - stated) <= unit / 2 or (0 < value - stated < unit)


def _converted(value: Fraction, stated: Fraction, left: _Side, right: _Side) -> bool:
    """Whether the two differ only by their units: cents and dollars, minutes and hours."""
    measured = [[_MEASURES[unit] for unit in side.units if unit in _MEASURES] for side in (left, right)]
    return any(
        kind == other and value * size == stated * per for kind, size in measured[0] for other, per in measured[1]
    )


def _values(tokens: Sequence[Token]) -> set[Fraction]:
    """The possible values of an expression: "50%" is 1/2 or 50, "6 / 1/4" is 24 or 1.5."""
    values = set()
    percents = (True, False) if any(token.percent for token in tokens) else (False,)
    scaled = [token for token in tokens if token.scale > 1]
    divisions = [token for token in tokens if token.text == "/"]
    mixed = len({token.tight for token in divisions}) > 1 or len(divisions) > 1
    for percent, tight, scale in product(
        percents, (False, True) if mixed else (False,), (False, True)[: 1 + bool(scaled)]
    ):
        read = [replace(t, value=t.value * t.scale) if scale and t.value else t for t in tokens]
        try:
            value, rest = _sum(read, percent, tight)
        except (ZeroDivisionError, IndexError, RecursionError):
            continue
        if not rest and value is not None:
            values.add(value)
    return values


def _sum(tokens: list[Token], percent: bool, tight: bool) -> tuple[Fraction | None, list[Token]]:
    value, tokens = _product(tokens, percent, tight)
    while value is not None and tokens and tokens[0].text in ("+", "-"):
        sign = 1 if tokens[0].text == "+" else -1
        other, tokens = _product(tokens[1:], percent, tight)
        value = None if other is None else value + sign * other
    return value, tokens


def _product(tokens: list[Token], percent: bool, tight: bool) -> tuple[Fraction | None, list[Token]]:
    value, tokens = _power(tokens, percent, tight)
    while value is not None and tokens and tokens[0].text in ("*", "/"):
        op = tokens[0].text
        other, tokens = _power(tokens[1:], percent, tight)
        if other is None:
            return None, tokens
        value = value * other if op == "*" else value / other
    return value, tokens


def _power(tokens: list[Token], percent: bool, tight: bool) -> tuple[Fraction | None, list[Token]]:
    value, tokens = _unit(tokens, percent, tight)
    # A fraction without spaces binds tighter: "6 / 1/4".
    while value is not None and tight and len(tokens) > 1 and tokens[0].text == "/" and tokens[0].tight:
        other, tokens = _unit(tokens[1:], percent, tight)
        value = None if other is None else value / other
    if value is not None and tokens and tokens[0].text in ("^", "**"):
        exponent, tokens = _unit(tokens[1:], percent, tight)
        size = max(value.numerator.bit_length(), value.denominator.bit_length())
        if exponent is None or exponent.denominator != 1 or not 0 <= exponent <= 20 or size > 200:
            return None, tokens
        value = value ** int(exponent)
    return value, tokens


def _unit(tokens: list[Token], percent: bool, tight: bool) -> tuple[Fraction | None, list[Token]]:
    first = tokens[0]
    if first.text in ("-", "+"):
        value, rest = _power(tokens[1:], percent, tight)
        return (None if value is None else -value if first.text == "-" else value), rest
    if first.kind == "open":
        value, rest = _sum(tokens[1:], percent, tight)
        if not rest or rest[0].kind != "close":
            return None, rest
        return value, rest[1:]
    if first.value is None:
        return None, tokens
    return (first.value / 100 if percent and first.percent else first.value), tokens[1:]
