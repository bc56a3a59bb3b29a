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

from lai_ray.config import Config
from lai_ray.contracts import Executor, Model
from lai_ray.errors import StageError
from lai_ray.records import Attempt
from lai_ray.rundir import Run, Stage
from lai_ray.stages.curate import Samples, curate
from lai_ray.stages.diagnose import diagnose, encoder_for, improve_settings
from lai_ray.stages.evaluate import Attempts
from lai_ray.stages.instruct import instruct, instructor_for
from lai_ray.stages.trial import Found, Plan, Trial, best, found, has_model, keep_only, metric_benchmarks, model_of
from lai_ray.stages.trials import combinations, most, pool_of, pools, with_settings
from lai_ray.stats import Interval, mean_over, paired, score
from lai_ray.store import key_of

UNTOUCHED = "trial_0"
Row = dict[str, Any]


def search(run: Run, i: int, attempts: Attempts, target: Model, config: Config, executor: Executor) -> Model:
    """The trials of one iteration; returns the winner on dev, or the target when none beats it beyond noise.

    Raises StageError when every trial failed.
    """
    stage = run.stage(i, "search")
    plans = _plans(i, attempts, target, config, _pools(run, i, attempts, target, config, executor))
    key = key_of(target.identity, attempts.learning_key, [plan.key for plan in plans])
    if not stage.done(key):
        tried = _tried(stage, i, plans, target, config, executor)
        rows = _rows(stage, attempts, config, tried)
        won = _won(rows, tried)
        stage.store.put("trials.csv", _csv(rows))
        stage.progress.say(_said(rows, won))
        winner = {"name": won, "folder": tried.results[won].folder if won in tried.results else None}
        failed = sum("error" in row for row in rows)
        stage.store.put_json("trials.json", rows)
        stage.finish(key, winner=winner, trials=len(rows), failed=failed)
        if config.search and not config.search.keep_weights:
            keep_only(run, i, tried.results.get(won))
    stage.reached()
    winner = stage.facts()["winner"]
    plan = next((plan for plan in plans if plan.name == winner["name"]), None)
    chosen = plan and found(run, i, plan)
    return model_of(run, chosen) if chosen else target


def _pools(
    run: Run, i: int, attempts: Attempts, target: Model, config: Config, executor: Executor
) -> dict[str, Samples]:
    """Samples by pool: each is asked for once, at the largest size that one of its trials learns from."""
    instructor = instructor_for(config, target, run.record())
    made: dict[str, Samples] = {}
    for name, learning in pools(config, i).items():
        sizes = [settings["samples_per_dataset"] for settings in learning]
        largest = learning[0] | {"samples_per_dataset": most(sizes, config.evaluate.learn_from)}
        asked = with_settings(config, largest)
        folder = f"iteration_{i}/search/{name}"
        settings = improve_settings(asked, i, encoder=encoder_for(config, target, run.record()))
        cases = diagnose(Stage(run, f"{folder}/diagnose"), attempts, i, asked, settings, executor)
        replies = instruct(Stage(run, f"{folder}/instruct"), cases, settings, asked, executor, instructor)
        made[name] = curate(Stage(run, f"{folder}/curate"), cases, replies, settings, asked, executor)
    return made


def _plans(i: int, attempts: Attempts, target: Model, config: Config, samples: Mapping[str, Samples]) -> list[Plan]:
    plans = []
    for settings in combinations(config, i):
        pool, wanted = samples[pool_of(config, i, settings)], with_settings(config, settings)
        counts = {name: min(kept, wanted.curate.most(name)) for name, kept in pool.counts.items()}
        decides = pool.key, counts, wanted.train.identity(), wanted.learning_rate(i), settings["seed"]
        key = key_of(target.identity, attempts.learning_key, *decides)
        plans.append(Plan(settings, key, f"iteration_{i}/search/{pool_of(config, i, settings)}", counts))
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


def _tried(stage: Stage, i: int, plans: list[Plan], target: Model, config: Config, executor: Executor) -> _Tried:
    """Every trial tried, but for those that an earlier start did and those that would do what another does."""
    run, first = stage.run, {plan.key: plan.name for plan in reversed(plans)}
    tried = _Tried(plans, {}, {}, {plan.name: first[plan.key] for plan in plans if first[plan.key] != plan.name})
    for plan in plans:
        if plan.name not in tried.same and (before := found(run, i, plan)):
            tried.results[plan.name] = before
    if (best_before := tried.best) and not has_model(run, tried.results[best_before]):
        del tried.results[best_before]  # Somebody removed its weights: it may win, so it is done again.
    todo = [plan for plan in plans if plan.name not in tried.results and plan.name not in tried.same]
    for line in _shortages(plans, config):
        stage.progress.say(line)
    if not todo:
        return tried
    reuse = tuple(other.store.where for other in run.reuse)
    trial = Trial(run.store.where, run.start, i, target, config, {plan.name: plan for plan in plans}, reuse)
    with stage.progress.track(f"{stage.folder}: trials", len(todo)) as tracker:

        def heard(settings: Row, result: Row) -> None:
            score = result.get("mean")
            stage.progress.say(
                f"  {settings['name']}: "
                + (f"failed: {result['error']}" if score is None else f"{100 * score:.1f}% on dev")
            )
            tracker.advance()

        ended = executor.search(trial, [plan.settings for plan in todo], stage.place("tune"), heard)
    for plan, result in zip(todo, ended, strict=True):
        if made := found(run, i, plan):
            tried.results[plan.name] = made
        else:
            tried.errors[plan.name] = str(result.get("error", "it left no result"))
    if not tried.results:
        name, why = next(iter(tried.errors.items()))
        raise StageError(
            f"{stage.folder}: all {len(todo)} trials failed; {name}: {why} Replies and answers are kept; mend the "
            "cause and start the same command again."
        )
    return tried


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
    names, level = metric_benchmarks(config), config.report.confidence
    together = 1 - (1 - level) / max(len(tried.results), 1)
    before = {name: _right(attempts.of(name, "dev")) for name in names}

    def row(settings: Row, scores: Mapping[str, Row], gain: Interval) -> Row:
        dev = mean_over([score(scores[f"{n}.dev"]["right"], scores[f"{n}.dev"]["n"], level) for n in names])
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
            gains = [paired(before[name], _right(sat.of(name, "dev")), together) for name in names]
            made = {key: trial.result[key] for key in ("loss", "seconds", "gpu_seconds")}
            rows.append(row(settings, trial.result["dev"], mean_over(gains)) | made)
    return rows


def _won(rows: list[Row], tried: _Tried) -> str:
    leader = next(row for row in rows if row["name"] == tried.best)
    return str(leader["name"]) if leader["gain_low"] > 0 else UNTOUCHED


def _right(attempts: Iterable[Attempt]) -> dict[str, bool]:
    return {attempt.id: attempt.right for attempt in attempts}


def _said(rows: list[Row], won: str) -> str:
    leader = max((row for row in rows[1:] if "gain" in row), key=lambda row: row["gain"])
    told = leader if won == UNTOUCHED else next(row for row in rows if row["name"] == won)
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
