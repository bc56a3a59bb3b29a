"""Runs the training loop under Ray Train, and restarts it when a worker dies.  TrainJob -> Trained

The loop itself is lai_ray/training/loop.py and knows nothing of Ray. Workers get the path of a job file on the storage
of the model, so no text passes through the driver's memory, and write the model there themselves. Where the storage is
an object store, they train on their node's disk and rank 0 uploads the finished model (`object_store.py`).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lai_ray.common import current_stage
from lai_ray.distributed import causes
from lai_ray.distributed.fit import early_start, object_store
from lai_ray.errors import LaiError, StageError
from lai_ray.storage import model_folders
from lai_ray.storage.store import is_url
from lai_ray.training import checkpoints, export, process_group
from lai_ray.training.recipe import recipe_for, write_job

if TYPE_CHECKING:
    from lai_ray.config.settings import ClusterSettings
    from lai_ray.contracts import Trained, TrainJob
    from lai_ray.distributed.fit.trainer import Trainer

Progress = Callable[[int, int], None]

ATTEMPTS = 4
"""Attempts from one checkpoint, or from the start, before a training whose workers die is given up."""
POLL_SECONDS = 0.3
RAY_TRAIN_ENV = {
    # The controller polls its workers every 2 s by default, and each training would end that much later.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # One process and some threads less.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Workers keep their working directory, so that relative paths mean the same as in the driver.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Our defaults for Ray Train; variables that the user has set are kept."""


class EarlyStart:
    """Workers that wait for the next training of these settings. Ray must be initialized."""

    def __init__(self, cluster: ClusterSettings) -> None:
        self._waiting = early_start.Waiting()
        resources = {"CPU": early_start.CPUS}
        config = {"waiting": str(self._waiting.folder)}
        self._fitting = _Fitting(_trainer(config, cluster, resources, f"{self._waiting.folder}/ray", "waiting"))

    def take(self, config: dict[str, Any]) -> _Fitting | None:
        """Begin a training; None where the workers are gone."""
        if not self._fitting.alive:
            return None
        self._waiting.begin(config)
        return self._fitting

    def end(self) -> None:
        """End workers that still wait."""
        self._waiting.remove()


def train(
    job: TrainJob,
    cluster: ClusterSettings,
    logs: str | None,
    progress: Progress | None = None,
    early: EarlyStart | None = None,
) -> Trained:
    """Full-parameter fine-tuning on `cluster.train_workers` workers. Ray must be initialized; a Tune trial may call it.

    logs: folder for the workers' output (train-<rank>.log); None leaves it to Ray. progress: called with (steps done,
    steps). early: workers that started before. A model that `job.out` already holds under this job's name is returned
    unchanged. When a worker dies, the training restarts, or resumes from its last checkpoint
    (`cluster.train_state_every`), also from one that an earlier driver left, with the same result. Raises StageError
    with the worker's own message; what was at `job.out` stays.
    """
    from lai_ray.contracts import Trained

    done, timings = model_folders.lineage_of(job.out), {}
    if done is None or done.get("name") != job.name:
        with _scratch(job, cluster) as scratch:
            timings = _trained(job, cluster, scratch, logs and os.path.abspath(logs), progress, early)
        done = model_folders.lineage_of(job.out)
    if done is None or done.get("name") != job.name:
        raise StageError(f"{job.out}: the workers finished, but the model is not here. Do all nodes see this folder?")
    return Trained(path=job.out, metrics=done["metrics"] | timings)


@contextmanager
def _scratch(job: TrainJob, cluster: ClusterSettings) -> Iterator[str]:
    """A folder beside `job.out` for the job file and Ray Train's own files, removed at the end."""
    if is_url(job.out):
        with object_store.scratch(job) as url:
            yield url
        return
    out = Path(job.out).absolute()
    scratch = out.with_name(f".{out.name}.scratch")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        recipe = recipe_for(job, state_every=cluster.train_state_every)
        write_job(scratch / "job.json", recipe, job.examples, job.lineage | {"name": job.name})
    except OSError as error:
        raise StageError(f"{job.out}: the training cannot be prepared ({error}). Is its folder writable?") from error
    try:
        yield str(scratch)
    finally:
        for folder in (scratch, export.part_of(job.out)):
            shutil.rmtree(folder, ignore_errors=True)


