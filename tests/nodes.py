"""A Ray cluster of several nodes on this machine, one raylet each, and the loss of nodes.

python -m tests.nodes FOLDER: what tests/ray/test_nodes.py looks at, in a process without another Ray.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import submitting

HEALTH = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
"""As in the files of clusters/."""


class Nodes:
    """A head that lends no CPU, for the driver, and workers with so many each. This process is connected to it."""

    def __init__(self, workers: int, cpus: float, dashboard: int | None) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self._cpus = cpus
        head: dict[str, Any] = {"num_cpus": 0, "_system_config": HEALTH}
        if dashboard:  # Its agent, which takes jobs, may share the machine with another Ray's.
            agent = submitting.free_ports(1, above=dashboard + 100)[0]
            head |= {"include_dashboard": True, "dashboard_port": dashboard, "dashboard_agent_listen_port": agent}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self._added = 0
        self.workers = [self._add() for _ in range(workers)]
        ray.init(address=self.address, log_to_driver=False, logging_level="warning")

    def close(self) -> None:
        """Shut all nodes down."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()

    def holding(self, kind: str) -> list[Any]:
        """The workers with a living actor whose class name contains `kind`; all workers for ""."""
        from ray._private.state import actors

        at = {
            actor["Address"]["NodeID"]
            for actor in actors().values()
            if actor["State"] == "ALIVE" and kind in actor["ActorClassName"]
        }
        return [node for node in self.workers if not kind or node.node_id in at]

    def _add(self) -> Any:
        """A worker with an upload's copy of its own, as a host has: in a shared one each node replaces the others'."""
        self._added += 1
        return self._cluster.add_node(num_cpus=self._cpus, runtime_env_dir_name=f"runtime_resources_{self._added}")

    def lose(self, node: Any) -> None:
        """Kill a worker at once, as by a power cut."""
        self.workers.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def another(self) -> None:
        """Add a worker, as an autoscaler does."""
        self.workers.append(self._add())


@contextmanager
def cluster(workers: int, cpus: float, dashboard: int | None = None) -> Iterator[Nodes]:
    """So many workers with so many CPUs each. dashboard: a port to which jobs may be submitted."""
    found = Nodes(workers, cpus, dashboard)
    try:
        yield found
    finally:
        found.close()


def until(what: Callable[[], Any], seconds: float, why: str) -> Any:
    """The first true answer. Raises AssertionError after so many seconds without."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, why
        time.sleep(0.05)
    return found


def slowly(messages: Sequence[dict[str, str]]) -> str:
    """The scripted engine's function."""
    time.sleep(0.02)
    return messages[-1]["content"].upper()


def main(folder: Path) -> None:
    """A pool of two engines loses one's node; then nothing can run until a node joins."""
    import ray
    from ray._private.state import actors
    from rich.console import Console

    from lai_ray.common.progress import Progress
    from lai_ray.contracts import Model
    from lai_ray.distributed.calls.runtime import shared_rate_limiter
    from lai_ray.distributed.cluster import watchdog
    from lai_ray.distributed.executor import RayExecutor
    from lai_ray.records import Request
    from tests.local import job

    watchdog.FIRST_REPORT, watchdog.EVERY = 1.0, 0.5
    target = Model("tests.nodes:slowly", "x")
    settings = {
        "target": {"model": target.path, "engine": "scripted"}, "iterations": 0,
        "cluster": {
            "target_replicas": 2, "cpus_per_replica": 1, "gpus_per_replica": 0, "gpus_per_worker": 0,
            "stall_seconds": 120,
        },
    }  # fmt: skip
    with cluster(2, 1) as nodes, (folder / "screen").open("w") as screen:
        config = job(folder, **settings, cluster__address=nodes.address)
        progress = Progress(Console(file=screen, width=400))
        found: dict[str, Any] = {}
        executor = RayExecutor(config, str(folder / "logs"), progress, keep_in=str(folder / "kept"))

        def requests(count: int) -> Iterator[Request]:
            for i in range(count):
                yield Request(f"q{i}", f"{i:032x}", [{"role": "user", "content": f"question {i}"}], 5)

        limiter = shared_rate_limiter("of-nodes", 60.0, 2.0, 60.0, 600.0)
        ray.get(limiter.__ray_ready__.remote())
        places = {actor["ActorClassName"]: actor["Address"]["NodeID"] for actor in actors().values()}
        found["rate limiter beside the driver"] = places["RateLimiter"] == ray.get_runtime_context().get_node_id()

        answers: dict[str, str] = {}
        lost = 0.0
        for answer in executor.generate(requests(2048), target):
            assert answer.completion.error is None, answer.completion.error
            answers[answer.id] = answer.completion.text
            if len(answers) == 256:
                nodes.lose(nodes.holding("MapWorker")[0])
                lost = time.monotonic()
        after = time.monotonic() - lost
        found |= {"answers": len(answers), "right": answers["q7"], "seconds_after": after}
        nodes.lose(nodes.workers[0])
        with ThreadPoolExecutor(1) as waiting:  # A node is started by the main thread or not at all.
            answered = waiting.submit(lambda: len(list(executor.generate(requests(10), target))))
            until(lambda: watchdog.demands(watchdog.status()), 60, "the engines do not wait for resources")
            nodes.another()
            found["without resources"] = answered.result()
        executor.close()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
