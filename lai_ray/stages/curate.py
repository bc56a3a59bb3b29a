"""Parses, checks and chooses the samples to learn from.  cases, replies -> samples

In the seeded order of cases and draws, never by arrival: a killed and resumed run keeps the same samples.
"""

from __future__ import annotations

import itertools
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from lai_ray.common import plugins
from lai_ray.contracts import Executor, Strategy, StrategySettings
from lai_ray.errors import StageError
from lai_ray.instructor.parsing.derived import DERIVED
from lai_ray.records import Sample
from lai_ray.stages.curation.duplicates import Kept
from lai_ray.stages.curation.evaluation_sets import TOKENS, evaluation_sets, nearness, not_checked, parsed
from lai_ray.stages.curation.sample_filter import COPY, SampleFilter, kept_before
from lai_ray.stages.diagnose import Cases
from lai_ray.stages.instruct import Replies
from lai_ray.stages.job import Job
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import Stage
from lai_ray.storage.spool import Spool
from lai_ray.storage.store import View

QUOTED, MOST_QUOTED = 600, 100
"""Characters of an unusable reply that an error shows, and replies among which it looks for one with a text."""
OVER_THE_CAP = "over the cap"
Funnel = dict[str, dict[str, int]]
"""By dataset: the counts of samples, of those kept, and of those dropped for each reason."""


@dataclass(frozen=True)
class Samples:
    """The samples to learn from, each dataset in its strategy's order, so that a prefix is a smaller training set."""

    view: View[Sample]
    key: str
    counts: dict[str, int]


def curate(
    stage: Stage, cases: Cases, replies: Replies, job: Job, executor: Executor, *, may_be_none: bool = False
) -> Samples:
    """Write the samples kept, those dropped with their reasons, the funnel, and their nearness to the tests.

    Raises StageError when none is kept, unless `may_be_none`.
    """
    config, datasets = job.config, job.config.evaluate.learn_from
    before = {d: kept_before(stage, cases.iteration, d, config) for d in datasets}
    earlier = [kept.identity() for kept in before.values()]
    key = key_of(cases.key, replies.key, config.curate.identity(), job.grading, earlier, _code(job, cases.iteration))
    if not stage.done(key):
        judged = [_judged(dataset, replies, before[dataset], job, executor) for dataset in datasets]
        view = stage.write("samples.jsonl", (s for one in judged for s in one.chosen()), Sample)
        stage.write("dropped.jsonl", (s for one in judged for s in one.dropped()), Sample)
        funnel = {one.dataset: one.funnel() for one in judged}
        stage.store.put_json("funnel.json", funnel)
        if not stage.run.dry:
            stage.store.put_json("contamination.json", _contamination(stage, funnel, job, executor))
        if not may_be_none:
            _refuse_nothing(view, funnel, replies, job)
        stage.finish(key, kept={dataset: counts.get("kept", 0) for dataset, counts in funnel.items()})
    stage.check_until()
    return Samples(stage.view("samples.jsonl", Sample), key, stage.facts()["kept"])


def _code(job: Job, iteration: int) -> str:
    datasets = job.config.evaluate.learn_from
    plug_ins = [job.benchmark(d) for d in datasets] + [job.strategy(iteration, d) for d in datasets]
    return plugins.code_hash("lai_ray.instructor", "lai_ray.stages.curation", *plug_ins)


