"""Runs a function once on each node.  nodes -> references to the results"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from lai_ray.storage.run import upload_logs
from lai_ray.storage.store import Store

log = logging.getLogger(__name__)

LOGS_SECONDS = 30.0
"""For all nodes to upload their logs; a finished run does not wait longer."""


def on_each(
    nodes: Sequence[dict[str, Any]], seconds: float, function: Callable[..., Any], *arguments: Any
) -> list[Any]:
    """References to the results of `function(node's id, *arguments)`, run on each of these nodes of `ray.nodes()`.

    Returns after `seconds` at the latest; later results may still arrive, or never.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    results = []
    for node in nodes:
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        results.append(task.options(scheduling_strategy=pinned).remote(node["NodeID"], *arguments))
    if results:
        ray.wait(results, num_returns=len(results), timeout=seconds)
    return results


def keep_logs(logs: str, url: str) -> None:
    """Every other node uploads its folder `logs` into an object store, below `<url>/<its address>`.

    Failures are logged and ignored, also when the cluster is gone.
    """
    import ray

    try:
        mine = ray.get_runtime_context().get_node_id()
        others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != mine]
        results = on_each(others, LOGS_SECONDS, _put, logs, url)
    except Exception as error:
        log.warning("the logs of other nodes stay there, in %s: %s", logs, error)
        return
    for node, result in zip(others, results, strict=True):
        try:
            ray.get(result, timeout=0)
        except Exception as error:
            message = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            log.warning("the logs of %s stay there, in %s: %s", node["NodeManagerAddress"], logs, message)


def _put(_: str, logs: str, url: str) -> None:
    import ray

    upload_logs(logs, Store(f"{url}/{ray.util.get_node_ip_address()}"))
