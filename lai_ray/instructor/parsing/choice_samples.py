"""Parses samples of multiple-choice problems.  reply -> pieces

Options may be labelled in any usual manner, one per line or all on one; the answer is a letter, a sentence that names
one, or the text of one. An incomplete or inconsistent item is returned with `rejected` = the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lai_ray.instructor.parsing.headings import ANSWER, EDGE
from lai_ray.instructor.parsing.items import HEADED, SENTENCE, WHY, Item, items, paragraph, tidy
from lai_ray.instructor.parsing.questions import asks
from lai_ray.instructor.parsing.records import Record, records
from lai_ray.records import Piece

_OPTION = re.compile(rf"^{EDGE}\(?([A-J])[.):\]]\)?[\s*_]{{1,6}}(\S.*)$")
_SMALL_OPTION = re.compile(rf"^{EDGE}\(?[a-j][.):\]](?=[\s*_]{{1,6}}\S)")
_KEY_A = re.compile(r"^[\s*_(]{0,6}A[\s)*_]{0,4}:", re.A)
_LETTER = re.compile(
    r"^[\s*_\"'`$\\(\[]{0,8}(?:(?:[Oo]ption|[Cc]hoice)\s|选项?|選項?|選択肢)?[*_(\[]{0,4}([A-J])(?![^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|['’])[*_)\]]{0,4}(.*)$",
    re.S,
)
_KEY = re.compile(r"\W{0,4}(?:(?:option|choice|answer)\s)?[A-J]\W{0,4}", re.I)
"""A letter alone."""
_KEYED = re.compile(
    r"[\s*_\"'`$\\(\[]{0,8}(?:(?:option|choice)\s)?[*_(\[]{0,4}[A-J][*_)\]]{0,4}(?:\s{0,2}[-–—.:,)\]]|\s(?:is|\()|\s*$)",
    re.I,
)
"""A letter set off from what follows: "A fever" is none."""
_ARTICLE = re.compile(r"\W{0,4}A[ \t](?!because\b|since\b|as\b|is\s(?:the\s)?(?:correct|right|best)\b)[a-z]")
"""Of "A fever", which names no choice."""
_SMALL_LETTER = re.compile(r"^[\s*_(\[]{0,6}([a-j])[.):\]]")
_INLINE = re.compile(r"(?:^|\s)\(?([A-J])[.):\]]\)?\s+")
_MOST_OPTIONS = 300
"""Places where an option may begin, of one question."""
_WORD_BEFORE = re.compile(r"(?:(?<=\s)|^)(?:Option|Choice)\s(?=\(?[A-J][.):\]])")
_OPTIONS_HEAD = re.compile(r"\n[*_ ]{0,6}(?:answer )?(?:options|choices)[*_ ]{0,6}:?[*_ ]{0,6}$", re.I)
_BULLET = re.compile(r"^[\s>*_\-•]{1,12}(?=\(?[A-J][.):\]])|(?<=[A-J][.):\]])[*_]+")
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
_COMPLETE = re.compile(r"[.!?…:;)\]}\"'”’`*|$]\s*$")
_ANY_OPTION = re.compile(
    rf"^{EDGE}\|?\s?[*_]{{0,2}}(?:(?:option|choice)\s)?(?:([A-J])[*_]{{0,2}}\s{{0,2}}[:.)=|–—-]|[(\[]([A-J])[)\]]:?)"
    r"[*_]{0,2}\s{0,4}(?:[*_]{2}(?=[^*_\s]))?([^\s*].*)$",
    re.I,
)
"""An option in any manner: "Option A: text", "**A)** text", "[A] text", "A - text", "| A | text |"."""
_BOX = re.compile(r"\\boxed\s?\{\s?(?:\\(?:text|mathrm|textbf|mathbf)\s?\{)?\s?\(?([A-J])\)?\s?\}{1,2}")
_IS_RIGHT = re.compile(
    r"^[\s)*_.]{0,4}(?:is|was|would\sbe)\s(?:the\s)?(?:correct|right|best)(?:\s(?:answer|option|choice))?"
    r"(?:,?\s(?:because|since|as)\b)?[.:,\s*_]{0,4}"
)


def choice_pieces(reply: str, letters: Sequence[str] = "ABCD") -> list[Piece]:
    """Questions with one option for each of these letters, a key and an explanation."""
    if found := records(reply):
        return [_of_record(record, tuple(letters)) for record in found]
    made = items(reply, done=lambda item: item.committed, lines=_option_lines)
    pieces = [_choice_piece(item, *_options(item.question), tuple(letters)) for item in made]
    kept = [piece for piece in pieces[:-1] if not piece.rejected]
    # Where all others end in a full stop, a last one that does not is cut off.
    if kept and not pieces[-1].rejected and all(map(_explained, kept)) and not _explained(pieces[-1]):
        pieces[-1] = replace(pieces[-1], rejected="the explanation stops in mid-sentence (cut off?)")
    return pieces


def _of_record(record: Record, letters: tuple[str, ...]) -> Piece:
    """A record's piece. Its answer may be the text of a choice."""
    question, choices = tidy([record.question]), {label: tidy([text]) for label, text in record.choices.items()}
    if not choices:
        question, choices = _options(_option_lines(record.question.split("\n")))
    answer = [record.answer, *record.working] if record.answer else record.working
    keys = [text for text in answer if _KEY.fullmatch(text) or any(_same(text, choice) for choice in choices.values())]
    ordered = [*keys[:1], *(text for text in answer if text not in keys[:1])]
    lines = "\n".join(ordered).split("\n")
    item = Item(answer=lines if record.whole and any(lines) else None, explained=not (record.answer or keys))
    return _choice_piece(item, question, choices, letters)


