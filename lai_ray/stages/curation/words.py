"""Words and normal forms of texts, for every comparison of them.  text -> words"""

from __future__ import annotations

import re
import unicodedata

from lai_ray.records import Problem

_WORD = r"[^\W_]+(?:[.,]\d+)*"
# Symbols that distinguish formulas are kept: "x + 1" is not "x - 1". A hyphen counts where it can be a minus, not
# between words; commas, full stops and quotation marks do not count.
_SYMBOL = r"-(?=\s*[\d(.])|(?<!\w)-(?=\s*\w)|[+*/^=<>|~%&@$\\()\[\]{}¬∧∨⊃≡∀∃√∫≤≥≠±×÷·•∘→↔−]"
_WORDS = re.compile(_WORD)
_WORDS_AND_SYMBOLS = re.compile(f"{_WORD}|{_SYMBOL}")


def words(text: str) -> list[str]:
    """The words and numbers of a text, with case and Unicode forms folded; "1,200.5" is one word, symbols are none."""
    return _WORDS.findall(_folded(text))


def normalised(text: str) -> str:
    """The words, numbers and symbols of a text, without case, spacing, Unicode forms and the punctuation of prose.

    A text of other signs only is kept without its spaces: "🙂" is not "= =".
    """
    return " ".join(_WORDS_AND_SYMBOLS.findall(_folded(text))) or "".join(text.split())


def options(problem: Problem) -> list[str]:
    """The options of a multiple-choice problem, in order; none for others."""
    choices = problem.extra.get("choices") or []
    if not isinstance(choices, dict | list | tuple):
        return []
    return [str(option) for option in (choices.values() if isinstance(choices, dict) else choices)]


def whole(problem: Problem) -> str:
    """The question and any options."""
    return "\n".join([problem.question, *options(problem)])


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
