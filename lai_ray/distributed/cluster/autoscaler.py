"""What the cluster has now, and what its autoscaler may add if that is known.  Ray -> nodes, groups

Ray has no API for what its autoscaler may start. On a cluster of `ray up`, the head has the file with the node types.
Elsewhere, as on Kubernetes, it is not known, and nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lai_ray.distributed.cluster.nodes import on_each
from lai_ray.distributed.cluster.resources import Group, Resources

SECONDS = 20.0
"""For the head to answer."""
HEAD = "node:__internal_head__"
NODE_GROUP = "ray.io/node-group"
"""Ray's label of a node with the name of its type, if the autoscaler started it."""
UNLIMITED = 10_000
MONITORS = ("autoscaler/_private/monitor.py", "autoscaler/v2/monitor.py")
"""Ray's own autoscalers. `ray start --head` always starts one; without a file it adds nothing."""


def cluster_now() -> tuple[list[Resources], list[Group] | None]:
    """The living nodes' resources, and what the autoscaler may add (None: unknown). Ray must be initialised."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return [node["Resources"] for node in alive], _groups(alive)


def _groups(alive: Sequence[Mapping[str, Any]]) -> list[Group] | None:
    import ray

    head = [dict(node) for node in alive if HEAD in node["Resources"]]
    [result] = on_each(head, SECONDS, launched, ray.get_runtime_context().gcs_address)[:1] or [None]
    try:
        file = ray.get(result, timeout=0) if result else None
    except ray.exceptions.RayError:
        file = None
    if file is None or not all(each for _, each, _ in file["types"]):
        return None
    room = max(0, file["most"] - (len(alive) - len(head)))
    return [_group(name, each, most, room, alive) for name, each, most in file["types"]]


def _group(name: str, each: Mapping[str, Any], most: int, room: int, alive: Sequence[Mapping[str, Any]]) -> Group:
    running = sum(_is_of(node, name, each) for node in alive)
    return Group(name, {kind: float(amount) for kind, amount in each.items()}, min(room, max(0, most - running)))


def _is_of(node: Mapping[str, Any], name: str, each: Mapping[str, Any]) -> bool:
    """Whether a node is one of a group: by its label, else by its resources."""
    if label := (node.get("Labels") or {}).get(NODE_GROUP):
        return bool(label == name)
    has = node["Resources"]
    return HEAD not in has and all(has.get(kind, 0) == each.get(kind, 0) for kind in ("CPU", "GPU"))


def launched(_: str, gcs_address: str) -> dict[str, Any] | None:
    """What `ray up` may start, read on the head: `types` (name, resources, at most), and `most` in all.

    No types when Ray runs without an autoscaler; None when that cannot be read here.
    """
    import yaml

    for words in _monitors():
        if f"--gcs-address={gcs_address}" not in words:
            continue
        [path] = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")][:1] or [""]
        if not path:
            return {"types": [], "most": 0}
        try:
            config = yaml.safe_load(Path(path).expanduser().read_text())
            kinds = config["available_node_types"]
            kinds.pop(config.get("head_node_type"), None)
            most = int(config.get("max_workers", UNLIMITED))
            # Nothing else leaves the head: the file may hold credentials of the cloud.
            types = [
                (name, dict(kind.get("resources") or {}), int(kind.get("max_workers", most)))
                for name, kind in kinds.items()
            ]
        except (OSError, yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError):
            return None
        return {"types": types, "most": most}
    return None


def _monitors() -> Iterator[list[str]]:
    """The command lines of Ray's autoscalers on this machine."""
    import psutil

    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if any(word.endswith(MONITORS) for word in words):
            yield words
