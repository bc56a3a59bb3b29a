"""The target's mistakes, each beside what it can already do.  attempts -> cases"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from lai_ray.common import plugins
from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Improve, Model, Strategy
from lai_ray.records import Attempt, Case
from lai_ray.stages.curation.evaluation_sets import evaluation_sets
from lai_ray.stages.curation.solve_again import SolvedAgain
from lai_ray.stages.embedding_cache import Remembering
from lai_ray.stages.evaluate import Attempts
from lai_ray.stages.select import grading
from lai_ray.storage import models
from lai_ray.storage.run import Stage
from lai_ray.storage.store import View, key_of


@dataclass(frozen=True)
class Cases:
    """The evidence of one iteration: `counts` is by dataset."""

    view: View[Case]
    key: str
    counts: dict[str, int]


def strategy_for(config: Config, iteration: int, dataset: str) -> Strategy:
    """The strategy the schedule names."""
    found: Strategy = plugins.load("strategies", config.schedule.name(iteration, dataset))
    return found


def dialogue_for(config: Config, iteration: int, dataset: str) -> Strategy:
    """The strategy the schedule names, as instructor and gate meet it: with the paid check where the job wants it."""
    found = strategy_for(config, iteration, dataset)
    return SolvedAgain(found, grading(config)) if config.curate.solve_again else found


def improve_settings(
    config: Config, iteration: int, *, encoder: Model, samples_per_request: int = 0, neighbours: int | None = None
) -> Improve:
    """What strategies may know of this iteration."""
    return Improve(
        iteration=iteration,
        seed=config.seed,
        samples_per_request=samples_per_request,
        neighbours=neighbours or config.contrast.neighbours,
        encoder=encoder,
        count_cut_off=config.evaluate.count_cut_off,
        show_reference=config.instructor.show_reference,
        contrast_text=config.contrast.text,
        contrast_within=config.contrast.within,
        show_answers=config.contrast.show_answers,
        prompts=config.instructor.prompts,
        explain=config.instructor.explain,
    )


def encoder_for(config: Config, target: Model, known: dict[str, str]) -> Model:
    """The model whose embeddings say which questions are alike; the target itself when the job says "target".

    `known` is the identity of a named encoder, resolved once at the start.
    """
    if config.contrast.encoder == "target":
        return target
    place = models.locate(config.contrast.encoder, setting="contrast.encoder")
    return Model(path=place, identity=known["encoder"])


def diagnose(
    stage: Stage, attempts: Attempts, iteration: int, config: Config, settings: Improve, executor: Executor
) -> Cases:
    """Each strategy's choice of evidence, dataset by dataset, from training attempts alone."""
    datasets = config.evaluate.learn_from
    strategies = {name: strategy_for(config, iteration, name) for name in datasets}
    key = key_of(
        attempts.learning_key,
        replace(settings, encoder=Model("", settings.encoder.identity)),  # By what it is: a run may be moved.
        [config.schedule.name(iteration, d) for d in datasets],
        config.curate.keep_clear_of,
        config.evaluate.learn_from_copies,
        plugins.code_hash("lai_ray.stages.curation", *strategies.values()),
    )
    if not stage.done(key):
        others = [run.store.inside("embeddings") for run in stage.run.reuse]
        remembering = Remembering(executor, stage.run.store.inside("embeddings"), others)
        counted: dict[str, Counter[str]] = {}
        counts: Counter[str] = Counter()
        contrasts: dict[str, dict[str, float]] = {}
        copies: dict[str, dict[str, str]] = {}

        views: dict[str, Without] = {}
        for dataset in datasets:
            copies[dataset] = {} if config.evaluate.learn_from_copies else _in_tests(attempts, dataset, config)
            if copies[dataset]:
                stage.progress.say(_left_out(dataset, copies[dataset]))
            views[dataset] = Without(attempts.of(dataset, "train"), frozenset(copies[dataset]))
        _embed_together(strategies, views, settings, remembering)

        def cases() -> Iterator[Case]:
            for dataset, strategy in strategies.items():
                view = views[dataset]
                counted[dataset] = _count(view)
                stage.progress.say(_said(dataset, counted[dataset], strategy.name))
                short, quality = 0, ContrastQuality()
                for case in strategy.cases(view, settings, remembering):
                    counts[dataset] += 1
                    quality.add(case)
                    short += strategy.uses_neighbours and len(case.contrasts) < settings.neighbours
                    yield case
                if short:
                    stage.progress.say(_clamped(dataset, counted[dataset]["right"], settings.neighbours, short))
                if quality.distances:
                    contrasts[dataset] = quality.table()

        stage.write("cases.jsonl", cases(), Case)
        stage.store.put_json("copies.json", copies)
        stage.finish(
            key,
            cases={d: counts[d] for d in datasets},
            attempts={d: dict(c) for d, c in counted.items()},
            contrasts=contrasts,
            in_tests={d: len(found) for d, found in copies.items()},
        )
    stage.reached()
    return Cases(stage.view("cases.jsonl", Case), key, stage.facts()["cases"])


