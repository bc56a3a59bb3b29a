"""Collects the target's mistakes and the evidence beside each.  attempts -> cases"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from lai_ray.common import plugins
from lai_ray.contracts import Executor, Model, Strategy, StrategySettings
from lai_ray.records import Attempt, Case
from lai_ray.stages.curation.evaluation_sets import evaluation_sets
from lai_ray.stages.embedding_cache import EmbeddingCache
from lai_ray.stages.evaluate import Attempts
from lai_ray.stages.job import Job
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import Stage
from lai_ray.storage.store import View

CUT_OFF = "cut off (raise target.max_new_tokens, or set evaluate.count_cut_off = true)"


@dataclass(frozen=True)
class Cases:
    """The cases of one iteration; `counts` by dataset."""

    iteration: int
    view: View[Case]
    key: str
    counts: dict[str, int]


def diagnose(stage: Stage, attempts: Attempts, iteration: int, target: Model, job: Job, executor: Executor) -> Cases:
    """The cases that each dataset's strategy makes of its training attempts."""
    datasets = job.config.evaluate.learn_from
    names = {name: job.config.schedule.name(iteration, name) for name in datasets}
    strategies = {name: job.strategies[named] for name, named in names.items()}
    settings = {name: job.settings_for(iteration, name, target=target) for name in datasets}
    key = key_of(
        attempts.learning_key,
        [_by_content(one, job.contents(name).get(names[name])) for name, one in settings.items()],
        list(names.values()),
        job.config.curate.keep_clear_of,
        job.config.evaluate.learn_from_copies,
        plugins.code_hash("lai_ray.stages.curation", *strategies.values()),
    )
    if not stage.done(key):
        copies = {name: _in_tests(attempts, name, job) for name in datasets}
        for dataset in (name for name in datasets if copies[name]):
            stage.progress.report(
                f"  {dataset}: {len(copies[dataset])} training problems that are also in a test are left out "
                "(copies.json); evaluate.learn_from_copies = true keeps them"
            )
        views = {name: Without(attempts.of(name, "train"), frozenset(copies[name])) for name in datasets}
        others = [run.store.inside("embeddings") for run in stage.run.reuse]
        cache = cast(Executor, EmbeddingCache(executor, stage.run.store.inside("embeddings"), others))
        _embed_together(strategies, views, settings, cache)
        diagnosed = [
            Diagnosed(name, strategies[name], views[name], settings[name], _count(views[name])) for name in datasets
        ]
        stage.write("cases.jsonl", (case for one in diagnosed for case in one.cases(stage, cache)), Case)
        stage.store.put_json("copies.json", copies)
        stage.finish(
            key,
            cases={one.dataset: one.cases_count for one in diagnosed},
            attempts={one.dataset: dict(one.counts) for one in diagnosed},
            contrasts={one.dataset: one.quality.table() for one in diagnosed if one.quality.distances},
            in_tests={name: len(ids) for name, ids in copies.items()},
        )
    stage.check_until()
    return Cases(iteration, stage.view("cases.jsonl", Case), key, stage.facts()["cases"])


def _by_content(settings: StrategySettings, files: str | None) -> StrategySettings:
    """The settings as values that can be hashed: the encoder by its identity, as a run may be moved, and a strategy's
    files by the hash of their content, where it has any."""
    own: Any = settings.own
    plain = own.model_dump(mode="json") if hasattr(own, "model_dump") else own
    if files is not None:
        plain = (plain if isinstance(plain, dict) else asdict(plain)) | {"files": files}
    return replace(settings, encoder=Model("", settings.encoder.identity), own=plain)


def nothing_to_learn(stage: Stage) -> str:
    """The progress line for an iteration without cases."""
    facts = stage.facts()
    left_out, mistakes = sum(facts.get("in_tests", {}).values()), sum(map(_mistakes, facts["attempts"].values()))
    why = "no mistakes"
    if mistakes:
        cut_off = min(sum(counts.get("cut off", 0) for counts in facts["attempts"].values()), mistakes)
        why = f"{mistakes} mistakes and no case, {cut_off} {CUT_OFF}"
    elif left_out:
        why = (
            f"no mistakes except among the {left_out} training problems that are also in a test "
            "(evaluate.learn_from_copies = true keeps them)"
        )
    return f"  {why}: nothing to learn from; the target stays the same"


def _embed_together(
    strategies: dict[str, Strategy], views: dict[str, Without], settings: dict[str, StrategySettings],
    cache: Executor,
) -> None:  # fmt: skip
    """Embed the texts of all datasets in one start of the encoder, where more than one has any."""
    texts = {name: strategy.texts(views[name], settings[name]) for name, strategy in strategies.items()}
    if sum(map(bool, texts.values())) > 1:
        encoder = next(iter(settings.values())).encoder
        cache.embed([text for some in texts.values() for text in some], encoder)


