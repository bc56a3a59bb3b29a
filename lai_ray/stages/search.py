"""Ray Tune over the improve step.  attempts -> pools -> trials -> the next target

Pools of replies come first, one for each distinct way to ask, at the largest size; a trial trains on a prefix of one
and never calls the instructor. Chosen on the dev splits; the untouched target is trial 0 and stays unless beaten.
"""

from __future__ import annotations

import csv
import io
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lai_ray.config import Config
from lai_ray.contracts import Executor, Model
from lai_ray.records import Attempt, Sample
from lai_ray.rundir import Run, Stage
from lai_ray.stages.curate import Samples, curate
from lai_ray.stages.diagnose import diagnose, encoder_for, improve_settings
from lai_ray.stages.evaluate import Attempts, evaluate
from lai_ray.stages.instruct import instruct, instructor_for
from lai_ray.stages.select import Part, part
from lai_ray.stages.train import train
from lai_ray.stages.trials import combinations, pool_of, pools, with_settings
from lai_ray.stats import Interval, paired
from lai_ray.store import key_of

UNTOUCHED = "trial_0"
RESULT = "result.json"
"""What a trial writes last; with it there, the trial is not run again."""


@dataclass(frozen=True)
class Trial:
    """One combination of settings, picklable: trains on a pool's prefix and sits the dev splits, in Ray Tune."""

    where: str
    iteration: int
    target: Model
    config: Config
    pools: dict[str, str]
    """The folder of the pool that each trial learns from, by the trial's name."""
    reuse: tuple[str, ...]
    """The runs that are taken over from."""

    def __call__(self, settings: dict[str, Any], executor: Executor) -> dict[str, Any]:
        """Dev counts and the new target of one trial."""
        started = time.monotonic()
        run = Run(self.where)
        run.reuse = [Run.read(where) for where in self.reuse]
        folder = f"iteration_{self.iteration}/search/{settings['name']}"
        tried = with_settings(self.config, settings)
        pool = Stage(run, f"{self.pools[settings['name']]}/curate")
        samples = Samples(pool.view("samples.jsonl", Sample), "", pool.facts()["kept"])
        training = Stage(run, f"{folder}/train")
        made = train(training, samples, self.target, self.iteration, tried, executor, seed=settings["seed"])
        attempts = evaluate(Stage(run, f"{folder}/evaluate"), dev_parts(self.config), made, tried, executor)
        result = {
            "path": made.path,
            "identity": made.identity,
            "dev": attempts.scores(),
            "loss": training.facts().get("loss"),
            "seconds": round(time.monotonic() - started, 1),
        }
        Stage(run, folder).store.put_json(RESULT, {"settings": settings, "result": result})
        return result


def dev_parts(config: Config) -> list[Part]:
    """The dev splits that candidates are compared on."""
    return [part(config, name, "dev") for name in _metric_benchmarks(config)]


def _metric_benchmarks(config: Config) -> list[str]:
    assert config.search is not None
    return config.evaluate.learn_from if config.search.metric == "dev" else [config.search.metric]


def search(run: Run, i: int, attempts: Attempts, target: Model, config: Config, executor: Executor) -> Model:
    """The trials of one iteration; returns the winner on dev, or the target when none beats it beyond noise."""
    stage = run.stage(i, "search")
    trials = combinations(config, i)
    samples = _pools(run, i, attempts, target, config, executor)
    pooled = [pool.key for pool in samples.values()]
    key = key_of(target.identity, attempts.learning_key, pooled, trials, config.train.identity())
    if not stage.done(key):
        folders = {t["name"]: f"iteration_{i}/search/{pool_of(config, i, t)}" for t in trials}
        reuse = tuple(other.store.where for other in run.reuse)
        trial = Trial(run.store.where, i, target, config, folders, reuse)
        results = _tried(stage, trial, trials, executor)
        facts = _choose(stage, i, attempts, target, config, trials, results)
        stage.finish(key, **facts)
    stage.reached()
    winner = stage.facts()["winner"]
    return target if winner["name"] == UNTOUCHED else Model(winner["path"], winner["identity"])


