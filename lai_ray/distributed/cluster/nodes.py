"""Something done once on each node: the storage tried, logs put away.  nodes -> what each said"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from lai_ray.storage.objects import Objects
from lai_ray.storage.run import put_logs

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds for all nodes to put their logs away; a run that is over does not wait longer."""


def on_each(nodes: Sequence[dict[str, Any]], patience: float, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """References to `work(node's id, *arguments)` done on each of these nodes (as of `ray.nodes()`), in their order.

    After `patience` seconds at the latest; what is not there by then may come, or never.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(work)
    asked = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append(task.options(scheduling_strategy=there).remote(node["NodeID"], *arguments))
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=patience)
    return asked


def keep_logs(logs: str, where: str) -> None:
    """Every other node puts what lies in its folder `logs` into an object store, below `<where>/<its address>`.

    It is for looking at: what cannot be put away is logged and no more, a cluster that is gone included.
    """
    import ray

    try:
        mine = ray.get_runtime_context().get_node_id()
        others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != mine]
        asked = on_each(others, PATIENCE, _put, logs, where)
    except Exception as error:
        log.warning("the logs of other nodes stay there, in %s: %s", logs, error)
        return
    for node, answer in zip(others, asked, strict=True):
        try:
            ray.get(answer, timeout=0)
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            log.warning("the logs of %s stay there, in %s: %s", node["NodeManagerAddress"], logs, said[-1])


def _put(_: str, logs: str, where: str) -> None:
    import ray

    put_logs(logs, Objects(f"{where}/{ray.util.get_node_ip_address()}"))
