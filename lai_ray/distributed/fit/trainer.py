"""Ray's TorchTrainer without two actors that our trainings have no use for."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer

from lai_ray.distributed.fit.torchrun_environment import TorchrunConfig

SKIPPED_CALLBACKS = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
"""Each starts an actor (2 s of imports): one hands out Ray Data shards, which we do not use; the other removes the
placement group if the controller dies alone, and the driver's exit removes it too."""


class Trainer(TorchTrainer):  # type: ignore[misc]  # Ray's classes are Any here.
    """Runs a function on every worker, in torchrun's environment."""

    def __init__(self, function: Any, **options: Any) -> None:
        super().__init__(function, torch_config=TorchrunConfig(), **options)

    def _create_default_callbacks(self) -> list[Any]:
        # Private: a Ray without this method never calls it, and starts the two actors.
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in SKIPPED_CALLBACKS]
