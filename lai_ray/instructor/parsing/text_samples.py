"""Parses samples of word problems and short answers.  reply -> pieces

An incomplete or inconsistent item is returned with `rejected` = the reason, also the last one of a reply that was cut
off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lai_ray.grading.arithmetic_check import false_statements
from lai_ray.grading.final_check import contradiction, cut_off, final_line
from lai_ray.grading.numbers import MARKER, UNSTATED, FinalNumber, final_number, marked_result, read_number
from lai_ray.instructor.parsing.derived import DERIVED, derived
from lai_ray.instructor.parsing.headings import ANSWER, HEAD
from lai_ray.instructor.parsing.items import HEADED, WHY, Item, items, paragraph, tidy
from lai_ray.instructor.parsing.questions import asks_for_a_number
from lai_ray.instructor.parsing.records import Record, records
from lai_ray.records import Piece

_ANSWERED = re.compile(r"\[[^\]\n]{0,40}\b(?:answer|solution)\b[^\]\n]{0,40}\]", re.I)
"""A heading of the prompt that an instructor copied into a question."""
_WORKED = re.compile(r"\d\s?%?\s?=\s?\W{0,3}\d|\n\W{0,4}[^\W\d_]{2,20}\s?[:：]")
"""Working, or a heading in another language, in what was taken for a question."""
_EQUATION = re.compile(r"\d\s?%?\s?=\s?\W{0,3}\d")
_RESULT = re.compile(r"=\s?[\\($*\s]{0,4}\d")
_UNKNOWN_HEAD = re.compile(r"[\s>*_]{0,4}(?:[\[#]|[^\W\d_]{2,20}\s?[:：])")


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
    found = records(reply)
    made = list(map(_of_record, found)) if found else items(reply, done=_resulted)
    # Where another sample has a final line, one without it was cut off.
    derive = not any(_worked(item.answer).final for item in made if item.answer)
    return [_math_piece(item, derive=derive) for item in made]


def _of_record(record: Record) -> Item:
    """The item of a record: its working, then its result as the final line."""
    result = record.answer
    if result and MARKER not in result and read_number(result):
        result = f"{MARKER} {result}"
    elif result and "\n" not in result and record.working and MARKER not in result:
        result = f"Answer: {result}"
    answer = "\n".join([*record.working, *filter(None, [result])]).split("\n")
    return Item(record.question.split("\n"), answer if record.whole and any(answer) else None, last=not record.whole)


def _resulted(item: Item) -> bool:
    """Whether its answer has a final number: marked, boxed or called the answer."""
    for line in (item.answer or [])[item.read :]:
        item.resulted = item.resulted or MARKER in line or "boxed{" in line or "answer is" in line
    item.read = len(item.answer or ())
    return item.resulted


def answer_pieces(reply: str) -> list[Piece]:
    """Questions with one short answer: the first line after "Answer:"."""
    found = records(reply)
    if found:
        return [
            _answer_piece(Item([each.question], [each.answer, *each.working] if each.whole else None)) for each in found
        ]
    return [_answer_piece(item) for item in items(reply, done=lambda item: item.committed)]


def _answer_piece(item: Item) -> Piece:
    question = tidy(item.question)
    if not question or HEAD.fullmatch(question):
        return Piece("", "", "", rejected="no question")
    answer = paragraph(_answers(item)).split("\n", 1)[0].strip()
    if not answer:
        return Piece(question, "", "", rejected="no answer (cut off?)" if item.last else "no answer")
    return Piece(question, answer, answer)


def _answers(item: Item) -> list[str]:
    """The lines of the answer; where it begins with its explanation, those from the next heading on."""
    lines = item.answer or []
    if not item.explained:
        return lines
    return next((lines[i:] for i, line in enumerate(lines) if ANSWER.match(line)), lines)


def _math_piece(item: Item, *, derive: bool) -> Piece:
    _move_working(item)
    question = tidy(item.question)
    if not asks_for_a_number(question):
        return Piece(question, "", "", rejected="no question", note=question[:80])
    if item.answer is None:
        return Piece(question, "", "", rejected="no answer (cut off?)" if item.last else "no answer")
    worked_behind = _RESULT.search("\n".join(_behind_the_question(item)))
    if (
        worked_behind
        or _ANSWERED.search(question)
        or HEADED.search(question)
        or (item.headless and _WORKED.search(question))
    ):
        return Piece(question, "", "", rejected="its question holds an answer")
    worked = _worked(item.answer)
    if worked.final is None and derive:
        worked = replace(worked, final=derived(worked.steps), working=worked.steps)
    if worked.final is None:
        return Piece(question, "", worked.steps, rejected=f"no final {MARKER} line (cut off?)")
    number = _plain(worked.final.text)
    response = f"{worked.steps}\n{MARKER} {number}".strip()
    wrong = _inconsistent(worked, response, cut=item.last)
    extra = {"solution": response} | ({DERIVED: True} if worked.final.rule == DERIVED else {})
    return Piece(question, number, response, extra, *wrong)


def _move_working(item: Item) -> None:
    """Moves working without a heading, between a question mark at the end of a line and the bare result, to the
    answer. What stands under a heading ("[Student's answer]") is left in the question, which is then dropped for it."""
    after = _behind_the_question(item)
    stated = [line for line in item.answer or [] if line.strip()]
    if item.answer is None or not _EQUATION.search("\n".join(after)) or any(map(_UNKNOWN_HEAD.match, after)):
        return
    if len(stated) != 1 or _EQUATION.search(stated[0]):
        return
    result = stated[0] if item.headless or MARKER in stated[0] else f"Answer: {stated[0]}"
    item.question, item.answer = item.question[: len(item.question) - len(after)], [*after, result]


def _behind_the_question(item: Item) -> list[str]:
    """The lines of the question behind the last that ends with a question mark."""
    ends = [i for i, line in enumerate(item.question) if line.rstrip(" *_").endswith("?")]
    return item.question[ends[-1] + 1 :] if ends else []


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


def _steps(lines: list[str]) -> str:
    cleaned = [_unheaded(line) if i == 0 else line for i, line in enumerate(lines)]
    return "\n".join(text for line in cleaned if (text := line.strip().removeprefix("**").removesuffix("**").strip()))


def _unheaded(line: str) -> str:
    return WHY.sub("", ANSWER.sub("", line))
