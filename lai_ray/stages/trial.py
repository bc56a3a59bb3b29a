"""One trial of a search: trains on a prefix of a pool and is evaluated on the dev splits.  settings -> result

    search/trial_3/start_1/   train/   evaluate/   result.json, written last: the trial is not run again

Each start of the run has a folder of its own, so that a trial whose driver was killed, but which still runs for a
while, never writes where its successor does. The successor reuses what is complete: answers, model, checkpoints.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Model
from lai_ray.stages.evaluate import answered, attempts_in, evaluate
from lai_ray.stages.grid import combination_of, with_settings
from lai_ray.stages.job import Job
from lai_ray.stages.rehearse import samples_studied
from lai_ray.stages.select import Part, part
from lai_ray.stages.train import train
from lai_ray.storage import model_folders
from lai_ray.storage.driver import Fence
from lai_ray.storage.run import Run, Stage
from lai_ray.training import checkpoints

UNTOUCHED = "trial_0"
"""The target itself, with which every trial is compared."""
RESULT = "result.json"
MODEL = "train/checkpoint"


@dataclass(frozen=True)
class Plan:
    """What one trial does."""

    settings: dict[str, Any]
    """`name`, then its values in the grid."""
    key: str
    """Hash of what decides its result: the model it trains, the dev questions and their grading."""
    model: str
    """The identity of the model it trains, known in advance."""
    pool: str
    """The folder of its pool."""
    samples: dict[str, int]
    """How many samples it learns from, by dataset: at most what the pool has."""

    @property
    def name(self) -> str:
        """As "trial_3"."""
        return str(self.settings["name"])


@dataclass(frozen=True)
class TrialResult:
    """The result of an ended trial."""

    folder: str
    """Relative to the run's folder, as everything here: a run may be moved."""
    result: dict[str, Any]

    @property
    def dev(self) -> float:
        """The mean score over the dev splits, as a fraction."""
        return float(self.result["mean"])


@dataclass(frozen=True)
class Trial:
    """The trials of one search. Picklable: called with the settings of one in the process where Ray Tune runs it."""

    where: str
    """The run's folder."""
    start: int
    """The number of this start of the run."""
    iteration: int
    target: Model
    job: Job
    plans: Mapping[str, Plan]
    reuse: tuple[str, ...]
    """The folders of the runs whose results are reused."""
    needed: frozenset[str]
    """Trials that must end with a model. Others are not trained where their dev answers are known."""

    def __call__(self, settings: dict[str, Any], executor: Executor) -> dict[str, Any]:
        """Train and evaluate one trial. It never calls the instructor and reads no test."""
        began, plan = time.monotonic(), self.plans[settings["name"]]
        run = self.opened()
        folder = self._attempt(plan, self.start)
        job = self.job.changed(with_settings(self.job.config, settings))
        samples = samples_studied(run, plan.pool, job.config)
        training, evaluating = Stage(run, f"{folder}/train"), Stage(run, f"{folder}/evaluate")
        model, parts = Model(training.path("checkpoint"), plan.model), dev_parts(self.job)
        run.check_fence()
        if plan.name in self.needed or not answered(evaluating, parts, model, job):
            self._take_over_checkpoints(run, plan)
            if not training.store.exists("checkpoint/lineage.json"):
                training.store.remove(["done.json"])  # The model was removed since.
            before = attempts_in(run.stage(self.iteration, "evaluate"))
            seed = settings["seed"]
            model = train(training, samples, before, self.target, self.iteration, job, executor, seed=seed)
        attempts = evaluate(evaluating, parts, model, job, executor)
        scores = attempts.scores()
        result = {
            "identity": model.identity,
            "dev": {name: {"right": part["right"], "n": part["n"]} for name, part in scores.items()},
            "mean": statistics.fmean(part["right"] / part["n"] for part in scores.values()),
            "loss": training.facts().get("loss"),
            "seconds": round(time.monotonic() - began, 1),
            "gpu_seconds": _gpu_seconds(job.config, training, evaluating),
        }
        Stage(run, folder).store.put_json(RESULT, {"key": plan.key, "settings": settings, "result": result})
        if (search := job.config.search) and not search.keep_weights:
            remove_beaten(run, self.iteration, list(self.plans.values()))
        return result

    def opened(self) -> Run:
        """The run, in the process of this trial."""
        run = Run(self.where, fence=Fence(self.where, self.start) if self.start else None)
        run.reuse = [Run.read(where) for where in self.reuse]
        return run

    def _take_over_checkpoints(self, run: Run, plan: Plan) -> None:
        """Resume from the checkpoints of an earlier start of this trial."""
        if run.store.local:  # An object store holds none.
            out, *before = (
                str(run.store.local / self._attempt(plan, start) / MODEL) for start in range(self.start, 0, -1)
            )
            for earlier in before:  # The newest first: it is not overwritten.
                checkpoints.take_over(out, earlier)

    def _attempt(self, plan: Plan, start: int) -> str:
        return f"{_search(self.iteration)}/{plan.name}/start_{start}"


