"""Ray Tune over trials that train and sit the dev splits.  trials -> results

A trial is a light driver: its training and its engines ask for their own resources, outside what the trial holds. No
more trials go on at once than the cluster can hold, so that none of them waits for what another has.
Every start is a new Tune experiment over the trials still to do, so nothing is ever restored from a half-written one.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.execution import class_cache

from lai_ray.common import current_stage
from lai_ray.config.config import Config
from lai_ray.contracts import Executor
from lai_ray.distributed.cluster.autoscaler import cluster_now
from lai_ray.distributed.cluster.capacity import needs, verdicts
from lai_ray.distributed.cluster.resources import Group, Resources
from lai_ray.errors import LaiError
from lai_ray.storage.objects import is_url

DRIVER_MEMORY = 256 * 2**20
"""What a trial's own process takes. It asks for no CPU: it waits, and two logical CPUs must do for its training."""
DIED = "its process died: it was killed, or ran out of memory. Its last words are in the logs folder."
TUNE_ENV = {
    "RAY_AIR_NEW_OUTPUT": "0",
    # Its loggers would write a folder of files for each trial; trials.csv says the same in one.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A run's folder is mostly given from where the command was.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # It would take Ctrl-C for the end of the search, and hand out what there is as if that were all.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

Settings = dict[str, Any]
Trial = Callable[[Settings, Executor], dict[str, Any]]
Heard = Callable[[Settings, dict[str, Any]], None]
MakeExecutor = Callable[[Config, str | None], Executor]


def search(
    trial: Trial, trials: Sequence[Settings], folder: str, *, config: Config, logs: str | None,
    make_executor: MakeExecutor, heard: Heard | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One result a trial, in the order of `trials`; {"error": why} for one that failed, while the others go on.

    `trial` is pickled to where it runs and gets an executor of its own there, from `make_executor`; `heard` is called
    with a trial's settings and its result as it ends. Ray must be initialised. Everything that Tune writes goes below
    `folder`.
    """
    for name, value in TUNE_ENV.items():
        os.environ.setdefault(name, value)
    # Tune would hand keys on in a runtime environment, which the dashboard shows to everybody. Nodes have their own.
    names = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in names if not name.startswith("AWS_")}
    place = folder if is_url(folder) else os.path.abspath(folder)
    called = current_stage.now().replace("/", ".")
    at_once = at_most(config, *cluster_now(), len(trials))
    print(f"search: {len(trials)} trials, {at_once} at once, in {place}", flush=True)
    driver = _driver(trial, list(trials), config, logs, make_executor)
    tuner = tune.Tuner(
        tune.with_resources(driver, {"cpu": 0, "memory": DRIVER_MEMORY}),
        # Only the place in the list is searched over: settings stay plain values in `trials`.
        param_space={"place": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_once,
            trial_name_creator=lambda made: f"{called}.{trials[made.config['place']]['name']}",
            trial_dirname_creator=lambda made: str(trials[made.config["place"]]["name"]),
        ),
        run_config=tune.RunConfig(
            storage_path=place, name=f"start_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}", verbose=0,
            callbacks=[_Telling(trials, heard)] if heard else [],
        ),
    )  # fmt: skip
    results: list[dict[str, Any]] = [{"error": DIED} for _ in trials]
    for found in tuner.fit():
        results[found.config["place"]] = _result(found.metrics if found.error is None else None)
    return results


def at_most(config: Config, nodes: Sequence[Resources], groups: Sequence[Group] | None, trials: int) -> int:
    """How many trials may go on at once: as many as the nodes hold, or could; never more than the job says.

    Where nobody tells what the autoscaler may add (groups is None), the job's own number counts.

    A trial holds its training's workers first and then its engines, so it needs a place for the larger of the two. A
    cluster that is too small for one still gets one: its stage says what is missing.
    """
    assert config.search is not None
    wanted = config.search.max_concurrent
    holds = [found for found in verdicts(needs(config), nodes, groups) if found.need.what in ("engines", "workers")]
    # What a job that names no number gets is there now; a larger number is a reason to let the cluster grow.
    room = [(found.now if wanted is None else found.grown) // found.need.count for found in holds]
    room = [] if wanted is not None and groups is None else room
    return max(1, min([trials, *room, *([wanted] if wanted else [])]))


def _result(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    if metrics and "result" in metrics:
        found: dict[str, Any] = json.loads(metrics["result"])
        return found
    return {"error": DIED}


class _Telling(Callback):  # type: ignore[misc]  # Ray's classes are Any here.
    """Calls `heard` as trials end. Tune pickles its callbacks; this one leaves behind what it holds."""

    def __init__(self, trials: Sequence[Settings], heard: Heard) -> None:
        self._trials, self._heard = trials, heard

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._heard(self._trials[trial.config["place"]], _result(trial.last_result))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._heard(self._trials[trial.config["place"]], _result(None))


def _driver(
    trial: Trial, trials: list[Settings], config: Config, logs: str | None, make_executor: MakeExecutor
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    here = os.getcwd()

    def run(chosen: dict[str, Any]) -> dict[str, Any]:
        # Relative paths mean what they mean to the driver, wherever the node's Ray was started.
        with suppress(OSError):
            os.chdir(here)
        from lai_ray.distributed.actors import to_log

        settings = trials[chosen["place"]]
        to_log(logs, str(settings["name"]))
        executor = make_executor(config, logs)
        try:
            result = trial(settings, executor)
        except Exception as error:
            # Told from here, where it is whole; a trial that Tune counts as failed is one whose process died.
            traceback.print_exc()
            result = {"error": _told(error)}
        finally:
            executor.close()
        return {"result": json.dumps(result)}

    return run


def _told(error: BaseException) -> str:
    """One sentence for trials.csv; our own words as they are."""
    if isinstance(error, LaiError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
