"""The built-in prompts.  a mistake and its evidence -> messages

The structure is that of arXiv 2407.00497 (role, goal, requirements, return format; then the evidence and a request
for n samples); the wording is ours. Each piece of evidence has a heading on a line of its own, and the request is the
last paragraph of the user message: it begins "Write {n} new". A job's own prompts (`templates.py`) replace any kind.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lai_ray.instructor.prompts.templates import Wording, fill
from lai_ray.records import Message

CORRECT = "[QUESTION ANSWERED CORRECTLY]"
RIGHT = "[RIGHT ANSWER]"
QUESTION = "[QUESTION]"
WRONG = "[WRONG ANSWER]"
REFERENCE = "[REFERENCE ANSWER]"
HEADINGS = (CORRECT, RIGHT, QUESTION, WRONG, REFERENCE)
_LIKE_A_HEADING = re.compile(rf"[\s>*#_]*({'|'.join(map(re.escape, HEADINGS))})[\s:*_]*$", re.IGNORECASE)

NO_ANSWER = "(The student gave no answer.)"

MARK = "[MISTAKE]"
"""The start of the line on which an instructor names the mistake."""
EXPLAIN = (
    f'Write first, on one line that begins with "{MARK}", what the student did wrong and what it shows to be missing. '
    "This line alone stands before what the return format asks for."
)
_MARKED = re.compile(r"[\s>#*_\-]{0,12}(?:\d{1,3}[.)]\s{0,4})?[\s*_]{0,6}\[\s?MISTAKE\s?\][\s*_:–—-]{0,12}(.*)", re.I)
_NAMED = re.compile(r"[\s>#*_\-]{0,12}(?:the\s)?mistake[\s*_]{0,6}:[\s*_]{0,6}(.*)", re.I)
_ITEM = re.compile(r"[\s>#*_\-]{0,12}(?:\(?\d{1,4}[.)]|(?:\w+\s)?(?:question|problem|sample)\b)", re.I)

Own = Mapping[str, Wording]
"""A job's own wordings, by kind of prompt."""
NONE: Own = {}


@dataclass(frozen=True, slots=True)
class Text:
    """The wording of one kind of prompt. `{slots}` are filled in one pass, so braces in the evidence are kept."""

    goal: str
    opening: str
    request: str
    """Everything after "Write {n} new"."""
    first: str = "Every problem is new: neither a copy nor a rewording of a question you are shown."
    """The first requirement."""


