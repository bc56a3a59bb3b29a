"""Samples from a file instead of an instructor: an earlier run's, published ones, your own.

[schedule]
strategy = "given"
[strategy.given]
files = "samples.jsonl"        # columns question and response, or question and answer
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace

from lai_ray.benchmark_kinds.sample_rows import GivenSample, SampleColumns, as_reply, given_samples
from lai_ray.contracts import Benchmark, Executor, StrategySettings
from lai_ray.grading.numbers import MARKER, final_number
from lai_ray.instructor.one_request import WithoutRequest, case_id, sample_of
from lai_ray.records import Attempt, Case, Completion, Grade, Piece, Problem, Reply, Sample
from lai_ray.storage.keys import key_of_all

SPLIT = "given"
"""The split in the ids of these samples: "gsm8k/given/00017"."""


class Given(WithoutRequest):
    """One case per row, which holds the row; the samples that earlier iterations kept are duplicates."""

    name = "given"
    Settings = SampleColumns

    def content(self, benchmark: Benchmark, own: SampleColumns) -> str:
        """Hash of the rows of a dataset, wherever they are. Raises ConfigError, DataError for one that is no sample."""
        return key_of_all(replace(sample, where="") for sample in given_samples(own, benchmark.name))

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """Every row of the dataset's files."""
        first = next(iter(attempts), None)
        if first is None:
            return
        dataset = first.problem.benchmark
        for row, sample in enumerate(given_samples(settings.own, dataset)):
            problem = Problem(f"{dataset}/{SPLIT}/{row:05d}", dataset, SPLIT, sample.question, "", asdict(sample))
            attempt = Attempt(f"{problem.id}#0", problem, [], Completion("", "stop"), Grade(0, None, SPLIT, "graded"))
            yield Case(case_id(attempt, self.name), self.name, attempt)

    def samples(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> list[Sample]:
        """The row as the benchmark parses it; with the row's own answer, where it has one."""
        sample, numbers = GivenSample(**case.attempt.problem.extra), MARKER in benchmark.brief()
        text = as_reply(sample, numbers=numbers, add_final_line=settings.own.add_final_line)
        pieces = benchmark.parse(text)
        if len(pieces) != 1:
            what = f"its row reads as {len(pieces)} samples" if pieces else "its row reads as no sample"
            pieces = [Piece(sample.question, "", "", rejected=what, note=sample.where)]
        (piece,) = pieces
        stated = final_number(sample.answer) if numbers and sample.answer else None
        if stated and not piece.rejected:  # The response is graded against it.
            piece = replace(piece, answer=stated.text)
        return [sample_of(f"{case.id}/0", None, benchmark, piece)]


STRATEGY = Given()