def _option_lines(lines: list[str]) -> list[str]:
    """The lines, where two or more in a row are labelled A, B, … in any manner: as "A. text"."""
    plain, run = list(lines), list[tuple[int, str]]()
    for i, line in enumerate(lines):
        match = _ANY_OPTION.match(line) if line.strip() else None
        label = (match[1] or match[2]).upper() if match else ""
        if label == chr(ord("A") + len(run)) and match:
            run.append((i, f"{label}. {match[3].rstrip().removesuffix('|').rstrip()}"))
        elif line.strip():
            run = [(i, f"A. {match[3].rstrip().removesuffix('|').rstrip()}")] if match and label == "A" else []
        if len(run) >= 2:
            for at, text in run[-2:]:
                plain[at] = text
    return plain


def _explained(piece: Piece) -> bool:
    why = piece.response.partition("\n")[2]
    return bool(why) and _COMPLETE.search(why) is not None


def _choice_piece(item: Item, question: str, choices: dict[str, str], letters: tuple[str, ...]) -> Piece:
    if not asks(question):
        return Piece(question, "", "", rejected="no question", note=question[:80])
    if any(map(HEADED.search, [question, *choices.values()])):
        return Piece(question, "", "", rejected="its question holds an answer")
    wrong = _wrong_choices(choices, letters)
    if wrong or item.answer is None:
        return Piece(question, "", "", rejected=wrong or "no answer (cut off?)")
    answer = _answer(item)
    named = None if _ARTICLE.match(answer) else _LETTER.match(answer)
    first, _, rest = answer.partition("\n")
    by_text = next((x for x, text in choices.items() if _same(first, text)), "")
    letter = by_text or (named[1] if named else "")
    why = rest if by_text or not named else _IS_RIGHT.sub("", named[2])
    why = WHY.sub("", why.lstrip("\n")).lstrip(" .,:;)-–—*_\\$\n")
    why = why[1:-1] if why[:1] == "(" and why.find(")") == len(why) - 1 else why
    if letter not in choices:
        return Piece(question, "", answer, rejected=f"its answer is none of the choices: {answer[:40]!r}")
    other = next((x for x, text in choices.items() if x != letter and _same(why.split("\n", 1)[0], text)), None)
    if other:
        return Piece(question, "", answer, rejected=f"its answer says {letter}, with the text of {other}")
    named_too = _names_another(why, letter, choices) or (HEADED.search(why) or [""])[0]
    if named_too:
        return Piece(
            question, letter, answer, {"choices": choices},
            rejected="its explanation names another choice", note=f"{letter}, but {named_too!r}",
        )  # fmt: skip
    if item.last and len(why.split()) >= 8 and not _COMPLETE.search(why):
        return Piece(question, letter, answer, rejected="the explanation stops in mid-sentence (cut off?)")
    response = f"Answer: {letter}" + (f"\n{why}" if why else "")
    return Piece(question, letter, response, {"choices": choices})


