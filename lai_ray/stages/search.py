"""Ray Tune over the improve step.  attempts -> pools -> trials -> the next target

Pools of replies come first, one for each distinct way to ask, at the largest size; a trial trains on a prefix of one
and never calls the instructor. Chosen on the dev splits; the untouched target is trial 0 and stays unless beaten.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lai_ray.common.intervals import Interval, mean_over, paired, score, sign_test
from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Model
from lai_ray.errors import StageError
from lai_ray.records import Attempt
from lai_ray.stages.curate import Samples, curate
from lai_ray.stages.diagnose import diagnose, nothing_to_learn
from lai_ray.stages.evaluate import Attempts, key_for
from lai_ray.stages.grid import combinations, most, pool_of, with_settings
from lai_ray.stages.grid import pools as trials_by_pool
from lai_ray.stages.instruct import instruct
from lai_ray.stages.job import Job
from lai_ray.stages.train import content_of, examples_from, name_of
from lai_ray.stages.trial import (  # fmt: skip
    UNTOUCHED,
    Found,
    Plan,
    Trial,
    best,
    dev_parts,
    forget,
    found,
    has_model,
    keep_only,
    metric_benchmarks,
    model_of,
)
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import Run, Stage

CONFIDENCE = 0.95
"""Of the intervals by which a trial wins. Not the report's: how that looks may change, the next target may not."""
Row = dict[str, Any]


def search(run: Run, i: int, attempts: Attempts, target: Model, job: Job, executor: Executor) -> Model:
    """The trials of one iteration; returns the winner on dev, or the target when none beats it beyond noise.

    Raises StageError when every trial failed.
    """
    stage = run.stage(i, "search")
    pools = _pools(run, i, attempts, target, job, executor)
    if not any(sum(pool.counts.values()) for pool in pools.values()):
        one = f"iteration_{i}/search/{next(iter(pools))}/diagnose"
        run.progress.report(nothing_to_learn(Stage(run, one)), style="green")
        return target
    plans = _plans(i, target, job, pools)
    key = key_of(target.identity, [plan.key for plan in plans])
    if not (stage.done(key) and _winner_is_there(stage, i, plans)):
        tried = _tried(stage, i, plans, target, job, executor)
        rows = _rows(stage, attempts, job.config, tried)
        won = _won(rows, tried)
        while won != UNTOUCHED and not has_model(run, tried.results[won]):
            # Its dev answers were known and its weights are gone; the next target needs them.
            _train_again(stage, i, tried, won, target, job, executor)
            rows = _rows(stage, attempts, job.config, tried)
            won = _won(rows, tried)
        stage.store.put("trials.csv", _csv(rows))
        stage.progress.report(_said(rows, won, tried.best))
        failed = sum("error" in row for row in rows)
        stage.store.put_json("trials.json", rows)
        stage.finish(key, winner=won, tested=tried.best, confidence=CONFIDENCE, trials=len(rows), failed=failed)
    stage.check_until()
    chosen = _winner(stage, i, plans)
    if job.config.search and not job.config.search.keep_weights:
        keep_only(run, i, chosen)
    return model_of(run, chosen) if chosen else target


def _winner(stage: Stage, i: int, plans: list[Plan]) -> Found | None:
    """The trial that won; None where the untouched target did, or what the trial came to is no longer there."""
    won = stage.facts()["winner"]
    return next((found(stage.run, i, plan) for plan in plans if plan.name == won), None)


def _winner_is_there(stage: Stage, i: int, plans: list[Plan]) -> bool:
    """Whether the next target can be gone on with, though somebody may have removed a trial's files."""
    chosen = _winner(stage, i, plans)
    return stage.facts()["winner"] == UNTOUCHED or (chosen is not None and has_model(stage.run, chosen))


def _pools(run: Run, i: int, attempts: Attempts, target: Model, job: Job, executor: Executor) -> dict[str, Samples]:
    """Samples by pool: each is asked for once, at the largest size that one of its trials learns from.

    Raises StageError when there is not one sample in any.
    """
    made: dict[str, Samples] = {}
    wanted = trials_by_pool(job, i)
    for name, learning in wanted.items():
        sizes = [settings["samples_per_dataset"] for settings in learning]
        largest = learning[0] | {"samples_per_dataset": most(sizes, job.config.evaluate.learn_from)}
        asked = job.changed(with_settings(job.config, largest))
        folder = f"iteration_{i}/search/{name}"
        cases = diagnose(Stage(run, f"{folder}/diagnose"), attempts, i, target, asked, executor)
        replies = instruct(Stage(run, f"{folder}/instruct"), cases, target, asked, executor)
        others = len(made) + 1 < len(wanted) or any(sum(pool.counts.values()) for pool in made.values())
        made[name] = curate(Stage(run, f"{folder}/curate"), cases, replies, asked, executor, may_be_none=others)
    return made


