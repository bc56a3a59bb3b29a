"""Numbers in free text: the final answer of a worked solution, and whether its statements hold.  text -> numbers

Compared as exact fractions and worked out by hand-written arithmetic: text that a model wrote is never evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from lai_ray.errors import DataError

MARKER = "####"
_LONGEST = 40
"""Characters of a number. Longer ones are a model stuck on one digit, and reading them takes quadratic time."""

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_SIGNED = re.compile(rf"(?<![\w.])-?\s?\$?\s?(?:{_NUMBER})(?:/\d+(?![\d/]))?")
_OPERATOR = r"\s*[-+*/x×÷−]\s*"
_STATEMENT = re.compile(rf"(?<![\w.])-?\$?(?:{_NUMBER})(?:{_OPERATOR}\$?(?:{_NUMBER}))+\s*=\s*-?\$?(?:{_NUMBER})")
_SAME_SIGN = str.maketrans({"x": "*", "×": "*", "÷": "/", "−": "-"})


@dataclass(frozen=True, slots=True)
class Found:
    """A number as it stood in the text, its value, and the rule that found it: "marker" or "last_number"."""

    text: str
    value: Fraction
    rule: str


def as_number(text: str) -> Fraction | None:
    """The exact value of "1,234", "-3", "$2.50" or "3/4"; None for anything else, for x/0 and for absurd lengths."""
    bare = re.sub(r"[\s$,]", "", text.translate(_SAME_SIGN)).rstrip(".")
    if len(bare) > _LONGEST or not re.fullmatch(r"-?(?:\d+(?:\.\d+)?|\.\d+)(?:/\d+)?", bare):
        return None
    top, _, bottom = bare.partition("/")
    if bottom and int(bottom) == 0:
        return None
    return Fraction(top) / (int(bottom) if bottom else 1)


def numbers_in(text: str) -> list[str]:
    """Every number that stands in the text as it is written there, signs included, in order."""
    # "5-3" holds 5 and 3, not -3: a minus is a sign only where no digit stands before it (the look-behind of _SIGNED).
    return [match.group().strip() for match in _SIGNED.finditer(text.replace("−", "-"))]


def final_answer(text: str) -> Found | None:
    """The number behind the first "####", else the last number of the whole text; None where there is none.

    The first marker counts, as in GSM8K's own script: what a model writes after its answer is another question's.
    """
    _, marker, behind = text.partition(MARKER)
    if marker:
        line = behind.lstrip(" \t:*").split("\n", 1)[0]
        stated = _first_value(numbers_in(line))
        if stated:
            return Found(*stated, rule="marker")
    last = _first_value(reversed(numbers_in(text)))
    return Found(*last, rule="last_number") if last else None


def _first_value(candidates: object) -> tuple[str, Fraction] | None:
    for text in candidates:  # type: ignore[attr-defined]
        value = as_number(text)
        if value is not None:
            return text, value
        if len(text) > _LONGEST:
            # The answer was this absurd one; an earlier number would be put into the model's mouth.
            return None
    return None


def same_number(one: str, other: str) -> bool:
    """Whether two texts state the same value: "1,000" and "1000.0" do. False where either is no number."""
    first, second = as_number(one), as_number(other)
    return first is not None and first == second


def statements(text: str) -> list[str]:
    """Every "a op b = c" (or longer chain) that the text states, as written, in order."""
    return [match.group().strip() for match in _STATEMENT.finditer(text)]


def wrong_statements(text: str) -> list[str]:
    """The statements "a op b ... = c" of a worked solution that do not hold, as written.

    Rounding is forgiven where the stated result has decimals ("10 / 3 = 3.33"): half a unit of its last place.
    """
    return [statement for statement in statements(text) if not _holds(statement)]


def _holds(statement: str) -> bool:
    left, _, right = statement.rpartition("=")
    value, stated = _worked_out(left), as_number(right)
    if value is None or stated is None:
        return False
    decimals = len(right.strip().partition(".")[2])
    slack = Fraction(1, 2 * 10**decimals) if decimals else Fraction(0)
    return abs(value - stated) <= slack


def _worked_out(chain: str) -> Fraction | None:
    """The value of numbers joined by + - * / (no brackets), products first; None for a division by zero."""
    tokens = re.findall(rf"{_NUMBER}|[-+*/]", chain.translate(_SAME_SIGN).replace("$", ""))
    total, sign, product, divide = Fraction(0), 1, None, False
    for token in tokens:
        if token in "+-":
            total, product = total + sign * (product or 0), None
            sign = 1 if token == "+" else -1
        elif token in "*/":
            divide = token == "/"
        else:
            value = as_number(token)
            if value is None or (divide and product is not None and value == 0):
                return None
            product = value if product is None else product / value if divide else product * value
            divide = False
    return total + sign * (product or 0)


def plainly(answer: str, column: str) -> str:
    """A number that stands alone, as digits; a solution as it is. Raises DataError for what only looks like one."""
    bare = re.sub(r"^([-+−]?)\s*[$€£¥₹]\s*", r"\1", answer.strip().removesuffix("%").strip())
    bare = re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", bare)
    if re.fullmatch(r"[-+−]?(\d+\.?\d*|\.\d+)[eE][-+]?\d{1,2}", bare):
        return f"{Decimal(bare.replace('−', '-')):f}"
    alone = "=" not in bare and "\n" not in bare and MARKER not in bare and not re.search(r"[^\W\d_]", bare)
    if alone and not re.fullmatch(r"[-+−]?(\d+\.?\d*|\.\d+)(\s*/\s*[-−]?\d+)?", bare):
        raise DataError(f"column {column!r} holds {answer[:60]!r}, which is not one number, as 1234.5 is")
    return answer
