"""Hyperparameter search over the improve step.  attempts -> pools -> trials -> the next target

First come pools of replies, one for each distinct way to ask, at the largest size; a trial trains on a prefix of one
and never calls the instructor. The winner is chosen on the dev splits; trial 0 is the target itself.
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
from lai_ray.stages.evaluate import Attempts, attempts_in, key_for
from lai_ray.stages.grid import combinations, pool_job, pool_of, with_settings
from lai_ray.stages.grid import pools as trials_by_pool
from lai_ray.stages.instruct import instruct
from lai_ray.stages.job import Job
from lai_ray.stages.rehearse import rehearse
from lai_ray.stages.train import name_of, training_set
from lai_ray.stages.trial import (  # fmt: skip
    UNTOUCHED,
    Plan,
    Trial,
    TrialResult,
    best,
    dev_parts,
    has_model,
    keep_only,
    metric_benchmarks,
    model_of,
    remove_results,
    result_of,
)
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import Run, Stage

CONFIDENCE = 0.95
"""Of the intervals that decide which trial wins: independent of the report's, which may change without effect."""
Row = dict[str, Any]


def search(run: Run, i: int, attempts: Attempts, target: Model, job: Job, executor: Executor) -> Model:
    """Run the trials of one iteration; returns the winner on dev, or the target when none beats it beyond noise.

    Raises StageError when every trial failed.
    """
    stage = run.stage(i, "search")
    pools = _pools(run, i, attempts, target, job, executor)
    if not any(sum(pool.counts.values()) for pool in pools.values()):
        one = f"iteration_{i}/search/{next(iter(pools))}/diagnose"
        if not any(Stage(run, one).facts()["cases"].values()):  # Else the rehearsal has reported it.
            run.progress.report(nothing_to_learn(Stage(run, one)), style="green")
        return target
    plans = _plans(i, attempts, target, job, pools)
    key = key_of(target.identity, [plan.key for plan in plans])
    if not (stage.done(key) and _winner_exists(stage, i, plans)):
        outcomes = _outcomes(stage, i, plans, target, job, executor)
        while (winner := _choose(rows := _rows(stage, attempts, job.config, outcomes), outcomes)) != UNTOUCHED:
            if has_model(run, outcomes.results[winner]):
                break
            # Its dev answers were known, so it was not trained; the next target needs its weights.
            _train_again(stage, i, outcomes, winner, target, job, executor)
        stage.store.put("trials.csv", _csv(rows))
        stage.progress.report(_summary(rows, winner, outcomes.best))
        failed = sum("error" in row for row in rows)
        stage.store.put_json("trials.json", rows)
        stage.finish(key, winner=winner, tested=outcomes.best, confidence=CONFIDENCE, trials=len(rows), failed=failed)
    stage.check_until()
    chosen = _winner(stage, i, plans)
    if job.config.search and not job.config.search.keep_weights:
        keep_only(run, i, chosen)
    return model_of(run, chosen) if chosen else target


def _winner(stage: Stage, i: int, plans: list[Plan]) -> TrialResult | None:
    """The result of the trial that won; None where the untouched target did, or the result was removed."""
    winner = stage.facts()["winner"]
    return next((result_of(stage.run, i, plan) for plan in plans if plan.name == winner), None)


def _winner_exists(stage: Stage, i: int, plans: list[Plan]) -> bool:
    """Whether the winner's files still exist: a trial's folder may have been removed."""
    chosen = _winner(stage, i, plans)
    return stage.facts()["winner"] == UNTOUCHED or (chosen is not None and has_model(stage.run, chosen))


def _pools(run: Run, i: int, attempts: Attempts, target: Model, job: Job, executor: Executor) -> dict[str, Samples]:
    """Samples by pool, each asked for once, at the largest size that one of its trials learns from.

    Raises StageError when all pools are empty.
    """
    pools: dict[str, Samples] = {}
    by_pool = trials_by_pool(job, i)
    for name, trials in by_pool.items():
        asking = pool_job(job, trials)
        folder = f"iteration_{i}/search/{name}"
        cases = diagnose(Stage(run, f"{folder}/diagnose"), attempts, i, target, asking, executor)
        replies = instruct(Stage(run, f"{folder}/instruct"), cases, target, asking, executor)
        others = len(pools) + 1 < len(by_pool) or any(sum(pool.counts.values()) for pool in pools.values())
        curated = curate(Stage(run, f"{folder}/curate"), cases, replies, asking, executor, may_be_none=others)
        pools[name] = rehearse(Stage(run, f"{folder}/rehearse"), curated, target, i, asking, executor)
    return pools


