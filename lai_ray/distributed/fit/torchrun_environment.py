"""The environment variables that torchrun sets, for the workers of Ray Train.  worker group -> os.environ of each

The training loop (`training/loop.py`) joins the process group itself, as it does under torchrun. Imports no torch: Ray
Train's controller loads this module, and torch would cost every training two seconds there.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import ray.train
from ray.train.backend import Backend, BackendConfig


class TorchrunConfig(BackendConfig):  # type: ignore[misc]  # Ray's classes are Any here.
    """For `TorchTrainer(torch_config=...)`."""

    backend = "joined by the training loop"
    """TorchTrainer fills this in where it is empty."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Ray Train calls its `on_start`."""
        return _TorchrunEnvironment


class _TorchrunEnvironment(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True
    """Every worker sees all GPUs of its node's workers, and takes that of its LOCAL_RANK."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        address, port = worker_group.execute_single(0, _address_and_free_port)
        worker_group.execute(_set, address, port)


def _address_and_free_port() -> tuple[str, int]:
    address = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as free:
        free.bind(("", 0))
        return address, free.getsockname()[1]


def _set(address: str, port: int) -> None:
    context = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
