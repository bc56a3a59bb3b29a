"""Ray Train around the training loop: workers placed, watched, and started again when one dies.  TrainJob -> Trained

The loop itself is lai_ray/training/sft.py and knows nothing of Ray. Workers get the place of a job file on the storage
that the model goes to, so no text travels through the driver's memory, and write the model there themselves. Where that
is an object store, each worker has its job and the base model copied to its node's disk, the model is made there, and
rank 0 puts it into the store when it is whole (`distributed/afar.py`).
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
from lai_ray.distributed.fit import object_store
from lai_ray.errors import LaiError, StageError
from lai_ray.storage import model_folders
from lai_ray.storage.objects import is_url
from lai_ray.training import checkpoints, export, process_group
from lai_ray.training.recipe import Conversation, recipe_for, write_job

if TYPE_CHECKING:
    from lai_ray.config.settings import ClusterSettings
    from lai_ray.contracts import Trained, TrainJob
    from lai_ray.distributed.fit.trainer import LeanTrainer

Progress = Callable[[int, int], None]

ATTEMPTS = 4
"""How often a training is begun at one place before the deaths of its workers are given up on."""
POLL_SECONDS = 0.3
RAY_TRAIN_ENV = {
    # The controller asks its workers how they are every 2 s by default: every training would end so much later. Asked
    # five times a second, they and it spend 2% of a processor on answering.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # One process and some threads less beside the workers.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Workers stay where they are, so that relative paths mean what they mean in the driver.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Defaults of ours for Ray Train; what the user has set in the environment stays."""


def train(job: TrainJob, cluster: ClusterSettings, logs: str | None, progress: Progress | None = None) -> Trained:
    """Full-parameter fine-tuning on `cluster.train_workers` workers. Ray must be initialized; a Tune trial may call it.

    logs: folder for the workers' output (train-<rank>.log); None leaves it to Ray. progress: called with (steps done,
    steps). What `job.out` already holds under this job's name is returned as it is. A worker that dies is replaced and
    the training begun again, or gone on with from its last state (`cluster.train_state_every`), an earlier driver's
    too, with the same result. Raises StageError in the worker's own words; what was at `job.out` before stays.
    """
    from lai_ray.contracts import Trained

    done, timings = model_folders.lineage_of(job.out), {}
    if done is None or done.get("name") != job.name:
        with _scratch(job, cluster) as scratch:
            timings = _until_whole(job, cluster, scratch, logs and os.path.abspath(logs), progress)
        done = model_folders.lineage_of(job.out)
    if done is None or done.get("name") != job.name:
        raise StageError(f"{job.out}: the workers finished, but the model is not here. Do all nodes see this folder?")
    return Trained(path=job.out, metrics=done["metrics"] | timings)


@contextmanager
def _scratch(job: TrainJob, cluster: ClusterSettings) -> Iterator[str]:
    """A folder beside `job.out` for the job file and Ray Train's own files, gone at the end."""
    if is_url(job.out):
        with object_store.scratch(job) as url:
            yield url
        return
    out = Path(job.out).absolute()
    scratch = out.with_name(f".{out.name}.scratch")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        conversations = (Conversation(e.id, e.messages, e.turns) for e in job.examples)
        recipe = recipe_for(job, state_every=cluster.train_state_every)
        write_job(scratch / "job.json", recipe, conversations, job.lineage | {"name": job.name})
    except OSError as error:
        raise StageError(f"{job.out}: the training cannot be prepared ({error}). Is its folder writable?") from error
    try:
        yield str(scratch)
    finally:
        for folder in (scratch, export.part_of(job.out)):
            shutil.rmtree(folder, ignore_errors=True)


def _until_whole(
    job: TrainJob, cluster: ClusterSettings, scratch: str, logs: str | None, progress: Progress | None
) -> dict[str, float]:
    """Begin until a training ends well, or in a way that another try cannot mend. Rank 0's metrics."""
    from_here, stood = 0, None
    for attempt in itertools.count(1):
        trainer = _trainer(job, cluster, scratch, logs, attempt)
        ended = _fitted(trainer, job, progress, scratch)
        made = model_folders.lineage_of(job.out)
        if not ended.failures or (made and made.get("name") == job.name):  # Who dies after that has done its work.
            return ended.metrics
        # A state that has been written since is progress: what died there may die again further on.
        stands = None if is_url(job.out) else checkpoints.last_whole(job.out)
        from_here, stood = (from_here if stands == stood else 0) + 1, stands
        if from_here == ATTEMPTS or not all(_is_death(error) for error in ended.failures):
            raise _explained(ended.failures, cluster, logs)
    raise AssertionError("unreachable")


