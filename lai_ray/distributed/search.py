"""Ray Tune over trials that train and sit the dev splits.  trials -> results

A trial is a light driver: its training and its engines ask for their own resources, outside what the trial holds.
Every start is a new Tune experiment over the trials still to do, so nothing is ever restored from a half-written one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lai_ray.config import Config
from lai_ray.contracts import Executor
from lai_ray.errors import LaiError

DRIVER_CPUS = 0.1
"""A trial's own process waits nearly all of its time."""

Trial = Callable[[dict[str, Any], Executor], dict[str, Any]]


def search(
    trial: Trial, trials: Sequence[dict[str, Any]], folder: str, *, config: Config, logs: str | None
) -> list[dict[str, Any]]:
    """One result a trial, in the order of `trials`; {"error": why} for one that failed, while the others go on.

    `trial` is pickled to where it runs and gets an executor of its own there. Ray must be initialised. Everything
    that Tune writes goes below `folder`.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    from ray import tune

    assert config.search is not None
    place = Path(folder).absolute()
    place.mkdir(parents=True, exist_ok=True)
    tuner = tune.Tuner(
        tune.with_resources(_driver(trial, list(trials), config, logs), {"cpu": DRIVER_CPUS}),
        # Only the place in the list is searched over: settings stay plain values in `trials`.
        param_space={"place": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=config.search.max_concurrent,
            trial_dirname_creator=lambda made: str(trials[made.config["place"]]["name"]),
        ),
        run_config=tune.RunConfig(storage_path=str(place), name=f"start_{sum(1 for _ in place.iterdir())}", verbose=0),
    )
    results: list[dict[str, Any]] = [{"error": "the trial left no result"} for _ in trials]
    for found in tuner.fit():
        where = found.config["place"]
        if found.error is not None:
            results[where] = {"error": _told(found.error)}
        elif found.metrics and "result" in found.metrics:
            results[where] = json.loads(found.metrics["result"])
    return results


def _driver(
    trial: Trial, trials: list[dict[str, Any]], config: Config, logs: str | None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def run(chosen: dict[str, Any]) -> dict[str, Any]:
        from lai_ray.distributed.actors import to_log
        from lai_ray.distributed.session import RayExecutor

        settings = trials[chosen["place"]]
        to_log(logs, str(settings["name"]))
        executor = RayExecutor(config, logs)
        try:
            return {"result": json.dumps(trial(settings, executor))}
        finally:
            executor.close()

    return run


def _told(error: BaseException) -> str:
    """The last line of a trial's error; our own words as they are."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LaiError):
            return str(cause)
        cause = getattr(cause, "cause", None) or cause.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
