"""What every actor pool here needs: names, log files, results as they come, stall detection, error messages."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError, WorkerCrashedError

from lai_ray.common import current_stage
from lai_ray.distributed import causes
from lai_ray.errors import LaiError, StageError

RESTARTED = {"max_restarts": 4, "max_task_retries": -1}
"""Options of an actor that Ray restarts when its node is lost. Retries are unlimited, as each second before Ray notices
the loss uses one; the limit on restarts ends a call that kills its actor every time."""
DEATHS = (RayActorError, WorkerCrashedError, OutOfMemoryError)
"""Ray's errors for a process that is gone."""


def name_for(what: str) -> str:
    """A unique name for an actor on Ray's dashboard: "quickstart/iteration_0/instruct/caller-1a2b3c4d"."""
    return f"{current_stage.now()}/{what}-{uuid.uuid4().hex[:8]}"


def to_log(logs: str | None, role: str) -> None:
    """Redirect this process's output, libraries and children included, to `<logs>/<role>-<pid>.log`.

    Without a folder, or where it cannot be written, the output stays in Ray's worker log.
    """
    if logs is None:
        return
    with contextlib.suppress(OSError):
        os.makedirs(logs, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        log = os.open(os.path.join(logs, f"{role}-{os.getpid()}.log"), flags, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)


def outcomes(
    calls: Iterable[tuple[Any, ...]], *, at_once: int, stall: float, what: str, needs: dict[str, Any]
) -> Iterator[tuple[int, Any]]:
    """(index of the call, its result) as they come, of calls (remote method, *arguments), `at_once` in flight.

    Raises StageError when one fails or none finishes for `stall` seconds; a LaiError of an actor is raised unchanged.
    """
    numbered, done = enumerate(calls), 0
    in_flight = {method.remote(*args): i for i, (method, *args) in itertools.islice(numbered, at_once)}
    last = time.monotonic()
    while in_flight:
        ready, _ = ray.wait(list(in_flight), timeout=max(0.1, stall - (time.monotonic() - last)))
        if not ready:
            raise StageError(stalled(what, done, stall, needs))
        last, done = time.monotonic(), done + 1
        i = in_flight.pop(ready[0])
        try:
            result = ray.get(ready[0])
        except RayError as error:
            raise explained(error, what) from error
        in_flight |= {method.remote(*args): j for j, (method, *args) in itertools.islice(numbered, 1)}
        yield i, result


def stalled(what: str, done: int, seconds: float, needs: dict[str, Any]) -> str:
    """The message for a stalled pool: its progress, what one actor asks for, and what the cluster has."""
    units = (("num_cpus", 1, "CPU"), ("num_gpus", 1, "GPU"), ("memory", 2**30, "GiB of memory"))
    wanted = ", ".join(f"{needs[key] / unit:.3g} {name}" for key, unit, name in units if needs.get(key))
    return (
        f"{what}: no progress for {seconds:g} s, after {done} results. One actor asks for {wanted or 'nothing'}; "
        f"the cluster has {_kinds(ray.cluster_resources())}, of which free {_kinds(ray.available_resources())}. "
        "If the actors could not be placed, ask for less or add nodes (cluster.*_replicas, cluster.*_per_replica); if "
        "the work is only slow, raise cluster.stall_seconds. See logs/ for the actors' output. Results so far are "
        "kept; run the same command again to continue."
    )


def _kinds(resources: dict[str, float]) -> str:
    counted = ", ".join(f"{resources.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
    return f"{counted}, {resources.get('memory', 0) / 2**30:.3g} GiB of memory"


def explained(error: BaseException, what: str, logs: str | None = None) -> LaiError:
    """A worker's error as one of ours: its own words, then where the rest is; a LaiError as it was raised there.

    logs: the folder with the workers' output, if any.
    """
    chain = list(causes.chain_of(error))
    for cause in chain:
        if isinstance(cause, LaiError) and not isinstance(cause, RayTaskError):
            return cause
    dead = next((each for each in chain if isinstance(each, DEATHS)), None)
    if dead is None or getattr(dead, "actor_init_failed", False):
        return StageError(f"{what} failed in a worker: {causes.words(error)}. {_where(logs)} has the traceback.")
    reason = causes.of_death(dead, logs)
    usually = "" if ".log)" in reason else (
        f"{causes.suspects()} Usually the machine has too little memory for it, or one request crashes it."
    )  # fmt: skip
    return StageError(
        f"{what}: a worker process died, and again after a restart{reason}.{usually} {_where(logs)} has its output. "
        "Results so far are kept; run the same command again to continue."
    )


def _where(logs: str | None) -> str:
    return logs or "logs/"