def _trainer(job: TrainJob, cluster: ClusterSettings, scratch: str, logs: str | None, attempt: int) -> LeanTrainer:
    for name, value in RAY_TRAIN_ENV.items():
        os.environ.setdefault(name, value)
    # Ray Train tries so long to place its workers, and then again.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(min(60.0, cluster.stall_seconds))
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.config import LoggingConfig

    from lai_ray.distributed.fit.trainer import LeanTrainer

    resources = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    # Deaths are counted here and not by Ray, which would also begin a training again whose data is wrong.
    waits = max(1, math.ceil(cluster.stall_seconds / 60))
    return LeanTrainer(
        _work,
        train_loop_config={
            "job": f"{scratch}/job.json", "logs": logs, "threads": max(1, int(cluster.cpus_per_worker)),
            "began": time.time(), "gpu": cluster.gpus_per_worker > 0,
        },
        scaling_config=ScalingConfig(
            num_workers=cluster.train_workers, use_gpu=cluster.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            # Never a name that was used: Ray Train would go on from what it finds under it.
            name=f"{current_stage.now().replace('/', '.')}-{job.name}-{attempt}",
            storage_path=f"{scratch}/ray",
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=waits),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )  # fmt: skip


def _work(config: dict[str, Any]) -> dict[str, float]:
    """What every worker does."""
    import ray.train

    if config["logs"]:
        _redirect(Path(config["logs"]) / f"train-{ray.train.get_context().get_world_rank()}.log")
    placed = time.time() - config["began"]
    if not config["gpu"]:  # Ray shows GPUs to those too that asked for none.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from lai_ray.training import sft
    from lai_ray.training.recipe import read_job
    from lai_ray.training.tensorboard import Board

    there = object_store.Afar(config["job"]) if is_url(config["job"]) else None
    recipe, lineage, examples = read_job(there.fetched() if there else Path(config["job"]))
    board = Board(recipe.out)

    def report(step: int, metrics: dict[str, float]) -> None:
        print(json.dumps(metrics), flush=True)
        board(step, metrics)
        if there:
            there.tell(step, metrics)

    try:
        metrics = sft.train(recipe, examples, report=report, lineage=lineage, threads=config["threads"])
        board.close()
        if there and ray.train.get_context().get_world_rank() == 0:
            there.deliver()
    finally:
        board.close()
        if there:
            there.close()
    return metrics | {"seconds_placing": placed, "seconds_in_worker": time.time() - config["began"] - placed}


def _redirect(log: Path) -> None:
    """This process's output, that of its libraries in C too, goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = log.open("a", buffering=1, encoding="utf-8")
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = stream


@dataclass
class _Ended:
    metrics: dict[str, float] = field(default_factory=dict)
    """What rank 0 returned. (Ray's Result.metrics is None unless checkpoints are reported.)"""
    failures: list[Exception] = field(default_factory=list)
    """Of workers, or of Ray Train itself."""


def _fitted(trainer: LeanTrainer, job: TrainJob, progress: Progress | None, scratch: str) -> _Ended:
    """Run the trainer to its end.

    It runs in a thread: in the main one Ray Train would take over Ctrl-C and end the program as if all were well.
    """
    ended = _Ended()

    def fit() -> None:
        try:
            ended.metrics = trainer.fit().return_value or {}
        except Exception as error:
            causes = getattr(error, "worker_failures", None) or {}
            ended.failures.extend(causes.values() or [getattr(error, "controller_failure", error)])

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    seen = 0
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        seen = object_store.told(scratch, progress, seen) if is_url(scratch) else _told(job, progress, seen)
    return ended


def _told(job: TrainJob, progress: Progress | None, seen: int) -> int:
    """Tell how far the training is, by the last whole line of its metrics."""
    if progress is None:
        return seen
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
    """A worker or its connection is gone, which another attempt can mend; not an error of data or program."""
    from ray.exceptions import RayError, RaySystemError, RayTaskError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    if isinstance(error, RayTaskError | RaySystemError):
        return False  # The worker lives and what it was given failed: a module it cannot import, say.
    if isinstance(error, WorkerHealthCheckFailedError | RayError):
        return True
    return process_group.lost(error)


def _explained(failures: list[Exception], cluster: ClusterSettings, logs: str | None) -> StageError:
    """One sentence of the worker that knows best: its own error, else that of one that lost another."""
    ours = [error for error in failures if isinstance(error, LaiError)]
    others = [error for error in failures if not _is_death(error)]
    error = (ours or others or failures)[0]
    if ours:
        return StageError(f"training stopped: {error}")
    where = f" Its output is in {logs}/train-*.log." if logs else ""
    each = f"{cluster.cpus_per_worker:g} CPU and {cluster.gpus_per_worker:g} GPU"
    wanted = f"{cluster.train_workers} workers with {each} each"
    cause = getattr(error, "cause", None) or error
    first = (str(cause).strip().splitlines() or ["no message"])[0].rstrip(".")
    if type(cause).__name__ == "OutOfMemoryError":
        first += ". `lai check` names settings that need less (the [train] table)"
    return StageError(f"training on {wanted} failed: {type(cause).__name__}: {first}.{where}")
