"""Whether this machine has what a run needs at once: its storage, its models, GPUs.  Job -> findings"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from lai_ray.cli.check import memory
from lai_ray.config.config import Config
from lai_ray.distributed import connect
from lai_ray.errors import LaiError, StageError
from lai_ray.stages.job import Job
from lai_ray.storage import models
from lai_ray.storage.store import Store, is_url
from lai_ray.training.model_size import bytes_of
from lai_ray.training.rendering import Finding


def findings(job: Job, *, cluster: bool) -> list[Finding]:
    """Storage and models; without a cluster, CPUs and GPUs too. Asks an object store, and the hub about its models."""
    config = job.config
    steps: list[Callable[[], object]] = [partial(_writable, config.storage), *_models(job)]
    if config.iterations and not is_url(config.storage):
        steps.append(partial(_room, config))
    if not (cluster or config.cluster.address or os.environ.get("RAY_ADDRESS", "local") != "local"):
        steps.append(partial(connect.fits, config, resources()))
    return list(refused(steps))


def refused(steps: Sequence[Callable[[], object]]) -> Iterator[Finding]:
    """The error of each step that raises one."""
    for step in steps:
        try:
            step()
        except LaiError as error:
            yield Finding(str(error))


def _models(job: Job) -> Iterator[Callable[[], object]]:
    """Each raises ConfigError where a model is not there."""
    config = job.config
    # With recorded answers it is needed late, if at all: the look at it says so.
    named = [] if config.target.attempts else [("target.model", config.target.model)]
    named += [("contrast.encoder", config.contrast.encoder)] if job.names_encoder else []
    named += [("instructor.model", config.instructor.model)] if job.names_instructor else []
    for setting, name in named:
        yield partial(models.check_there, name, setting=setting)


def _writable(storage: str) -> None:
    """Raises StageError where nothing can be written there. Leaves nothing behind."""
    if is_url(storage):
        probe = Store(f"{storage.rstrip('/')}/.probe-{uuid.uuid4().hex}")
        probe.put("probe", b"")
        probe.delete("")
        return
    try:
        with tempfile.TemporaryFile(dir=_nearest(storage)):
            pass
    except OSError as error:
        raise StageError(f"storage = {storage!r}: it cannot be written ({error}). Name another folder.") from error


def _nearest(storage: str) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = Path(storage).absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _room(config: Config) -> None:
    """Raises StageError where the disk has no room for one trained model."""
    try:
        needed = bytes_of(memory.folder_of(config.target.model, "target.model"))
    except LaiError:  # Not known here.
        return
    free = shutil.disk_usage(_nearest(config.storage)).free
    if free < needed:
        raise StageError(
            f"storage = {config.storage!r}: a trained model needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are "
            "free. Free disk space, or name another storage."
        )


def resources() -> dict[str, float]:
    """CPUs and GPUs of this machine as Ray would count them; GPUs only of NVIDIA."""
    gpus, shown = len(memory.gpu_memories()), os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        gpus = min(gpus, len([one for one in shown.split(",") if one.strip() not in ("", "-1")]))
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(gpus)}
