"""Whether a job's training fits into the memory there is, before it starts. No torch, no Ray.  config -> Table"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psutil

from lai_ray.config.config import Config
from lai_ray.config.settings import TrainSettings
from lai_ray.errors import DataError
from lai_ray.report.tables import Table
from lai_ray.storage import models
from lai_ray.training.memory import MOMENTS, Estimate, Plan, Room, estimate, fits, plan_of, remedies
from lai_ray.training.model_size import Size, size_of

GIB = 1 << 30
ASSUMED_GPU = 80 * GIB
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
TITLE = "Memory of training"


def of(config: Config) -> list[Table]:
    """The table: what each worker holds by part and moment, what is there, and what would fit where it does not."""
    if not config.iterations:
        return []
    try:
        size = size_of(_folder(config))
    except DataError as error:
        return [_unknown(str(error))]
    plan = plan_of(config.train, workers=config.cluster.train_workers, gpu=config.cluster.gpus_per_worker > 0)
    room, whose = room_of(config)
    return [table(size, plan, room, whose)]


def table(size: Size, plan: Plan, room: Room, whose: str) -> Table:
    """The table of a known model. whose: what the memory is that is there."""
    need, well = estimate(size, plan), fits(size, plan, room)
    moments = [name for name in MOMENTS if name in need.moments]
    made = Table(TITLE if well else f"{TITLE}: it does not fit", ["GiB of each worker", *moments])
    parts = dict.fromkeys(part for name in moments for part in need.moments[name])
    amounts = {part: [need.moments[name].get(part, 0) for name in moments] for part in parts}
    made.rows = [[part, *map(_gib, found)] for part, found in amounts.items() if any(found)]
    made.rows.append(["sum", *(_gib(sum(need.moments[name].values())) for name in moments)])
    counted = "counted in the weights' files" if size.exact else "computed from config.json"
    by = f" by each of {plan.workers} workers" if plan.workers > 1 else ""
    sentences = [
        f"{size.parameters:,} parameters, {counted}. An estimate, for sequences of max_length tokens.",
        f"Most is held in {need.worst}: {_gib(need.total)} GiB{by}; "
        f"{_gib(room.of_worker(plan.workers))} GiB are there ({whose}).",
    ]
    if plan.gpu:
        sentences.append(_on_the_host(need, plan, room))
    sentences.append("It fits." if well else _what_would(size, plan, room))
    made.note = " ".join(sentences)
    return made


def _on_the_host(need: Estimate, plan: Plan, room: Room) -> str:
    known = "" if room.host is None else f"; {_gib(room.host)} GiB are there"
    return f"Each worker takes {_gib(need.host_total)} GiB of its host's memory too{known}."


def _what_would(size: Size, plan: Plan, room: Room) -> str:
    found = remedies(size, plan, room, may_offload="offload" in TrainSettings.model_fields)
    if not found:
        return "It does not fit, and nothing tried here would: take a smaller model or a larger machine."
    said = (
        " ".join(f"{name}={value}" for name, value in each.changes.items()) + f" ({_gib(each.total)} GiB)"
        for each in found
    )
    return "It does not fit. What would: " + "; or ".join(said) + "."


def _unknown(why: str) -> Table:
    made = Table(TITLE, ["model", "size"])
    made.rows = [["target.model", "not known here"]]
    made.note = f"{why}. Whether its training fits cannot be said."
    return made


def _gib(count: int) -> str:
    if not count:
        return "–"
    return "<0.01" if count < GIB / 200 else f"{count / GIB:.2f}" if count < 10 * GIB else f"{count / GIB:.1f}"


def _folder(config: Config) -> str:
    """The target's folder: as the job names it, or in the local cache of the hub. Raises DataError for none."""
    place = models.locate(config.target.model, setting="target.model")
    if models.is_local(place):
        return place
    if not models.on_hub(place):
        raise DataError(f"{place} is in an object store and not on this machine, so its size is not known")
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(place, "config.json")
    if not isinstance(cached, str):
        raise DataError(f"{place} is a name on the hub and not on this machine, so its size is not known")
    return str(Path(cached).parent)


def room_of(config: Config) -> tuple[Room, str]:
    """The memory that the job's workers will find, as far as this machine can tell, and whose it is in words."""
    cluster = config.cluster
    here = "of this machine; the cluster's may differ" if cluster.address else "of this machine"
    if not cluster.gpus_per_worker:
        shared = f", shared by {cluster.train_workers} workers" if cluster.train_workers > 1 else ""
        return Room(host_memory(), shared=True), f"a worker's part of what is free in the memory {here}{shared}"
    share = min(1.0, cluster.gpus_per_worker)
    cards = gpu_memories()
    part = "" if share == 1 else f"{share:g} of "
    if not cards:
        return Room(int(ASSUMED_GPU * share), shared=False), f"no GPU is here; {part}a card of 80 GiB is assumed"
    all_here = not cluster.address and len(cards) >= cluster.train_workers * cluster.gpus_per_worker
    host = host_memory() if all_here else None
    return Room(int(min(cards) * share), shared=False, host=host), f"{part}the smallest of {len(cards)} GPUs {here}"


def host_memory() -> int:
    """Bytes that programs can still take on this machine, or in this container."""
    free = int(psutil.virtual_memory().available)
    for place in CGROUP_LIMITS:
        try:
            free = min(free, int(Path(place).read_text()))
        except (OSError, ValueError):  # No such file, or "max".
            continue
    return free


def gpu_memories() -> list[int]:
    """Bytes of each GPU here, as nvidia-smi says; none where it is not there or says something else."""
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
        return [int(line) << 20 for line in said.splitlines() if line.strip()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
