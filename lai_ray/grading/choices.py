"""The choice that a response commits to.  choices, response -> letter

Default rules, in this order, for the letters of the question, without thoughts and before another question of its own
(`answer_part`); full-width letters and punctuation are as the plain ones, and a letter beside CJK characters is alone:
    answer       the last "answer is X", "choice: X", "\\boxed{X}" and similar, unless negated or one of several
    verdicts     of several letters that are each called right or wrong, the only right one: "A. Incorrect … C. Correct"
    lead         a letter at the start of the response: "B", "B. text", "(B)", "**B**", "Option B …"
    correct      the last "X is correct"
    chosen       a last "So X.", "It's X.", else the last "I choose X", "we go with X"
    left         the last "leaves X", "so it is X", or the only letter that is not called wrong
    quoted       the only letter next to its own text: "D. Sustained change", "a liverwort (B)"
    line         a letter with its delimiter at the start of a line, where only one letter has such a line
    letter       the only letter that is a word of its own ("A" as an article does not count)
    text         the only choice whose text occurs in the response, else in its first or its last sentence
A response that commits to no choice, or to several, is unparsed.

Paper rules, in this order, always for A to D: answer, correct, lead, first_letter, fuzzy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from lai_ray.grading.answer_part import narrow, own_parts, without_thoughts
from lai_ray.grading.fuzzy_match import closest
from lai_ray.records import UNCLOSED

_MAX_SIDE = 20_000
"""Characters read at each end of a response. A longer one comes from a model that never stopped."""


class Choice(NamedTuple):
    """A letter and the rule that found it; or None and the reason."""

    letter: str | None
    rule: str


_CALLED = r"(?:nswer|hoice|ption|esponse|olution)(?:\s+(?:letter|key))?[\"”*_)]*"
"""The words for an answer, without their first letter, which may be a capital."""
_WHICH = (
    r"(?:\s+(?:to|for|of|in|among|from|given|that|which|would|should|must|will|has|here|based|provided|below|above|by|as"
    r"|you|I|we)\b[^.\n:;]{0,90}?)?"
)
_ADVERB = r"(?:\s+(?:therefore|thus|hence|then|still|most\s+likely|likely|probably|clearly|indeed|simply|definitely))?"
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_BESIDE_CJK = re.compile(rf"(?<=[{_CJK}])(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])(?=[{_CJK}])")
_CALLED_CJK = r"(?<![不非])(?:答案|正解|回答|选择?|選擇?|정답|답)(?:应该|應該|应|應)?(?:是|为|為|选|選|は|은|는)?\s*:?"
_IS = rf"\s*(?:\b(?:is|was|be|remains)\b(?!\s+(?:not|n't)\b){_ADVERB}\s*:?|[:=])"
_HENCE = r"(?:so|thus|hence|therefore),?\s+it(?:['’]s|\s+is|\s+must\s+be)"
_DECORATION = (
    r"[\s\"'“‘`$*_(\[{<]{0,8}(?:\\?(?:boxed|text|textbf|mathrm|mathbf)\{){0,3}"
    r"(?:(?:option|choice|letter|answer)\s)?[\s\"'“‘`*_(\[]{0,8}"
)
_BEST = (
    r"\s(?:is|would\s+be|are|seems|must\s+be)\s+(?:the\s+|an?\s+|also\s+|indeed\s+)*(?:most\s+|best\s+|only\s+|single\s+)*"
    r"(?:correct|right|accurate|appropriate|best|suitable|answer|true\b)"
)


@cache
def _patterns(letters: str) -> dict[str, re.Pattern[str]]:
    # Alone: not inside a word, and no possessive, variable or abbreviation ("A's", "A=3", "vitamin B12", "A.D.").
    # What may not precede a letter is a look-behind after the letter, so that a search skips from letter to letter.
    one, after = f"[{letters}]", r"(?![\w=’']|\.\w)"
    within = f"({one})"
    alone = within + after
    return {
        name: re.compile(pattern, re.I | re.M if name in ("verdict", "own_line", "headed") else 0)
        for name, pattern in {
            "answer": f"{_CALLED}{_WHICH}{_IS}{_DECORATION}{alone}",
            "own_line": r"^[ \t*_#>]{0,8}(?:(?:final|correct|the)\s){0,2}answer(?:[ ]is)?[ \t]?[:=][ \t*_$(\[\"'`]{0,6}"
            rf"(?:\\\w{{4,6}}\{{)?{within}[)\]}}$*_\"'`.]{{0,6}}[ \t]*$",
            "headed": r"^[ \t]{0,3}(?:#{1,6}[ \t]?|\*\*)(?:(?:final|correct|the)[ ]){0,2}answer[ \t*_]{0,4}\n"
            rf"[\s*_(\[]{{0,8}}{alone}",
            "chosen": r"\b(?:I|we)(?:['’](?:d|ll|m)|\s(?:would|will|am|must|should|shall|have\sto))?\s"
            r"(?:\w+ly\s|then\s|rather\s)?"
            r"(?:choose|chose|pick|select|go(?:ing)?\swith|opt\sfor|vote(?:\sfor)?|settle\son)\s"
            rf"{_DECORATION}{alone}",
            "ends": rf"\b(?:[Ss]o|[Tt]hus|[Hh]ence|[Tt]herefore|[Ii]t['’]s|[Ii]t\s(?:is|must\sbe)),?\s"
            rf"{_DECORATION}{alone}"
            r"[)\]*_\"'.!]{0,6}\s*\Z",
            "cjk": f"{_CALLED_CJK}{_DECORATION}{alone}",
            "boxed": rf"boxed\{{[\s{{\\a-z(]{{0,16}}{alone}",
            "lead": (r"[\s\"'“‘`*_#>(\[]{0,8}(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)[\s:*_(]{1,8})?[*_(\[]{0,8}" + alone),
            "correct": rf"{within}(?<![\w'’]{one}){after}[)\]\"*_.:,]*(?:[^.\n]{{0,60}}?)?{_BEST}",
            "left": rf"\b(?:leav(?:es|ing)(?:\s+us\s+with)?(?:\s+only)?|{_HENCE})\s+{_DECORATION}{alone}",
            "verdict": rf"(?:^|(?<=[\s(\[*]))[(\[*_]{{0,3}}{within}(?![\w=’'])[)\].:*_\s-]{{0,6}}"
            r"(?:[^\n.;]{0,60}?\s?[:–—-]\s?|(?:is|was)\s)?[*_]{0,3}(?:(?P<yes>correct|right|true|yes\b|✅|✓|✔|☑)|"
            r"(?P<no>incorrect|wrong|false|no\b(?!\s)|not\s(?:correct|right|true)|❌|✗|✘|❎))",
            "line": rf"(?m)^[ \t>*_\-•(\[]{{0,8}}{alone}[)\].:*_]+(?:\s|$)",
            "letter": rf"{within}(?<![\w'’\\&./-]{one}){after}",
        }.items()
    }


_NEGATED = re.compile(r"\b(?:not|n't|cannot|never|incorrect|wrong|isn’t|isn't|false)\b[^.\n]{0,40}$", re.I)
_LIST = re.compile(
    r"[)\]*_]*\s*(?:,|/|&|\band\b|\bor\b)\s*(?:and\s+|or\s+)?[(\[*_]*(?!I(?:\s+[a-z]|['’]))[A-J1-9](?![\w'’.]\w|\w)"
)
_CONDITIONAL = re.compile(r"\b(?:[Ii]f|[Hh]ad|[Uu]nless)\b[^.\n]*$")
_SENTENCE = re.compile(r"(?<=[.!?])[\"”’)\]]*\s+|\n+")
_REFUSED = re.compile(
    r"\b(?:none|neither) of (?:the|these)\b[^.\n]{0,40}\b(?:options|choices|answers|statements)|\bnot among\b", re.I
)
_ARTICLE = re.compile(r"\s+(?!(?:and|or|is|as|because|since|but|would|seems|which|with|if|from|in)\b)[a-z]")
_PRONOUN = re.compile(r"['’]|,?\s+(?!(?:and|or|is|as|because|since|but|seems|which|with|if|from|in)\b)[a-z]")
"""After "I" as a word: "I would", "I, however,"."""
_ASKED = re.compile(r"\b(?:am|do|did|can|could|should|shall|would|will|have|than|if|that|as|when|so)\s$")
"""Before "I" as a word: "neither do I"."""
_WRONG = re.compile(
    r"[)\]\"*_]*(?:\s+\([^()\n]{0,40}\))?(?:\s{0,3}(?:,|\band\b|\bor\b)\s{1,3}\(?[A-J1-9]\b\)?){0,9}\s+"
    r"(?:(?:is|are|was|would\s+be)\s+(?:both\s+|\w+ly\s+)?(?:not\s+(?:the\s+|an?\s+)?(?:correct|right|best|answer)|incorrect|wrong)"
    r"|(?:isn['’]?t|cannot\s+be|can['’]?t\s+be)\s+(?:the\s+|an?\s+)?(?:correct|right|best|answer)"
    r"|can\s+be\s+(?:ruled\s+out|eliminated|excluded))",
    re.I,
)
"""After a letter that is called wrong."""
_DENIES = re.compile(
    r"(?:\b(?:not|neither|nor|never|except)|n['’]t|不是|不选|非)\s+(?:(?:option|choice|answer)\s+)?[\"'(\[*_]{0,4}$",
    re.I,
)
"""Before a letter that is not meant: "not A"."""
_NOT_MEANT = re.compile(
    r"\b(?:not|rather\sthan|instead\sof|unlike|\w{2,6}n['’]t(?:\sbe)?)(?:\s\S{1,30}\sor)?\s(?:the\s|an?\s)?$"
)
"""Before the text of a choice that is not meant: "not Paris"."""
_BARE = re.compile(r"\W*(?:(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)\W*(?:is\W+)?)?(\w)\W*", re.I)
_WORDS = re.compile(r"[^\W_]+")


def default_choice(response: str, choices: Mapping[str, str]) -> Choice:
    """The choice that a response commits to, by the default rules.

    choices: letter -> text. Letters may be digits, as some of ARC's are.
    """
    text = without_thoughts(_clipped(response))
    if text is None:
        return Choice(None, UNCLOSED)
    if not text.isascii():
        text, choices = _apart(text), {letter: _apart(choice) for letter, choice in choices.items()}
    chosen = Choice(None, "empty")
    for part in own_parts(text.strip()):
        chosen = _chosen(part, choices)
        if chosen.letter:
            break
    return chosen


def _apart(text: str) -> str:
    """The text in narrow characters, with a space between a Latin letter or digit and a CJK character."""
    return _BESIDE_CJK.sub(" ", narrow(text))


def _chosen(text: str, choices: Mapping[str, str]) -> Choice:
    if not text:
        return Choice(None, "empty")
    if len(text) <= 40 and (bare := _BARE.fullmatch(text)) and bare[1].upper() in choices:
        return Choice(bare[1].upper(), "lead")
    if len(text) <= 6 + max(map(len, choices.values())) and (letter := _letter_of(text.strip(" *_`\"'"), choices)):
        return Choice(letter, "text")
    find = _patterns("".join(choices))
    lead = _committed(find["lead"].match(text), text, choices)
    stated = _last_answer(find, text, choices)
    if stated:
        return Choice(stated, "answer")
    if verdict := _by_verdicts(find, text, choices, lead):
        return verdict
    if lead and not _WRONG.match(text, find["lead"].match(text).end(1)):  # type: ignore[union-attr]
        return Choice(lead, "lead")
    return _weaker(find, text, choices)


def _by_verdicts(
    find: Mapping[str, re.Pattern[str]], text: str, choices: Mapping[str, str], lead: str | None
) -> Choice | None:
    """The only choice that is called right where all, or all but one, are called right or wrong; None elsewhere, and
    where the response begins with a letter that is not among these."""
    judged = list(_judged(find["verdict"], text, choices))
    begins = find["lead"].match(text) if lead else None
    if begins and begins.start(1) not in {start for start, _, _ in judged}:
        return None
    called = {letter: right for _, letter, right in judged}
    if len(called) < max(2, len(choices) - 1):
        return None
    right = [letter for letter, verdict in called.items() if verdict]
    if len(right) > 1:
        return Choice(None, "calls several choices right")
    return Choice(right[0], "verdicts") if right else _weaker(find, text, choices)


def _judged(find: re.Pattern[str], text: str, choices: Mapping[str, str]) -> Iterator[tuple[int, str, bool]]:
    """(start, letter, called right) where a letter is called right or wrong; "A. No, since …" is choice A where its own
    text is "No, since …"."""
    for match in find.finditer(text):
        letter, verdict = match[1].upper(), _folded(match["yes"] or match["no"])
        if letter in choices and not (verdict and _folded(choices[letter]).startswith(verdict)):
            yield match.start(1), letter, bool(match["yes"])


def _clipped(response: str) -> str:
    return response if len(response) <= 2 * _MAX_SIDE else f"{response[:_MAX_SIDE]}\n{response[-_MAX_SIDE:]}"


def _letter_of(text: str, choices: Mapping[str, str]) -> str | None:
    """The choice whose text is the whole response."""
    return next(
        (x for x, choice in choices.items() if abs(len(choice) - len(text)) < 3 and _spaced(choice) == _spaced(text)),
        None,
    )


def _last_answer(find: Mapping[str, re.Pattern[str]], text: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the last statement of an answer; statements that are negated, or name several, are skipped."""
    at = text.rfind("boxed{")
    if at >= 0 and (match := find["boxed"].match(text, at)):
        return match[1]
    last: tuple[int, str] | None = None
    for word in ("nswer", "hoice", "ption", "esponse", "olution"):
        at = len(text)
        for _ in range(30):
            at = text.rfind(word, 0, at)
            if at < 0 or (last and at < last[0]):
                break
            letter = _committed(find["answer"].match(text, at), text, choices)
            if letter:
                last = (at, letter)
                break
    for match in find["own_line"].finditer(text):
        if (last is None or match.start() > last[0]) and match[1].upper() in choices:
            last = (match.start(), match[1].upper())
    for match in find["headed"].finditer(text):
        if (last is None or match.start() > last[0]) and _committed(match, text, choices) in choices:
            last = (match.start(), match[1])
    if not text.isascii():
        for match in find["cjk"].finditer(text):
            if (letter := _committed(match, text, choices)) and (last is None or match.start() > last[0]):
                last = (match.start(), letter)
    return last[1] if last else None


