"""Filters samples: during `instruct` as replies come, and in `curate`.  samples -> kept, dropped

First each sample alone, once: its own grade, copies of evaluation questions; spread over the cluster where that runs
code. Then against those kept before it, in seeded order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from lai_ray.benchmark_kinds.code import faults_of_tests
from lai_ray.config.config import Config
from lai_ray.contracts import Benchmark, Executor, Grading, Strategy, StrategySettings
from lai_ray.records import Case, Grade, Reply, Sample
from lai_ray.stages.curation.contamination import EvaluationSets
from lai_ray.stages.curation.duplicates import Kept
from lai_ray.stages.curation.evaluation_sets import evaluation_sets
from lai_ray.stages.evaluate import grade_of
from lai_ray.stages.job import Job
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import Stage

COPY = "copy of "
"""The prefix of the reason for a copy of an evaluation question: "copy of gsm8k.test: same question"."""
WEAK_TESTS = "its tests cannot fail"
"""The reason for a programming problem that a function passes which does nothing."""
BATCH = 512
"""Samples with programs that are graded over the cluster at once."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a sample is dropped: the reason that the funnel counts, and in `note` what it is too near to."""

    text: str
    note: str = ""


Verdicts = dict[str, Reason | None]
"""By sample id: the reason it is dropped by the checks of each sample alone; None where it passes."""


@dataclass(frozen=True)
class SampleGrader:
    """Grades a sample's own answer and tries its tests, in this process or in a worker of the cluster."""

    benchmark: Benchmark
    how: Grading

    def __call__(self, sample: Sample) -> tuple[Grade, str | None]:
        """The grade; and, of a program that passes, what is wrong with its tests."""
        answer = "".join(turn.text for turn in sample.turns)
        grade = grade_of(self.benchmark, sample.problem, answer, self.how)
        if not self.benchmark.runs_code or grade.score < 1 or not {"entry", "test"} <= sample.problem.extra.keys():
            return grade, None
        return grade, faults_of_tests([sample.problem], [answer], self.how.min_tier)[0]


@dataclass
class SampleFilter:
    """Filters the samples of one dataset."""

    benchmark: Benchmark
    strategy: Strategy
    keep_clear_of: EvaluationSets
    how: Grading
    executor: Executor
    verdicts: Verdicts = field(default_factory=dict)
    max_rouge_l: float | None = None
    kept: Kept = field(default_factory=Kept)
    """Samples of earlier iterations, and those kept of this one."""
    texts: dict[str, str] = field(default_factory=dict)
    """For a strategy with `same_questions`: hash of kind, prompt and turns -> the sample's id."""

    @classmethod
    def of(cls, job: Job, dataset: str, strategy: Strategy, executor: Executor, verdicts: Verdicts) -> SampleFilter:
        """The filter of one dataset; it adds to `verdicts`."""
        limit, sets = job.config.curate.max_rouge_l, evaluation_sets(job)
        return cls(job.benchmark(dataset), strategy, sets, job.grading, executor, verdicts, limit)

    def start(self, kept: Kept) -> None:
        """Restart with these kept samples, to which it adds."""
        self.kept, self.texts = kept, {}

    def judged(self, dialogues: Iterable[tuple[Case, list[Reply]]], settings: StrategySettings) -> Iterator[Sample]:
        """Every sample of these dialogues in order, kept or dropped with a reason."""
        return self.filtered(
            sample
            for case, replies in dialogues
            for sample in self.strategy.samples(case, replies, self.benchmark, settings)
        )

    def filtered(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """These samples in order, kept or dropped with a reason."""
        rest = iter(samples)
        while batch := list(itertools.islice(rest, BATCH if self.benchmark.runs_code else 1)):
            self._judge([sample for sample in batch if not sample.dropped and sample.id not in self.verdicts])
            yield from map(self._kept_or_dropped, batch)

    def _judge(self, samples: list[Sample]) -> None:
        """Check each sample alone."""
        spread = self.executor.map if self.benchmark.runs_code else map
        graded = spread(SampleGrader(self.benchmark, self.how), samples)
        for sample, (grade, fault) in zip(samples, graded, strict=True):
            refused = self.strategy.accepts(sample, grade) or (WEAK_TESTS if fault else None)
            note = fault or (grade.note if grade.status == "error" else "")
            self.verdicts[sample.id] = Reason(refused, note) if refused else self._copied(sample)

    def _kept_or_dropped(self, sample: Sample) -> Sample:
        if sample.dropped:
            return sample
        reason = self.verdicts[sample.id] or self._repeated(sample)
        if reason is None:
            self.kept.add(sample.id, sample.problem)
            return sample
        return replace(sample, dropped=reason.text, note=reason.note)

    def _copied(self, sample: Sample) -> Reason | None:
        copy = self.keep_clear_of.copied(sample.problem)
        if copy is not None:
            return Reason(f"{COPY}{copy.set}: {copy.why}", f"{copy.question}: {copy.words}".rstrip(": "))
        if self.max_rouge_l is None:
            return None
        # Optional, as it compares every sample with every evaluation question.
        for near in self.keep_clear_of.nearest(sample.problem.question):
            if near.rouge_l > self.max_rouge_l:
                return Reason(f"too near to {near.set}", f"{near.question}: ROUGE-L {near.rouge_l:.3f}")
        return None

    def _repeated(self, sample: Sample) -> Reason | None:
        if self.strategy.same_questions:
            kind = sample.id.rpartition("/")[2].partition(".")[0]
            learned = key_of(kind, sample.problem.question, sample.messages, sample.turns)
            first = self.texts.setdefault(learned, sample.id)
            return None if first == sample.id else Reason("duplicate", first)
        twin = self.kept.twin(sample.problem)
        if twin is None:
            return None
        if twin.same:
            return Reason("duplicate", twin.id)
        return Reason("near-duplicate", f"{twin.id}: ROUGE-L {twin.similarity:.3f}")


def kept_before(stage: Stage, iteration: int, dataset: str, config: Config) -> Kept:
    """The samples of one dataset that earlier iterations of this run kept; for a search, those of every pool."""
    kept = Kept(config.curate.near_duplicates)
    for earlier in range(iteration):
        folder = f"iteration_{earlier}"
        names = (n for n in stage.run.store.names(folder) if n.endswith("/curate/samples.jsonl"))
        for curate in (Stage(stage.run, name.removesuffix("/samples.jsonl")) for name in names):
            for sample in curate.view("samples.jsonl", Sample) if curate.facts() else ():
                if sample.problem.benchmark == dataset:
                    kept.add(f"{folder}: {sample.id}", sample.problem)
    return kept