def _trained(
    job: TrainJob,
    cluster: ClusterSettings,
    scratch: str,
    logs: str | None,
    progress: Progress | None,
    early: EarlyStart | None,
) -> dict[str, float]:
    """Retry until the training succeeds, or fails in a way that a retry cannot fix. Returns rank 0's metrics."""
    tries, last = 0, None
    for attempt in itertools.count(1):
        config = _config(cluster, scratch, logs)
        fitting = early.take(config) if early and attempt == 1 else None
        result = (fitting or _started(job, cluster, scratch, config, attempt)).wait(job, progress, scratch)
        model = model_folders.lineage_of(job.out)
        if not result.failures or (model and model.get("name") == job.name):  # A death after the model is harmless.
            return result.metrics
        # A new checkpoint is progress, so its attempts are counted anew.
        checkpoint = None if is_url(job.out) else checkpoints.last_whole(job.out)
        tries, last = (tries if checkpoint == last else 0) + 1, checkpoint
        if tries == ATTEMPTS or not all(_is_death(error) for error in result.failures):
            raise _explained(result.failures, cluster, logs)
    raise AssertionError("unreachable")


def _config(cluster: ClusterSettings, scratch: str, logs: str | None) -> dict[str, Any]:
    """What a worker is told."""
    return {
        "job": f"{scratch}/job.json", "logs": logs, "threads": max(1, int(cluster.cpus_per_worker)),
        "started": time.time(), "gpu": cluster.gpus_per_worker > 0,
    }  # fmt: skip


def _started(job: TrainJob, cluster: ClusterSettings, scratch: str, config: dict[str, Any], attempt: int) -> _Fitting:
    resources = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    return _Fitting(_trainer(config, cluster, resources, f"{scratch}/ray", f"{job.name}-{attempt}"))


def _trainer(
    config: dict[str, Any], cluster: ClusterSettings, resources: dict[str, float], storage: str, name: str
) -> Trainer:
    for variable, value in RAY_TRAIN_ENV.items():
        os.environ.setdefault(variable, value)
    # Ray Train tries that long to place its workers, `controller_failure_limit` times.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(min(60.0, cluster.stall_seconds))
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

    from lai_ray.distributed.fit.trainer import Trainer

    # Deaths are counted here and not by Ray, which would also retry a training whose data is wrong.
    start_attempts = max(1, math.ceil(cluster.stall_seconds / 60))
    return Trainer(
        _work,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=cluster.train_workers, use_gpu=cluster.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            # A new name each time: Ray Train would resume what it finds under a used one.
            name=f"{current_stage.now().replace('/', '.')}-{name}",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=start_attempts),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _work(config: dict[str, Any]) -> dict[str, float]:
    """The function of every worker. Returns its metrics."""
    import ray.train

    if "waiting" in config:
        config = early_start.awaited(config["waiting"])
    if config["logs"]:
        _redirect(Path(config["logs"]) / f"train-{ray.train.get_context().get_world_rank()}.log")
    placing = time.time() - config["started"]
    if not config["gpu"]:  # Ray leaves GPUs visible to workers that asked for none.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from lai_ray.training import loop
    from lai_ray.training.recipe import read_job
    from lai_ray.training.tensorboard import TensorBoardWriter

    remote = object_store.ObjectStoreTraining(config["job"]) if is_url(config["job"]) else None
    recipe, lineage, examples = read_job(remote.fetch() if remote else Path(config["job"]))
    board = TensorBoardWriter(recipe.out)

    def report(step: int, metrics: dict[str, float]) -> None:
        print(json.dumps(metrics), flush=True)
        board(step, metrics)
        if remote:
            remote.report(step, metrics)

    try:
        metrics = loop.train(recipe, examples, report=report, lineage=lineage, threads=config["threads"])
        board.close()
        if remote and ray.train.get_context().get_world_rank() == 0:
            remote.upload()
    finally:
        board.close()
        if remote:
            remote.close()
    return metrics | {"seconds_placing": placing, "seconds_in_worker": time.time() - config["started"] - placing}