def _weaker(find: Mapping[str, re.Pattern[str]], text: str, choices: Mapping[str, str]) -> Choice:
    correct = [
        m for m in find["correct"].finditer(text) if not _NEGATED.search(text, max(0, m.start() - 60), m.start())
    ]
    correct = [m for m in correct if not _LIST.match(text, m.end(1)) and not (_is_article(m, text))]
    if correct:
        return Choice(correct[-1][1], "correct")
    chosen = [m[1] for m in find["chosen"].finditer(text) if _committed(m, text, choices) and not _supposed(m, text)]
    chosen += [m[1] for m in find["ends"].finditer(text)]
    if chosen:
        return Choice(chosen[-1], "chosen")
    denied = {m[1] for m in find["letter"].finditer(text) if not _is_article(m, text) and _denied(m, text)}
    possible = {letter: choice for letter, choice in choices.items() if letter not in denied}
    left = list(find["left"].finditer(text))
    if left or len(possible) == 1:
        return Choice(left[-1][1] if left else next(iter(possible)), "left")
    quoted = {m[1] for m in find["letter"].finditer(text) if m[1] in possible and _quoted(m, text, choices[m[1]])}
    if len(quoted) == 1:
        return Choice(quoted.pop(), "quoted")
    named: set[str] = set()
    for rule in ("line", "letter") if not set("123456789") & set(choices) else ():
        # A digit alone is more often a number than a label.
        named = {m[1] for m in find[rule].finditer(text) if not (_is_article(m, text) or _denied(m, text))}
        if len(named) == 1:
            return Choice(named.pop(), rule)
        if named:
            break
    if _REFUSED.search(text):
        return Choice(None, "refuses every choice")
    sentences = [part for part in _SENTENCE.split(text) if part]
    # A solution holds many numbers: where the choices are numbers, only the last sentence counts.
    numeric = not any(map(str.isalpha, "".join(choices.values())))
    for part in (sentences[-1],) if numeric else (text, sentences[0], sentences[-1]):
        letter = _by_text(part, possible)
        if letter:
            return Choice(letter, "text")
    return Choice(None, "names several choices" if named else "names no choice")