def _plans(i: int, target: Model, job: Job, samples: Mapping[str, Samples]) -> list[Plan]:
    """What each trial does. It is known by its samples' content: what leaves them as they are tries nothing anew."""
    asked, contents, plans = key_for(dev_parts(job), target, job), {}, []
    for settings in combinations(job.config, i):
        name, wanted = pool_of(job, i, settings), with_settings(job.config, settings)
        pool = samples[name]
        counts = {dataset: min(kept, wanted.curate.most(dataset)) for dataset, kept in pool.counts.items()}
        if (known := (name, *counts.items())) not in contents:
            contents[known] = content_of(examples_from(pool, job.changed(wanted)))
        model = name_of(target, contents[known], i, wanted, settings["seed"])
        plans.append(Plan(settings, key_of(model, asked), model, f"iteration_{i}/search/{name}", counts))
    return plans


@dataclass(frozen=True)
class _Tried:
    plans: list[Plan]
    """All, in their order."""
    results: dict[str, Found]
    errors: dict[str, str]
    same: dict[str, str]
    """Trials that would do what another does: the pool has fewer samples than both would take, say."""

    @property
    def best(self) -> str | None:
        """The best trial's name."""
        return best([plan for plan in self.plans if plan.name not in self.same], self.results)


def _tried(stage: Stage, i: int, plans: list[Plan], target: Model, job: Job, executor: Executor) -> _Tried:
    """Every trial tried, but for those that an earlier start did and those that would do what another does."""
    run, first = stage.run, {plan.key: plan.name for plan in reversed(plans)}
    tried = _Tried(plans, {}, {}, {plan.name: first[plan.key] for plan in plans if first[plan.key] != plan.name})
    for line in _shortages(plans, job.config):
        stage.progress.report(line)
    todo = []
    for plan in plans:
        if plan.name in tried.same:
            continue
        if not sum(plan.samples.values()):
            tried.errors[plan.name] = "there is no sample to learn from in its pool of replies"
        elif before := found(run, i, plan):
            tried.results[plan.name] = before
        else:
            todo.append(plan)
    assert job.config.search is not None
    _try(stage, i, tried, todo, todo if job.config.search.keep_weights else [], target, job, executor)
    _refuse_nothing(stage, tried)
    return tried


def _train_again(stage: Stage, i: int, tried: _Tried, name: str, target: Model, job: Job, executor: Executor) -> None:
    """Make the model of a trial whose result is known. Raises StageError when no trial is left."""
    again = [plan for plan in tried.plans if plan.name == name]
    forget(stage.run, i, again[0])  # Else it would go on beating others, should it fail this time.
    _try(stage, i, tried, again, again, target, job, executor)
    if name in tried.results and not has_model(stage.run, tried.results[name]):
        del tried.results[name]
        tried.errors[name] = "its model is not where it was written"
    _refuse_nothing(stage, tried)


def _refuse_nothing(stage: Stage, tried: _Tried) -> None:
    if not tried.results:
        name, why = next(iter(tried.errors.items()))
        raise StageError(
            f"{stage.folder}: all {len(tried.errors)} trials failed; {name}: {why} Replies and answers are kept; mend "
            "the cause and start the same command again."
        )


def _try(
    stage: Stage, i: int, tried: _Tried, todo: list[Plan], needed: list[Plan],
    target: Model, job: Job, executor: Executor,
) -> None:  # fmt: skip
    """Try these, and note what came of each. The needed ones must have a model afterwards."""
    if not todo:
        return
    run, must = stage.run, frozenset(plan.name for plan in needed)
    reuse = tuple(other.store.where for other in run.reuse)
    trial = Trial(run.store.where, run.start, i, target, job, {p.name: p for p in tried.plans}, reuse, must)
    with stage.progress.track(f"{stage.folder}: trials", len(todo)) as tracker:

        def heard(settings: Row, result: Row) -> None:
            dev = result.get("mean")
            words = f"failed: {result.get('error')}" if dev is None else f"{100 * dev:.1f}% on dev"
            stage.progress.report(f"  {settings['name']}: {words}")
            tracker.advance()

        ended = executor.search(trial, [plan.settings for plan in todo], stage.path("tune"), heard)
    for plan, result in zip(todo, ended, strict=True):
        tried.results.pop(plan.name, None)
        made = None if result.get("error") else found(run, i, plan)
        if made:
            tried.results[plan.name] = made
        else:
            tried.errors[plan.name] = str(result.get("error", "it left no result"))