def _redirect(log: Path) -> None:
    """Send this process's output to a file, including that of C libraries."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = log.open("a", buffering=1, encoding="utf-8")
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = stream


@dataclass
class _Result:
    metrics: dict[str, float] = field(default_factory=dict)
    """Rank 0's return value. (Ray's Result.metrics is None unless checkpoints are reported.)"""
    failures: list[Exception] = field(default_factory=list)
    """Of workers, or of Ray Train itself."""


class _Fitting:
    """A trainer that runs, in a thread: in the main one Ray Train's Ctrl-C handler would exit with code 0."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._result = trainer, _Result()
        self._thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def wait(self, job: TrainJob, progress: Progress | None, scratch: str) -> _Result:
        """What comes of it, at its end."""
        seen = 0
        while self.alive:
            self._thread.join(POLL_SECONDS)
            if progress:
                seen = (
                    object_store.report_progress(scratch, progress, seen)
                    if is_url(scratch)
                    else _report_progress(job, progress, seen)
                )
        return self._result

    def _fit(self) -> None:
        try:
            self._result.metrics = self._trainer.fit().return_value or {}
        except Exception as error:
            causes = getattr(error, "worker_failures", None) or {}
            self._result.failures.extend(causes.values() or [getattr(error, "controller_failure", error)])


def _report_progress(job: TrainJob, progress: Progress, seen: int) -> int:
    """Report the step of the last complete line of metrics, unless it is `seen`. Returns it."""
    for folder in (export.part_of(job.out), Path(job.out)):
        try:
            last = (folder / export.METRICS).read_text(encoding="utf-8").splitlines()[-1]
            metrics = json.loads(last)
        except (OSError, ValueError, IndexError):
            continue
        if metrics["step"] != seen:
            progress(int(metrics["step"]), int(metrics["steps"]))
        return int(metrics["step"])
    return seen


def _is_death(error: Exception) -> bool:
    """Whether a worker or its connection is gone, which a retry can fix; not an error of the data or the program."""
    from ray.exceptions import RayError, RaySystemError, RayTaskError

    if isinstance(error, RayTaskError | RaySystemError):
        return False  # The worker lives, and its task failed: a module that it cannot import, for instance.
    # Ray Train wraps the death of a worker in an exception without a public name, which has this attribute.
    return hasattr(error, "health_check_failure") or isinstance(error, RayError) or process_group.lost(error)


def _explained(failures: list[Exception], cluster: ClusterSettings, logs: str | None) -> StageError:
    """The most informative error in one sentence: of the data or the program before the loss of another worker."""
    ours = [error for error in failures if isinstance(error, LaiError)]
    others = [error for error in failures if not _is_death(error)]
    error = (ours or others or failures)[0]
    if ours:
        return StageError(f"training stopped: {error}")
    where = f" Its output is in {logs}/train-*.log." if logs else ""
    each = f"{cluster.cpus_per_worker:g} CPU and {cluster.gpus_per_worker:g} GPU"
    wanted = f"{cluster.train_workers} workers with {each} each"
    first = causes.words_or_log(error, sorted(Path(logs).glob("train-*.log")) if logs else []).rstrip(".")
    if "OutOfMemoryError" in first:
        first += ". `lai check` names settings that need less (the [train] table)"
    return StageError(f"training on {wanted} failed: {first}.{where}")