def _pools(
    run: Run, i: int, attempts: Attempts, target: Model, config: Config, executor: Executor
) -> dict[str, Samples]:
    """Samples by pool: each is asked for once, at the largest size that one of its trials learns from."""
    instructor = instructor_for(config, target, run.record())
    made: dict[str, Samples] = {}
    for name, learning in pools(config, i).items():
        largest = max(learning, key=lambda settings: settings["samples_per_dataset"])
        asked = with_settings(config, largest)
        folder = f"iteration_{i}/search/{name}"
        settings = improve_settings(asked, i, encoder=encoder_for(config, target, run.record()))
        cases = diagnose(Stage(run, f"{folder}/diagnose"), attempts, i, asked, settings, executor)
        replies = instruct(Stage(run, f"{folder}/instruct"), cases, settings, asked, executor, instructor)
        made[name] = curate(Stage(run, f"{folder}/curate"), cases, replies, settings, asked, executor)
    return made


def _tried(stage: Stage, trial: Trial, trials: list[dict[str, Any]], executor: Executor) -> list[dict[str, Any]]:
    """The results of all trials, those of an earlier start among them."""
    found = {settings["name"]: stage.store.get_json(f"{settings['name']}/{RESULT}") for settings in trials}
    todo = [
        settings
        for settings in trials
        if not found[settings["name"]] or found[settings["name"]]["settings"] != settings
    ]
    fresh = (
        dict(zip((t["name"] for t in todo), executor.search(trial, todo, stage.local("tune")), strict=True))
        if todo
        else {}
    )
    return [fresh.get(t["name"]) or found[t["name"]]["result"] for t in trials]


def _choose(
    stage: Stage, i: int, attempts: Attempts, target: Model, config: Config,
    trials: list[dict[str, Any]], results: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    names = _metric_benchmarks(config)
    before = _right(itertools.chain(*(attempts.of(name, "dev") for name in names)))
    rows: list[dict[str, Any]] = [_row({"name": UNTOUCHED}, _mean(attempts.scores(), names), Interval(0.0, 0.0, 0.0))]
    for trial, result in zip(trials, results, strict=True):
        if result.get("error"):
            rows.append({**trial, "error": result["error"]})
            continue
        folder = f"iteration_{i}/search/{trial['name']}/evaluate"
        tried = Attempts(Stage(stage.run, folder), "", "")
        gain = paired(before, _right(itertools.chain(*(tried.of(name, "dev") for name in names))))
        made = {key: result[key] for key in ("loss", "seconds", "path", "identity")}
        rows.append(_row(trial, _mean(result["dev"], names), gain) | made)
    best = max((row for row in rows if "dev" in row), key=lambda row: row["dev"])
    winner = best if best["gain_low"] > 0 else rows[0]
    stage.store.put("trials.csv", _csv(rows))
    stage.progress.say(_said(best, winner))
    failed = sum("error" in row for row in rows)
    return {"winner": winner, "best_on_dev": best["name"], "trials": len(trials), "failed": failed}


def _row(trial: dict[str, Any], dev: float, gain: Interval) -> dict[str, Any]:
    return {**trial, "dev": dev, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}


def _right(attempts: Iterable[Attempt]) -> dict[str, bool]:
    return {attempt.id: attempt.right for attempt in attempts}


def _mean(scores: dict[str, dict[str, Any]], names: list[str]) -> float:
    return float(sum(scores[f"{name}.dev"]["right"] / scores[f"{name}.dev"]["n"] for name in names) / len(names))


def _said(best: dict[str, Any], winner: dict[str, Any]) -> str:
    gain = f"{100 * best['gain']:+.1f} points on dev, {100 * best['gain_low']:+.1f} to {100 * best['gain_high']:+.1f}"
    if winner["name"] == UNTOUCHED:
        return f"  no trial beats the untouched target beyond noise (best: {best['name']}, {gain}); it stays"
    return f"  {winner['name']} wins: {gain}"


def _csv(rows: list[dict[str, Any]]) -> bytes:
    names = list(dict.fromkeys(key for row in rows for key in row if key not in ("path", "identity")))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
