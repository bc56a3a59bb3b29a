"""The evaluation sets that samples may not copy, and the samples' nearness to them.

job -> evaluation sets; samples -> the paper's Table 5
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from lai_ray.common import plugins
from lai_ray.records import Problem, Sample
from lai_ray.stages.curation.contamination import EvaluationSets, frame
from lai_ray.stages.curation.nearness import Nearness
from lai_ray.stages.curation.rouge import Map
from lai_ray.stages.curation.words import options
from lai_ray.stages.job import Job
from lai_ray.stages.select import Part, part
from lai_ray.storage.keys import key_of

TOKENS = "words and numbers of the question, case and Unicode forms folded, no stemming"
"""The tokens of ROUGE-L, for the report."""
_made: dict[str, EvaluationSets] = {}


def set_names(job: Job) -> list[str]:
    """The benchmarks to keep clear of. "all": those of the job and its [data], and those made by code.

    No other, as no run downloads a benchmark only to keep clear of it.
    """
    config, wanted = job.config, job.config.curate.keep_clear_of
    if wanted == "none":
        return []
    if wanted != "all":
        return list(dict.fromkeys(wanted))
    by_code = [x for x in plugins.available("benchmarks") if plugins.load("benchmarks", x).source is None]
    return list(dict.fromkeys([*config.evaluate.report_on, *config.evaluate.learn_from, *config.data, *by_code]))


def not_checked(job: Job) -> list[str]:
    """Built-in benchmarks that this job does not keep clear of."""
    checked = set(set_names(job))
    return [name for name in plugins.available("benchmarks") if name not in checked]


def evaluation_sets(job: Job) -> EvaluationSets:
    """Every dev and test question to keep clear of; read once per process."""
    config, names = job.config, set_names(job)
    own = [settings.model_dump() for settings in config.benchmark]
    key = key_of(names, config.data, own, config.dev_wanted)
    if key not in _made:
        _made.clear()  # Mostly one job per process.
        _made[key] = sets_of([each for name in names for each in _evaluation_parts(job, name)])
    return _made[key]


def _evaluation_parts(job: Job, name: str) -> list[Part]:
    splits = job.benchmark(name).splits
    lent = ("dev",) if job.config.dev_wanted and "train" in splits else ()
    return [part(job, name, split) for split in ("dev", "test") if split in (*splits, *lent)]


def sets_of(parts: list[Part]) -> EvaluationSets:
    """Whole splits of benchmarks, with the frames of their prompts and the questions as shown with their options."""
    firsts = [(part.benchmark, problem) for part in parts for problem in islice(part, 1)]
    frames = [text for b, problem in firsts for text in frame([m["content"] for m in b.prompt(problem)], problem)]
    # A benchmark without a training split has no brief.
    frames += [part.benchmark.brief() for part in parts if "train" in part.benchmark.splits]
    shown = {part.name: map(part.benchmark.show, part) for part in parts if any(map(options, islice(part, 1)))}
    return EvaluationSets.of({part.name: part for part in parts}, frames=frames, shown=shown)


def nearness(
    problems: Callable[[], Iterable[tuple[Problem, bool]]], sets: EvaluationSets, each: Map = map
) -> dict[str, dict[str, Any]]:
    """Table 5 for these problems and for those kept, against each set, with the texts of the closest pairs.

    problems: begins a new pass at each call.  each: spreads the work, as an executor's `map`.
    """
    counted = Nearness()
    closest = sets.closest((problem.question for problem, _ in problems()), each)
    for (problem, kept), near in zip(problems(), closest, strict=True):
        counted.add(problem.id, near, kept=kept)
    table = counted.table()
    wanted = {pair["sample"] for of_set in table.values() for pair in of_set["closest"]}
    texts = {problem.id: problem.question for problem, _ in problems() if problem.id in wanted}
    for name, of_set in table.items():
        rows = {pair["row"] for pair in of_set["closest"]}
        questions = {row: p for row, p in enumerate(sets.problems[name]) if row in rows}
        for pair in of_set["closest"]:
            question = questions[pair.pop("row")]
            pair |= {"question": question.id, "sample_text": texts[pair["sample"]], "question_text": question.question}
    return table


def parsed(samples: Iterable[Sample]) -> Iterator[tuple[Problem, bool]]:
    """The problems of all samples that have a question and something to learn, and whether they were kept."""
    for sample in samples:
        if sample.problem.question.strip() and any(turn.text.strip() for turn in sample.turns):
            yield sample.problem, sample.dropped is None
