"""Tokenizes the equations of a worked solution.  text -> tokens

Units become part of the number they follow, words like "times" become operators, brackets around words only are
removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from lai_ray.grading.numerals import joined

_MAX_DIGITS = 20
"""Of a number. A longer one comes from a model that repeats a digit."""
_MAX_LINE = 2_000
"""Characters of a line; longer lines are not checked."""
_TOKEN = re.compile(
    r"(?P<bad>\d+:\d\d|\d+(?:\.\d+){2,}|\d*\.?\d+[eE]\d)"
    r"|(?P<number>(?:[$£€₹]\s?)?(?:\d{1,3}(?:[, ]\d{3})+(?!\d)|\d+(?!,\d{3}(?!\d)))(?:\.\d+)?|(?:[$£€₹]\s?)?\.\d+)"
    r"|(?P<percent>%)|(?P<op>\*\*|[-+*/^])|(?P<open>\()|(?P<close>\))|(?P<equals>=+)"
    r"|(?P<word>¢|[^\W\d_][\w'’]*(?:-[^\W\d_]\w*)*)|(?P<skip>[°\"'`_]|\*\*)|(?P<space>\s+)|(?P<stop>.)",
)
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-", "·": "*", "⋅": "*", "[": "(", "]": ")", "{": "(",
                        "}": ")", "∗": "*"})  # fmt: skip
_LATEX = [
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|boxed)\{([^{}]{0,80})\}"), r" \1 "),
    (re.compile(r"(?<=\d)\s?\\[dt]?frac\{(\d+)\}\{(\d+)\}"), r" \1/\2 "),
    (re.compile(r"\\[dt]?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\left|\\right|\\[()\[\]!,;:]|\\quad|\\ |&(?==)"), " "),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\{,\}"), ","),
]
_WORDS = {"times": "*", "plus": "+", "minus": "-", "of": "*", "x": "*", "X": "*"}
_TWO_WORDS = {("multiplied", "by"): "*", ("divided", "by"): "/"}
_NUMBER_WORDS = {
    "half", "halves", "quarter", "third", "thirds", "fourth", "fourths", "fifth", "fifths", "twice", "double", "triple",
    "thrice", "times", "square", "squared", "cubed", "root", "pi", "percent",
}  # fmt: skip
"""Words that are numbers or operations; an expression next to one is not checked."""
BEFORE = _NUMBER_WORDS | {"than", "by", "minus", "plus", "less", "product", "average", "difference"}
"""An expression after one of these is part of a larger one: "half of 10", "5 more than 3 * 4"."""
_SCALES = {
    "dozen": 12, "dozens": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12, "k": 10**3,
}  # fmt: skip
_BOLD = re.compile(r"(?:(?<=\d)\s{0,3}|(?<=[^\W\d_]))\*{2,4}(?=\s|$|[.,])|(?:^|(?<=\s))\*{2,4}(?=\S)")
"""Bold marks, which are not the operator "**"."""


@dataclass
class Token:
    """One number, operator, bracket or word of a line."""

    kind: str
    text: str
    start: int
    end: int
    value: Fraction | None = None
    percent: bool = False
    tight: bool = False
    """No space before it."""
    scale: int = 1
    """A thousand for "3 thousand"."""
    decimals: int = 0
    units: list[str] = field(default_factory=list)


def lines(text: str) -> Iterator[str]:
    """The lines with an equation, without LaTeX and Markdown. A line that begins with "=" is joined to the previous."""
    text = re.sub(r"[ \t]*\n[ \t>]{0,20}(?==(?!=))", " ", text)
    for line in text.split("\n"):
        if "=" in line and len(line) <= _MAX_LINE:
            yield _plain(line)


def _plain(line: str) -> str:
    if "\\" in line or "{,}" in line or not line.isascii():
        line = joined(line)
        for _ in range(2):
            for pattern, into in _LATEX:
                line = pattern.sub(into, line)
    line = re.sub(r"²", "^2", re.sub(r"³", "^3", line)).translate(_SIGNS)
    line = re.sub(r"(?<=[A-Za-z])\s?\^\s?\(?\d\)?", "", line)  # "40 cm^3" is 40
    line = re.sub(r"<<[^<>]{0,200}>>", "", line)
    return re.sub(r"^\s*(?:[-*+•]|\(?\d{1,2}[.)])\s+", "", _BOLD.sub("", line))


def segments(line: str) -> list[list[Token]]:
    """The tokens between the equals signs of a line, in order; none where a number exceeds _MAX_DIGITS."""
    made: list[list[Token]] = [[]]
    for token in _tokens(line) or ():
        if token.kind == "equals":
            made.append([])
        else:
            made[-1].append(token)
    return [_reduced(segment) for segment in made]


def _tokens(line: str) -> list[Token] | None:
    tokens: list[Token] = []
    spaced = True
    for match in _TOKEN.finditer(line):
        kind = match.lastgroup or "stop"
        if kind in ("space", "skip"):
            spaced = spaced or kind == "space"
            continue
        token = Token(kind, match.group(), match.start(), match.end(), tight=not spaced)
        spaced = False
        if kind == "equals" and (len(token.text) > 1 or (match.start() and line[match.start() - 1] in "<>!~")):
            token.kind = "stop"
        if kind == "number":
            digits = re.sub(r"[^\d.]", "", token.text)
            if len(digits) > _MAX_DIGITS:
                return None
            token.value, token.decimals = Fraction(digits), len(digits.partition(".")[2])
        if kind == "percent" and tokens and tokens[-1].kind == "number":
            tokens[-1].percent, tokens[-1].end = True, token.end
            continue
        tokens.append(token)
    return _operators(tokens)


def _operators(tokens: list[Token]) -> list[Token]:
    """Words that mean an operator become operators where they are between numbers."""
    made: list[Token] = []
    at = 0
    while at < len(tokens):
        token, rest = tokens[at], tokens[at + 1 :]
        following = rest[0].kind if rest else ""
        before = made[-1] if made else None
        if token.kind == "word" and before is not None:
            pair = (token.text.lower(), rest[0].text.lower() if rest else "")
            if pair in _TWO_WORDS and len(rest) > 1 and rest[1].kind in ("number", "open"):
                token.kind, token.text, token.end = "op", _TWO_WORDS[pair], rest[0].end
                at += 1
            elif token.text in _WORDS and following in ("number", "open") and before.kind != "op":
                share = before.kind == "number" and (before.percent or (len(made) > 1 and made[-2].text == "/"))
                if token.text != "of" or share or before.kind == "close":
                    token.kind, token.text = "op", _WORDS[token.text]
        made.append(token)
        at += 1
    return made


def _reduced(segment: list[Token]) -> list[Token]:
    """Units joined to the numbers they follow; unmatched brackets, and brackets around words only, removed."""
    segment = _unnamed(_brackets(segment))
    made: list[Token] = []
    at = 0
    while at < len(segment):
        token = segment[at]
        holder = made[-1] if made and made[-1].kind in ("number", "close") else None
        following = segment[at + 1] if at + 1 < len(segment) else None
        unit = holder is not None and token.kind in ("word", "comment")
        slash = (
            holder is not None and token.text in ("/", "-") and following is not None and following.kind == "word"
            and (token.text == "/" or following.tight)
        )  # fmt: skip
        if slash:
            if token.text == "-" and holder is not None:
                holder.units.append("?")  # "3-point" is no number of points.
            at += 1
            continue
        if unit and holder is not None and token.text.lower() in _SCALES and not holder.units:
            holder.scale = _SCALES[token.text.lower()]
        elif unit and holder is not None:
            holder.units.append("?" + token.text if token.tight and len(token.text) == 1 else token.text)
        elif token.kind != "comment":
            made.append(token)
        at += 1
    return _products(made)


def _unnamed(segment: list[Token]) -> list[Token]:
    """Removes one or two words between an operator and its number: "8 + Riley's 5"."""
    made: list[Token] = []
    for i, token in enumerate(segment):
        if token.kind == "word" and made and made[-1].kind == "op" and len(token.text) > 1:
            nearest = segment[i + 1 : i + 3]
            following = next((later for later in nearest if later.kind != "word"), None)
            words = [token, *nearest[: 1 if nearest and nearest[0].kind == "word" else 0]]
            if following and following.kind == "number" and all(map(_plain_word, words)):
                continue
        made.append(token)
    return made


def _plain_word(token: Token) -> bool:
    """True in "Riley's 5" and "her original 98"; "Semester 2" is a name, "minutes in 8 hours" another quantity."""
    if token.text.endswith(("'s", "’s", "s'")):
        return True
    return token.text.islower() and token.text not in BEFORE | {"of", "in", "per", "for", "with", "at", "on"}


def _brackets(segment: list[Token]) -> list[Token]:
    opened: list[int] = []
    made = list(segment)
    for i, token in enumerate(segment):
        if token.kind == "open":
            opened.append(i)
        elif token.kind == "close":
            if not opened:
                made[i] = Token("stop", ")", token.start, token.end)
                continue
            start = opened.pop()
            if not any(inside.kind in ("number", "bad", "op") for inside in segment[start:i]):
                named = any(len(inside.text) == 1 and inside.kind == "word" for inside in segment[start:i])
                for k in range(start, i + 1):
                    made[k] = Token("comment", "?" if named else "", token.start, token.end)
    for i in opened:
        made[i] = Token("stop", "(", segment[i].start, segment[i].end)
    return made


def _products(tokens: list[Token]) -> list[Token]:
    """Adds the operator of "2(3 + 4)" and joins the mixed number "2 1/2"."""
    made: list[Token] = []
    for token in tokens:
        before = made[-1] if made else None
        if before and before.kind in ("number", "close") and not before.units and token.kind == "open" and token.tight:
            made.append(Token("op", "*", token.start, token.start, tight=True))
        made.append(token)
    for i in range(len(made) - 4, -1, -1):
        four = made[i : i + 4]
        if [token.kind for token in four] != ["number", "number", "op", "number"] or four[0].units:
            continue
        whole, top, slash, bottom = four
        if slash.text == "/" and slash.tight and bottom.tight and not whole.decimals and below(top, bottom):
            whole.value = (whole.value or Fraction(0)) + (top.value or Fraction(0)) / (bottom.value or Fraction(1))
            whole.units, whole.end, whole.percent = bottom.units, bottom.end, bottom.percent
            del made[i + 1 : i + 4]
    return made


def below(top: Token, bottom: Token) -> bool:
    return top.value is not None and bottom.value is not None and top.value < bottom.value and not top.units
