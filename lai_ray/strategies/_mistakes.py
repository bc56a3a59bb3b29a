"""What counts as a mistake, and the dialogue of strategies that ask once."""

from __future__ import annotations

from collections.abc import Sequence

from lai_ray.contracts import Benchmark, Improve
from lai_ray.instructor.prompts import explained
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
            for i, piece in enumerate(benchmark.parse(_for_samples(reply.completion.text, settings)))
        ]


def _for_samples(text: str, settings: Improve) -> str:
    """The reply without its line on what the mistake is, which no parser may take for a sample."""
    return explained(text).rest if settings.explain else text


def _sample(sample_id: str, reply: Reply, benchmark: Benchmark, piece: Piece) -> Sample:
    problem = Problem(sample_id, benchmark.name, GENERATED, piece.question, piece.answer, piece.extra)
    return Sample(sample_id, reply.id, problem, [Turn(piece.response)], piece.rejected)
