"""What counts as a mistake, and the dialogue of strategies that ask once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lai_ray.contracts import Benchmark, Executor, Improve
from lai_ray.instructor.prompts.built_in import explained
from lai_ray.records import GENERATED, Attempt, Case, Message, Piece, Problem, Reply, Sample, Turn


def is_mistake(attempt: Attempt, settings: Improve) -> bool:
    """Score below 1, graded or unparsed; an answer cut off only if the job says so; an error never."""
    if attempt.right or attempt.grade.status == "error":
        return False
    return settings.count_cut_off or not attempt.cut_off


def case_id(attempt: Attempt, strategy: str) -> str:
    """Begins with the problem's id."""
    return f"{attempt.id}>{strategy}"


class OneRequest:
    """One request a case; the samples are what its reply holds. A strategy adds `cases` and `messages`."""

    any_verdict = False

    def messages(self, case: Case, benchmark: Benchmark, settings: Improve) -> list[Message]:
        """The one request of a case."""
        raise NotImplementedError

    def next_messages(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: Improve
    ) -> list[Message] | None:
        """The request while nothing is answered, then the end."""
        return None if replies else self.messages(case, benchmark, settings)

    def samples(self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: Improve) -> list[Sample]:
        """What the reply holds, rejected pieces included."""
        return [
            _sample(f"{reply.id}/{i}", reply, benchmark, piece)
            for reply in replies[-1:]
            for i, piece in enumerate(_pieces(reply, benchmark, settings))
        ]


class AnyVerdict(OneRequest):
    """One request a training problem, whatever its verdict; the seeded order of cases makes it a random draw."""

    name: str
    uses_neighbours = False
    any_verdict = True

    def cases(self, attempts: Iterable[Attempt], settings: Improve, executor: Executor) -> Iterator[Case]:
        """Every training attempt."""
        for attempt in attempts:
            yield Case(case_id(attempt, self.name), self.name, attempt)


CUT_OFF = "cut off by the reply's length"


def _pieces(reply: Reply, benchmark: Benchmark, settings: Improve) -> list[Piece]:
    """The pieces of a reply, less its line on what the mistake is, which no parser may take for a sample.

    Of one that ended at its token limit the last is dropped: it may be half a sample.
    """
    text = reply.completion.text
    pieces = benchmark.parse(explained(text).rest if settings.explain else text)
    if reply.completion.finish_reason == "length" and pieces and not pieces[-1].rejected:
        pieces[-1] = replace(pieces[-1], rejected=CUT_OFF)
    return pieces


def _sample(sample_id: str, reply: Reply, benchmark: Benchmark, piece: Piece) -> Sample:
    problem = Problem(sample_id, benchmark.name, GENERATED, piece.question, piece.answer, piece.extra)
    return Sample(sample_id, reply.id, problem, [Turn(piece.response)], piece.rejected, piece.note)
