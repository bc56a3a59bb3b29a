"""Patterns of the headings of a sample: "1. Question:", "### Problem 2", "**Correct answer**:", "[TESTS]".

Shared by the parsers of texts and code. All repetitions are bounded: a reply is untrusted text, and a line of a
thousand spaces must not take cubic time.
"""

from __future__ import annotations

import re

from lai_ray.grading.answer_part import narrow, without_thoughts
from lai_ray.grading.fences import closing, fence, fences_alone

_EMOJI = "\U0001f300-\U0001faff\u2600-\u27bf\ufe0f"
EDGE = rf"[\s>#*_\-•{_EMOJI}]{{0,12}}"
GAP = r"[\s*_]{0,6}"
_ORDER = rf"(?:\(?\d{{1,4}}\s?[.):\]]\)?)?{GAP}"
_KIND = r"(?:(?:new|practice|training|similar|generated)\s)?(?:question|problem|sample|exercise|task|q)"
_KIND = rf"(?:{_KIND}|问题|問題|题目|題目|例题|質問|문제|질문)"
_COUNT = r"(?:\d{1,4}|[一二三四五六七八九十]{1,3})?"
_ENDS = r"(?::|[-–—](?=\s|$)|$)"
HEAD = re.compile(
    rf"^{EDGE}{_ORDER}(?:\[\s?{_KIND}\s?{_COUNT}\s?\]|第\s?(?:\d{{1,4}}|[一二三四五六七八九十]{{1,3}})\s?[题題道]\s?:|"
    rf"{_KIND}\s?(?:#|no\.?)?\s?{_COUNT}{GAP}(?:[:.)]|[-–—](?=\s)|$))[\s*_:]{{0,6}}",
    re.I,
)
"""The heading of a sample or of its question."""
NUMBERED = re.compile(rf"^{EDGE}\(?(\d{{1,4}})[.)]\)?[\s*_]{{1,6}}(?=\S)")
"""A number at the start of a line, followed by text."""
_QUALITY = r"(?:(?:the|correct|right|worked|full|final|reference|detailed|complete|expected|step[- ]by[- ]step)\s){0,3}"
_FURTHER = r"(?:\s(?:key|is|(?:with|and|&)\s(?:an?\s)?(?:explanation|working|solution|answer|reasoning)))?"
_ANSWER_CJK = (
    "(?:正确|正確|参考|參考|最终|标准|模範)?"
    "(?:答案|解答|正解|解题过程|解题思路|计算过程|思路|分析|计算|解析|解|回答|答|정답|풀이|답)"
)
ANSWER = re.compile(
    rf"^{EDGE}(?:\[\s?{_QUALITY}(?:answer|solution)\s?\d{{0,4}}\s?\]|"
    rf"{_QUALITY}(?:answer|solution|calculation|working|response){_FURTHER}\s?\d{{0,4}}{GAP}{_ENDS}|"
    rf"\[\s?{_ANSWER_CJK}\s?{_COUNT}\s?\]|{_ANSWER_CJK}{GAP}{_COUNT}{GAP}{_ENDS}|"
    # "A" alone is no heading: it may be the answer.
    rf"ans\s?\d{{0,4}}{GAP}[:.]|a\s?\d{{0,4}}{GAP}:)(?:[\s*_:]|[-–—](?![\d$\\])){{0,6}}",
    re.I,
)
"""The heading of the answer."""
_WHY = re.compile(rf"^{EDGE}(?:explanation|reason(?:ing)?|rationale|解释|解釋|解析|理由|说明){GAP}:", re.I)
CODE = re.compile(rf"^{EDGE}(?:(?:the\s)?(?:python\s)?(?:code|implementation|function)){GAP}(?::|$)[\s*_]{{0,6}}", re.I)
"""The heading of an answer that is code, in addition to ANSWER."""
_CHECKS = r"(?:(?:unit|sample|example)\s)?(?:tests?|test\s?cases?|asserts?|assertions?)"
TESTS = re.compile(rf"^{EDGE}{_ORDER}(?:\[\s?{_CHECKS}\s?\]|{_CHECKS}\s?\d{{0,4}}{GAP}{_ENDS})[\s*_:]{{0,6}}", re.I)
"""The heading of a new problem's tests."""
_WIDE_LABEL = re.compile(
    r"(?:^\s{0,8}[（(]?([A-JＡ-Ｊ]|[0-9０-９]{1,4}(?!：))[）．：、]|(?<=\s)[（(]?([A-JＡ-Ｊ])[）．：]|(?:^|(?<=\s))[（(]?([Ａ-Ｊ])[.):])\s{0,4}(?!$)"
)
"""A label with full-width punctuation, "A）" or "1．", after which there is often no space."""
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
_GLUED = re.compile(
    r"(?<=[^\s#])(?=#{2,6}\s?[*_]{0,2}(?:Question|Problem|Answer|Solution|Tests?)\b[^\n:]{0,12}:)"
    r"|(?<=[a-z)][.?!])(?=\d{1,3}[.)]\s?\*{0,2}Question\*{0,2}:)|(?<=[.?!)])(?=\*{0,2}Question\s?\d{0,3}\*{0,2}:)"
)
"""Where a heading lacks the line break before it: "#### 42###Question 2:"."""
_BLOCK = re.compile(r"^([ ]{0,6}(?:-[ ]{1,3})?[A-Za-z_]{1,20}:)[ \t]?[|>][-+]?[ \t]*$", re.M)
"""YAML's sign for a text of several lines."""
_HTML = re.compile(r"</?(?:b|strong|em|i|u|p|h[1-6])>", re.I)
_FENCE = re.compile(r"\s{0,12}(?:`{3,}|~{3,})")
_BARE_FENCE = re.compile(r"^\s{0,12}(?:`{3,}|~{3,})[ \t]*(?:markdown|md|text|txt|plaintext)?[ \t]*$", re.I)
_BEGINS = re.compile(rf"{HEAD.pattern}|{NUMBERED.pattern}|^\s{{0,3}}\d{{1,4}}[.)]\s{{0,3}}$", re.I)


