"""The nouns of the method: frozen, plain, one JSON line each.

    Problem -> Attempt -> Case -> Reply -> Sample

Every id begins with the id of the problem it came from, so one `grep` over a run prints a problem's whole life:
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

GENERATED = "generated"
"""The split of a problem that an instructor wrote."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its reference answer: d = (q, a_ref) of the paper."""

    id: str
    benchmark: str
    split: str
    question: str
    answer: str
    extra: dict[str, Any] = field(default_factory=dict)
    """What this benchmark needs besides: choices, tests, subject, kind. Plain JSON values."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine returned for one request. A failed request is data: `error` says why, and `text` is what came."""

    text: str
    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Grade:
    """A benchmark's verdict on one response."""

    score: float
    """0 to 1; below 1 the response is not right."""
    answer: str | None
    """What was extracted from the response."""
    rule: str
    """Which rule found it."""
    status: Literal["graded", "unparsed", "error"]
    note: str = ""
    further: dict[str, float] = field(default_factory=dict)
    """Scores by other rules of the same benchmark, beside the one that counts: strict and flexible of gsm8k."""


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
        """The response ended at the token limit."""
        return self.completion.finish_reason == "length"


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
    """One call to an engine. `key` is the hash of everything that decides the answer; `id` says whose answer it is."""

    id: str
    key: str
    messages: list[Message]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion of a request: they come in any order, and are looked up by `key`."""

    id: str
    key: str
    completion: Completion
    free: bool = False
    """The provider billed nothing for it: it was refused before any work, or never sent."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A request about to be sent, and what is reserved for it; written down before it is sent.

    Runs made before reservations were written have neither tokens nor price in theirs.
    """

    key: str
    id: str = ""
    input: int | None = None
    """Prompt tokens at most."""
    output: int | None = None
    price: tuple[float, float] | None = None
    """US$ per million tokens in and out, where the job gave it."""


Receiver = Literal["instructor", "target", "judge"]
"""Who can be asked. A judge is the instructor's model at temperature 0, its answers kept apart."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The next request of a strategy's dialogue."""

    to: Receiver
    messages: list[Message]
    temperature: float | None = None
    """None: `instructor.temperature` for the instructor, 0 for the target and the judge."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The raw answer to one turn of one draw of one case; always kept as it came."""

    id: str
    case_id: str
    turn: int
    draw: int
    messages: list[Message]
    completion: Completion
    to: Receiver = "instructor"
    """Who was asked."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A text the target learns to say, and its weight in the loss."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One element of D_train: a new problem and the turns to learn; `dropped` says why it is not used, or is None."""

    id: str
    reply_id: str | None
    problem: Problem
    turns: list[Turn]
    dropped: str | None = None
    note: str = ""
    """What exactly the reason is about: the evaluation question it copies, the earlier sample it repeats."""
    messages: list[Message] | None = None
    """The prompt that the turns are learned after; None for the benchmark's own, as in the test."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a benchmark reads from a reply: a new question with its worked response, or the reason it is no sample."""

    question: str
    answer: str
    response: str
    extra: dict[str, Any] = field(default_factory=dict)
    rejected: str | None = None
    note: str = ""
    """What exactly the reason is about: the statement that is false."""
