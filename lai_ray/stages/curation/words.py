"""What a text is made of, for every question of likeness.  text -> words"""

from __future__ import annotations

import re
import unicodedata

from lai_ray.records import Problem

_WORD = r"[^\W_]+(?:[.,]\d+)*"
# What decides between two formulas stays: "x + 1" is not "x - 1". A hyphen counts where it can be a minus, not between
# words; commas, full stops and quotation marks are only how somebody typed.
_SYMBOL = r"-(?=\s*[\d(.])|(?<!\w)-(?=\s*\w)|[+*/^=<>|~%&@$\\()\[\]{}¬∧∨⊃≡∀∃√∫≤≥≠±×÷·•∘→↔−]"
_WORDS = re.compile(_WORD)
_WORDS_AND_SYMBOLS = re.compile(f"{_WORD}|{_SYMBOL}")


def words(text: str) -> list[str]:
    """The words and numbers of a text, case and Unicode forms folded; "1,200.5" is one word, symbols are none."""
    return _WORDS.findall(_folded(text))


def normalised(text: str) -> str:
    """Case, spacing, Unicode forms and the punctuation of prose folded away; words, numbers and symbols stay.

    A text of nothing but signs stays as it is, without its spaces: "🙂" is not "= =".
    """
    return " ".join(_WORDS_AND_SYMBOLS.findall(_folded(text))) or "".join(text.split())


def options(problem: Problem) -> list[str]:
    """The options of a multiple-choice problem, in order; none for any other."""
    choices = problem.extra.get("choices") or []
    return [str(option) for option in (choices.values() if isinstance(choices, dict) else choices)]


def whole(problem: Problem) -> str:
    """The question and, where there are any, its options."""
    return "\n".join([problem.question, *options(problem)])


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
