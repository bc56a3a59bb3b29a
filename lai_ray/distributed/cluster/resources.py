"""Resources of a node or an actor: their type, how they are worded, and what the light actors ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Resources = Mapping[str, float]
"""By Ray's names: CPU, GPU, memory in bytes."""

MAP_CPUS = 0.9
"""For a task of `map`: beside light actors one still fits on each of two logical CPUs."""
CALLER_CPUS = 0.05
"""For a caller of the instructor: it waits for the network, and two logical CPUs must do for a whole run."""


@dataclass(frozen=True)
class Group:
    """Nodes of one kind that the cluster's autoscaler may start."""

    name: str
    each: Resources
    more: int
    """How many beside those that run."""


def describe(each: Resources) -> str:
    """ "4 CPU, 1 GPU, 16 GiB"."""
    parts = [f"{each[kind]:g} {kind}" for kind in ("CPU", "GPU") if each.get(kind)]
    parts += [f"{each['memory'] / 2**30:.3g} GiB"] if each.get("memory") else []
    return ", ".join(parts) or "nothing"
