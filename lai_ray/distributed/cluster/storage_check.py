"""Checks that every node can read and write the storage, for `lai check --cluster`.  Config -> nodes"""

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
from lai_ray.storage.store import Store, is_url

SECONDS = 60.0
"""For all nodes to answer."""


@dataclass(frozen=True)
class Node:
    """One node of the cluster, and the result of its check."""

    name: str
    """Its address and its host's name."""
    resources: dict[str, float]
    seconds: float | None = None
    """For writing, listing, reading and removing a small file."""
    free: int | None = None
    """Bytes for copies of models, where the storage is an object store."""
    error: str = ""


@dataclass(frozen=True)
class Cluster:
    """The nodes, their resources, and what may be added."""

    nodes: list[Node]
    resources: list[Resources]
    groups: list[Group] | None
    """What the autoscaler may add; None if unknown."""


def cluster(config: Config) -> Cluster:
    """Every living node, after it has tried the job's storage. Ray is started or joined, and left as it was.

    Raises what `connect.start` raises, and StageError if this machine itself cannot write the storage.
    """
    storage = config.storage if is_url(config.storage) else os.path.abspath(config.storage)
    path = f"{storage.rstrip('/')}/.probe-{uuid.uuid4().hex}"
    ours = start(config)
    import ray

    store = Store(path)
    try:
        store.put("driver", path.encode())
        alive = [node for node in ray.nodes() if node["Alive"]]
        results = on_each(alive, SECONDS, _check, path)
        nodes = [_node(node, result, store) for node, result in zip(alive, results, strict=True)]
        return Cluster(nodes, *cluster_now())
    finally:
        with suppress(StageError):  # The nodes' own errors say why.
            store.delete("")
        if ours:
            ray.shutdown()


def _node(node: dict[str, Any], result: Any, store: Store) -> Node:
    import ray

    name = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
    resources = {kind: node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU")}
    try:
        found = ray.get(result, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return Node(name, resources, error=f"no answer for {SECONDS:g} s: the storage or Ray hangs there")
    except ray.exceptions.RayError as error:
        return Node(name, resources, error=f"the task there died: {str(error).strip().splitlines()[-1]}")
    if not found.get("error") and not store.exists(node["NodeID"]):
        found["error"] = "the driver does not see the file that it wrote: it has another disk under that path"
    return Node(name, resources, **found)


def _check(mine: str, path: str) -> dict[str, Any]:
    """On a node: read the driver's file, and write, list, read and remove one. Returns fields of `Node`."""
    started = time.monotonic()
    try:
        try:
            # Not created where it is missing: that would be a folder of this node alone.
            store = Store(path, create=False)
        except ConfigError:
            store = None
        if store is None or store.get("driver") != path.encode():
            return {"error": "it does not see the driver's file: the disk is not mounted there, or another one is"}
        store.put(mine, b"kept")
        store.put(f"{mine}.gone", b"gone")
        if f"{mine}.gone" not in store.sizes() or store.get(f"{mine}.gone") != b"gone":
            return {"error": "it could not read back the file that it wrote"}
        store.remove([f"{mine}.gone"])
        seconds = time.monotonic() - started
        return {"seconds": seconds} | ({"free": shutil.disk_usage(model_folders.cache()).free} if is_url(path) else {})
    except LaiError as error:
        return {"error": str(error)}


def table(nodes: list[Node], storage: str) -> Table:
    """A row a node."""
    made = Table(
        f"Nodes, and their access to {storage}", ["node", "CPUs", "GPUs", "room for models", "storage"],
        note="Each living node wrote, listed, read and removed a small file there."
        + (" Models are copied once to each node, into LAI_CACHE." if is_url(storage) else ""),
    )  # fmt: skip
    for node in nodes:
        free = "–" if node.free is None else f"{node.free / 1e9:,.0f} GB"
        access = f"ok ({node.seconds:.2f} s)" if node.seconds is not None else "no"
        made.rows.append([node.name, *(f"{node.resources[kind]:g}" for kind in ("CPU", "GPU")), free, access])
    return made


def refuse(nodes: list[Node], storage: str) -> None:
    """Raises ConfigError that names each node which cannot use the storage, and why."""
    if wrong := [node for node in nodes if node.error]:
        lines = "\n".join(f"  {node.name}: {node.error}" for node in wrong)
        raise ConfigError(
            f"storage = {storage!r} cannot be used by {len(wrong)} of {len(nodes)} nodes:\n{lines}\n"
            "Mount it there, or give those nodes the keys (or the role) that the others have, before anything is paid."
        )