@dataclass(frozen=True)
class Without:
    """Attempts, read again at each pass, without those of some problems."""

    view: View[Attempt]
    problems: frozenset[str]

    def __iter__(self) -> Iterator[Attempt]:
        return (attempt for attempt in self.view if attempt.problem.id not in self.problems)


def _in_tests(attempts: Attempts, dataset: str, job: Job) -> dict[str, str]:
    """The training problems that are also in a test set: id -> "<question>: <why>"; none where allowed."""
    if job.config.evaluate.learn_from_copies:
        return {}
    tests = evaluation_sets(job).only("test")
    copies = ((a.problem.id, tests.copied(a.problem)) for a in attempts.of(dataset, "train"))
    return {problem_id: f"{copy.question}: {copy.why}" for problem_id, copy in copies if copy is not None}


def _count(attempts: Iterable[Attempt]) -> Counter[str]:
    """Counts of right, wrong, unparsed and error, and of those not right that were cut off."""
    counts: Counter[str] = Counter()
    for attempt in attempts:
        verdict = "right" if attempt.right else "wrong" if attempt.grade.status == "graded" else attempt.grade.status
        counts[verdict] += 1
        counts["cut off"] += attempt.cut_off and not attempt.right
    return counts


@dataclass
class ContrastQuality:
    """Measures whether the contrasts are near, of the same subject, and not always the same few."""

    distances: list[list[float]] = field(default_factory=list)
    subjects: list[bool] = field(default_factory=list)
    shown: Counter[str] = field(default_factory=Counter)

    def add(self, case: Case) -> None:
        """Count one case."""
        if case.contrasts:
            self.distances.append([contrast.distance for contrast in case.contrasts])
        subject = case.attempt.problem.extra.get("subject")
        for contrast in case.contrasts:
            self.shown[contrast.attempt.problem.id] += 1
            if subject is not None:
                self.subjects.append(contrast.attempt.problem.extra.get("subject") == subject)

    def table(self) -> dict[str, float]:
        """Mean squared distances of the nearest and farthest, counts of questions shown, share of the same subject."""
        n = len(self.distances)
        table = {
            "nearest": sum(row[0] for row in self.distances) / n,
            "farthest": sum(row[-1] for row in self.distances) / n,
            "questions_shown": float(len(self.shown)),
            "most_often": float(max(self.shown.values())),
        }
        return table | ({"same_subject": sum(self.subjects) / len(self.subjects)} if self.subjects else {})


@dataclass
class Diagnosed:
    """One dataset: its attempts, and counts of its cases as they are made."""

    dataset: str
    strategy: Strategy
    attempts: Without
    settings: StrategySettings
    counts: Counter[str]
    cases_count: int = 0
    quality: ContrastQuality = field(default_factory=ContrastQuality)

    def cases(self, stage: Stage, executor: Executor) -> Iterator[Case]:
        """The cases of the dataset."""
        short = 0
        for case in self.strategy.cases(self.attempts, self.settings, executor):
            self.cases_count += 1
            self.quality.add(case)
            short += self.strategy.uses_neighbours and len(case.contrasts) < self.settings.neighbours
            yield case
        stage.progress.report(self._summary())
        if short:
            stage.progress.report(_few_correct(self.dataset, self.counts["right"], self.settings.neighbours, short))

    def _summary(self) -> str:
        """Attempts, mistakes, and why some of these are no cases."""
        counts, mistakes = self.counts, _mistakes(self.counts)
        parts = [f"{counts.total() - counts['cut off']} attempts, {mistakes} mistakes"]
        if self.strategy.any_verdict:
            parts.append(f"{self.cases_count} cases, whatever the verdict")
        elif mistakes:
            cut_off = 0 if self.settings.count_cut_off else min(counts["cut off"], mistakes)
            other = mistakes - cut_off - self.cases_count
            parts.append(f"{self.cases_count} cases" if cut_off or other > 0 else "all of them cases")
            parts += [f"{cut_off} {CUT_OFF}"] * bool(cut_off) + [f"{other} left out by the strategy"] * (other > 0)
        parts += [f"{counts['error']} answers that failed or could not be graded"] * bool(counts["error"])
        note = "" if mistakes or self.strategy.any_verdict else ": no mistakes, nothing to learn"
        return f"  {self.dataset}: {', '.join(parts)}, strategy {self.strategy.name}{note}"


def _mistakes(counts: Mapping[str, int]) -> int:
    return counts.get("wrong", 0) + counts.get("unparsed", 0)


def _few_correct(dataset: str, right: int, k: int, short: int) -> str:
    if right >= k:
        return f"  {dataset}: {short} mistakes have fewer than {k} correct cases in their subject"
    if right == 0:
        return f"  {dataset}: no correct case to contrast with; each mistake is shown alone, as by LE"
    return (
        f"  {dataset}: only {right} correct cases for contrast.neighbours = {k}; each mistake is shown beside {right}"
    )
