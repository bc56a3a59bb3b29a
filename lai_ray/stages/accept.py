"""Which samples may be learned from: judged by `instruct` as replies come, by `curate` at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from lai_ray.config import Config
from lai_ray.contracts import Benchmark, Grading, Improve
from lai_ray.records import Case, Reply, Sample
from lai_ray.similarity.duplicates import fingerprint
from lai_ray.stages.diagnose import strategy_for
from lai_ray.stages.select import benchmark, part


@dataclass
class Gate:
    """Decides one dataset's samples one after another, in their seeded order."""

    benchmark: Benchmark
    room: int
    clear_of: dict[str, set[bytes]]
    """Fingerprints of the evaluation questions, by set."""
    seen: set[bytes]
    how: Grading

    def judged(self, sample: Sample) -> Sample:
        """The sample, kept or with the reason why not."""
        reason = sample.dropped or self._kept_or_why(sample)
        if reason is None:
            self.room -= 1
            self.seen.add(fingerprint(sample.problem))
        return replace(sample, dropped=reason)

    def _kept_or_why(self, sample: Sample) -> str | None:
        """None to keep it, or the reason it is dropped."""
        grade = self.benchmark.grade(sample.problem, "".join(turn.text for turn in sample.turns), self.how)
        if grade.status == "error":
            return "the grader failed"
        if grade.score < 1:
            return "its own answer is graded wrong"
        mark = fingerprint(sample.problem)
        copied = next((name for name, marks in self.clear_of.items() if mark in marks), None)
        if copied:
            return f"copy of {copied}"
        if mark in self.seen:
            return "duplicate"
        return None if self.room > 0 else "over the cap"


def evaluation_marks(config: Config) -> dict[str, set[bytes]]:
    """Fingerprints of every question that no sample may copy, by "<benchmark>.<split>"."""
    wanted = config.curate.keep_clear_of
    if wanted == "none":
        return {}
    names = [*config.evaluate.report_on, *config.evaluate.learn_from] if wanted == "all" else wanted
    parts = []
    for name in dict.fromkeys(names):
        found = benchmark(config, name)
        lent = ("dev",) if config.dev_wanted and "train" in found.splits else ()
        parts += [part(config, name, split) for split in ("dev", "test") if split in (*found.splits, *lent)]
    return {each.name: {fingerprint(problem) for problem in each} for each in parts}


def judged(
    dialogues: Iterable[tuple[Case, list[Reply]]], gate: Gate, settings: Improve, config: Config, dataset: str
) -> Iterator[Sample]:
    """Every sample of these dialogues in their order, kept ones and dropped ones."""
    strategy = strategy_for(config, settings.iteration, dataset)
    for case, replies in dialogues:
        for sample in strategy.samples(case, replies, gate.benchmark, settings):
            yield gate.judged(sample)
