"""Workers of the next training that start before its samples are known.  settings -> a trainer that waits

Placing two workers and importing torch and DeepSpeed takes longer than a small training. While the instructor writes,
this machine's processors are idle: the workers start then, and wait for a file with what to train. Only on a Ray that
this process started, and without GPUs, which the engines need until the training begins.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from lai_ray.errors import StageError

POLL_SECONDS = 0.1
CPUS = 0.01
"""Of a worker that waits, for Ray's bookkeeping: what else the run does needs the processors until then."""


class Waiting:
    """The folder in which workers look for their training."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lai-train-"))
        atexit.register(self.remove)

    def begin(self, config: dict[str, Any]) -> None:
        """Give the workers their training: the config of a worker function."""
        part = self.folder / "part"
        part.write_text(json.dumps(config), encoding="utf-8")
        os.replace(part, self.folder / "begin.json")

    def remove(self) -> None:
        """Remove the folder; workers that still wait end."""
        shutil.rmtree(self.folder, ignore_errors=True)


def awaited(folder: str) -> dict[str, Any]:
    """In a worker: import what a training needs, and wait for it. Raises StageError if the driver has given up."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    torch.set_num_threads(1)
    from lai_ray.training import deepspeed_engine

    deepspeed_engine.imported()
    begin = Path(folder) / "begin.json"
    while not begin.exists():
        if not begin.parent.exists():
            raise StageError("no training follows")
        time.sleep(POLL_SECONDS)
    config: dict[str, Any] = json.loads(begin.read_text(encoding="utf-8"))
    return config
