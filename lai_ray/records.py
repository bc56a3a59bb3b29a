"""The records of the method: frozen, plain, one JSON line each.

    Problem -> Attempt -> Case -> Reply -> Sample

Every id begins with the id of its problem, so one `grep` over a run prints all records of a problem:
    word_problems/train/00017            a problem
    word_problems/train/00017#0          the target's first draw on it, an attempt
    word_problems/train/00017#0>lec      the case that strategy `lec` made of the mistake
    word_problems/train/00017#0>lec@0.1  the instructor's reply to turn 0, draw 1
    word_problems/train/00017#0>lec@0.1/2  the third sample read from that reply
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, str]
"""One chat message: {"role": "system" | "user" | "assistant", "content": text}."""

UNCLOSED = "a thought that never closes (cut off?)"
"""The note of a grade of a response that is one."""
GENERATED = "generated"
"""The split of problems written by an instructor."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its reference answer: d = (q, a_ref) of the paper."""

    id: str
    benchmark: str
    split: str
    question: str
    answer: str
    extra: dict[str, Any] = field(default_factory=dict)
    """What else this benchmark needs: choices, tests, subject, kind. Plain JSON values."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine returned for one request. A failed one has `error`, and in `text` what was received."""

    text: str
    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None

    @property
    def final(self) -> bool:
        """Whether it is a failure that the same request would pay for again: no text within the limit, or filtered."""
        return self.error is not None and self.finish_reason in ("length", "content_filter")


@dataclass(frozen=True, slots=True)
class Grade:
    """A benchmark's verdict on one response."""

    score: float
    """0 to 1; below 1 the response is not right."""
    answer: str | None
    """The answer extracted from the response."""
    rule: str
    """The rule that extracted it."""
    status: Literal["graded", "unparsed", "error"]
    note: str = ""
    further: dict[str, float] = field(default_factory=dict)
    """Scores by further rules of the same benchmark, as gsm8k's strict and flexible."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """(d, r): the target's response to a problem, with its verdict."""

    id: str
    problem: Problem
    messages: list[Message]
    """As sent, system prompt included."""
    completion: Completion
    grade: Grade

    @property
    def right(self) -> bool:
        """d⁺: the response is fully right."""
        return self.grade.score >= 1.0

    @property
    def cut_off(self) -> bool:
        """The response ended at the token limit, or within a thought."""
        return self.completion.finish_reason == "length" or self.grade.note == UNCLOSED


@dataclass(frozen=True, slots=True)
class Contrast:
    """An attempt shown beside a mistake, with its distance to it (squared L2 of the embeddings)."""

    attempt: Attempt
    distance: float


@dataclass(frozen=True, slots=True)
class Case:
    """One element of D_paired: a mistake (or, for an untargeted strategy, any attempt) and the evidence beside it."""

    id: str
    strategy: str
    attempt: Attempt
    contrasts: list[Contrast] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Request:
    """One call to an engine. `key` is the hash of all that decides the answer; `id` names the record it is for."""

    id: str
    key: str
    messages: list[Message]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    """The form that a server is to enforce; None for text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The completion of a request. Answers come in any order and are looked up by `key`."""

    id: str
    key: str
    completion: Completion
    free: bool = False
    """Not billed: refused before any work, or never sent."""
    limited: int = 0
    """Refusals for the rate limit (429) before it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A request about to be sent, and what is reserved for it; written before it is sent.

    Older runs have neither tokens nor price in their marks.
    """

    key: str
    id: str = ""
    input: int | None = None
    """Most prompt tokens."""
    output: int | None = None
    price: tuple[float, float] | None = None
    """US$ per million tokens in and out, where the job has it."""


Receiver = Literal["instructor", "target", "judge"]
"""A model that can be asked. The judge is the instructor's model at temperature 0; its answers are kept apart."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The next request of a strategy's dialogue."""

    to: Receiver
    messages: list[Message]
    temperature: float | None = None
    """None: `instructor.temperature` for the instructor, 0 for the target and the judge."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The raw answer to one turn of one draw of one case; kept unchanged."""

    id: str
    case_id: str
    turn: int
    draw: int
    messages: list[Message]
    completion: Completion
    to: Receiver = "instructor"
    """The model that was asked."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A text that the target learns, and its weight in the loss."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One element of D_train: a new problem and the turns to learn; `dropped` is None or the reason it is not used."""

    id: str
    reply_id: str | None
    problem: Problem
    turns: list[Turn]
    dropped: str | None = None
    note: str = ""
    """Details of the reason: the evaluation question it copies, the earlier sample it repeats."""
    messages: list[Message] | None = None
    """The prompt before the turns; None for the benchmark's own, as in evaluation."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a benchmark parses from a reply: a new question with its worked response, or the reason it is no sample."""

    question: str
    answer: str
    response: str
    extra: dict[str, Any] = field(default_factory=dict)
    rejected: str | None = None
    note: str = ""
    """Details of the reason: the statement that is false."""