def reply_lines(reply: str) -> list[str]:
    """The lines of a reply, without its thoughts and without a fence or ">" around it; full-width headings as plain."""
    text = _BLOCK.sub(r"\1", _GLUED.sub("\n", _INVISIBLE.sub("", without_thoughts(reply) or "")))
    lines = list(map(_plain_head, text.splitlines()))
    filled = [line for line in lines if line.strip()]
    if filled and sum(line.lstrip().startswith(">") for line in filled) >= 0.8 * len(filled):
        lines = [re.sub(r"^\s{0,3}>\s?", "", line) for line in lines]
    single = _unwrapped(lines)
    return single if len(single) <= len(lines) - 2 else _unwrapped(_unenclosed(lines))


def _unenclosed(lines: list[str]) -> list[str]:
    """The lines without a fence around all samples."""
    fences = [i for i, line in enumerate(lines) if _BARE_FENCE.match(line)]
    if not fences:
        return lines
    behind = lines[fences[0] + 1 :]
    inside = behind[: next((i for i, line in enumerate(behind) if _FENCE.match(line)), len(behind))]
    if any(map(_BEGINS.match, lines[: fences[0]])) or not any(map(_BEGINS.match, inside)):
        return lines
    # Its closing fence is the last one, unless the reply was cut off.
    last = {fences[-1]} if len(fences) > 1 and _closes(lines, fences[-1]) else set()
    return [line for i, line in enumerate(lines) if i != fences[0] and i not in last]


def _unwrapped(lines: list[str]) -> list[str]:
    """The lines without fences around single samples: blocks whose first line is the heading of one."""
    dropped: set[int] = set()
    alone = fences_alone(lines)
    at = 0
    while at < len(lines):
        if at in dropped or fence(lines[at]) is None:
            at += 1
            continue
        end = closing(lines, at, alone)
        first = next((line for line in lines[at + 1 : at + 4] if line.strip()), "")
        if not (_BARE_FENCE.match(lines[at]) and HEAD.match(first)):
            at = end + 1
            continue
        nested = any(inner.language for line in lines[at + 1 : end] if (inner := fence(line)))
        # Three backticks around others of three: the first that seems to close is one of those.
        dropped |= {at} if nested and len(lines[at].strip()) == 3 else {at, end}
        at += 1
    return [line for i, line in enumerate(lines) if i not in dropped]


def _closes(lines: list[str], at: int) -> bool:
    """Whether this fence closes none of the blocks before it."""
    inside = [line for line in lines[: at + 1] if _FENCE.match(line)]
    return len(inside) % 2 == 0


def _plain_head(line: str) -> str:
    """The line with its heading or labels in plain punctuation: "Answer：A" is "Answer:A". Other text is kept."""
    if line.lstrip().startswith("<"):
        bare = _HTML.sub("", line)
        return bare if any(heading.match(bare) for heading in (HEAD, ANSWER, TESTS, CODE, _WHY)) else line
    if line.isascii():
        return line
    if "＃＃" in line:
        return narrow(line)
    line = _WIDE_LABEL.sub(_plain_label, line)
    wide = narrow(line)
    for heading in (HEAD, ANSWER, TESTS, CODE, _WHY):
        if match := heading.match(wide):
            end = match.end() + (6 if heading is ANSWER else 0)  # With the letter: "（A）".
            return wide[:end] + line[end:]
    return line


def _plain_label(match: re.Match[str]) -> str:
    label = narrow(match[1] or match[2] or match[3])
    return f"{label}{') ' if label.isalpha() else '. '}"
