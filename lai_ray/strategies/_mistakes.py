"""What counts as a mistake, and the parts that one-request strategies share."""

from __future__ import annotations

from collections.abc import Sequence

from lai_ray.contracts import Benchmark, Improve
from lai_ray.records import GENERATED, Attempt, Case, Piece, Problem, Reply, Sample, Turn


def is_mistake(attempt: Attempt, settings: Improve) -> bool:
    """Score below 1, graded or unparsed; an answer cut off only if the job says so; an error never."""
    if attempt.right or attempt.grade.status == "error":
        return False
    return settings.count_cut_off or not attempt.cut_off


def case_id(attempt: Attempt, strategy: str) -> str:
    """Begins with the problem's id."""
    return f"{attempt.id}>{strategy}"


def samples_from(case: Case, replies: Sequence[Reply], benchmark: Benchmark) -> list[Sample]:
    """The samples of a dialogue that ended with one reply, rejected pieces included."""
    if not replies:
        return []
    reply = replies[-1]
    return [
        _sample(f"{reply.id}/{i}", reply, benchmark, piece)
        for i, piece in enumerate(benchmark.parse(reply.completion.text))
    ]


def _sample(sample_id: str, reply: Reply, benchmark: Benchmark, piece: Piece) -> Sample:
    problem = Problem(sample_id, benchmark.name, GENERATED, piece.question, piece.answer, piece.extra)
    return Sample(sample_id, reply.id, problem, [Turn(piece.response)], piece.rejected)
