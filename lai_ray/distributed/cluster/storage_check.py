"""Whether every node reads and writes the storage, and has room for models: `lai check --cluster`.  Config -> nodes"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lai_ray.config.config import Config
from lai_ray.distributed.cluster.autoscaler import cluster_now
from lai_ray.distributed.cluster.nodes import on_each
from lai_ray.distributed.cluster.resources import Group, Resources
from lai_ray.distributed.connect import start
from lai_ray.errors import ConfigError, LaiError, StageError
from lai_ray.report.tables import Table
from lai_ray.storage import model_folders
from lai_ray.storage.objects import Objects, is_url

PATIENCE = 60.0
"""Seconds for all nodes to answer."""


@dataclass(frozen=True)
class Node:
    """One node of the cluster, and what it said."""

    name: str
    """Its address and its host's name."""
    resources: dict[str, float]
    seconds: float | None = None
    """That writing, listing, reading and removing a small file took there."""
    free: int | None = None
    """Bytes for copies of models, where the storage is an object store."""
    error: str = ""


@dataclass(frozen=True)
class Cluster:
    """What there is."""

    nodes: list[Node]
    resources: list[Resources]
    groups: list[Group] | None
    """What the autoscaler may add, where that is known."""


def cluster(config: Config) -> Cluster:
    """Every node that is alive, after it tried the job's storage. Ray is started or joined, and left as it was found.

    Raises what `connect.start` raises, and StageError where this machine itself cannot write the storage.
    """
    where = config.storage if is_url(config.storage) else os.path.abspath(config.storage)
    place = f"{where.rstrip('/')}/.probe-{uuid.uuid4().hex}"
    ours = start(config)
    import ray

    here = Objects(place)
    try:
        here.put("driver", place.encode())
        return Cluster(_asked(place, here), *cluster_now())
    finally:
        with suppress(StageError):  # What the nodes found says why.
            here.delete("")
        if ours:
            ray.shutdown()


def _asked(place: str, here: Objects) -> list[Node]:
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    asked = on_each(alive, PATIENCE, _tried, place)
    return [_heard(node, answer, here) for node, answer in zip(alive, asked, strict=True)]


def _heard(node: dict[str, Any], answer: Any, here: Objects) -> Node:
    import ray

    name = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
    resources = {kind: node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU")}
    try:
        said = ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return Node(name, resources, error=f"no answer for {PATIENCE:g} s: the storage hangs there, or Ray does")
    except ray.exceptions.RayError as error:
        return Node(name, resources, error=f"the task there died: {str(error).strip().splitlines()[-1]}")
    if not said.get("error") and not here.exists(node["NodeID"]):
        said["error"] = "what it writes is not seen from here: it has another disk under that path"
    return Node(name, resources, **said)


def _tried(mine: str, place: str) -> dict[str, Any]:
    """What a node finds: it reads what the driver wrote, and writes, lists, reads and removes a file of its own."""
    began = time.monotonic()
    try:
        try:
            # Not made where it is missing: that would be a folder of this node's alone.
            there = Objects(place, create=False)
        except ConfigError:
            there = None
        if there is None or there.get("driver") != place.encode():
            return {"error": "it does not see what the driver wrote there: the disk is not mounted on it, or another"}
        there.put(mine, b"kept")
        there.put(f"{mine}.gone", b"gone")
        if f"{mine}.gone" not in there.sizes() or there.get(f"{mine}.gone") != b"gone":
            return {"error": "what it wrote there was not there when it looked"}
        there.remove([f"{mine}.gone"])
        seconds = time.monotonic() - began
        return {"seconds": seconds} | ({"free": shutil.disk_usage(model_folders.cache()).free} if is_url(place) else {})
    except LaiError as error:
        return {"error": str(error)}


def table(found: list[Node], storage: str) -> Table:
    """A row a node."""
    made = Table(
        f"Nodes, and {storage} as each sees it", ["node", "CPUs", "GPUs", "room for models", "storage"],
        note="Each that is alive now wrote, listed, read and removed a small file there."
        + (" Models are copied once to each node: LAI_CACHE says where." if is_url(storage) else ""),
    )  # fmt: skip
    for node in found:
        free = "–" if node.free is None else f"{node.free / 1e9:,.0f} GB"
        said = f"well, {node.seconds:.2f} s" if node.seconds is not None else "no"
        made.rows.append([node.name, *(f"{node.resources[kind]:g}" for kind in ("CPU", "GPU")), free, said])
    return made


def refuse(found: list[Node], storage: str) -> None:
    """Raises ConfigError that names each node which cannot use the storage, and why."""
    if wrong := [node for node in found if node.error]:
        lines = "\n".join(f"  {node.name}: {node.error}" for node in wrong)
        raise ConfigError(
            f"storage = {storage!r} cannot be used by {len(wrong)} of {len(found)} nodes:\n{lines}\n"
            "Mount it there, or give those nodes the keys (or the role) that the others have, before anything is paid."
        )
