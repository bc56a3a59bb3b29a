"""The part of a response that is its answer: without thoughts, and before another question of its own.  text -> text

Applied by the default rules and by the parsers of an instructor's replies; the recorded text is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

from lai_ray.records import UNCLOSED, Grade

_NAMES = r"(?:seed:)?think(?:ing)?|thoughts?|reason(?:ing)?|analysis|reflection|scratchpad"
# A tag in quotes is only mentioned: "`</think>`", re.sub("<think>.*?</think>", …).
_TAG = re.compile(
    rf"(?<![\"'])(?<!(?<!``)`)(?P<open><(?:{_NAMES})\s{{0,3}}>|\[think\]|◁think▷|<\|(?:begin_of_thought|start_thinking)\|>)"
    rf"|(?P<close></(?:{_NAMES})\s{{0,3}}>|\[/think\]|◁/think▷|<\|end_(?:of_thought|thinking)\|>)(?![\"'`][\s,;:.)\]])",
    re.I,
)
_FINAL = re.compile(
    r"<\|channel\|>\s?final\b(?:[^<\n]|<\|constrain\|>){0,80}<\|message\|>|assistantfinal(?:<\|message\|>)?"
)
_OTHER_CHANNEL = re.compile(
    r"\s*(?:<\|start\|>assistant)?(?:<\|channel\|>\s?(?!final)\w|(?:analysis|commentary)(?=[A-Z]))"
)
_END = re.compile(r"<\|(?:return|end|call)\|>")
_KIND = r"question|problem|exercise|q|user|human|instruction|问题|問題|题目|題目|質問|문제|질문"
_NEXT_QUESTION = re.compile(
    r"\n[ \t\r*#>_\[【]{0,12}(?:\(?\d{1,4}[.)]\s{0,3})?(?:(?:next|new|another|follow[- ]?up)\s)?"
    rf"(?:{_KIND})\s{{0,3}}(?:#\s?|\()?\d{{0,4}}\)?\s{{0,3}}[*_\]】]{{0,4}}(?::|：|(?<=\d)[*_]{{0,3}}[.)]?[*_]{{0,3}}\s{{0,3}}\n|(?<=\d)[.)][*_]{{0,3}}\s)"
    r"|\n[ \t*_]{0,4}Q\.\s+(?=[A-Z])|\n[ \t]{0,4}(?:#{1,6}[ \t]{0,4}|\*\*)(?:question|problem|exercise)[ \t*]{0,4}\n"
    r"|<\|im_start\|>user|<\|user\|>|\[INST\]|<\|start_header_id\|>user"
    r"|<\|(?:eot_id|im_end|endoftext|end_of_text|end_of_turn|eom_id)\|>(?=\s*\S)|</s>(?=\s*\S)|<end_of_turn>(?=\s*\S)",
    re.I,
)
_MOST_QUESTIONS = 4
"""Tried: a model that never stops asks thousands."""
_WIDE = {0xFF01 + i: 0x21 + i for i in range(94)} | str.maketrans("\u3000【】〔〕。、", " [][].,")


def without_thoughts(text: str) -> str | None:
    """The text outside `<think>…</think>` and its like, and after harmony's analysis; None where a thought never closes
    and nothing precedes it. A closing tag alone ends a thought that the prompt opened."""
    finals = list(_FINAL.finditer(text))
    if finals:
        text = _END.split(text[finals[-1].end() :], maxsplit=1)[0]
    elif _OTHER_CHANNEL.match(text):
        return None
    if not _TAG.search(text):
        return text
    kept = _outside(text)
    return kept if kept.strip() or not text.strip() or _closed(text) else None


def _outside(text: str) -> str:
    kept, at, opened = "", 0, False
    for tag in _TAG.finditer(text):
        if tag["open"] and not opened:
            kept, opened = kept + text[at : tag.start()], True
        elif tag["close"]:
            # Without its opening tag, it ends a thought that began before the text.
            kept, opened = kept if opened else "", False
            at = tag.end()
    return kept if opened else kept + text[at:]


def thoughts(text: str) -> str:
    """What `without_thoughts` leaves out of a text, without tags around it; "" where there is none."""
    finals = list(_FINAL.finditer(text))
    if finals:
        return text[: finals[-1].start()].strip()
    if _OTHER_CHANNEL.match(text):
        return text.strip()
    parts, at, opened = [], 0, False
    for tag in _TAG.finditer(text):
        if tag["close"]:
            parts.append(text[at : tag.start()])
        if tag["close"] or not opened:
            at, opened = tag.end(), tag["open"] is not None
    return "\n".join(part.strip() for part in [*parts, *[text[at:]] * opened] if part.strip())


def _closed(text: str) -> bool:
    return list(_TAG.finditer(text))[-1]["close"] is not None


def unclosed() -> Grade:
    """The grade of a response that is an unclosed thought."""
    return Grade(0.0, None, "none", "unparsed", UNCLOSED)


def own_parts(text: str) -> Iterator[str]:
    """The text before each further question that it goes on to, shortest first; the whole text last.

    A response may restate its question first: what precedes a question counts where it holds an answer.
    """
    for question in islice(_NEXT_QUESTION.finditer(text), _MOST_QUESTIONS):
        before = text[: question.start()].rstrip()
        if before and not before.endswith((":", "：")):
            yield before
    yield text


def asks_first(text: str) -> bool:
    """Whether a text begins with a question's heading: the question restated, or the first of several steps."""
    return _NEXT_QUESTION.match(f"\n{text[:200]}") is not None


def own_answer(response: str, holds: Callable[[str], bool]) -> str:
    """A response in narrow characters, without thoughts and up to the first further question before which it `holds` an
    answer. "" for an unclosed thought."""
    parts = list(own_parts(narrow(without_thoughts(response) or "")))
    return next(filter(holds, parts), parts[-1])


def narrow(text: str) -> str:
    """Full-width letters, digits and punctuation as ASCII, character by character: positions stay the same."""
    return text if text.isascii() else text.translate(_WIDE)
