"""The rules of the tutor: it reads the evidence in a prompt and writes new problems.  messages, seed -> reply

It reads only the text of the messages, as an API model would. It parses kind, size, wording and carries of the failed
question with the grammar of the built-in problems; the failed step from the wrong answer; and what correctly answered
questions share with the failed one. The random seed is a hash of messages and seed: the same request gives the same
reply.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from lai_ray.grading.numbers import PLAIN, read_number
from lai_ray.world import word_kinds as kinds

DEFAULT_COUNT = 3
MOST = 100
"""Most samples in one reply, however many are requested."""
TRIES = 60
"""Draws for one sample before its carry pattern is dropped."""
CANNOT = (
    "I can only write arithmetic word problems of the kinds I know, and I found no such question in your message. "
    "Put the question on its own lines below a line that says [QUESTION]."
)

_STATEMENT = re.compile(rf"(?<![\w.])-?\$?(?:{PLAIN})(?:\s*[-+*/x×÷−]\s*\$?(?:{PLAIN}))+\s*=\s*-?\$?(?:{PLAIN})")
"""A statement "a op b = c", or a longer chain of operations."""
_HEADING = re.compile(r"^[ \t>*#_]*\[([A-Za-z][^\]\n]*)\][ \t:*_]*$", re.M)
_WANTED = re.compile(r"\bwrite\s+(?:exactly\s+|about\s+|at\s+least\s+)?[*_]*(\d{1,6})", re.I)
_NEW = re.compile(r"\b(\d{1,6})\s+new\b", re.I)
_VARIANTS = re.compile(r"\bwrite\s+[*_]*\d{1,6}[*_]*\s+new\s+(?:variants?|versions?)\b", re.I)
_EXPLAIN = re.compile(r'\bwrite first, on one line that begins with "\[MISTAKE\]"', re.I)
_REQUEST = re.compile(r"^\s*(?:now\s+|please\s+)?write\b", re.I)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a prompt shows."""

    question: kinds.WordProblem
    """The failed question; without a wrong answer, the one to write variations of."""
    wrong_answer: str | None
    correct: list[kinds.WordProblem] = field(default_factory=list)
    """The questions answered correctly."""
    count: int = DEFAULT_COUNT
    variants: bool = False
    """Whether the request is for the same question in other words, not for others of its kind."""
    explain: bool = False
    """Whether the mistake is to be explained first."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The first wrong step of a worked answer. step: from 0. what: "operation", "arithmetic" or "final"."""

    step: int
    what: str


@dataclass(frozen=True, slots=True)
class Focus:
    """Properties of the new problems: each is drawn from the product of these."""

    kinds: Sequence[str]
    """One is drawn for each sample; a kind listed twice is drawn twice as often."""
    sizes: Sequence[str]
    step: int | None = None
    """With `carries`: the step that must have them, in problems of the failed kind."""
    carries: int = 0
    """At least this many carries or borrows in that step."""
    wordings: Sequence[str] = ()
    """For problems of the failed kind: the wordings to draw from, all of them when empty."""


