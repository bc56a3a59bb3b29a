"""Base classes of strategies that ask once, and what counts as a mistake.  attempts -> cases -> samples

A strategy of your own subclasses OneRequest and adds `name`, `cases` and `messages`; one that draws from all training
problems, right or wrong, subclasses AnyVerdict and adds `name` and `messages`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lai_ray.common import plugins
from lai_ray.contracts import Benchmark, Executor, StrategySettings
from lai_ray.grading.answer_part import without_thoughts
from lai_ray.instructor.prompts.built_in import explained
from lai_ray.records import GENERATED, Ask, Attempt, Case, Grade, Message, Piece, Problem, Reply, Sample, Turn


def is_mistake(attempt: Attempt, settings: StrategySettings) -> bool:
    """A score below 1, graded or unparsed. Answers cut off count only if the job says so, errors never."""
    if attempt.right or attempt.grade.status == "error":
        return False
    return settings.count_cut_off or not attempt.cut_off


def case_id(attempt: Attempt, strategy: str) -> str:
    """The id of the case that a strategy makes of an attempt; it begins with the problem's id."""
    return f"{attempt.id}>{strategy}"


class OneRequest:
    """One request per case, to the instructor; the samples are those in its reply."""

    name: str
    uses_neighbours = False
    any_verdict = False
    asks = True
    same_questions = False
    Settings: type | None = None

    def messages(self, case: Case, benchmark: Benchmark, settings: StrategySettings) -> list[Message]:
        """The request of a case."""
        raise NotImplementedError

    def content(self, benchmark: Benchmark, own: Any) -> str | None:
        """No files."""
        return None

    def texts(self, attempts: Iterable[Attempt], settings: StrategySettings) -> list[str]:
        """Nothing is embedded."""
        return []

    def next(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> Ask | None:
        """The request while there is no reply, then None."""
        return None if replies else Ask("instructor", self.messages(case, benchmark, settings))

    def samples(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> list[Sample]:
        """The samples in the reply, rejected pieces included."""
        return [sample for reply in replies[-1:] for sample in samples_in(reply, benchmark, explain=settings.explain)]

    def accepts(self, sample: Sample, grade: Grade) -> str | None:
        """Accepts what is graded fully right."""
        return plugins.accepts(self, sample, grade)

    def choose(self, samples: Iterable[Sample], most: int, settings: StrategySettings) -> Iterable[Sample]:
        """The first ones."""
        return itertools.islice(samples, most)


class AnyVerdict(OneRequest):
    """One request per training problem, right or wrong; the seeded order of cases makes it a random draw."""

    any_verdict = True

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """Every training attempt."""
        return (Case(case_id(attempt, self.name), self.name, attempt) for attempt in attempts)


class WithoutRequest(AnyVerdict):
    """Samples that need no request: one case per training problem, or the strategy's own cases."""

    asks = False

    def next(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> Ask | None:
        """No request."""
        return None


CUT_OFF = "cut off by the reply's length"


def samples_in(reply: Reply, benchmark: Benchmark, *, explain: bool = False) -> list[Sample]:
    """What the benchmark parses from a reply; ids begin with the reply's, rejected pieces are dropped samples.

    explain: the reply begins with a line that names the mistake, which must not be parsed as a sample.
    """
    text = without_thoughts(reply.completion.text) or ""
    pieces = benchmark.parse(explained(text).rest if explain else text)
    if reply.completion.finish_reason == "length" and pieces and not pieces[-1].rejected:
        pieces[-1] = replace(pieces[-1], rejected=CUT_OFF)  # Possibly half a sample.
    return [sample_of(f"{reply.id}/{i}", reply.id, benchmark, piece) for i, piece in enumerate(pieces)]


def sample_of(sample_id: str, reply_id: str | None, benchmark: Benchmark, piece: Piece) -> Sample:
    """A parsed piece as a sample."""
    problem = Problem(sample_id, benchmark.name, GENERATED, piece.question, piece.answer, piece.extra)
    return Sample(sample_id, reply_id, problem, [Turn(piece.response)], piece.rejected, piece.note)
