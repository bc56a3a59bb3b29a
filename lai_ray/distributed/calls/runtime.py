"""Ray as the scheduler of calls uses it: a clock, the two kinds of actors, and their results.

Unit tests replace it with a virtual clock and no processes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lai_ray.config.settings import InstructorSettings
from lai_ray.distributed.actors import name_for
from lai_ray.distributed.calls.callers import Caller
from lai_ray.distributed.calls.rate_limiter import RateLimiter
from lai_ray.distributed.cluster.resources import CALLER_CPUS

NAMESPACE = "lai_ray"


class RayRuntime:
    """Actors and results on Ray, which must be initialised."""

    def now(self) -> float:
        """Seconds on a monotonic clock."""
        return time.monotonic()

    def caller(self, settings: InstructorSettings, base_url: str | None) -> Any:
        """A new caller."""
        placement: dict[str, Any] = {"num_cpus": CALLER_CPUS}
        if base_url and is_loopback(base_url):
            # On the driver's node, even if it lends no CPUs: only from there is the server reached.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            placement = {"num_cpus": 0, "scheduling_strategy": here}
        return start(Caller, settings, base_url, name=name_for("caller"), **placement)

    def rate_limiter(self, name: str, *arguments: Any) -> Any:
        """See `shared_rate_limiter`."""
        return shared_rate_limiter(name, *arguments)

    def ready(self, results: Sequence[Any], timeout: float) -> Any | None:
        """The first of these results that is there, or None after `timeout` seconds."""
        return next(iter(ray.wait(list(results), timeout=timeout)[0]), None)

    def get(self, result: Any) -> Any:
        """The value of a result. Raises RayActorError when its actor died."""
        return ray.get(result)

    def cancel(self, result: Any) -> None:
        """Stop the call that this result was to come from."""
        ray.cancel(result)

    def kill(self, actor: Any) -> None:
        """End an actor."""
        ray.kill(actor)

    def running(self) -> bool:
        """Whether Ray is still there."""
        return bool(ray.is_initialized())


def is_loopback(url: str) -> bool:
    """Whether an address is reached from this machine only."""
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def start(actor: type, *arguments: Any, **options: Any) -> Any:
    """A light actor that may be placed anywhere, also when its parent is in a placement group."""
    light = {"scheduling_strategy": "DEFAULT", "max_concurrency": 1000}
    return ray.remote(**{**light, **options})(actor).remote(*arguments)


def shared_rate_limiter(name: str, *arguments: Any) -> Any:
    """The cluster's rate limiter of that name, started if there is none. Ray restarts it when it dies.

    It runs on the head node, whose loss ends the cluster anyway: restarted after another node's loss, it would hold all
    jobs up for a full window. Not `soft`: Ray then takes another node where the head lends no CPU.
    """
    limiter = start(
        RateLimiter, *arguments, num_cpus=0, name=name, namespace=NAMESPACE, get_if_exists=True, lifetime="detached",
        max_restarts=-1, scheduling_strategy=NodeAffinitySchedulingStrategy(_head(), soft=False),
    )  # fmt: skip
    limiter.exit_when_idle.remote()
    return limiter


def _head() -> str:
    """The id of the cluster's head node."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return str(next((n for n in nodes if "node:__internal_head__" in n["Resources"]), nodes[0])["NodeID"])
