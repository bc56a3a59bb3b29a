"""Parses samples of word problems, choices and short answers.  reply -> pieces

Skipped: numbering, bold, headings, rules, "[QUESTION]", "Sample 3", text before, between and after the samples. An
incomplete or inconsistent item is returned with `rejected` = the reason, also the last one of a reply that was cut off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lai_ray.grading.arithmetic_check import false_statements
from lai_ray.grading.final_check import contradiction, cut_off, final_line
from lai_ray.grading.numbers import (
    MARKER,
    UNSTATED,
    FinalNumber,
    final_number,
    marked_number,
    marked_result,
    read_number,
)
from lai_ray.instructor.parsing.headings import ANSWER, EDGE, GAP, HEAD, NUMBERED, reply_lines
from lai_ray.instructor.parsing.questions import asks, asks_for_a_number
from lai_ray.records import Piece

_WHY = re.compile(
    rf"^{EDGE}(?:explanation|reason(?:ing)?|rationale|because|why|解释|解釋|解析|理由|说明){GAP}:{GAP}", re.I
)
_OPTION = re.compile(rf"^{EDGE}\(?([A-J])[.):\]]\)?[\s*_]{{1,6}}(\S.*)$")
_SMALL_OPTION = re.compile(rf"^{EDGE}\(?[a-j][.):\]](?=[\s*_]{{1,6}}\S)")
_KEY_A = re.compile(r"^[\s*_(]{0,6}A[\s)*_]{0,4}:", re.A)
_SMALL_LETTER = re.compile(r"^[\s*_(\[]{0,6}([a-j])[.):\]]")
_INLINE = re.compile(r"(?:^|\s)\(?([A-J])[.):\]]\)?\s+")
_MOST_OPTIONS = 300
"""Places where an option may begin, of one question."""
_OPTIONS_HEAD = re.compile(r"\n[*_ ]{0,6}(?:answer )?(?:options|choices)[*_ ]{0,6}:?[*_ ]{0,6}$", re.I)
_RUN = re.compile(r"([ \t>#*_=\-])\1{4,}")
_BULLET = re.compile(r"^[\s>*_\-•]{1,12}(?=\(?[A-J][.):\]])|(?<=[A-J][.):\]])[*_]+")
_LETTER = re.compile(
    r"^[\s*_\"'`$\\(\[]{0,8}(?:(?:[Oo]ption|[Cc]hoice)\s|选项?|選項?|選択肢)?[*_(\[]{0,4}([A-J])(?![^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|['’])[*_)\]]{0,4}(.*)$",
    re.S,
)
_RIGHT = r"(?:correct|right|best|true)"
_CALLED_RIGHT = re.compile(
    rf"\b(?:{_RIGHT}\s(?:answer|option|choice)|answer)\s?(?:is|:|=|would\sbe|should\sbe)\s?(?:(?:option|choice)\s)?"
    rf"[(\"'*]{{0,3}}(?P<before>[A-J])(?![\w'’])(?!\s[a-z])"
    rf"|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s[(\"'*]{{0,3}}(?P<behind>[A-J])[)\"'*]{{0,3}}\s"
    rf"(?:is|would\sbe)\s(?:\w+\s){{0,2}}{_RIGHT}\b"
)
_TEXT_CALLED_RIGHT = re.compile(
    rf"\b{_RIGHT}\s(?:answer|option|choice)\s(?:is|would\sbe|should\sbe):?\s([^.;\n]{{1,200}})", re.I
)
_DENIED = re.compile(r"\b(?:not|n't|never|neither|incorrect|less|almost|partly|partially)\b|n['’]t\b", re.I)
_ANSWERED = re.compile(r"\[[^\]\n]{0,40}\b(?:answer|solution)\b[^\]\n]{0,40}\]", re.I)
"""A heading of the prompt that an instructor copied into a question."""
_WORKED = re.compile(r"\d\s?%?\s?=\s?\W{0,3}\d|\n\W{0,4}[^\W\d_]{2,20}\s?[:：]")
"""Working, or a heading in another language, in what was taken for a question."""
_COMPLETE = re.compile(r"[.!?…:;)\]}\"'”’`*|$]\s*$")


@dataclass
class _Item:
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
    """Its answer begins with the marker, and no heading before it was recognised."""

    @property
    def committed(self) -> bool:
        """Whether it has an answer, so that the next number begins a new item and is not a step of this one."""
        return self.answer is not None and any(line.strip() for line in self.answer)


@dataclass(frozen=True)
class _Worked:
    """A worked solution."""

    steps: str
    """Its working, without the final line."""
    final: FinalNumber | None
    stated: str = ""
    """The final line, without the marker, and other final numbers."""
    working: str = ""
    """From which the final number must follow."""


def math_pieces(reply: str) -> list[Piece]:
    """Worked problems with one final number after "####" (or boxed, or called the answer)."""
    return [_math_piece(item) for item in _items(reply, done=_resulted)]


def _resulted(item: _Item) -> bool:
    """Whether its answer has a final number: marked, boxed or called the answer."""
    for line in (item.answer or [])[item.read :]:
        item.resulted = item.resulted or MARKER in line or "boxed{" in line or "answer is" in line
    item.read = len(item.answer or ())
    return item.resulted


def choice_pieces(reply: str, letters: Sequence[str] = "ABCD") -> list[Piece]:
    """Questions with one option for each of these letters, a key and an explanation."""
    pieces = [_choice_piece(item, tuple(letters)) for item in _items(reply, done=lambda item: item.committed)]
    kept = [piece for piece in pieces[:-1] if not piece.rejected]
    # Where all others end in a full stop, a last one that does not is cut off.
    if kept and not pieces[-1].rejected and all(map(_explained, kept)) and not _explained(pieces[-1]):
        pieces[-1] = replace(pieces[-1], rejected="the explanation stops in mid-sentence (cut off?)")
    return pieces


def _explained(piece: Piece) -> bool:
    why = piece.response.partition("\n")[2]
    return bool(why) and _COMPLETE.search(why) is not None


def answer_pieces(reply: str) -> list[Piece]:
    """Questions with one short answer: the first line after "Answer:"."""
    return [_answer_piece(item) for item in _items(reply, done=lambda item: item.committed)]


def _answer_piece(item: _Item) -> Piece:
    question = _tidy(item.question)
    if not question or HEAD.fullmatch(question):
        return Piece("", "", "", rejected="no question")
    answer = _paragraph(item.answer).split("\n", 1)[0].strip() if item.answer is not None else ""
    if not answer:
        return Piece(question, "", "", rejected="no answer (cut off?)" if item.last else "no answer")
    return Piece(question, answer, answer)


def _items(reply: str, done: Callable[[_Item], bool]) -> list[_Item]:
    """The items of a reply. Text before the first question is dropped."""
    items: list[_Item] = []
    for raw in reply_lines(reply):
        line = _RUN.sub(r"\1\1\1\1", raw.strip())
        item = items[-1] if items else None
        number = NUMBERED.match(line)
        head = HEAD.match(line)
        if head:
            # "Sample 3:" followed by "Question: …" is one heading.
            if item is None or item.answer is not None or any(text.strip() for text in item.question):
                items.append(item := _Item(number=int(number[1]) if number else None))
            item.question[:] = [line[head.end() :]]  # What preceded it is blank.
        elif number and _begins(int(number[1]), item, done):
            items.append(_Item([line[number.end() :]], number=int(number[1])))
        elif item is not None:
            _take(item, line)
    if items:
        items[-1].last = True
    return items


def _begins(number: int, item: _Item | None, done: Callable[[_Item], bool]) -> bool:
    """Whether "4." begins an item: there is none yet, or number 3 is complete. Steps may be numbered too."""
    if item is None:
        return number == 1
    return done(item) and (item.number is None or number == item.number + 1)


def _take(item: _Item, line: str) -> None:
    if len(line) >= 3 and set(line) <= set("-*_= "):
        line = ""
    head = ANSWER.match(line)
    if item.answer is not None:
        item.answer.append(line)
    elif head:
        item.answer = [line[head.end() :]]
    elif MARKER in line and marked_number(line):
        item.answer, item.headless = [line], True
    else:
        item.question.append(line)


def _math_piece(item: _Item) -> Piece:
    question = _tidy(item.question)
    if not asks_for_a_number(question):
        return Piece(question, "", "", rejected="no question", note=question[:80])
    if item.answer is None:
        return Piece(question, "", "", rejected="no answer (cut off?)" if item.last else "no answer")
    if _ANSWERED.search(question) or (item.headless and _WORKED.search(question)):
        return Piece(question, "", "", rejected="its question holds an answer")
    worked = _worked(item.answer)
    if worked.final is None:
        return Piece(question, "", worked.steps, rejected=f"no final {MARKER} line (cut off?)")
    number = _plain(worked.final.text)
    response = f"{worked.steps}\n{MARKER} {number}".strip()
    wrong = _inconsistent(worked, response, cut=item.last)
    return Piece(question, number, response, {"solution": response}, *wrong)


def _plain(number: str) -> str:
    return re.sub(r"[,$\s]", "", number) if " " not in number.strip("-$ ") else number


def _inconsistent(worked: _Worked, response: str, *, cut: bool) -> tuple[str | None, str]:
    """The reason to reject a solution and the details; (None, "") for a consistent one. cut: it may be cut off."""
    final = read_number(worked.final.text) if worked.final else None
    if final is None:
        return None, ""
    longer = cut_off(worked.steps, final) if cut else ""
    if longer:
        return f"final number {final.text} cut off? The working ends in {longer}", ""
    false = false_statements(response)
    if false:
        return "false statement", "; ".join(false[:3])
    others = final_line(worked.stated, worked.working, final)
    if others:
        return "several final numbers", f"{final.text} and {others}"
    against = contradiction(worked.working, final)
    return ("its final number contradicts the working", f"{against}; {MARKER} {final.text}") if against else (None, "")


def _worked(lines: list[str]) -> _Worked:
    """The solution's parts; without a marker, its final number is one that is boxed or called the answer."""
    marked = {i: final for i, line in enumerate(lines) if MARKER in line and (final := marked_result(line))}
    if marked:
        at, final = next(iter(marked.items()))
        before, _, stated = lines[at].partition(MARKER)
        steps = _steps([*lines[:at], ANSWER.sub("", before).strip(" *_-")])
        further = (later.text for later in marked.values() if later.text != final.text)
        return _Worked(steps, final, "\n".join([stated, *further]), f"{steps}\n{stated}" if "=" in stated else steps)
    steps = _steps(lines)
    final = None if any(MARKER in line for line in lines) else final_number("\n".join(lines))
    if final is None or final.rule in UNSTATED:
        return _Worked(steps, None)
    # What precedes the statement of the answer, unless that is an equation of its own.
    at = max(steps.rfind("boxed"), steps.rfind("nswer"), 0)
    before = steps[:at].rstrip(" \\$({*")
    return _Worked(steps, final, "", steps if "=" in steps[at:] or before.endswith("=") else before)