@dataclass
class Judged:
    """Every sample of one dataset with its verdict; judged once, read for both files."""

    dataset: str
    samples: Spool[Sample]
    strategy: Strategy
    settings: StrategySettings
    most: int

    def __post_init__(self) -> None:
        self._chosen = [sample.id for sample in self.chosen()]

    def __iter__(self) -> Iterator[Sample]:
        return (sample for sample in self.samples if sample.dropped is None)

    def chosen(self) -> Iterable[Sample]:
        """The samples to learn from, in the strategy's order."""
        return self.strategy.choose(self, self.most, self.settings)

    def dropped(self) -> Iterator[Sample]:
        """The others with their reasons, in the seeded order."""
        chosen = set(self._chosen)
        for sample in self.samples:
            if sample.dropped:
                yield sample
            elif sample.id not in chosen:
                yield replace(sample, dropped=OVER_THE_CAP)

    def funnel(self) -> dict[str, int]:
        """Counts of all samples, of those kept, of these with a derived final line, and of those dropped by reason."""
        reasons = Counter(str(sample.dropped) for sample in self.dropped())
        derived, chosen = 0, set(self._chosen)
        for sample in self:
            derived += sample.id in chosen and DERIVED in sample.problem.extra
        counts = {"samples": len(chosen) + reasons.total(), "kept": len(chosen), DERIVED: derived, **reasons}
        return {reason: count for reason, count in counts.items() if count}


def _judged(dataset: str, replies: Replies, before: Kept, job: Job, executor: Executor) -> Judged:
    iteration = replies.cases.iteration
    strategy, settings = job.dialogue(iteration, dataset), job.settings_for(iteration, dataset)
    sample_filter = SampleFilter.of(job, dataset, strategy, executor, replies.verdicts)
    sample_filter.start(before.copy())
    samples = Spool(sample_filter.judged(replies.dialogues(dataset), settings), Sample)
    return Judged(dataset, samples, strategy, settings, job.config.curate.most(dataset))


def _contamination(stage: Stage, funnel: Funnel, job: Job, executor: Executor) -> dict[str, Any]:
    """Counts of the copies dropped, and Table 5 of the paper for all parsed samples and for those kept."""
    sets, views = evaluation_sets(job), [stage.view(name, Sample) for name in ("samples.jsonl", "dropped.jsonl")]
    reasons = sum((Counter(counts) for counts in funnel.values()), Counter[str]())
    table = nearness(lambda: itertools.chain.from_iterable(map(parsed, views)), sets, executor.map)
    return {
        "questions": sets.sizes,
        "copies_dropped": {name: _copies(reasons, name) for name in sets.sizes},
        "not_checked": not_checked(job),
        "tokens": TOKENS,
        "rouge_l": table,
    }


def _copies(reasons: Counter[str], name: str) -> dict[str, int]:
    """Copies of one evaluation set, by the rule that found them."""
    prefix = f"{COPY}{name}: "
    return {reason.removeprefix(prefix): n for reason, n in reasons.items() if reason.startswith(prefix)}


def _refuse_nothing(view: View[Sample], funnel: Funnel, replies: Replies, job: Job) -> None:
    if any(counts.get("kept") for counts in funnel.values()) or not any(replies.cases.counts.values()):
        return
    reasons = Counter({r: n for counts in funnel.values() for r, n in counts.items() if r not in ("samples", DERIVED)})
    listed = ", ".join(f"{reason}: {n}" for reason, n in reasons.most_common()) or "no sample in any reply"
    raise StageError(
        f"no usable sample in the instructor's replies ({listed}).{_quoted(replies, job)}\nRead more in "
        f"{view.store.where.removesuffix('/curate')}/instruct/replies.jsonl, correct the prompt or the parser, and "
        "start the same command again."
    )


def _quoted(replies: Replies, job: Job) -> str:
    """One of the instructor's replies, shortened, and the format that was expected; "" where there is none."""
    asked = [reply for reply in itertools.islice(replies.view, MOST_QUOTED) if reply.to == "instructor"]
    if not asked:
        return ""
    reply = next((reply for reply in asked if reply.completion.text.strip()), asked[0])
    text = reply.completion.text.strip() or f"(nothing; {reply.completion.error or reply.completion.finish_reason})"
    short = text if len(text) <= QUOTED else f"{text[:QUOTED]} … (cut; {len(text):,} characters)"
    expected = job.asked(reply.case_id.partition("/")[0]).brief()
    return f"\nOne of them, {reply.id}:\n{_indented(short)}\nThe format that was expected:\n{_indented(expected)}"


def _indented(text: str) -> str:
    return textwrap.indent(text, "  | ", lambda line: True)
