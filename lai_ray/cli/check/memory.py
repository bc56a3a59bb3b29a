"""Whether a job's training fits into memory, before it starts. Loads neither torch nor Ray.  config -> Table"""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil

from lai_ray.config.config import Config
from lai_ray.errors import DataError
from lai_ray.report.tables import Table
from lai_ray.storage import models
from lai_ray.training.memory import Plan, Room, estimate, fits, remedies
from lai_ray.training.model_size import Size, size_of

GIB = 1 << 30
ASSUMED_GPU = 80 * GIB
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
TITLE = "Memory of training"
TIGHT = "it does not fit"


def of(config: Config) -> list[Table]:
    """What each worker holds by part and moment, what memory there is, and, where it is too little, what would fit."""
    if not config.iterations:
        return []
    try:
        size = size_of(folder_of(config.target.model, "target.model"))
    except DataError as error:
        why = f"{error}. Whether its training fits is not known."
        return [Table(TITLE, ["model", "size"], [["target.model", "not known here"]], note=why)]
    plan = Plan(config.train, workers=config.cluster.train_workers, gpu=config.cluster.gpus_per_worker > 0)
    return [table(size, plan, *room_of(config))]


def table(size: Size, plan: Plan, room: Room, whose: str) -> Table:
    """The table of a known model. whose: the memory's owner, in words."""
    need, enough = estimate(size, plan), fits(size, plan, room)
    parts = dict.fromkeys(part for moment in need.moments.values() for part in moment)
    rows = {part: [moment.get(part, 0) for moment in need.moments.values()] for part in parts}
    rows = {part: amounts for part, amounts in rows.items() if any(amounts)}
    rows["sum"] = [sum(moment.values()) for moment in need.moments.values()]
    by = f" by each of {plan.workers} workers" if plan.workers > 1 else ""
    there = _gib(room.of_worker(plan.workers))
    sentences = [
        f"{size.parameters:,} parameters. An estimate, for sequences of max_length tokens.",
        f"Most is held in {need.worst}: {_gib(need.total)} GiB{by}; available: {there} GiB ({whose}).",
    ]
    if plan.gpu:
        known = f"; available: {_gib(room.host)} GiB for all of them" if room.host else ""
        sentences.append(f"Each worker also takes {_gib(need.host)} GiB of its host's memory{known}.")
    sentences.append("It fits." if enough else _what_would(size, plan, room))
    return Table(
        TITLE if enough else f"{TITLE}: {TIGHT}",
        ["GiB of each worker", *need.moments],
        [[part, *map(_gib, amounts)] for part, amounts in rows.items()],
        note=" ".join(sentences),
    )


def _what_would(size: Size, plan: Plan, room: Room) -> str:
    options = [
        " ".join(f"{name}={str(value).lower()}" for name, value in changes.items())
        + f" ({_gib(estimate(size, plan.with_(changes)).total)} GiB)"
        for changes in remedies(size, plan, room)
    ]
    if not options:
        return "It does not fit, with none of the settings tried here: take a smaller model or a larger machine."
    return f"It does not fit. What would: {'; or '.join(options)}."


def _gib(count: int) -> str:
    if not count:
        return "–"
    return "<0.01" if count < GIB / 200 else f"{count / GIB:.2f}" if count < 10 * GIB else f"{count / GIB:.1f}"


def folder_of(name: str, setting: str) -> str:
    """A model's folder: as the job names it, or in the local cache of the hub. Raises DataError for none."""
    model = models.locate(name, setting=setting)
    if models.is_local(model):
        return model
    if not models.on_hub(model):
        raise DataError(f"{model} is in an object store and not on this machine, so its size is not known")
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(model, "config.json")
    if not isinstance(cached, str):
        raise DataError(f"{model} is a name on the hub and not on this machine, so its size is not known")
    return str(Path(cached).parent)


def room_of(config: Config) -> tuple[Room, str]:
    """The memory available to the job's workers, as far as this machine shows, and whose it is, in words."""
    cluster = config.cluster
    here = "of this machine; the cluster's may differ" if cluster.address else "of this machine"
    if not cluster.gpus_per_worker:
        shared = f", shared by {cluster.train_workers} workers" if cluster.train_workers > 1 else ""
        return Room(host_memory(), shared=True), f"a worker's part of the free memory {here}{shared}"
    share = min(1.0, cluster.gpus_per_worker)
    gpus = gpu_memories()
    part = "" if share == 1 else f"{share:g} of "
    if not gpus:
        return Room(int(ASSUMED_GPU * share), shared=False), f"no GPU here; {part}one of 80 GiB is assumed"
    all_here = not cluster.address and len(gpus) >= cluster.train_workers * cluster.gpus_per_worker
    host = host_memory() if all_here else None
    return Room(int(min(gpus) * share), shared=False, host=host), f"{part}the smallest of {len(gpus)} GPUs {here}"


def host_memory() -> int:
    """Bytes still free on this machine, or in this container."""
    free = int(psutil.virtual_memory().available)
    for path in CGROUP_LIMITS:
        try:
            free = min(free, int(Path(path).read_text()))
        except (OSError, ValueError):  # No such file, or "max".
            continue
    return free


def gpu_memories() -> list[int]:
    """Bytes of each GPU here, from nvidia-smi; none where it is not installed or fails."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return [int(line) << 20 for line in output.splitlines() if line.strip()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