def dev_parts(job: Job) -> list[Part]:
    """The dev splits on which trials are compared: cut from training data, so that no test is used."""
    return [part(job, name, "dev") for name in metric_benchmarks(job.config)]


def metric_benchmarks(config: Config) -> list[str]:
    """The benchmarks whose dev splits count."""
    assert config.search is not None
    return config.evaluate.learn_from if config.search.metric == "dev" else [config.search.metric]


def remove_results(run: Run, iteration: int, plan: Plan) -> None:
    """Remove the trial's results, so that it is run again."""
    run.store.remove(_result_files(run, iteration, plan))


def _result_files(run: Run, iteration: int, plan: Plan) -> list[str]:
    return [name for name in run.store.names(f"{_search(iteration)}/{plan.name}") if name.endswith(f"/{RESULT}")]


def result_of(run: Run, iteration: int, plan: Plan) -> TrialResult | None:
    """The trial's result, from this start or an earlier one; None where it has not ended."""
    names = _result_files(run, iteration, plan)
    for name in sorted(names, key=lambda name: int(name.split("/")[-2].removeprefix("start_")), reverse=True):
        written = run.store.get_json(name)
        if written["key"] == plan.key:
            return TrialResult(name.removesuffix(f"/{RESULT}"), written["result"])
    return None


def model_of(run: Run, trial: TrialResult) -> Model:
    """The trial's model, wherever the run is now."""
    return Model(Stage(run, trial.folder).path(MODEL), trial.result["identity"])


def has_model(run: Run, trial: TrialResult) -> bool:
    """Whether its weights still exist."""
    return run.store.exists(f"{trial.folder}/{MODEL}/lineage.json")


def best(plans: Iterable[Plan], results: Mapping[str, TrialResult]) -> str | None:
    """The name of the best seed of the combination with the best mean over seeds; the first of equals.

    Combinations with a seed that has no result come last.
    """
    order: list[tuple[bool, float, float, int, str]] = []
    for group in _groups(plans).values():
        ended = [(results[plan.name].dev, plan.name) for plan in group if plan.name in results]
        for dev, name in ended:
            mean = statistics.fmean(one for one, _ in ended)
            order.append((len(ended) < len(group), -mean, -dev, len(order), name))
    return min(order)[-1] if order else None


def remove_beaten(run: Run, iteration: int, plans: Sequence[Plan]) -> None:
    """Remove, during the search, the weights of trials that can no longer win."""
    results = {plan.name: one for plan in plans if (one := result_of(run, iteration, plan))}
    for name in results.keys() - _unbeaten(plans, results):
        _remove_model(run, results[name].folder)


def keep_only(run: Run, iteration: int, winner: TrialResult | None) -> None:
    """Remove, after the search, all weights and checkpoints but the winner's, also of failed and unfinished trials."""
    parts = [name.partition("/train/") for name in run.store.names(_search(iteration))]
    holding = {folder for folder, _, inside in parts if inside.startswith(("checkpoint/", ".checkpoint"))}
    for folder in sorted(holding - ({winner.folder} if winner else set())):
        _remove_model(run, folder)


def _remove_model(run: Run, folder: str) -> None:
    """A trial's model, its checkpoints, and what was half written."""
    run.check_fence()
    model = Stage(run, folder).path(MODEL)
    model_folders.remove(model)
    if run.store.local:
        for beside in Path(model).parent.glob(f".{Path(model).name}.*"):
            shutil.rmtree(beside, ignore_errors=True)


def _unbeaten(plans: Sequence[Plan], results: Mapping[str, TrialResult]) -> set[str | None]:
    """The best of the combinations that are complete, and the best seed so far of each that is not."""
    groups = list(_groups(plans).values())
    complete = [group for group in groups if all(plan.name in results for plan in group)]
    others = [best(group, results) for group in groups if group not in complete]
    return {*others, best(itertools.chain.from_iterable(complete), results)}


def _groups(plans: Iterable[Plan]) -> dict[str, list[Plan]]:
    """By combination: its trials differ only in their seeds."""
    groups: dict[str, list[Plan]] = {}
    for plan in plans:
        groups.setdefault(combination_of(plan.settings), []).append(plan)
    return groups


def _search(iteration: int) -> str:
    return f"iteration_{iteration}/search"


def _gpu_seconds(config: Config, training: Stage, evaluating: Stage) -> float:
    """GPUs held times seconds, by the workers and by the engines."""
    cluster = config.cluster
    workers = cluster.train_workers * cluster.gpus_per_worker
    engines = cluster.target_replicas * cluster.gpus_per_replica * config.target.tensor_parallel
    seconds = [float(stage.facts().get("seconds", 0)) for stage in (training, evaluating)]
    return round(seconds[0] * workers + seconds[1] * engines, 1)