def _choice_piece(item: _Item, letters: tuple[str, ...]) -> Piece:
    question, choices = _options(item.question)
    if not asks(question):
        return Piece(question, "", "", rejected="no question", note=question[:80])
    wrong = _wrong_choices(choices, letters)
    if wrong or item.answer is None:
        return Piece(question, "", "", rejected=wrong or "no answer (cut off?)")
    answer = _SMALL_LETTER.sub(lambda m: m[0].upper(), _paragraph(item.answer))
    named = _LETTER.match(answer)
    letter = named[1] if named else next((x for x, text in choices.items() if _same(answer, text)), "")
    why = _WHY.sub("", named[2] if named else "").lstrip(" .,:;)-–—*_")
    if letter not in choices:
        return Piece(question, "", answer, rejected=f"its answer is none of the choices: {answer[:40]!r}")
    other = next((x for x, text in choices.items() if x != letter and _same(why.split("\n", 1)[0], text)), None)
    if other:
        return Piece(question, "", answer, rejected=f"its answer says {letter}, with the text of {other}")
    named_too = _names_another(why, letter, choices)
    if named_too:
        return Piece(
            question, letter, answer, {"choices": choices},
            rejected="its explanation names another choice", note=f"{letter}, but {named_too!r}",
        )  # fmt: skip
    if item.last and len(why.split()) >= 8 and not _COMPLETE.search(why):
        return Piece(question, letter, answer, rejected="the explanation stops in mid-sentence (cut off?)")
    response = f"Answer: {letter}" + (f"\n{why}" if why else "")
    return Piece(question, letter, response, {"choices": choices})


