"""A training's metrics for TensorBoard: `tensorboard --logdir runs`.  Written by rank 0 alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
SHOWN = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "padding", "mfu")


class Board:
    """Takes each step's metrics; opens its file at the first, so that a training without steps leaves none."""

    def __init__(self, out: str) -> None:
        """out: the model's folder; events go beside it."""
        self._folder = Path(out).absolute().with_name(FOLDER)
        self._writer: Any = None

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Steps count from 1. One that a resumed training takes again replaces what was written of it."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name in SHOWN:
            if name in metrics:
                self._writer.add_scalar(f"train/{name}", metrics[name], step)

    def close(self) -> None:
        """Everything is on the disk."""
        if self._writer is not None:
            self._writer.close()