def _quoted(match: re.Match[str], text: str, choice: str) -> bool:
    """Whether a letter is next to the text of its choice: before it, or in brackets after it."""
    wanted = _folded(choice)[:60]
    if not wanted or _is_article(match, text):
        return False
    after = _folded(text[match.end(1) : match.end(1) + len(choice) + 20])
    before = _folded(text[max(0, match.start(1) - len(choice) - 20) : match.start(1)])
    return after.startswith(wanted) or (text[match.end(1) : match.end(1) + 1] == ")" and before.endswith(wanted))


def _is_article(match: re.Match[str], text: str) -> bool:
    """Whether a letter is the article "A" or the pronoun "I"."""
    if match[1] == "I":
        before = text[max(0, match.start(1) - 8) : match.start(1)]
        return bool(_PRONOUN.match(text, match.end(1)) or _ASKED.search(before))
    return match[1] == "A" and _ARTICLE.match(text, match.end(1)) is not None


def _denied(match: re.Match[str], text: str) -> bool:
    """Whether the text says that this letter is not the answer: "not A", "B is wrong"."""
    before = text[max(0, match.start(1) - 24) : match.start(1)]
    return bool(_DENIES.search(before) or _WRONG.match(text, match.end(1)))


def _committed(match: re.Match[str] | None, text: str, choices: Mapping[str, str]) -> str | None:
    """The letter of a match, unless it is the article "A", the first of a list ("A, B and C"), or conditional."""
    if not match:
        return None
    end = match.end(1)
    if _LIST.match(text, end):
        return None
    if "would" in match.group() and _CONDITIONAL.search(text, max(0, match.start() - 200), match.start()):
        return None
    if _is_article(match, text):
        # "The answer is A raw apple" is choice A where "raw apple" is its text.
        rest = _folded(text[end : end + 200])
        return "A" if match[1] == "A" and rest.startswith(_folded(choices["A"])[:60]) else None
    return match[1]


