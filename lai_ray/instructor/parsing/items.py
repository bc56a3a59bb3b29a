"""Splits a reply into items, a question and an answer each.  reply -> items

Shared by the parsers of word problems, choices and short answers. Skipped: numbering, bold, headings, rules,
"[QUESTION]", "Sample 3", text before, between and after the samples. An answer may begin behind the question on its
line, as a sentence ("The answer is 4."), or with its explanation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from lai_ray.grading.numbers import MARKER, marked_number
from lai_ray.instructor.parsing.headings import ANSWER, EDGE, GAP, HEAD, NUMBERED, reply_lines

WHY = re.compile(
    rf"^{EDGE}(?:(?:explanation|reason(?:ing)?|rationale|because|why|解释|解釋|解析|理由|说明){GAP}:{GAP}"
    rf"|(?:explanation|reasoning|rationale){GAP}$)",
    re.I,
)
"""The heading of an explanation."""
SENTENCE = re.compile(
    rf"^{EDGE}(?:(?:so|thus|hence|therefore|finally)[,\s]{{1,2}})?(?:the\s)?(?:(?:final|correct|right|best)\s)?"
    rf"(?:answer|option|choice)(?:\s(?:is|would\sbe)\b(?!\snot\b)|(?<=option|choice){GAP}:)[\s:*_]{{0,6}}",
    re.I,
)
"""The beginning of "The correct answer is …", "Correct option: …"."""
_RUN = re.compile(r"([ \t>#*_=\-])\1{4,}")
_WORKING = re.compile(r"solution|calculation|working|explanation|reason|rationale|解析|思路|分析|풀이", re.I)
_HEAD_WITHIN = re.compile(
    r"(?<=\S)\s{1,4}(?=[*_#]{0,5}(?:\(?\d{1,3}[.)]\)?\s?[*_]{0,2}Question[*_]{0,2}:|Question\s\d{1,3}[*_]{0,2}:))"
)
_ANSWER_WITHIN = re.compile(
    r"(?<=[^\s#*_])\s{1,4}(?:[|/]\s)?(?=(?:#{1,6}\s)?[*_]{0,2}(?:(?:Correct|Right|Final|Worked|Full)\s)?"
    r"(?:Answer|Solution)[*_]{0,2}:)"
)
HEADED = re.compile(r"(?:^|\s|[#*.?])(?:Answer|Solution|Question\s?\d{0,3})[*_]{0,2}:(?:\s|[*_]{2})")
"""A heading within a text: two parts of a reply were not told apart."""


@dataclass
class Item:
    """The lines of one possible sample."""

    question: list[str] = field(default_factory=list)
    answer: list[str] | None = None
    number: int | None = None
    """Its number in a numbered list."""
    last: bool = False
    read: int = 0
    """The lines of its answer in which a final number was looked for."""
    resulted: bool = False
    headless: bool = False
    """No heading before its answer was recognised: that begins with the marker, or as a sentence."""
    explained: bool = False
    """Its answer begins with the working or the explanation; the result comes behind it."""

    @property
    def committed(self) -> bool:
        """Whether it has an answer, so that the next number begins a new item and is not a step of this one."""
        return self.answer is not None and any(line.strip() for line in self.answer)


def items(reply: str, done: Callable[[Item], bool], lines: Callable[[list[str]], list[str]] = list) -> list[Item]:
    """The items of a reply. Text before the first question is dropped.

    done: whether an item is complete, so that the next number begins another. lines: applied to the lines first.
    """
    made: list[Item] = []
    for raw in lines(_split(reply_lines(reply))):
        line = _RUN.sub(r"\1\1\1\1", raw.strip())
        item = made[-1] if made else None
        number = NUMBERED.match(line)
        head = HEAD.match(line)
        if head:
            # "Sample 3:" followed by "Question: …" is one heading.
            if item is None or item.answer is not None or any(text.strip() for text in item.question):
                made.append(item := Item(number=int(number[1]) if number else None))
            item.question[:] = [line[head.end() :]]  # What preceded it is blank.
        elif number and _begins(int(number[1]), item, done):
            made.append(Item([line[number.end() :]], number=int(number[1])))
        elif item is not None:
            _take(item, line)
    if made:
        made[-1].last = True
    return made


def _split(lines: list[str]) -> list[str]:
    """The lines, with a question and its answer on lines of their own where they share one."""
    parts = [part for line in lines for part in _at_heads(line)]
    split: list[str] = []
    answered = False
    """Whether the next heading is that of an answer."""
    for line in reversed(parts):
        both = _ANSWER_WITHIN.split(line) if not (answered or ANSWER.match(line)) else [line]
        # "Corrected Answer:" is one heading.
        split += reversed(both if len(both) == 2 and len(both[0].split()) > 1 else [line])
        answered = bool(ANSWER.match(line)) or (answered and not HEAD.match(line))
    return split[::-1]


def _at_heads(line: str) -> list[str]:
    """The line, split where a further question begins; what precedes a heading in its own line belongs to it."""
    head = HEAD.match(line)
    starts = [m.end() for m in _HEAD_WITHIN.finditer(line) if head is None or m.end() >= head.end()]
    return [line[start:end] for start, end in zip([0, *starts], [*starts, len(line)], strict=True)]


def _begins(number: int, item: Item | None, done: Callable[[Item], bool]) -> bool:
    """Whether "4." begins an item: there is none yet, or number 3 is complete. Steps may be numbered too."""
    if item is None:
        return number == 1
    return done(item) and (item.number is None or number == item.number + 1)


def _take(item: Item, line: str) -> None:
    if len(line) >= 3 and set(line) <= set("-*_= "):
        line = ""
    head = ANSWER.match(line)
    if item.answer is not None:
        item.answer.append(line)
    elif head:
        item.answer = [line[head.end() :]]
        item.explained = _WORKING.search(head[0]) is not None and "nswer" not in head[0]
    elif (why := WHY.match(line)) and any(item.question):
        item.answer, item.explained = [line[why.end() :]], True
    elif _is_sentence(line, item) or (MARKER in line and marked_number(line)):
        item.answer, item.headless = [line], True
    else:
        item.question.append(line)


def _is_sentence(line: str, item: Item) -> bool:
    """Whether a line states the answer; a stem to be completed ("The best answer is:") does not."""
    return bool(SENTENCE.match(line)) and any(item.question) and not line.rstrip(" *_").endswith(("?", ":", "…"))


def paragraph(lines: list[str], is_text: Callable[[str], bool] = lambda line: False) -> str:
    """The answer's first paragraph, and the explanation where that is a paragraph of its own.

    is_text: whether a line that looks like a heading is none: "A: because …" is the answer A.
    """
    kept: list[str] = []
    lines = [line for i, line in enumerate(lines) if line.strip() or (i and lines[i - 1].strip())]
    for i, line in enumerate(lines):
        text = line.strip() if kept or is_text(line) else ANSWER.sub("", line).strip()
        if text:
            kept.append(text)
            continue
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if kept and not (WHY.match(following) and len(kept) == 1):
            break
    return "\n".join(kept).strip(" *_")


def tidy(lines: list[str]) -> str:
    """The lines as one text, without emphasis around all of it."""
    text = "\n".join(line.rstrip() for line in "\n".join(lines).split("\n")).strip()
    return text.strip("*_ \n") if text[:1] in "*_" or text[-2:] in ("**", "__") else text
