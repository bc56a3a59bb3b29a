"""One trial of a search: it trains on a prefix of a pool and sits the dev splits.  settings -> result

    search/trial_3/start_1/   train/   evaluate/   result.json, written last: the trial is not run again

Every start of the run that tries it has a folder of its own, so that a trial whose driver was killed, and which may
live on for a while, never writes where its successor does. That one takes over what is whole: answers, a model, states.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Model
from lai_ray.records import Sample
from lai_ray.stages.curate import Samples
from lai_ray.stages.evaluate import answered, evaluate
from lai_ray.stages.grid import combination_of, with_settings
from lai_ray.stages.job import Job
from lai_ray.stages.select import Part, part
from lai_ray.stages.train import train
from lai_ray.storage import model_folders
from lai_ray.storage.driver import Fence
from lai_ray.storage.run import Run, Stage
from lai_ray.training import checkpoints

UNTOUCHED = "trial_0"
"""The target as it is, which every trial is held against."""
RESULT = "result.json"
MODEL = "train/checkpoint"


@dataclass(frozen=True)
class Plan:
    """What one trial does."""

    settings: dict[str, Any]
    """`name`, then where it stands in the grid."""
    key: str
    """Hash of what decides its result: the model that it makes, and what that is asked on dev and how it is graded."""
    model: str
    """The identity of the model that it makes, known beforehand."""
    pool: str
    """The folder of the pool that it learns from."""
    samples: dict[str, int]
    """What it learns from, by dataset: never more than the pool has."""

    @property
    def name(self) -> str:
        """ "trial_3"."""
        return str(self.settings["name"])


@dataclass(frozen=True)
class Found:
    """What a trial came to."""

    folder: str
    """Below the run's, as everything here: a run may be moved."""
    result: dict[str, Any]

    @property
    def dev(self) -> float:
        """The mean score over the dev splits, as a fraction."""
        return float(self.result["mean"])


@dataclass(frozen=True)
class Trial:
    """Every trial of one search. Picklable: called with one's settings in the process where Ray Tune runs it."""

    where: str
    """The run's folder."""
    start: int
    """Which start of the run this is."""
    iteration: int
    target: Model
    job: Job
    plans: Mapping[str, Plan]
    reuse: tuple[str, ...]
    """The runs that are taken over from."""
    needed: frozenset[str]
    """The trials that must have a model at their end. Any other need not be trained where its dev answers are known."""

    def __call__(self, settings: dict[str, Any], executor: Executor) -> dict[str, Any]:
        """Dev scores and the new target of one trial. It never calls the instructor, and reads no test."""
        began, plan = time.monotonic(), self.plans[settings["name"]]
        run = Run(self.where, fence=Fence(self.where, self.start) if self.start else None)
        run.reuse = [Run.read(where) for where in self.reuse]
        folder = self._attempt(plan, self.start)
        job = self.job.changed(with_settings(self.job.config, settings))
        pool = Stage(run, f"{plan.pool}/curate")
        samples = Samples(pool.view("samples.jsonl", Sample), "", pool.facts()["kept"])
        training, sitting = Stage(run, f"{folder}/train"), Stage(run, f"{folder}/evaluate")
        made, parts = Model(training.path("checkpoint"), plan.model), dev_parts(self.job)
        run.check_fence()
        if plan.name in self.needed or not answered(sitting, parts, made, job):
            self._take_over_states(run, plan)
            if not training.store.exists("checkpoint/lineage.json"):
                training.store.remove(["done.json"])  # The model was removed since.
            made = train(training, samples, self.target, self.iteration, job, executor, seed=settings["seed"])
        attempts = evaluate(sitting, parts, made, job, executor)
        scores = attempts.scores()
        result = {
            "identity": made.identity,
            "dev": {name: {"right": part["right"], "n": part["n"]} for name, part in scores.items()},
            "mean": statistics.fmean(part["right"] / part["n"] for part in scores.values()),
            "loss": training.facts().get("loss"),
            "seconds": round(time.monotonic() - began, 1),
            "gpu_seconds": _gpu_seconds(job.config, training, sitting),
        }
        Stage(run, folder).store.put_json(RESULT, {"key": plan.key, "settings": settings, "result": result})
        if (search := job.config.search) and not search.keep_weights:
            remove_beaten(run, self.iteration, list(self.plans.values()))
        return result

    def _take_over_states(self, run: Run, plan: Plan) -> None:
        """Go on from what an earlier start of this trial kept."""
        if run.store.local:  # States are kept on disks alone.
            out, *before = (
                str(run.store.local / self._attempt(plan, start) / MODEL) for start in range(self.start, 0, -1)
            )
            for earlier in before:  # The newest is there first, and stays.
                checkpoints.take_over(out, earlier)

    def _attempt(self, plan: Plan, start: int) -> str:
        return f"{_search(self.iteration)}/{plan.name}/start_{start}"