def _names_another(why: str, letter: str, choices: Mapping[str, str]) -> str:
    """The part of an explanation that calls another choice right; "" where there is none."""
    for match in _CALLED_RIGHT.finditer(why):
        other = (match["before"] or match["behind"]).upper()
        if other in choices and other != letter and not _DENIED.search(match.group()):
            return match.group().strip()
    for match in _TEXT_CALLED_RIGHT.finditer(why):
        other = next((x for x, text in choices.items() if x != letter and _same(match[1], text)), "")
        if other and not _same(match[1], choices[letter]):
            return match.group().strip()
    return ""


def _options(lines: list[str]) -> tuple[str, dict[str, str]]:
    """The question's text and its options by letter, one per line or all on one line."""
    lines = [_BULLET.sub("", line) for line in lines]
    first = next((i for i, line in enumerate(lines) if (m := _OPTION.match(line)) and m[1] == "A"), None)
    text = "\n".join(lines if first is None else lines[first:])
    starts = [(m[1], m.start(), m.end()) for m in _INLINE.finditer(text)]
    chain = _chain(starts)
    if len(chain) < 2:
        capitals = [_SMALL_OPTION.sub(lambda m: m[0].upper(), line) for line in lines]
        return _options(capitals) if capitals != lines else (_tidy(lines), {})
    ends = [start for _, start, _ in chain[1:]] + [len(text)]
    choices = {letter: _tidy([text[end:until]]) for (letter, _, end), until in zip(chain, ends, strict=True)}
    stem = _tidy([text[: chain[0][1]]] if first is None else lines[:first])
    return _OPTIONS_HEAD.sub("", stem).strip(), choices