def _plans(i: int, attempts: Attempts, target: Model, job: Job, samples: Mapping[str, Samples]) -> list[Plan]:
    """The plan of each trial. Its key holds the samples' content: a change that keeps the samples re-runs nothing."""
    dev_key, contents, plans = key_for(dev_parts(job), target, job), {}, []
    for settings in combinations(job.config, i):
        name, config = pool_of(job, i, settings), with_settings(job.config, settings)
        pool = samples[name]
        counts = {dataset: min(kept, config.curate.most(dataset)) for dataset, kept in pool.counts.items()}
        trial_job = job.changed(config)
        if (known := (name, config.train.replay, config.train.replay_weight, *counts.items())) not in contents:
            contents[known] = training_set(pool, attempts, i, trial_job).content
        model = name_of(trial_job.base(target), contents[known], i, config, settings["seed"])
        plans.append(Plan(settings, key_of(model, dev_key), model, f"iteration_{i}/search/{name}", counts))
    return plans


@dataclass(frozen=True)
class _Outcomes:
    """By trial: its result, or its error, or the trial that does the same."""

    plans: list[Plan]
    results: dict[str, TrialResult]
    errors: dict[str, str]
    same: dict[str, str]
    """As when the pool has fewer samples than both would take."""

    @property
    def best(self) -> str | None:
        """The best trial's name."""
        return best([plan for plan in self.plans if plan.name not in self.same], self.results)


def _outcomes(stage: Stage, i: int, plans: list[Plan], target: Model, job: Job, executor: Executor) -> _Outcomes:
    """Run every trial, except those that an earlier start ended and those that would do the same as another."""
    run, first = stage.run, {plan.key: plan.name for plan in reversed(plans)}
    outcomes = _Outcomes(plans, {}, {}, {plan.name: first[plan.key] for plan in plans if first[plan.key] != plan.name})
    for line in _shortages(plans, job.config):
        stage.progress.report(line)
    todo = []
    for plan in plans:
        if plan.name in outcomes.same:
            continue
        if not sum(plan.samples.values()):
            outcomes.errors[plan.name] = "there is no sample to learn from in its pool of replies"
        elif before := result_of(run, i, plan):
            outcomes.results[plan.name] = before
        else:
            todo.append(plan)
    assert job.config.search is not None
    _run(stage, i, outcomes, todo, todo if job.config.search.keep_weights else [], target, job, executor)
    _refuse_nothing(stage, outcomes)
    return outcomes


def _train_again(
    stage: Stage, i: int, outcomes: _Outcomes, name: str, target: Model, job: Job, executor: Executor
) -> None:
    """Train a trial whose result is known but whose model is missing. Raises StageError when no trial is left."""
    again = [plan for plan in outcomes.plans if plan.name == name]
    remove_results(stage.run, i, again[0])  # Else it would still beat the others if it fails this time.
    _run(stage, i, outcomes, again, again, target, job, executor)
    if name in outcomes.results and not has_model(stage.run, outcomes.results[name]):
        del outcomes.results[name]
        outcomes.errors[name] = "its model is not where it was written"
    _refuse_nothing(stage, outcomes)


def _refuse_nothing(stage: Stage, outcomes: _Outcomes) -> None:
    if not outcomes.results:
        name, why = next(iter(outcomes.errors.items()))
        raise StageError(
            f"{stage.folder}: all {len(outcomes.errors)} trials failed; {name}: {why} Replies and answers are kept; "
            "fix the cause and start the same command again."
        )


def _run(
    stage: Stage, i: int, outcomes: _Outcomes, todo: list[Plan], needed: list[Plan],
    target: Model, job: Job, executor: Executor,
) -> None:  # fmt: skip
    """Run these trials and record their outcomes. Those needed must have a model afterwards."""
    if not todo:
        return
    run, must = stage.run, frozenset(plan.name for plan in needed)
    reuse = tuple(other.store.where for other in run.reuse)
    trial = Trial(run.store.where, run.start, i, target, job, {p.name: p for p in outcomes.plans}, reuse, must)
    with stage.progress.track(f"{stage.folder}: trials", len(todo)) as tracker:

        def on_result(settings: Row, result: Row) -> None:
            dev = result.get("mean")
            text = f"failed: {result.get('error')}" if dev is None else f"{100 * dev:.1f}% on dev"
            stage.progress.report(f"  {settings['name']}: {text}")
            tracker.advance()

        ended = executor.search(trial, [plan.settings for plan in todo], stage.path("tune"), on_result)
    for plan, result in zip(todo, ended, strict=True):
        outcomes.results.pop(plan.name, None)
        written = None if result.get("error") else result_of(run, i, plan)
        if written:
            outcomes.results[plan.name] = written
        else:
            outcomes.errors[plan.name] = str(result.get("error", "it wrote no result"))


