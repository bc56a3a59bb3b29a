"""Numbers as they are written, in plain digits.  text -> text

"70{,}000", "70\\,000", "1.5 million", "\\$1.5 \\times 10^{3}", "−5", "\\frac12" become "70000", "70000", "1500000",
"$1500", "-5", "1/2". The one reader of numbers of the graders, of samples and of users' gold answers; paper rules do
not use it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from math import isqrt

from lai_ray.grading.answer_part import narrow

_DRESS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|normal)?|math(?:bf|rm|it|sf|tt|bb|cal)?|boldsymbol|bm|mbox|emph|underline|bold"
    r"|operatorname|fbox|displaystyle)\*?\s?\{([^{}]{0,400})\}"
)
_SPACES = "\u00a0\u2002-\u200a\u202f\u205f"
_LATEX_GAP = r"\{,\}|,\\!\s?|\\[,;: ]|\\!|~|['’_٬]|\{\\,\}|\\thinspace\s?|\\(?:text|math(?:rm|ord|punct))\{,\}"
_GROUPS = re.compile(
    rf"(?<![\w.,])(?<!\d[ ])([1-9]\d{{0,2}}(?:(?:{_LATEX_GAP}|[{_SPACES}])\d{{3}})+)(?![\w]|[,.]\d{{3}}(?!\d))"
    r"|(?<![\w.,/^-])(?<!\d[ ])([1-9]\d{0,2}(?: \d{3})+)(?![\w/-]|,\d| ?[/:]| \d)"
    r"|(?<![\w.,])([1-9]\d?(?:,\d\d)+,\d{3})(?![\w]|,\d)"
    r"|(?<![\w.,])([1-9]\d{0,2}(?:\.\d{3}){2,})(?!\w|[.]\d)",
    re.A,
)
_SIGNS = str.maketrans("−﹣‐‑€£₹¥₩₽₺₫₱₦", "----" + 10 * " ")
_CURRENCY = re.compile(
    r"\\(?:pounds|euro|EUR|texteuro)(?:\{\})?\s?|\b(?:US|CA|AU|NZ|HK|C|A|S)(?=\$)"
    r"|\b(?:USD|EUR|GBP|INR|CNY|JPY|Rs\.?)\s?(?=-?\d)"
)
_NEGATIVE = re.compile(r"\bnegative\s(?=[$€£]?\d)|(?<=\b(?:is|be|at|to)\s)minus\s(?=[$€£]?\d)", re.I)
_DECIMAL_COMMA = re.compile(
    rf"(?<![\w.,])([1-9]\d{{0,2}}(?:[. {_SPACES}]\d{{3}})+|(?<![(\[{{] )(?<![(\[{{])\d{{1,3}})"
    r",(\d\d)(?![\w.]|\s?,|\s?[)\]}])",
    re.A,
)
"""As continental Europe writes it: "1.234,50", "12,50". In brackets it may be a pair."""
_ROOT = re.compile(r"\\sqrt\s?\{?(\d{1,12})\}?(?!\d)", re.A)
_BOX = re.compile(r"\\(?:framebox|fbox)\s?(?=\{)")
_BARE_BOX = re.compile(r"\\boxed\s+([-−]?\$?\d[\d,.]*)", re.A)
_DASH = re.compile(r"(?<![^\s$({:*=])[–—](?=\$?\d)")
_PLAIN = r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_TIMES = r"\s?(?:\\times|\\cdot|×|x|X|\*|·|⋅)\s?"
_POWER = re.compile(
    rf"(?<![\w.,^])(?:({_PLAIN}){_TIMES}|(?<![\w.]))(\d{{1,4}})\s?(?:\^|\*\*)\s?(?:\{{\s?|\()?([-+]?\d{{1,4}})(?:\s?\}}|\))?"
    r"(?![\w^]|\.\d|\*\*\d)",
    re.A,
)
_SCIENTIFIC = re.compile(rf"(?<![\w.,])({_PLAIN})[eE]([-+]?\d{{1,4}})(?![\w]|[.,]\d)", re.A)
_UNIT_POWER = re.compile(r"(?<=[A-Za-z}])\s?\^\s?(?:\{\d\}|\d)(?!\d)")
_RAISED = re.compile(r"(?<=\d)([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_FROM_RAISED = str.maketrans("⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹", "-+0123456789")
_SCALES = {
    "hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "lakh": 5, "crore": 7, "mn": 6, "bn": 9,
    "k": 3, "m": 6, "万": 4, "萬": 4, "亿": 8, "億": 8,
}  # fmt: skip
SCALES = frozenset({"hundred", "thousand", "million", "billion", "trillion", "lakh", "crore"})
"""Words that multiply the number before them."""
_NAMED_SCALE = re.compile(rf"\b({'|'.join(sorted(SCALES))})s?\b", re.I)
_SCALED = re.compile(
    rf"(?<![\w.,])({_PLAIN})(?:([*_$]{{0,3}}\}}?[*_$]{{0,3}}(?:[\s-]|[ ]{{2,4}})?)"
    r"((?i:hundred|thousand|million|billion|trillion|lakh|crore))s?(?![\w]|-\w)"
    r"|()(k|K|M|mn|bn)(?![\w]|-\w)|(\s?)(万|萬|亿|億))",
    re.A,
)
_BASE_SET = re.compile(r"(\\(?:times|cdot)\s?)\{(\d{1,4})\}(?=\s?\^)", re.A)
_SCALE_SET = re.compile(r"(?<=\d)\\(?:text|mathrm)\{([kKM]|mn|bn)\}", re.A)
"""A short scale directly behind its number, in LaTeX: "2.5\\text{M}"."""
_FRACTION = re.compile(
    r"(?<=(\d))?\s?\\[dtc]?frac\s?(?:\{\s?(-?)\s?(\d[\d,]*)\s?\}|(\d))\s?(?:\{\s?(\d[\d,]*)\s?\}|(\d))", re.A
)
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
           "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}  # fmt: skip
_IS_VULGAR = re.compile(rf"(\d?)\s?([{''.join(_VULGAR)}])")
_MAX_ZEROS = 60
_MAYBE = re.compile(
    r"\\|\{,|[^\x00-\x7f]|[\da-z}]\s?\^|\d\s?\*\*|\d[eE][-+\d]|\d[kKMmb]|\d['_~ ]\d{3}|\d,\d\d(?!\d)|\.\d{3}\."
    r"|\d[*_$}]{0,7}[\s-]?[a-z]{4}|[A-Z]\$|[A-Z]{3} ?\d|Rs|negative|minus",
    re.I | re.A,
)


def undressed(text: str) -> str:
    r"""The text without LaTeX's fonts: "\boxed{\textbf{18}}" is "\boxed{ 18 }"."""
    for _ in range(3):
        if "\\" not in text:
            break
        text, n = _DRESS.subn(r" \1 ", text)
        if not n:
            break
    return text