def nothing_to_learn(stage: Stage) -> str:
    """What is said of a finished diagnosis without a case."""
    left_out = sum(stage.facts().get("in_tests", {}).values())
    why = (
        f"no mistake is left beside the {left_out} training problems that also stand in a test "
        "(evaluate.learn_from_copies = true keeps them)"
        if left_out
        else "no mistakes anywhere"
    )
    return f"  {why}: nothing to learn from; the target stays as it is"


def _embed_together(
    strategies: dict[str, Strategy], views: dict[str, Without], settings: Improve, remembering: Remembering
) -> None:
    """The texts that more than one dataset's cases will have embedded, in one start of the encoder."""
    texts = {
        dataset: found
        for dataset, strategy in strategies.items()
        if hasattr(strategy, "texts") and (found := strategy.texts(views[dataset], settings))
    }
    if len(texts) > 1:
        remembering.embed([text for found in texts.values() for text in found], settings.encoder)


@dataclass(frozen=True)
class Without:
    """Attempts, read anew at each pass, but for some problems'."""

    view: View[Attempt]
    problems: frozenset[str]

    def __iter__(self) -> Iterator[Attempt]:
        return (attempt for attempt in self.view if attempt.problem.id not in self.problems)


def _in_tests(attempts: Attempts, dataset: str, config: Config) -> dict[str, str]:
    """The training problems that also stand in a test set: id -> "<test question>: <why>"."""
    tests = evaluation_sets(config).only("test")
    found = {}
    for attempt in attempts.of(dataset, "train"):
        copy = tests.copied(attempt.problem)
        if copy is not None:
            found[attempt.problem.id] = f"{copy.question}: {copy.why}"
    return found


def _left_out(dataset: str, copies: dict[str, str]) -> str:
    return (
        f"  {dataset}: {len(copies)} training problems also stand in a test and are left out (copies.json); "
        "evaluate.learn_from_copies = true keeps them"
    )


def _count(attempts: Iterable[Attempt]) -> Counter[str]:
    """right, wrong, unparsed, error, and how many of the not right were cut off."""
    counts: Counter[str] = Counter()
    for attempt in attempts:
        verdict = "right" if attempt.right else "wrong" if attempt.grade.status == "graded" else attempt.grade.status
        counts[verdict] += 1
        counts["cut off"] += attempt.cut_off and not attempt.right
    return counts


@dataclass
class ContrastQuality:
    """Whether the neighbours shown are near, of the same subject, and not always the same few."""

    distances: list[list[float]] = field(default_factory=list)
    subjects: list[bool] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)

    def add(self, case: Case) -> None:
        """Look at one case."""
        if case.contrasts:
            self.distances.append([contrast.distance for contrast in case.contrasts])
        subject = case.attempt.problem.extra.get("subject")
        for contrast in case.contrasts:
            self.served[contrast.attempt.problem.id] += 1
            if subject is not None:
                self.subjects.append(contrast.attempt.problem.extra.get("subject") == subject)

    def table(self) -> dict[str, float]:
        """Mean squared distance of the nearest and the farthest shown, shares, and the busiest correct question."""
        n = len(self.distances)
        table = {
            "nearest": sum(row[0] for row in self.distances) / n,
            "farthest": sum(row[-1] for row in self.distances) / n,
            "questions_shown": float(len(self.served)),
            "most_often": float(max(self.served.values())),
        }
        return table | ({"same_subject": sum(self.subjects) / len(self.subjects)} if self.subjects else {})


def _clamped(dataset: str, right: int, k: int, short: int) -> str:
    if right >= k:
        return f"  {dataset}: {short} mistakes have fewer than {k} correct cases in their subject"
    if right == 0:
        return f"  {dataset}: no correct case to contrast with; every mistake is shown alone, as LE does"
    return (
        f"  {dataset}: only {right} correct cases for contrast.neighbours = {k}; each mistake is shown beside {right}"
    )


def _said(dataset: str, counts: Counter[str], strategy: str) -> str:
    wrong = counts["wrong"] + counts["unparsed"]
    note = "" if wrong else ": no mistakes, nothing to learn here"
    return f"  {dataset}: {counts.total() - counts['cut off']} attempts, {wrong} mistakes, strategy {strategy}{note}"
