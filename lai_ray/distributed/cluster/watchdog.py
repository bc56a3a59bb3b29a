"""Reports lost nodes, and what a stalled stage is waiting for.  ray.nodes(), Progress -> lines

A call without resources waits silently until its verb gives up (`cluster.stall_seconds`). Meanwhile this reports, at
growing intervals, what asks for resources, what is free, and what the autoscaler could not start.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import ray

from lai_ray.common.progress import Progress
from lai_ray.distributed.cluster.periodic import PeriodicTask
from lai_ray.distributed.cluster.resources import describe

EVERY = 2.0
"""Seconds between two polls of the nodes."""
FIRST_REPORT = 60.0
"""Seconds without progress before the first report of what waits; the next after twice as long, and so on."""
FIRST_LOOK = 5 / 6
"""Fraction of that time after which the demands are read first. Only those still there at its end are reported."""
REASONS = ("unspecified", "expected termination", "unexpected termination", "preempted", "drained when idle")
"""Why a node died, by the numbers of `NodeDeathInfo.Reason` in Ray's protocol."""
EXPECTED = (1, 4)
"""Reasons that need no report."""


class Watchdog:
    """Watches the nodes and the progress of one run, while Ray is connected."""

    def __init__(self, progress: Progress) -> None:
        """Ray must be initialised."""
        self._progress = progress
        self._alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        self._seen: Any = None
        self._moved, self._next = time.monotonic(), FIRST_LOOK * FIRST_REPORT
        self._waiting: Counter[str] = Counter()
        self._task = PeriodicTask(self._look, EVERY, "watchdog")

    def close(self) -> None:
        """Stop."""
        self._task.close()

    def _look(self) -> None:
        self._report_nodes(ray.nodes())
        now = self._progress.folder, dict(self._progress.figures)
        if now != self._seen:
            self._seen, self._moved, self._next = now, time.monotonic(), FIRST_LOOK * FIRST_REPORT
            self._waiting.clear()
        stalled = time.monotonic() - self._moved
        if stalled > self._next:
            cluster = status()
            # Only what waited at the previous look too: between two steps something always waits for a moment.
            before, self._waiting = self._waiting, demands(cluster)
            self._next = stalled + (1 - FIRST_LOOK) * FIRST_REPORT
            if both := before & self._waiting:
                self._next = 2 * stalled
                message = describe_stall(cluster, both, stalled)
                self._progress.report(f"  {message}", style="yellow", facts={"seconds_still": stalled})

    def _report_nodes(self, nodes: Iterable[dict[str, Any]]) -> None:
        """Report the nodes that joined or died since the last look."""
        for node in nodes:
            node_id, known = node["NodeID"], node["NodeID"] in self._alive
            if node["Alive"] and not known:
                self._alive.add(node_id)
                self._progress.report(f"  node {_name(node)} has joined: {describe(node['Resources'])}")
            elif known and not node["Alive"]:
                self._alive.discard(node_id)
                if reason := _death(node):
                    self._progress.report(
                        f"  node {_name(node)} is lost ({reason}). Its work is done again on the others.",
                        style="yellow",
                    )


def status() -> Any:
    """Ray's ClusterStatus: resources, demands, and what the autoscaler starts."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    return get_cluster_status(ray.get_runtime_context().gcs_address)


def demands(cluster: Any) -> Counter[str]:
    """Resources that are asked for and not there, as "1 CPU, 1 GPU", and how many of each."""
    counts: Counter[str] = Counter()
    asked = cluster.resource_demands
    for demand in (*asked.ray_task_actor_demand, *asked.placement_group_demand):
        for each in demand.bundles_by_count:
            counts[describe(each.bundle)] += each.count
    return counts


def describe_stall(cluster: Any, waiting: Counter[str], seconds: float) -> str:
    """The report of a cluster in which these wait and nothing has moved for so many seconds."""
    each = "; ".join(f"{count} × {what}" for what, count in waiting.items())
    line = f"no progress for {seconds:.0f} s; waiting for resources: {each}. "
    line += f"The cluster has {describe(cluster.total_resources())}, free: {describe(cluster.available_resources())}."
    if coming := sum(each.count for each in cluster.pending_launches) + len(cluster.pending_nodes):
        line += f" {coming} nodes are starting."
    failed = [launch.details or launch.instance_type_name for launch in cluster.failed_launches]
    if failed:
        line += f" The autoscaler could not start {len(failed)}, most recently: {failed[-1]}."
    return line


def _name(node: dict[str, Any]) -> str:
    host, address = node.get("NodeManagerHostname"), node["NodeManagerAddress"]
    return f"{address} ({host})" if host and host != address else str(address)


def _death(node: dict[str, Any]) -> str | None:
    """Why it died, in Ray's words; None if that was expected."""
    reason = int(node.get("DeathReason", 0))
    if reason in EXPECTED:
        return None
    lines = (node.get("DeathReasonMessage") or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else REASONS[reason] if reason < len(REASONS) else "unknown reason"