def _answer(item: Item) -> str:
    """The answer, the letter first, then its explanation."""
    lines = _BOX.sub(r"\1", "\n".join(item.answer or [])).split("\n")
    first = next(filter(str.strip, lines), "")
    behind = item.explained or (not _KEYED.match(SENTENCE.sub("", first)) and _key_first(lines))
    text = paragraph(_key_first(lines) if behind else lines, is_text=lambda line: bool(_KEY_A.match(line)))
    sentence = SENTENCE.match(text)
    text = text[sentence.end() :] if sentence and _LETTER.match(text[sentence.end() :]) else text
    return _SMALL_LETTER.sub(lambda m: m[0].upper(), text)


def _key_first(lines: list[str]) -> list[str]:
    """The line that states the letter before the explanation; nothing where none does."""
    for i in range(len(lines) - 1, -1, -1):
        head = ANSWER.match(lines[i]) or SENTENCE.match(lines[i])
        if head and _LETTER.match(lines[i][head.end() :]):
            return [lines[i][head.end() :], *filter(str.strip, lines[:i]), *filter(str.strip, lines[i + 1 :])]
    first = next(filter(str.strip, lines), "")
    return lines if _KEYED.match(first) else []


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
    lines = [_BULLET.sub("", _WORD_BEFORE.sub("", line)) for line in lines]
    first = next((i for i, line in enumerate(lines) if (m := _OPTION.match(line)) and m[1] == "A"), None)
    text = "\n".join(lines if first is None else lines[first:])
    starts = [(m[1], m.start(), m.end()) for m in _INLINE.finditer(text)]
    chain = _chain(starts)
    if len(chain) < 2:
        capitals = [_SMALL_OPTION.sub(lambda m: m[0].upper(), line) for line in lines]
        return _options(capitals) if capitals != lines else (tidy(lines), {})
    text = _unseparated(text, chain)
    ends = [start for _, start, _ in chain[1:]] + [len(text)]
    choices = {letter: tidy([text[end:until]]) for (letter, _, end), until in zip(chain, ends, strict=True)}
    stem = tidy([text[: chain[0][1]]] if first is None else lines[:first])
    return _OPTIONS_HEAD.sub("", stem).strip(), choices


def _unseparated(text: str, chain: list[tuple[str, int, int]]) -> str:
    """The text, with blanks for a sign that stands before each option but the first: "A. 1 / B. 2"."""
    before = {text[:start].rstrip()[-1:] for _, start, _ in chain[1:]}
    sign = before.pop() if len(before) == 1 else ""
    if not sign or sign not in "/;|," or text.rstrip().endswith(sign):
        return text
    for _, start, _ in chain[1:]:
        at = text.rindex(sign, 0, start)
        text = f"{text[:at]} {text[at + 1 :]}"
    return text


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


def _same(one: str, other: str) -> bool:
    bare = [" ".join(re.findall(r"[^\W_]+", text.casefold())) for text in (one, other)]
    return bool(bare[0]) and bare[0] == bare[1]
