"""Which samples may be learned from: judged by `instruct` as replies come, by `curate` at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from lai_ray.config.config import Config
from lai_ray.contracts import Benchmark, Grading, Improve
from lai_ray.records import Case, Reply, Sample
from lai_ray.stages.curation.contamination import EvaluationSets
from lai_ray.stages.curation.duplicates import Kept
from lai_ray.stages.curation.evaluation_sets import evaluation_sets
from lai_ray.stages.diagnose import dialogue_for
from lai_ray.stages.select import benchmark, grading
from lai_ray.storage.run import Stage

COPY = "copy of "
"""How the reason of every copy of an evaluation question begins: "copy of gsm8k.test: same question"."""


@dataclass(frozen=True)
class Reason:
    """Why a sample is dropped, in words that the funnel counts, and what exactly it came too near to."""

    text: str
    note: str = ""


@dataclass
class Gate:
    """Decides one dataset's samples one after another, in their seeded order."""

    benchmark: Benchmark
    room: int
    clear_of: EvaluationSets
    kept: Kept
    """Earlier iterations' samples, and then this one's."""
    how: Grading
    max_rouge_l: float | None = None

    def judged(self, sample: Sample) -> Sample:
        """The sample, kept or with the reason why not."""
        if sample.dropped:
            return sample
        reason = self._kept_or_why(sample)
        if reason is None:
            self.room -= 1
            self.kept.add(sample.id, sample.problem)
            return sample
        return replace(sample, dropped=reason.text, note=reason.note)

    def _kept_or_why(self, sample: Sample) -> Reason | None:
        """None to keep it, or the reason it is dropped."""
        grade = self.benchmark.grade(sample.problem, "".join(turn.text for turn in sample.turns), self.how)
        if grade.status == "error":
            return Reason("the grader failed", grade.note)
        if grade.score < 1:
            return Reason("its own answer is graded wrong")
        return self._copied(sample) or self._repeated(sample) or (None if self.room > 0 else Reason("over the cap"))

    def _copied(self, sample: Sample) -> Reason | None:
        copy = self.clear_of.copied(sample.problem)
        if copy is not None:
            return Reason(f"{COPY}{copy.set}: {copy.why}", f"{copy.question}: {copy.words}".rstrip(": "))
        if self.max_rouge_l is None:
            return None
        # Only when it is asked for: every sample against every evaluation question, in every round.
        for near in self.clear_of.nearest(sample.problem.question):
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


def gate_for(dataset: str, room: int, kept: Kept, config: Config) -> Gate:
    """The gate of one dataset. `kept` is taken as it is and grows."""
    return Gate(
        benchmark(config, dataset), room, evaluation_sets(config), kept, grading(config), config.curate.max_rouge_l
    )


def judged(
    dialogues: Iterable[tuple[Case, list[Reply]]], gate: Gate, settings: Improve, config: Config, dataset: str
) -> Iterator[Sample]:
    """Every sample of these dialogues in their order, kept ones and dropped ones."""
    strategy = dialogue_for(config, settings.iteration, dataset)
    for case, replies in dialogues:
        for sample in strategy.samples(case, replies, gate.benchmark, settings):
            yield gate.judged(sample)