def _shortages(plans: list[Plan], config: Config) -> Iterable[str]:
    """Sizes that a pool cannot give, each said once."""
    said: dict[tuple[str, str], tuple[int, int]] = {}
    for plan in plans:
        wanted = with_settings(config, plan.settings).curate
        for dataset, there in plan.samples.items():
            if there < wanted.most(dataset):
                asked = max(wanted.most(dataset), said.get((plan.pool, dataset), (0, 0))[0])
                said[plan.pool, dataset] = asked, there
    for (pool, dataset), (asked, there) in said.items():
        yield (
            f"  {pool.rpartition('/')[2]} has {there} samples of {dataset}, not {asked}: trials that want more learn "
            "from these"
        )


def _rows(stage: Stage, attempts: Attempts, config: Config, tried: _Tried) -> list[Row]:
    """What trials.csv says: a row a trial, the untouched target first.

    The gains' intervals hold for all trials together (Bonferroni): the best of many is picked, and looks better than
    it is.
    """
    names, together = metric_benchmarks(config), 1 - (1 - CONFIDENCE) / max(len(tried.results), 1)
    before = {name: _right(attempts.of(name, "dev")) for name in names}

    def row(settings: Row, scores: Mapping[str, Row], gain: Interval) -> Row:
        dev = mean_over([score(scores[f"{n}.dev"]["right"], scores[f"{n}.dev"]["n"], CONFIDENCE) for n in names])
        said = {"dev": dev.value, "dev_low": dev.low, "dev_high": dev.high}
        return {**settings, **said, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}

    rows = [row({"name": UNTOUCHED}, attempts.scores(), Interval(0.0, 0.0, 0.0))]
    for plan in tried.plans:
        settings = {**plan.settings, "samples": sum(plan.samples.values())}
        if plan.name in tried.same:
            rows.append({**settings, "same_as": tried.same[plan.name]})
        elif plan.name in tried.errors:
            rows.append({**settings, "error": tried.errors[plan.name]})
        else:
            trial = tried.results[plan.name]
            sat = Attempts(Stage(stage.run, f"{trial.folder}/evaluate"), "", "")
            after = {name: _right(sat.of(name, "dev")) for name in names}
            gains = [paired(before[name], after[name], together) for name in names]
            made = {key: trial.result[key] for key in ("loss", "seconds", "gpu_seconds")}
            changed = {"gained": _changed(before, after), "lost": _changed(after, before)}
            rows.append(row(settings, trial.result["dev"], mean_over(gains)) | changed | made)
    return rows


def _changed(before: Mapping[str, Mapping[str, bool]], after: Mapping[str, Mapping[str, bool]]) -> int:
    """Problems that were not right before and are after."""
    return sum(right and not before[name].get(key, True) for name in after for key, right in after[name].items())


def _won(rows: list[Row], tried: _Tried) -> str:
    """The best trial where it beats the target beyond noise: by its interval, and by McNemar's exact test as well,
    since an interval from a handful of changed answers is narrower than it should be."""
    leader = next(row for row in rows if row["name"] == tried.best)
    chance = sign_test(leader["gained"], leader["lost"])
    beyond = leader["gain_low"] > 0 and chance <= (1 - CONFIDENCE) / len(tried.results)
    return str(leader["name"]) if beyond else UNTOUCHED


def _right(attempts: Iterable[Attempt]) -> dict[str, bool]:
    return {attempt.id: attempt.right for attempt in attempts}


def _said(rows: list[Row], won: str, tested: str | None) -> str:
    told = next(row for row in rows if row["name"] == tested)
    gain = f"{100 * told['gain']:+.1f} points on dev, {100 * told['gain_low']:+.1f} to {100 * told['gain_high']:+.1f}"
    if won == UNTOUCHED:
        return f"  no trial beats the untouched target beyond noise (best: {told['name']}, {gain}); it stays"
    return f"  {won} wins: {gain}"


def _csv(rows: list[Row]) -> bytes:
    text = io.StringIO()
    # From the last on: the untouched target has no settings, and they come first.
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in reversed(rows) for key in row)), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
