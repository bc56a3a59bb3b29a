"""What the instructor is asked, in words.  a mistake and its evidence -> messages

The structure is that of arXiv 2407.00497 (role, goal, requirements, return format; then the evidence and a request
for n samples); the wording is ours. The evidence stands under headings on lines of their own, and the request is the
last paragraph of the user message: it begins "Write {n} new".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lai_ray.records import Message

CORRECT = "[QUESTION ANSWERED CORRECTLY]"
QUESTION = "[QUESTION]"
WRONG = "[WRONG ANSWER]"
REFERENCE = "[REFERENCE ANSWER]"
HEADINGS = (CORRECT, QUESTION, WRONG, REFERENCE)
_LIKE_A_HEADING = re.compile(rf"[\s>*#_]*({'|'.join(map(re.escape, HEADINGS))})[\s:*_]*$", re.IGNORECASE)

NO_ANSWER = "(The student gave no answer.)"


@dataclass(frozen=True, slots=True)
class Text:
    """The words of one kind of prompt. `{slots}` are filled in one pass, so braces in the evidence stay as they are."""

    goal: str
    opening: str
    request: str
    """Everything after "Write {n} new"."""


SYSTEM = """\
You are an experienced teacher who writes practice material for a student.

### Goal
{goal}

### Requirements
1. Every problem is new: neither a copy nor a rewording of a question you are shown.
2. Every problem is complete, has exactly one right answer, and can be solved from its own text.
3. Every answer is worked out step by step and is right. Check it before you write it down.
4. The problems differ from one another in their numbers, names and situations.

### Return format
{brief}"""

TEXTS: Mapping[str, Text] = {
    "le": Text(
        goal=(
            "The student answered a question wrongly. Find out which skill or piece of knowledge the wrong answer "
            "shows to be missing, and write new problems that teach exactly that."
        ),
        opening="The student was asked the question below and gave the wrong answer below it.",
        request=(
            "{problems} that {train} the student in what this mistake shows to be missing, at about the same "
            "difficulty, {each} with its full worked answer. Keep to the return format."
        ),
    ),
    "lec": Text(
        goal=(
            "The student answered a question wrongly, although it answers similar questions correctly. Find out what "
            "the failed question needs that the others do not, and write new problems that teach exactly that."
        ),
        opening=(
            "{first_correct} The question after {that} was answered wrongly, and the wrong answer stands below it. "
            "What sets the failed question apart is what the student has yet to learn."
        ),
        request=(
            "{problems} that {train} the student in what sets the failed question apart from {those} it can already "
            "answer, at about the same difficulty, {each} with its full worked answer. Keep to the return format."
        ),
    ),
    "untargeted": Text(
        goal="Write new problems of the same kind as a question from the student's course.",
        opening="This is a question from the student's course.",
        request=(
            "{problems} of the same kind, at about the same difficulty, {each} with its full worked answer. "
            "Keep to the return format."
        ),
    ),
}


def le(*, brief: str, question: str, wrong_answer: str, n: int, reference: str | None = None) -> list[Message]:
    """Learning from Error: the failed question and the wrong answer.

    brief: the benchmark's return format.  question: as `benchmark.show` gives it.  n: samples wanted, at least 1.
    reference: the right answer, where the job shows it.  Raises ValueError when n < 1.
    """
    return _messages("le", brief, n, _mistake(question, wrong_answer, reference))


def lec(
    *, brief: str, correct: Sequence[str], question: str, wrong_answer: str, n: int, reference: str | None = None
) -> list[Message]:
    """Learning from Error by Contrast: questions the student answered correctly come first, then the mistake.

    correct: the k correct questions as `benchmark.show` gives them, nearest first; with none there is nothing to
    contrast, and the prompt is that of `le`.  The rest is as in `le`.  Raises ValueError when n < 1.
    """
    mistake = _mistake(question, wrong_answer, reference)
    if not correct:
        return _messages("le", brief, n, mistake)
    return _messages("lec", brief, n, [(CORRECT, text) for text in correct] + mistake, k=len(correct))


def untargeted(*, brief: str, question: str, n: int) -> list[Message]:
    """More like a question of the course, whatever the student made of it: the control of LE and LEC."""
    return _messages("untargeted", brief, n, [(QUESTION, question)])


def content_hash() -> str:
    """Hash of every kind of prompt, rendered: the part of a run's identity that the built-in wording decides."""
    rendered = [
        prompt
        for n in (1, 2)
        for reference in (None, "r")
        for prompt in (
            le(brief="b", question="q", wrong_answer="w", n=n, reference=reference),
            lec(brief="b", question="q", wrong_answer="", correct=["s"] * n, n=n, reference=reference),
            untargeted(brief="b", question="q", n=n),
        )
    ]
    return hashlib.blake2b(json.dumps(rendered).encode(), digest_size=8).hexdigest()


def _mistake(question: str, wrong_answer: str, reference: str | None) -> list[tuple[str, str]]:
    evidence = [(QUESTION, question), (WRONG, wrong_answer if wrong_answer.strip() else NO_ANSWER)]
    return evidence if reference is None else [*evidence, (REFERENCE, reference)]


def _messages(kind: str, brief: str, n: int, evidence: Sequence[tuple[str, str]], k: int = 0) -> list[Message]:
    if n < 1:
        raise ValueError(f"a request must ask for at least 1 sample, not {n}")
    text, words = TEXTS[kind], _grammar(n, k)
    system = _fill(SYSTEM, {"goal": text.goal, "brief": brief.strip()})
    blocks = [f"{heading}\n{_quoted(body)}" for heading, body in evidence]
    request = f"Write {n} new {_fill(text.request, words)}"
    user = "\n\n".join([_fill(text.opening, words), *blocks, request])
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _grammar(n: int, k: int) -> dict[str, str]:
    """The words that depend on how many samples are asked for, and how many correct questions are shown."""
    one_sample, one_correct = n == 1, k == 1
    first = "The student answers the first question below correctly."
    return {
        "problems": "problem" if one_sample else "problems",
        "train": "trains" if one_sample else "train",
        "each": "together" if one_sample else "each",
        "first_correct": first if one_correct else f"The student answers the first {k} questions below correctly.",
        "that": "it" if one_correct else "them",
        "those": "the one" if one_correct else "those",
    }


def _fill(template: str, slots: Mapping[str, str]) -> str:
    """`{name}` replaced by its slot in one pass: what a slot brings in is never read as a template."""
    return re.sub(r"\{(\w+)\}", lambda match: slots.get(match[1], match[0]), template)


def _quoted(body: str) -> str:
    """The evidence as it is, but for lines that pass for our headings: "| " before them keeps them part of it."""
    lines = body.strip("\n").splitlines()
    return "\n".join(f"| {line}" if _LIKE_A_HEADING.match(line) else line for line in lines)