def reply(messages: Sequence[Mapping[str, Any]], seed: int | None) -> str:
    """The whole reply: a numbered list of new problems; the solution of a bare question; or the sentence CANNOT."""
    if len(messages) == 1 and (bare := kinds.recognise(text_of(messages[0]))) is not None:
        return bare.response
    evidence = read(messages)
    if evidence is None:
        return CANNOT
    text = json.dumps([list(messages), seed], sort_keys=True, ensure_ascii=False)
    rng = Random(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    made = write(evidence, rng)
    items = [f"{i}. Question: {item.question}\nAnswer: {item.response}" for i, item in enumerate(made, 1)]
    return "\n\n".join([*_mistake(evidence), *items])


def read(messages: Sequence[Mapping[str, Any]]) -> Evidence | None:
    """The evidence in the user's messages; None without a question of a known kind."""
    text = "\n\n".join(text_of(message) for message in messages if message.get("role") == "user")
    sections = _sections(text)
    shown = [item for name, body in sections if name == "QUESTION" and (item := _question(body))]
    if not shown:
        # The user may change the prompts: without the headings, any line with a known question counts.
        shown = [item for line in text.splitlines() if (item := kinds.recognise(line))][-1:]
    if not shown:
        return None
    correct = [
        item for name, body in sections if "CORRECT" in name and "QUESTION" in name and (item := _question(body))
    ]
    wrong = next((_answer(body) for name, body in sections if "WRONG" in name), None)
    return Evidence(
        shown[-1], wrong, correct, _count(text), _VARIANTS.search(text) is not None, _EXPLAIN.search(text) is not None
    )


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text: a string, or the text parts of OpenAI's list form."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def failure(item: kinds.WordProblem, answer: str) -> Failure:
    """The first step of the worked solution that the answer lacks, or has with a wrong result."""
    taken = [_parts(statement) for statement in _STATEMENT.findall(answer)]
    for i, step in enumerate(kinds.solve(item.kind, item.numbers)):
        operands = (step.left, step.op, step.right)
        result = next((value for numbers, value in taken if _same(numbers, operands)), None)
        if result is None:
            return Failure(i, "operation")
        if result != step.result:
            return Failure(i, "arithmetic")
    return Failure(len(kinds.KINDS[item.kind].steps) - 1, "final")


def _mistake(evidence: Evidence) -> list[str]:
    """The mistake on one line, where that is requested."""
    if not evidence.explain or evidence.wrong_answer is None:
        return []
    item = evidence.question
    failed = failure(item, evidence.wrong_answer)
    step = kinds.solve(item.kind, item.numbers)[failed.step]
    words = {
        "operation": f"the step {step} is not taken",
        "arithmetic": f"the right step is taken, and worked out wrongly: {step}",
        "final": f"the steps are right, and the number at the end is not {item.answer}",
    }
    return [f"[MISTAKE] Step {failed.step + 1}: {words[failed.what]}."]


def focus(evidence: Evidence) -> Focus:
    """What to practise, from the wrong answer and by contrast with correct ones.

    Without a wrong answer: any problem of the kind, or for variants the same size in other words.
    """
    item = evidence.question
    if evidence.wrong_answer is None and evidence.variants:
        others = tuple(words for words in kinds.KINDS[item.kind].wordings if words != item.wording)
        return Focus([item.kind], [item.size], wordings=others)
    if evidence.wrong_answer is None:
        return Focus([item.kind], kinds.SIZES)
    failed = failure(item, evidence.wrong_answer)
    same = Focus([item.kind], [item.size], failed.step)
    if failed.what == "arithmetic":
        same = replace(same, carries=kinds.solve(item.kind, item.numbers)[failed.step].carries)
    known = kinds.KINDS[item.kind].wordings
    if failed.what == "operation" and item.wording in known:
        # The question was misread: half of the samples use its wording, half any.
        same = replace(same, wordings=(item.wording,) * len(known) + known)
    return _against(evidence, same) if evidence.correct else same


def _against(evidence: Evidence, same: Focus) -> Focus:
    """Keep what only the failed question has; vary what it shares with correct ones."""
    item, correct = evidence.question, evidence.correct
    alike = [other for other in correct if other.kind == item.kind]
    kin = _kin(item.kind, same.step) if alike else []
    # The kind was answered correctly elsewhere: half of the samples use the failed step in other kinds.
    chosen = [item.kind] * max(1, len(kin)) + kin
    sizes = kinds.SIZES if item.size in {other.size for other in correct} else [item.size]
    met = max((_carries_at(other, same.step) for other in alike), default=0)
    words = () if item.wording in {other.wording for other in alike} else (item.wording,)
    return Focus(
        chosen,
        sizes,
        same.step,
        carries=same.carries if same.carries > met else 0,
        wordings=words if same.wordings else (),
    )


def _kin(kind: str, step: int | None) -> list[str]:
    """Other kinds of several steps with the failed step's operation; kinds of one step if there are none."""
    operation = kinds.KINDS[kind].steps[step or 0][1]
    others = [
        other for other in kinds.KINDS.values() if other.name != kind and operation in {op for _, op, _ in other.steps}
    ]
    return [other.name for other in others if len(other.steps) > 1] or [other.name for other in others]


def _carries_at(item: kinds.WordProblem, step: int | None) -> int:
    steps = kinds.solve(item.kind, item.numbers)
    return steps[step or 0].carries if (step or 0) < len(steps) else 0


def write(evidence: Evidence, rng: Random) -> list[kinds.WordProblem]:
    """New problems with correct worked solutions: none shown in the prompt, held out for test or dev, or repeated."""
    seen = {kinds.key(item.kind, item.numbers) for item in (evidence.question, *evidence.correct)}
    wanted, made = focus(evidence), []
    for _ in range(evidence.count):
        numbers = next((n for n in _draws(wanted, evidence.question, rng) if kinds.key(*n) not in seen), None)
        if numbers is None:
            break  # No more problems of this kind and size.
        seen.add(kinds.key(*numbers))
        kept = wanted.wordings if numbers[0] == evidence.question.kind else ()
        made.append(kinds.write(*numbers, rng, wordings=tuple(kept) or None))
    return made


def _draws(wanted: Focus, shown: kinds.WordProblem, rng: Random) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Candidates for one sample: first with the carry pattern, then without it, in case it is too rare."""
    kind, size = rng.choice(wanted.kinds), rng.choice(wanted.sizes)
    held_to = wanted.step is not None and wanted.carries > 0 and kind == shown.kind
    for attempt in range(2 * TRIES):
        numbers = kinds.draw_from(kind, size, rng, ("train", "free"))
        strict = held_to and attempt < TRIES
        if not strict or kinds.solve(kind, numbers)[wanted.step or 0].carries >= wanted.carries:
            yield kind, numbers


def _sections(text: str) -> list[tuple[str, str]]:
    """(heading in capitals, text below it) of every line like "[QUESTION]"."""
    marks = list(_HEADING.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [(mark.group(1).strip().upper(), text[mark.end() : end]) for mark, end in zip(marks, ends, strict=False)]


def _question(body: str) -> kinds.WordProblem | None:
    """The question below a heading: its first paragraph, or whichever single line is one."""
    paragraphs = [part for part in re.split(r"\n\s*\n", body) if part.strip()]
    candidates = [*paragraphs[:1], *body.splitlines()]
    return next((item for text in candidates if text.strip() and (item := kinds.recognise(text))), None)


def _answer(body: str) -> str:
    """The wrong answer below its heading, without the request that may follow it."""
    paragraphs = re.split(r"\n\s*\n", body)
    cut = next((i for i, part in enumerate(paragraphs) if _REQUEST.match(part)), len(paragraphs))
    return "\n\n".join(paragraphs[:cut]).strip()


def _count(text: str) -> int:
    # The last one: the request closes the prompt, and a question shown before it may say "write" too.
    numbers = _WANTED.findall(text) or _NEW.findall(text)
    return min(MOST, int(numbers[-1])) if numbers else DEFAULT_COUNT


def _parts(statement: str) -> tuple[str, Any]:
    left, _, right = statement.rpartition("=")
    number = read_number(right)
    return left, number and number.value


def _same(left: str, operands: tuple[int, str, int]) -> bool:
    """Whether "5 * 30" takes the step (5, *, 30); order counts for a subtraction only."""
    first, op, second = operands
    pieces = re.findall(r"\d+|[-+*/x×÷]", left.replace(",", ""))
    ways = [[str(first), op, str(second)]] + ([[str(second), op, str(first)]] if op != "-" else [])
    return ["*" if piece in "x×" else piece for piece in pieces] in ways
