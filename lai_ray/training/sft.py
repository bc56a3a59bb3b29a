"""Command line of the training loop: job files, as a run writes them for its workers, in turn, without Ray.

python -m lai_ray.training.sft JOB.json                       one worker
torchrun --nproc-per-node 2 -m lai_ray.training.sft JOB.json  two workers
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist

from lai_ray.errors import DataError
from lai_ray.training.loop import train
from lai_ray.training.recipe import read_job


def main(paths: list[str]) -> None:
    """Train the job files in turn, with a line of JSON for each step."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    for path in paths:
        recipe, lineage, examples = read_job(Path(path))
        train(recipe, examples, report=_print, lineage=lineage | {"recipe": asdict(recipe)}, threads=threads)
    dist.destroy_process_group()


def _print(step: int, metrics: dict[str, float]) -> None:
    print(json.dumps(metrics), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise DataError("usage: python -m lai_ray.training.sft JOB.json …")
    main(sys.argv[1:])