def dev_parts(job: Job) -> list[Part]:
    """The dev splits that candidates are compared on: cut from training data, so that no test has a say."""
    return [part(job, name, "dev") for name in metric_benchmarks(job.config)]


def metric_benchmarks(config: Config) -> list[str]:
    """The benchmarks whose dev splits count."""
    assert config.search is not None
    return config.evaluate.learn_from if config.search.metric == "dev" else [config.search.metric]


def forget(run: Run, iteration: int, plan: Plan) -> None:
    """What the trial came to is to be found out again."""
    run.store.remove(_results(run, iteration, plan))


def _results(run: Run, iteration: int, plan: Plan) -> list[str]:
    """What its attempts have written, whatever they did."""
    return [name for name in run.store.names(f"{_search(iteration)}/{plan.name}") if name.endswith(f"/{RESULT}")]


def found(run: Run, iteration: int, plan: Plan) -> Found | None:
    """What the trial came to, in this start or an earlier one; None where it has not ended."""
    names = _results(run, iteration, plan)
    for name in sorted(names, key=lambda name: int(name.split("/")[-2].removeprefix("start_")), reverse=True):
        written = run.store.get_json(name)
        if written["key"] == plan.key:
            return Found(name.removesuffix(f"/{RESULT}"), written["result"])
    return None


def model_of(run: Run, trial: Found) -> Model:
    """The trial's model, wherever the run is now."""
    return Model(Stage(run, trial.folder).path(MODEL), trial.result["identity"])


def has_model(run: Run, trial: Found) -> bool:
    """Whether its weights are still there."""
    return run.store.exists(f"{trial.folder}/{MODEL}/lineage.json")


def best(plans: Iterable[Plan], results: Mapping[str, Found]) -> str | None:
    """The name of the best seed of the best combination, by its mean over seeds; the first of equals.

    Combinations of which a seed has no result come last.
    """
    ranked = _ranked(plans, results)
    return ranked[0] if ranked else None


def remove_beaten(run: Run, iteration: int, plans: Sequence[Plan]) -> None:
    """Remove the weights of trials that another is better than, while the search goes on: none of them can win."""
    results = {plan.name: one for plan in plans if (one := found(run, iteration, plan))}
    kept = _unbeaten(plans, results)
    for name, trial in results.items():
        if name not in kept:
            _remove_model(run, trial.folder)


def keep_only(run: Run, iteration: int, winner: Found | None) -> None:
    """The search is over: remove all weights and states but the winner's, of failed and unfinished attempts too."""
    parts = [name.partition("/train/") for name in run.store.names(_search(iteration))]
    holding = {folder for folder, _, inside in parts if inside.startswith(("checkpoint/", ".checkpoint"))}
    for folder in sorted(holding - ({winner.folder} if winner else set())):
        _remove_model(run, folder)


def _remove_model(run: Run, folder: str) -> None:
    """An attempt's model, and what stands beside it: states, half-written ones."""
    run.check_fence()
    place = Stage(run, folder).path(MODEL)
    model_folders.remove(place)
    if run.store.local:
        for beside in Path(place).parent.glob(f".{Path(place).name}.*"):
            shutil.rmtree(beside, ignore_errors=True)


def _unbeaten(plans: Sequence[Plan], results: Mapping[str, Found]) -> set[str | None]:
    """The best of the combinations that are whole, and the best seed so far of each that is not."""
    whole: list[Plan] = []
    kept: set[str | None] = set()
    for group in _groups(plans).values():
        if all(plan.name in results for plan in group):
            whole += group
        else:
            kept.add(best(group, results))
    return {*kept, best(whole, results)}


def _ranked(plans: Iterable[Plan], results: Mapping[str, Found]) -> list[str]:
    order: list[tuple[bool, float, float, int, str]] = []
    for group in _groups(plans).values():
        ended = [(results[plan.name].dev, plan.name) for plan in group if plan.name in results]
        for dev, name in ended:
            mean = statistics.fmean(one for one, _ in ended)
            order.append((len(ended) < len(group), -mean, -dev, len(order), name))
    return [name for *_, name in sorted(order)]


def _groups(plans: Iterable[Plan]) -> dict[str, list[Plan]]:
    """By combination: the trials of one differ in their seeds alone."""
    groups: dict[str, list[Plan]] = {}
    for plan in plans:
        groups.setdefault(combination_of(plan.settings), []).append(plan)
    return groups


def _search(iteration: int) -> str:
    return f"iteration_{iteration}/search"


def _gpu_seconds(config: Config, training: Stage, sitting: Stage) -> float:
    """GPUs held, times how long: by the workers, then by the engines."""
    cluster = config.cluster
    workers = cluster.train_workers * cluster.gpus_per_worker
    engines = cluster.target_replicas * cluster.gpus_per_replica * config.target.tensor_parallel
    seconds = [float(stage.facts().get("seconds", 0)) for stage in (training, sitting)]
    return round(seconds[0] * workers + seconds[1] * engines, 1)