SYSTEM = """\
You are an experienced teacher who writes practice material for a student.

### Goal
{goal}

### Requirements
1. {first}
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
    "auggpt": Text(
        goal=(
            "Rewrite a question from the student's course into variants of itself: each asks for the same thing and "
            "is solved in the same way, so that one who can answer the question can answer every variant."
        ),
        opening="This is a question from the student's course.",
        request=(
            "{variants} of this question, at the same difficulty, {each} with its full worked answer. "
            "Keep to the return format."
        ),
        first=(
            "Every problem is a variant of the question you are shown: the same skill and the same steps, in other "
            "words, and with other names, numbers and circumstances where it has them. None is a copy."
        ),
    ),
    "llm2llm": Text(
        goal=(
            "Write new problems for a student who could not answer a question of the course: they need the same "
            "knowledge and the same steps as its right answer."
        ),
        opening="The student could not answer the question below. Its right answer stands below it.",
        request=(
            "{problems} that {train} the student in what this answer needs, at about the same difficulty, {each} with "
            "its full worked answer. Keep to the return format."
        ),
    ),
}


def le(
    *, brief: str, question: str, wrong_answer: str, n: int, reference: str | None = None, explain: bool = False,
    own: Own = NONE,
) -> list[Message]:  # fmt: skip
    """Learning from Error: the failed question and the wrong answer.

    brief: the benchmark's return format.  question: as `benchmark.show` gives it.  n: samples wanted, at least 1.
    reference: the right answer, where the job shows it.  explain: ask first for one line that names the mistake, see
    `explained`.  own: the job's own wordings by kind, see `templates.own_for`.  Raises ValueError when n < 1.
    """
    return _messages("le", brief, n, _Shown(question, wrong_answer, reference, explain=explain), own)


def lec(
    *, brief: str, correct: Sequence[str], question: str, wrong_answer: str, n: int, reference: str | None = None,
    correct_answers: Sequence[str] | None = None, explain: bool = False, own: Own = NONE,
) -> list[Message]:  # fmt: skip
    """Learning from Error by Contrast: questions the student answered correctly come first, then the mistake.

    correct: the k correct questions as `benchmark.show` gives them, nearest first; with none the prompt is that of
    `le`.  correct_answers: the student's answer to each, where the job shows it.  The rest is as in `le`.
    Raises ValueError when n < 1, or there is not one answer for each correct question.
    """
    shown = _Shown(question, wrong_answer, reference, _pairs(correct, correct_answers), explain)
    return _messages("lec" if correct else "le", brief, n, shown, own)


def untargeted(*, brief: str, question: str, n: int, own: Own = NONE) -> list[Message]:
    """More problems like a question of the course, answered rightly or not: the control of LE and LEC."""
    return _messages("untargeted", brief, n, _Shown(question), own)


def auggpt(*, brief: str, question: str, n: int, reference: str | None = None, own: Own = NONE) -> list[Message]:
    """The question itself, rewritten n times, answered rightly or not: the AugGPT baseline of the paper."""
    return _messages("auggpt", brief, n, _Shown(question, None, reference), own)


def llm2llm(*, brief: str, question: str, reference: str, n: int, own: Own = NONE) -> list[Message]:
    """A question that the student missed, and its right answer; not what the student wrote."""
    return _messages("llm2llm", brief, n, _Shown(question, None, reference), own)


@dataclass(frozen=True, slots=True)
class Explained:
    """A reply in two: the line that names the mistake, and the rest, which holds the samples."""

    mistake: str | None
    rest: str


def explained(reply: str) -> Explained:
    """The text after [MISTAKE], or at the top after "Mistake:"; if the mark is alone on its line, the next line.

    The first such line counts; further lines with [MISTAKE] are left out of the rest too. Without one, all is rest.
    """
    lines = reply.splitlines()
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    for i, line in enumerate(lines):
        match = _MARKED.match(line) or (_NAMED.match(line) if i == first else None)
        if match is None:
            continue
        mistake, end = match[1].strip(" *_"), i + 1
        below = next((j for j in range(end, len(lines)) if lines[j].strip()), None)
        if not mistake and below is not None and not _ITEM.match(lines[below]):
            mistake, end = lines[below].strip(" *_"), below + 1
        return Explained(mistake or None, "\n".join([*lines[:i], *(x for x in lines[end:] if not _MARKED.match(x))]))
    return Explained(None, reply)


def content_hash(kinds: Collection[str] = (), *, explain: bool = False, show_answers: bool = False) -> str:
    """Hash of the rendered prompts: the part of a run's identity that depends on the built-in wording.

    kinds: those that the job schedules. What was added after the first three kinds counts only where the job uses it,
    so that earlier runs can be resumed.
    """
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
    if "auggpt" in kinds:
        rendered += [auggpt(brief="b", question="q", n=n, reference=r) for n in (1, 2) for r in (None, "r")]
    if "llm2llm" in kinds:
        rendered += [llm2llm(brief="b", question="q", reference="r", n=n) for n in (1, 2)]
    if explain:
        rendered.append(le(brief="b", question="q", wrong_answer="w", n=1, explain=True))
    if show_answers:
        rendered += [
            lec(brief="b", question="q", wrong_answer="w", n=1, correct=["s"] * k, correct_answers=["a"] * k)
            for k in (1, 2)
        ]
    return hashlib.blake2b(json.dumps(rendered).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class _Shown:
    """The evidence."""

    question: str
    wrong_answer: str | None = None
    reference: str | None = None
    correct: Sequence[tuple[str, str | None]] = ()
    """(question, the student's right answer or None)."""
    explain: bool = False

    def slots(self) -> dict[str, str]:
        """Each piece by the name of its slot, without its heading; only the correct questions keep theirs."""
        wrong = self.wrong_answer
        pieces = {
            "question": self.question,
            "wrong_answer": NO_ANSWER if wrong is not None and not wrong.strip() else wrong,
            "reference": self.reference,
        }
        filled = {name: _quoted(text) for name, text in pieces.items() if text is not None}
        return filled | ({"correct": "\n\n".join(self.solved())} if self.correct else {})

    def solved(self) -> list[str]:
        """The correct questions below their headings, each followed by its answer."""
        blocks = []
        for question, answer in self.correct:
            blocks.append(f"{CORRECT}\n{_quoted(question)}")
            blocks += [] if answer is None else [f"{RIGHT}\n{_quoted(answer)}"]
        return blocks

    def blocks(self) -> list[str]:
        """All evidence, each piece below its heading."""
        slots = self.slots()
        named = (("question", QUESTION), ("wrong_answer", WRONG), ("reference", REFERENCE))
        return [*self.solved(), *(f"{heading}\n{slots[name]}" for name, heading in named if name in slots)]


def _messages(kind: str, brief: str, n: int, shown: _Shown, own: Own) -> list[Message]:
    if n < 1:
        raise ValueError(f"a request must ask for at least 1 sample, not {n}")
    if kind in own:
        slots = shown.slots() | {"brief": brief.strip(), "n": str(n), "explain": EXPLAIN if shown.explain else ""}
        return _chat(fill(own[kind].system, slots), fill(own[kind].user, slots))
    text, words = TEXTS[kind], _grammar(n, shown.correct)
    request = [EXPLAIN] * shown.explain + [f"Write {n} new {fill(text.request, words)}"]
    return _chat(
        fill(SYSTEM, {"goal": text.goal, "first": text.first, "brief": brief.strip()}),
        "\n\n".join([fill(text.opening, words), *shown.blocks(), *request]),
    )


def _chat(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _pairs(correct: Sequence[str], answers: Sequence[str] | None) -> list[tuple[str, str | None]]:
    return [(text, None) for text in correct] if answers is None else list(zip(correct, answers, strict=True))


def _grammar(n: int, correct: Sequence[tuple[str, str | None]]) -> dict[str, str]:
    """The words that depend on how many samples are wanted, and how many correct questions are shown."""
    one_sample, one_correct = n == 1, len(correct) == 1
    shown = any(answer is not None for _, answer in correct)
    how = f"correctly, with the {'answer' if one_correct else 'answers'} shown" if shown else "correctly"
    first = "the first question" if one_correct else f"the first {len(correct)} questions"
    return {
        "problems": "problem" if one_sample else "problems",
        "variants": "variant" if one_sample else "variants",
        "train": "trains" if one_sample else "train",
        "each": "together" if one_sample else "each",
        "first_correct": f"The student answers {first} below {how}.",
        "that": "it" if one_correct else "them",
        "those": "the one" if one_correct else "those",
    }


def _quoted(body: str) -> str:
    """The evidence; a line that looks like one of our headings gets "| " before it."""
    lines = body.strip("\n").splitlines()
    return "\n".join(f"| {line}" if _LIKE_A_HEADING.match(line) else line for line in lines)