def _shortages(plans: list[Plan], config: Config) -> Iterable[str]:
    """A line for each size that a pool is too small for."""
    short: dict[tuple[str, str], tuple[int, int]] = {}
    for plan in plans:
        wanted = with_settings(config, plan.settings).curate
        for dataset, there in plan.samples.items():
            if there < wanted.most(dataset):
                asked = max(wanted.most(dataset), short.get((plan.pool, dataset), (0, 0))[0])
                short[plan.pool, dataset] = asked, there
    for (pool, dataset), (asked, there) in short.items():
        yield (
            f"  {pool.rpartition('/')[2]} has {there} samples of {dataset}, not {asked}: trials that ask for more use "
            "these"
        )


def _rows(stage: Stage, attempts: Attempts, config: Config, outcomes: _Outcomes) -> list[Row]:
    """The rows of trials.csv, one per trial, the untouched target first.

    The gains' intervals hold for all trials together (Bonferroni), since the best of many looks better than it is.
    """
    names, together = metric_benchmarks(config), 1 - (1 - CONFIDENCE) / max(len(outcomes.results), 1)
    before = {name: _right(attempts.of(name, "dev")) for name in names}

    def row(settings: Row, scores: Mapping[str, Row], gain: Interval) -> Row:
        dev = mean_over([score(scores[f"{n}.dev"]["right"], scores[f"{n}.dev"]["n"], CONFIDENCE) for n in names])
        scored = {"dev": dev.value, "dev_low": dev.low, "dev_high": dev.high}
        return {**settings, **scored, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}

    rows = [row({"name": UNTOUCHED}, attempts.scores(), Interval(0.0, 0.0, 0.0))]
    for plan in outcomes.plans:
        settings = {**plan.settings, "samples": sum(plan.samples.values())}
        if plan.name in outcomes.same:
            rows.append({**settings, "same_as": outcomes.same[plan.name]})
        elif plan.name in outcomes.errors:
            rows.append({**settings, "error": outcomes.errors[plan.name]})
        else:
            trial = outcomes.results[plan.name]
            answers = attempts_in(Stage(stage.run, f"{trial.folder}/evaluate"))
            after = {name: _right(answers.of(name, "dev")) for name in names}
            gains = [paired(before[name], after[name], together) for name in names]
            training = {key: trial.result[key] for key in ("loss", "seconds", "gpu_seconds")}
            changed = {"gained": _changed(before, after), "lost": _changed(after, before)}
            rows.append(row(settings, trial.result["dev"], mean_over(gains)) | changed | training)
    return rows


def _changed(before: Mapping[str, Mapping[str, bool]], after: Mapping[str, Mapping[str, bool]]) -> int:
    """How many problems were wrong before and are right after."""
    return sum(right and not before[name].get(key, True) for name in after for key, right in after[name].items())


def _choose(rows: list[Row], outcomes: _Outcomes) -> str:
    """The best trial if it beats the target beyond noise: by its interval and by McNemar's exact test, since an
    interval from a few changed answers is too narrow.
    """
    leader = next(row for row in rows if row["name"] == outcomes.best)
    chance = sign_test(leader["gained"], leader["lost"])
    beyond = leader["gain_low"] > 0 and chance <= (1 - CONFIDENCE) / len(outcomes.results)
    return str(leader["name"]) if beyond else UNTOUCHED


def _right(attempts: Iterable[Attempt]) -> dict[str, bool]:
    return {attempt.id: attempt.right for attempt in attempts}


def _summary(rows: list[Row], winner: str, tested: str | None) -> str:
    row = next(row for row in rows if row["name"] == tested)
    gain = f"{100 * row['gain']:+.1f} points on dev, {100 * row['gain_low']:+.1f} to {100 * row['gain_high']:+.1f}"
    if winner == UNTOUCHED:
        return f"  no trial beats the target beyond noise (best: {row['name']}, {gain}); it stays the target"
    return f"  {winner} wins: {gain}"


def _csv(rows: list[Row]) -> bytes:
    text = io.StringIO()
    # From the last row on, so that the settings come first: the untouched target has none.
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in reversed(rows) for key in row)), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
