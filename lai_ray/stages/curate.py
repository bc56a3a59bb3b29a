"""What may be learned from: parsed, checked, cleared, capped.  cases, replies -> samples

Pure, in one seeded order of cases and draws, never by arrival: a killed and resumed run keeps the same samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from lai_ray import plugins
from lai_ray.config import Config
from lai_ray.contracts import Improve
from lai_ray.errors import StageError
from lai_ray.records import Sample
from lai_ray.rundir import Stage
from lai_ray.stages.accept import Gate, evaluation_marks, judged
from lai_ray.stages.diagnose import Cases, strategy_for
from lai_ray.stages.instruct import Replies
from lai_ray.stages.select import benchmark, grading
from lai_ray.store import View, key_of


@dataclass(frozen=True)
class Samples:
    """The samples to learn from, each dataset in its seeded order, so that a prefix is a smaller training set."""

    view: View[Sample]
    key: str
    counts: dict[str, int]


def curate(stage: Stage, cases: Cases, replies: Replies, settings: Improve, config: Config) -> Samples:
    """The samples kept, the dropped with their reasons, and the funnel. Raises StageError when none is left."""
    datasets = config.evaluate.learn_from
    code = plugins.code_hash(
        "lai_ray.instructor", "lai_ray.similarity", "lai_ray.stages.accept",
        *(benchmark(config, d) for d in datasets), *(strategy_for(config, settings.iteration, d) for d in datasets),
    )  # fmt: skip
    key = key_of(cases.key, replies.key, config.curate.model_dump(), grading(config), code)
    if not stage.done(key):
        marks = evaluation_marks(config)
        funnel: dict[str, Counter[str]] = {d: Counter() for d in datasets}

        def everything() -> Iterator[Sample]:
            for dataset in datasets:
                gate = Gate(
                    benchmark(config, dataset), config.curate.samples_per_dataset, marks, set(), grading(config)
                )
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
        copies = {name: sum(c[f"copy of {name}"] for c in funnel.values()) for name in marks}
        stage.store.put_json(
            "contamination.json", {"questions": {n: len(m) for n, m in marks.items()}, "copies_dropped": copies}
        )
        _refuse_nothing(view, table, cases)
        stage.finish(key, kept={d: funnel[d]["kept"] for d in datasets})
    stage.reached()
    return Samples(stage.view("samples.jsonl", Sample), key, stage.facts()["kept"])


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
