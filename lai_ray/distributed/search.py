"""Ray Tune over trials, each of which trains a model and evaluates it on the dev splits.  trials -> results

A trial is a light driver: its training and its engines ask for their own resources, outside what the trial holds. No
more trials run at once than the cluster can hold, so that none waits for what another has.
Each start is a new Tune experiment over the trials still to do: nothing is restored from a half-written one.
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
from lai_ray.distributed.actors import to_log
from lai_ray.distributed.cluster.autoscaler import cluster_now
from lai_ray.distributed.cluster.capacity import needs, verdicts
from lai_ray.distributed.cluster.resources import Group, Resources
from lai_ray.errors import LaiError
from lai_ray.storage.store import is_url

DRIVER_MEMORY = 448 * 2**20
"""Bytes for a trial's own process. It asks for no CPU: it waits, and its training must fit on two logical CPUs."""
DIED = "its process died: it was killed, or ran out of memory; see logs/"
TUNE_ENV = {
    "RAY_AIR_NEW_OUTPUT": "0",
    # Its loggers would write a folder of files for each trial; trials.csv holds the same in one.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A run's folder is usually relative to the driver's working directory.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Tune would take Ctrl-C for the end of the search and return the results so far as if they were all.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

Settings = dict[str, Any]
Trial = Callable[[Settings, Executor], dict[str, Any]]
OnResult = Callable[[Settings, dict[str, Any]], None]
MakeExecutor = Callable[[Config, str | None], Executor]


def search(
    trial: Trial, trials: Sequence[Settings], folder: str, *, config: Config, logs: str | None,
    make_executor: MakeExecutor, on_result: OnResult | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One result a trial, in the order of `trials`; {"error": message} for one that failed, while the others go on.

    `trial` is pickled to where it runs and gets an executor of its own there, from `make_executor`; `on_result` is
    called with a trial's settings and its result as it ends. Ray must be initialised. Tune writes below `folder` only.
    """
    for name, value in TUNE_ENV.items():
        os.environ.setdefault(name, value)
    # Tune would pass keys on in a runtime environment, which the dashboard displays. Nodes have their own.
    names = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in names if not name.startswith("AWS_")}
    path = folder if is_url(folder) else os.path.abspath(folder)
    stage = current_stage.now().replace("/", ".")
    at_once = at_most(config, *cluster_now(), len(trials))
    print(f"search: {len(trials)} trials, {at_once} at once, in {path}", flush=True)
    driver = _driver(trial, list(trials), config, logs, make_executor)
    tuner = tune.Tuner(
        tune.with_resources(driver, {"cpu": 0, "memory": DRIVER_MEMORY}),
        # Tune searches over the index only: settings stay plain values in `trials`.
        param_space={"index": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_once,
            trial_name_creator=lambda made: f"{stage}.{trials[made.config['index']]['name']}",
            trial_dirname_creator=lambda made: str(trials[made.config["index"]]["name"]),
        ),
        run_config=tune.RunConfig(
            storage_path=path, name=f"start_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}", verbose=0,
            callbacks=[_OnResult(trials, on_result)] if on_result else [],
        ),
    )  # fmt: skip
    results: list[dict[str, Any]] = [{"error": DIED} for _ in trials]
    for ended in tuner.fit():
        results[ended.config["index"]] = _result(ended.metrics if ended.error is None else None)
    return results


def at_most(config: Config, nodes: Sequence[Resources], groups: Sequence[Group] | None, trials: int) -> int:
    """How many trials may run at once: as many as the nodes hold, or could; no more than search.max_concurrent.

    Where it is unknown what the autoscaler may add (groups is None), search.max_concurrent counts.

    A trial holds its training's workers first and then its engines, so it needs room for the larger of the two. A
    cluster that is too small for one still gets one: its stage's error tells what is missing.
    """
    assert config.search is not None
    wanted = config.search.max_concurrent
    holds = [
        verdict for verdict in verdicts(needs(config), nodes, groups) if verdict.need.what in ("engines", "workers")
    ]
    # Without a number the job gets what is there now; a larger number is a reason to let the cluster grow.
    room = [(verdict.now if wanted is None else verdict.grown) // verdict.need.count for verdict in holds]
    room = [] if wanted is not None and groups is None else room
    return max(1, min([trials, *room, *([wanted] if wanted else [])]))


def _result(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(metrics["result"]) if metrics and "result" in metrics else {"error": DIED}
    return result


class _OnResult(Callback):  # type: ignore[misc]  # Ray's classes are Any here.
    """Calls `on_result` as trials end. Tune pickles its callbacks; this one pickles without its state."""

    def __init__(self, trials: Sequence[Settings], on_result: OnResult) -> None:
        self._trials, self._on_result = trials, on_result

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._on_result(self._trials[trial.config["index"]], _result(trial.last_result))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._on_result(self._trials[trial.config["index"]], _result(None))


def _driver(
    trial: Trial, trials: list[Settings], config: Config, logs: str | None, make_executor: MakeExecutor
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    working_directory = os.getcwd()

    def run(chosen: dict[str, Any]) -> dict[str, Any]:
        # Relative paths mean the same as in the driver, wherever the node's Ray was started.
        with suppress(OSError):
            os.chdir(working_directory)
        settings = trials[chosen["index"]]
        to_log(logs, str(settings["name"]))
        executor = make_executor(config, logs)
        try:
            result = trial(settings, executor)
        except Exception as error:
            # Returned, so that its message is whole: a trial that Tune counts as failed is one whose process died.
            traceback.print_exc()
            result = {"error": _message(error)}
        finally:
            executor.close()
        return {"result": json.dumps(result)}

    return run


def _message(error: BaseException) -> str:
    """One line for trials.csv; the whole message of a LaiError."""
    if isinstance(error, LaiError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
