"""Workers that train together, and what is seen of one that is gone."""

from __future__ import annotations

from typing import Any


def lost(error: BaseException) -> bool:
    """What torch.distributed raises in the workers that are left: RuntimeError of gloo, DistBackendError of NCCL."""
    words = ("connection", "gloo", "nccl", "socket", "peer")
    of_torch = type(error) is RuntimeError or type(error).__name__.startswith("Dist")
    return isinstance(error, ConnectionError) or (of_torch and any(word in str(error).lower() for word in words))


def from_first(value: Any) -> Any:
    """Rank 0's value, on every worker. All of them must call it."""
    import torch.distributed as dist

    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def wait_for_all() -> None:
    """Every worker has come here."""
    import torch.distributed as dist

    dist.barrier()


def rank() -> int:
    """Which of them this is."""
    import torch.distributed as dist

    return int(dist.get_rank())


def count() -> int:
    """How many there are."""
    import torch.distributed as dist

    return int(dist.get_world_size())
