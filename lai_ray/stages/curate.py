"""What may be learned from: parsed, checked, cleared, capped.  cases, replies -> samples

Pure, in one seeded order of cases and draws, never by arrival: a killed and resumed run keeps the same samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lai_ray.common import plugins
from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Improve
from lai_ray.errors import StageError
from lai_ray.records import Problem, Sample
from lai_ray.stages.curation.evaluation_sets import TOKENS, evaluation_sets, nearness, not_checked, parsed
from lai_ray.stages.curation.sample_filter import COPY, gate_for, judged, kept_before
from lai_ray.stages.diagnose import Cases, strategy_for
from lai_ray.stages.instruct import Replies
from lai_ray.stages.select import benchmark, grading
from lai_ray.storage.run import Stage
from lai_ray.storage.store import View, key_of


@dataclass(frozen=True)
class Samples:
    """The samples to learn from, each dataset in its seeded order, so that a prefix is a smaller training set."""

    view: View[Sample]
    key: str
    counts: dict[str, int]


def curate(
    stage: Stage, cases: Cases, replies: Replies, settings: Improve, config: Config, executor: Executor,
    *, may_be_none: bool = False,
) -> Samples:  # fmt: skip
    """The samples kept, the dropped with their reasons, the funnel, and how near all of them come to the tests.

    Raises StageError when none is left, unless there may be none.
    """
    datasets = config.evaluate.learn_from
    code = plugins.code_hash(
        "lai_ray.instructor", "lai_ray.stages.curation",
        *(benchmark(config, d) for d in datasets), *(strategy_for(config, settings.iteration, d) for d in datasets),
    )  # fmt: skip
    before = {d: kept_before(stage, settings.iteration, d, config) for d in datasets}
    earlier = [kept.identity() for kept in before.values()]
    key = key_of(cases.key, replies.key, config.curate.model_dump(), grading(config), earlier, code)
    if not stage.done(key):
        funnel: dict[str, Counter[str]] = {d: Counter() for d in datasets}

        def everything() -> Iterator[Sample]:
            for dataset in datasets:
                gate = gate_for(dataset, config.curate.most(dataset), before[dataset].copy(), config)
                yield from judged(replies.dialogues(dataset), gate, settings, config, dataset)

        def kept() -> Iterator[Sample]:
            for sample in everything():
                funnel[sample.problem.benchmark]["samples"] += 1
                funnel[sample.problem.benchmark][sample.dropped or "kept"] += 1
                if sample.dropped is None:
                    yield sample

        view = stage.write("samples.jsonl", kept(), Sample)
        stage.write("dropped.jsonl", (s for s in everything() if s.dropped), Sample)
        table = {dataset: dict(counts) for dataset, counts in funnel.items()}
        stage.store.put_json("funnel.json", table)
        stage.store.put_json("contamination.json", _contamination(stage, funnel, config, executor))
        if not may_be_none:
            _refuse_nothing(view, table, cases)
        stage.finish(key, kept={d: funnel[d]["kept"] for d in datasets})
    stage.reached()
    return Samples(stage.view("samples.jsonl", Sample), key, stage.facts()["kept"])


def _contamination(stage: Stage, funnel: dict[str, Counter[str]], config: Config, executor: Executor) -> dict[str, Any]:
    """How many copies were dropped, and Table 5 of the paper for all parsed samples and for those kept."""
    sets = evaluation_sets(config)
    reasons: Counter[str] = sum(funnel.values(), Counter())

    def problems() -> Iterator[tuple[Problem, bool]]:
        for name in ("samples.jsonl", "dropped.jsonl"):
            yield from parsed(stage.view(name, Sample))

    table = nearness(problems, sets, executor.map)
    return {
        "questions": sets.sizes,
        "copies_dropped": {name: _copies(reasons, name) for name in sets.sizes},
        "not_checked": not_checked(config),
        "tokens": TOKENS,
        "rouge_l": table,
    }


def _copies(reasons: Counter[str], name: str) -> dict[str, int]:
    """Copies of one evaluation set, by how they were known."""
    begins = f"{COPY}{name}: "
    return {reason.removeprefix(begins): n for reason, n in reasons.items() if reason.startswith(begins)}


def _refuse_nothing(view: View[Sample], funnel: dict[str, dict[str, int]], cases: Cases) -> None:
    if any(counts.get("kept") for counts in funnel.values()) or not any(cases.counts.values()):
        return
    reasons = Counter({r: n for counts in funnel.values() for r, n in counts.items() if r != "samples"})
    listed = ", ".join(f"{reason}: {n}" for reason, n in reasons.most_common()) or "no sample was found in any reply"
    raise StageError(
        f"not one usable sample came of the instructor's replies ({listed}). They are kept in "
        f"{view.store.where.removesuffix('/curate')}/instruct/replies.jsonl: read one, then mend the prompt or the "
        "parser and start the same command again."
    )
