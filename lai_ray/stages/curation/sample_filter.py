"""Which samples may be learned from; `instruct` asks as replies come, `curate` at the end.  samples -> kept, dropped

First each by itself, once: its own grade, copies of evaluation questions; spread over the cluster where that runs code.
Then beside those kept before it, in seeded order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from lai_ray.config.config import Config
from lai_ray.contracts import Benchmark, Executor, Grading, Strategy, StrategySettings
from lai_ray.records import Case, Grade, Reply, Sample
from lai_ray.stages.curation.contamination import EvaluationSets
from lai_ray.stages.curation.duplicates import Kept
from lai_ray.stages.curation.evaluation_sets import evaluation_sets
from lai_ray.stages.evaluate import grade_of
from lai_ray.stages.job import Job
from lai_ray.storage.run import Stage

COPY = "copy of "
"""How the reason of every copy of an evaluation question begins: "copy of gsm8k.test: same question"."""
TOGETHER = 512
"""Samples whose programs are spread over the cluster at once."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a sample is dropped, in words that the funnel counts, and what exactly it is too near to."""

    text: str
    note: str = ""


Verdicts = dict[str, Reason | None]
"""By sample id: why it is dropped for what it is by itself; None where it is not."""


@dataclass(frozen=True)
class SampleGrader:
    """Grades a sample's own answer, in this process or in a worker of the cluster."""

    benchmark: Benchmark
    how: Grading

    def __call__(self, sample: Sample) -> Grade:
        """The grade."""
        return grade_of(self.benchmark, sample.problem, "".join(turn.text for turn in sample.turns), self.how)


@dataclass
class SampleFilter:
    """Judges the samples of one dataset."""

    benchmark: Benchmark
    strategy: Strategy
    keep_clear_of: EvaluationSets
    how: Grading
    executor: Executor
    verdicts: Verdicts = field(default_factory=dict)
    max_rouge_l: float | None = None
    kept: Kept = field(default_factory=Kept)
    """Earlier iterations' samples, and then this one's."""

    @classmethod
    def of(
        cls, job: Job, dataset: str, strategy: Strategy, executor: Executor, verdicts: Verdicts | None = None
    ) -> SampleFilter:
        """The filter of one dataset; what is judged is added to `verdicts`."""
        known = {} if verdicts is None else verdicts
        most = job.config.curate.max_rouge_l
        return cls(job.benchmark(dataset), strategy, evaluation_sets(job), job.grading, executor, known, most)

    def start(self, kept: Kept) -> None:
        """Begin anew beside these samples, which it adds to."""
        self.kept = kept

    def judged(self, dialogues: Iterable[tuple[Case, list[Reply]]], settings: StrategySettings) -> Iterator[Sample]:
        """Every sample of these dialogues in their order, kept ones and dropped ones."""
        found = (
            sample
            for case, replies in dialogues
            for sample in self.strategy.samples(case, replies, self.benchmark, settings)
        )
        yield from self.filtered(found)

    def filtered(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """These samples in their order, each kept or with the reason why not."""
        rest = iter(samples)
        while some := list(itertools.islice(rest, TOGETHER if self.benchmark.runs_code else 1)):
            self._judge([sample for sample in some if not sample.dropped and sample.id not in self.verdicts])
            yield from map(self._kept_or_dropped, some)

    def _judge(self, samples: list[Sample]) -> None:
        """Reach the verdict on each by itself."""
        spread = self.executor.map if self.benchmark.runs_code else map
        for sample, grade in zip(samples, spread(SampleGrader(self.benchmark, self.how), samples), strict=True):
            refused = self.strategy.accepts(sample, grade)
            note = grade.note if grade.status == "error" else ""
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
        # Only when it is asked for: every sample against every evaluation question.
        for near in self.keep_clear_of.nearest(sample.problem.question):
            if near.rouge_l > self.max_rouge_l:
                return Reason(f"too near to {near.set}", f"{near.question}: ROUGE-L {near.rouge_l:.3f}")
        return None

    def _repeated(self, sample: Sample) -> Reason | None:
        twin = self.kept.twin(sample.problem)
        if twin is None:
            return None
        if twin.same:
            return Reason("duplicate", twin.id)
        return Reason("near-duplicate", f"{twin.id}: ROUGE-L {twin.likeness:.3f}")


def kept_before(stage: Stage, iteration: int, dataset: str, config: Config) -> Kept:
    """What earlier iterations of this run kept of one dataset; of a search, every pool's samples."""
    kept = Kept(config.curate.near_duplicates)
    for earlier in range(iteration):
        folder = f"iteration_{earlier}"
        for name in stage.run.store.names(folder):
            place = name.removesuffix("/samples.jsonl")
            if place == name or not place.endswith("/curate") or not Stage(stage.run, place).facts():
                continue
            for sample in Stage(stage.run, place).view("samples.jsonl", Sample):
                if sample.problem.benchmark == dataset:
                    kept.add(f"{folder}: {sample.id}", sample.problem)
    return kept
