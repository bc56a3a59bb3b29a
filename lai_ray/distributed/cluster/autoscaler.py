"""What is in the cluster now, and what its autoscaler may add as far as anybody tells.  Ray -> nodes, groups

Ray itself keeps no list of what its autoscaler may start (one that is run by somebody may). Where the launcher started
it, the head has the file with the node types. Elsewhere, as on Kubernetes, it is not known: then nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lai_ray.distributed.cluster.nodes import on_each
from lai_ray.distributed.cluster.resources import Group, Resources

PATIENCE = 20.0
"""Seconds for the head to look."""
HEAD = "node:__internal_head__"
NODE_GROUP = "ray.io/node-group"
"""Ray's label of a node with the name of its type, where the autoscaler gave it one."""
UNLIMITED = 10_000
MONITORS = ("autoscaler/_private/monitor.py", "autoscaler/v2/monitor.py")
"""Ray's own autoscalers. `ray start --head` always starts one; without a file it adds nothing."""


def cluster_now() -> tuple[list[Resources], list[Group] | None]:
    """The living nodes' resources, and what the autoscaler may add (None: nobody tells). Ray must be initialised."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return [node["Resources"] for node in alive], _groups(alive)


def _groups(alive: Sequence[Mapping[str, Any]]) -> list[Group] | None:
    import ray
    from ray._private.state import state

    if told := state.get_cluster_config():
        kinds = [(group.name, dict(group.resources), group.max_count) for group in told.node_group_configs]
        return [_group(name, each, most, alive) for name, each, most in kinds]
    head = [dict(node) for node in alive if HEAD in node["Resources"]]
    [answer] = on_each(head, PATIENCE, launched, ray.get_runtime_context().gcs_address)[:1] or [None]
    try:
        file = ray.get(answer, timeout=0) if answer else None
    except ray.exceptions.RayError:
        file = None
    if file is None or not all(each for _, each, _ in file["types"]):
        return None
    workers = len(alive) - len(head)
    groups = [_group(name, each, most, alive) for name, each, most in file["types"]]
    return [Group(g.name, g.each, max(0, min(g.more, file["most"] - workers))) for g in groups]


def _group(name: str, each: Mapping[str, Any], most: int, alive: Sequence[Mapping[str, Any]]) -> Group:
    there = sum(_is_of(node, name, each) for node in alive)
    more = UNLIMITED if most < 0 else max(most - there, 0)  # -1 is no limit.
    return Group(name, {kind: float(amount) for kind, amount in each.items()}, more)


def _is_of(node: Mapping[str, Any], name: str, each: Mapping[str, Any]) -> bool:
    """Whether a node is one of a group: by its label, else by what it lends."""
    if label := (node.get("Labels") or {}).get(NODE_GROUP):
        return bool(label == name)
    lent = node["Resources"]
    return HEAD not in lent and all(lent.get(kind, 0) == each.get(kind, 0) for kind in ("CPU", "GPU"))


def launched(_: str, gcs_address: str) -> dict[str, Any] | None:
    """What the cluster's launcher may start, asked on the head: `types` (name, resources, at most), `most` of all.

    No types where Ray runs without an autoscaler; None where that is not to be seen from here.
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
            # Only this of it: the file holds the way in to the cloud.
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
