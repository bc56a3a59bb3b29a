"""Collective calls of the workers that train together, and the errors of a lost one."""

from __future__ import annotations

from typing import Any


def lost(error: BaseException) -> bool:
    """Whether this is what the other workers raise when one is lost: gloo's RuntimeError, NCCL's DistBackendError."""
    words = ("connection", "gloo", "nccl", "socket", "peer")
    of_torch = type(error) is RuntimeError or type(error).__name__.startswith("Dist")
    return isinstance(error, ConnectionError) or (of_torch and any(word in str(error).lower() for word in words))


def from_first(value: Any) -> Any:
    """Rank 0's value, on every worker. All must call it."""
    import torch.distributed as dist

    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def wait_for_all() -> None:
    """Returns when every worker has called it."""
    import torch.distributed as dist

    dist.barrier()


def rank() -> int:
    """This worker's rank."""
    import torch.distributed as dist

    return int(dist.get_rank())


def count() -> int:
    """The number of workers."""
    import torch.distributed as dist

    return int(dist.get_world_size())