def _supposed(match: re.Match[str], text: str) -> bool:
    """Whether a choice is only supposed: "If I pick A"."""
    return _CONDITIONAL.search(text, max(0, match.start() - 200), match.start()) is not None


def _by_text(text: str, choices: Mapping[str, str]) -> str | None:
    """The only choice whose text occurs in the response as whole words; one that is part of another does not count."""
    spaced = _spaced(text)
    present = {x: part for x, choice in choices.items() if (part := _spaced(choice)) and _occurs(part, spaced)}
    longest = [x for x, part in present.items() if not any(part != o and part in o for o in present.values())]
    return longest[0] if len(longest) == 1 else None


def _occurs(part: str, text: str) -> bool:
    at = text.find(part)
    while at >= 0:
        before, after = text[at - 1 : at], text[at + len(part) : at + len(part) + 1]
        inside = (before.isalnum() and part[0].isalnum()) or (after.isalnum() and part[-1].isalnum())
        if not inside and not _NOT_MEANT.search(text, max(0, at - 48), at):
            return True
        at = text.find(part, at + 1)
    return False


def _spaced(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _folded(text: str) -> str:
    return " ".join(_WORDS.findall(text.casefold()))


_PAPER = (
    (
        "answer",
        re.compile(
            r"(?:choose|(?:answer|choice)(?![^A-D]{0,20}?(?:n't|not))[\s\S]{0,60}?(?:is|:|be))[^A-D]{0,100}?\b([A-D])\b"
        ),
    ),
    (
        "correct",
        re.compile(r"\b([A-D])\b(?![^.]{0,8}?(?:n't|not)[^.]{0,5}?(?:correct|right))[^.]{0,10}?\b(?:correct|right)\b"),
    ),
    ("lead", re.compile(r"^([A-D])(?:[.,:]|$)")),
    ("first_letter", re.compile(r"(?<![a-zA-Z])([A-D])(?![a-zA-Z=])")),
)


def paper_choice(response: str, choices: Mapping[str, str]) -> Choice:
    """The choice by the five rules of the paper's release: always A to D, nothing stripped."""
    text = _clipped(response)
    for rule, pattern in _PAPER:
        match = pattern.search(text)
        if match:
            return Choice(match[1], rule)
    return Choice(list(choices)[closest(text, list(choices.values()))], "fuzzy")