def joined(text: str) -> str:
    """The text with numbers in groups of three, other than by a comma alone, as digits without separators."""
    return _GROUPS.sub(lambda m: re.sub(r"\D", "", m[0]), text)


def scales_in(question: str) -> frozenset[str]:
    """The scales that a question names: "how many million dollars" has its answer in millions."""
    return frozenset(word.lower() for word in _NAMED_SCALE.findall(question))


def in_digits(text: str, units: frozenset[str] = frozenset()) -> str:
    """The text with every number in plain digits. Text without unusual numbers is returned as it is.

    units: scales that are units here, so that "5 million" stays 5.
    """
    if not _MAYBE.search(text):
        return text
    if not text.isascii():
        text = narrow(text).translate(_SIGNS)
        text = _RAISED.sub(lambda m: "^" + m[1].translate(_FROM_RAISED), _DASH.sub("-", text))
        text = _IS_VULGAR.sub(lambda m: f"{m[1]} {_VULGAR[m[2]]}" if m[1] else _VULGAR[m[2]], text)
    text = _DECIMAL_COMMA.sub(_with_point, _NEGATIVE.sub("-", text))
    text = _UNIT_POWER.sub("", _BASE_SET.sub(r"\1\2", text))  # "25 m^2" is 25.
    text = joined(_CURRENCY.sub(" ", _without_latex(text)))
    text = _SCIENTIFIC.sub(lambda m: _shifted(m[1], int(m[2])), _POWER.sub(_raised, text))
    for _ in range(2):  # "5 hundred thousand"
        text = _SCALED.sub(lambda m: m[0] if (m[3] or "").lower() in units else _scaled(m), text)
    return text


def _without_latex(text: str) -> str:
    if "\\" not in text and "{" not in text:
        return text
    text = _SCALE_SET.sub(r"\1", text)
    text = _BARE_BOX.sub(r"\\boxed{\1}", _BOX.sub(r"\\boxed", text))
    text = (
        _ROOT.sub(_root, undressed(joined(text)))
        .replace("\\$", "$")
        .replace("\\%", "%")
        .replace("{,}", ",")
        .replace("\\!", "")
    )
    text = _FRACTION.sub(_fraction, text)
    return re.sub(r"\\[,;: ]|\\left(?![a-z])|\\right(?![a-z])|\\q?quad", " ", text)


def _with_point(match: re.Match[str]) -> str:
    return re.sub(r"\D", "", match[1]) + "." + match[2]


def _root(match: re.Match[str]) -> str:
    root = isqrt(int(match[1]))
    return str(root) if root * root == int(match[1]) else match[0]


def _fraction(match: re.Match[str]) -> str:
    top, bottom = (match[3] or match[4]).replace(",", ""), (match[5] or match[6]).replace(",", "")
    return f"{' ' if match[1] else ''}{match[2] or ''}{top}/{bottom}"


def _raised(match: re.Match[str]) -> str:
    if "**" in match[0] and match.string[match.start() - 1 : match.start()] == "*":
        return match[0]  # "**3** 4" is a bold 3.
    factor, base, exponent = (match[1] or "1").replace(",", ""), int(match[2]), int(match[3])
    if base == 10:
        return _shifted(factor, exponent)
    if factor != "1" or not 0 <= exponent <= 2 * _MAX_ZEROS:
        return match[0]
    return str(base**exponent)


def _shifted(number: str, places: int) -> str:
    """The number times ten to the power of `places`, which is cut at 60: then it is too long to be read."""
    value = Decimal(number.replace(",", "")).scaleb(max(-_MAX_ZEROS, min(_MAX_ZEROS, places)))
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scaled(match: re.Match[str]) -> str:
    word = (match[3] or match[5] or match[7]).lower()
    return _shifted(match[1], _SCALES[word]) + (match[2] or "").rstrip("- ")
