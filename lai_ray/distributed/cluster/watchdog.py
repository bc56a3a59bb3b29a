"""What no call says by itself: that a node is gone, and what a stage that stands still is waiting for.  -> lines

A call that has no place waits without a word until its verb gives up (`cluster.stall_seconds`). Meanwhile this says,
ever less often, what asks for a place, what is free, and what the autoscaler could not start.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import ray

from lai_ray.common.progress import Progress
from lai_ray.distributed.cluster.periodic import Regularly
from lai_ray.distributed.cluster.resources import describe

EVERY = 2.0
"""Seconds between two looks at the nodes."""
FIRST_WORD = 60.0
"""Seconds without any progress before it is said what waits for a place; then after twice as long, and so on."""
FIRST_LOOK = 5 / 6
"""Of that time, after which what waits is looked at, and again at its end: only what stays is said."""
AWAITED = ("EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE")
"""Why a node goes that nobody misses."""


class Watchdog:
    """Watches the nodes and the progress of one run, while Ray is there."""

    def __init__(self, progress: Progress) -> None:
        """Ray must be initialised."""
        self._progress = progress
        self._there = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        self._seen: Any = None
        self._moved, self._patience = time.monotonic(), FIRST_LOOK * FIRST_WORD
        self._waiting: Counter[str] = Counter()
        self._regularly = Regularly(self._look, EVERY, "watchdog")

    def close(self) -> None:
        """Stop."""
        self._regularly.close()

    def _look(self) -> None:
        self._nodes(ray.nodes())
        now = self._progress.folder, dict(self._progress.figures)
        if now != self._seen:
            self._seen, self._moved, self._patience = now, time.monotonic(), FIRST_LOOK * FIRST_WORD
            self._waiting.clear()
        still = time.monotonic() - self._moved
        if still > self._patience:
            found = status()
            # What was there at the look before, too: between two steps something always waits for a moment.
            before, self._waiting = self._waiting, wanted(found)
            self._patience = still + (1 - FIRST_LOOK) * FIRST_WORD
            if stays := before & self._waiting:
                self._patience = 2 * still
                self._progress.say(f"  {told(found, stays, still)}", style="yellow", facts={"seconds_still": still})

    def _nodes(self, nodes: Iterable[dict[str, Any]]) -> None:
        """Say who came and who went since the last look."""
        for node in nodes:
            who, known = node["NodeID"], node["NodeID"] in self._there
            if node["Alive"] and not known:
                self._there.add(who)
                self._progress.say(f"  node {_called(node)} has come: {describe(node['Resources'])}")
            elif known and not node["Alive"]:
                self._there.discard(who)
                if why := _death(node):
                    self._progress.say(
                        f"  node {_called(node)} is gone ({why}). What it was doing is done again on the others.",
                        style="yellow",
                    )


def status() -> Any:
    """What the cluster has, and what asks for a place in it: Ray's ClusterStatus."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    return get_cluster_status(ray.get_runtime_context().gcs_address)


def wanted(found: Any) -> Counter[str]:
    """What asks for a place and has none, as "1 CPU, 1 GPU", and how many of each."""
    demands: Counter[str] = Counter()
    asked = found.resource_demands
    for demand in (*asked.ray_task_actor_demand, *asked.placement_group_demand):
        for each in demand.bundles_by_count:
            demands[describe(each.bundle)] += each.count
    return demands


def told(found: Any, waiting: Counter[str], still: float) -> str:
    """What to say of a cluster in which these wait and nothing has moved for `still` seconds."""
    each = "; ".join(f"{count} × {what}" for what, count in waiting.items())
    line = f"nothing has moved for {still:.0f} s, and these wait for a place: {each}. "
    line += (
        f"The cluster has {describe(found.total_resources())}, of which free {describe(found.available_resources())}."
    )
    if coming := sum(each.count for each in found.pending_launches) + len(found.pending_nodes):
        line += f" {coming} nodes are starting."
    failed = [launch.details or launch.instance_type_name for launch in found.failed_launches]
    if failed:
        line += f" The autoscaler could not start {len(failed)}, the last time: {failed[-1]}."
    return line


def _called(node: dict[str, Any]) -> str:
    host, address = node.get("NodeManagerHostname"), node["NodeManagerAddress"]
    return f"{address} ({host})" if host and host != address else str(address)


def _death(node: dict[str, Any]) -> str | None:
    """Why it went, in Ray's words; None where that was to be."""
    from ray.core.generated.common_pb2 import NodeDeathInfo

    reason = node.get("DeathReason", 0)
    name = NodeDeathInfo.Reason.Name(reason) if isinstance(reason, int) else str(reason)
    if name in AWAITED:
        return None
    lines = (node.get("DeathReasonMessage") or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else name.lower().replace("_", " ")