def _chain(starts: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The longest run A, B, C, … among the letters that may begin an option."""
    best: list[tuple[str, int, int]] = []
    starts = starts[:_MOST_OPTIONS]
    for i, head in enumerate(starts):
        if head[0] != "A":
            continue
        run = [head]
        for later in starts[i + 1 :]:
            if later[0] == chr(ord(run[-1][0]) + 1):
                run.append(later)
        if len(run) > len(best):
            best = run
    return best


def _wrong_choices(choices: Mapping[str, str], letters: tuple[str, ...]) -> str | None:
    if tuple(choices) != letters:
        return f"choices {', '.join(choices) or 'none'} where {', '.join(letters)} are wanted"
    if not all(choices.values()):
        return "an empty choice"
    if len({" ".join(text.casefold().split()) for text in choices.values()}) < len(choices):
        return "two equal choices"
    return None


def _paragraph(lines: list[str]) -> str:
    """The answer's first paragraph, and the explanation where that is a paragraph of its own."""
    kept: list[str] = []
    lines = [line for i, line in enumerate(lines) if line.strip() or (i and lines[i - 1].strip())]
    for i, line in enumerate(lines):
        # "A: because …" is the answer A, and no heading.
        text = line.strip() if kept or _KEY_A.match(line) else ANSWER.sub("", line).strip()
        if text:
            kept.append(text)
            continue
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if kept and not (_WHY.match(following) and len(kept) == 1):
            break
    return "\n".join(kept).strip(" *_")


def _steps(lines: list[str]) -> str:
    cleaned = [ANSWER.sub("", line) if i == 0 else line for i, line in enumerate(lines)]
    return "\n".join(text for line in cleaned if (text := line.strip().removeprefix("**").removesuffix("**").strip()))


def _tidy(lines: list[str]) -> str:
    text = "\n".join(line.rstrip() for line in "\n".join(lines).split("\n")).strip()
    return text.strip("*_ \n") if text[:1] in "*_" or text[-2:] in ("**", "__") else text


def _same(one: str, other: str) -> bool:
    bare = [" ".join(re.findall(r"[^\W_]+", text.casefold())) for text in (one, other)]
    return bool(bare[0]) and bare[0] == bare[1]
