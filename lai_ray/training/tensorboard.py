"""Writes a training's metrics for TensorBoard (`tensorboard --logdir runs`), on rank 0.  metrics -> event files"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
SHOWN = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "padding", "mfu")


class TensorBoardWriter:
    """Opens its file at the first step, so that a training without steps leaves none."""

    def __init__(self, out: str) -> None:
        """out: the model's folder; event files go beside it."""
        self._folder = Path(out).absolute().with_name(FOLDER)
        self._writer: Any = None

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Write one step, counted from 1. A step that a resumed training repeats replaces the earlier one."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name in SHOWN:
            if name in metrics:
                self._writer.add_scalar(f"train/{name}", metrics[name], step)

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            self._writer.close()
