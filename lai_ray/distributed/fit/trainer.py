"""Ray Train without what is not used here, because every process it starts costs seconds one after the other.

Left out: torch in driver and controller (`TorchTrainer` imports it in both; here workers join their own process group),
an actor that asks the autoscaler for resources (the workers' waiting placement group asks it too), and the SPARED.
It leans on Ray's inner parts, which is why pyproject.toml names Ray's version.
"""

from __future__ import annotations

import os
from typing import Any

import ray.train
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

SPARED = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
"""Actors that Ray Train starts, one after the other and each a process of 2 s of imports, for what is not used here:
handing out Ray Data shards, and removing the workers' places if the controller alone should die."""


def _meet(address: str, port: int) -> None:
    """What torch.distributed wants to find in a worker's environment, as torchrun puts it there."""
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


class _Meeting(Backend):  # type: ignore[misc]  # Ray's classes are Any here.
    """Says where the workers meet; they join when the training loop begins (`sft._join`)."""

    share_cuda_visible_devices = True
    """Every worker sees all GPUs of its node's workers, and takes that of its LOCAL_RANK."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(_meet, address, port)


class _MeetingConfig(BackendConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[Backend]:
        return _Meeting


class _AsIs(FixedScalingPolicy):  # type: ignore[misc]
    """So many workers as were asked for; nobody is told beforehand."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class LeanTrainer(DataParallelTrainer):  # type: ignore[misc]
    """A function on every worker, which finds torchrun's environment there."""

    def __init__(self, function: Any, **how: Any) -> None:
        super().__init__(function, backend_config=_MeetingConfig(), **how)

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in SPARED]

    def _initialize_and_run_controller(self, **how: Any) -> Any:
        return super()._initialize_and_run_controller(**how | {"scaling_policy": _AsIs(self.scaling_config)})
