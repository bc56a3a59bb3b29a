"""Trials on a Ray of their own with logical GPUs; what they held and when is written down.

python -m tests.ray.placing FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lai_ray.contracts import Executor, Model
from lai_ray.records import Message, Request

HELD = "held.jsonl"


def hold(messages: Sequence[Message]) -> str:
    """The scripted engine's function: holds its process's GPU for a while, and says so in the file it is asked for."""
    import ray

    began = time.time()
    time.sleep(0.3)
    told = {"pid": os.getpid(), "gpus": ray.get_gpu_ids(), "from": began, "to": time.time()}
    with open(messages[-1]["content"], "a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
    return "held"


def requests(folder: Path, trial: str) -> Iterator[Request]:
    """Four questions of one trial."""
    for i in range(4):
        yield Request(
            f"{trial}#{i}", f"{hash((trial, i)) & 0xFFFF:04x}", [{"role": "user", "content": str(folder / HELD)}], 5
        )


def one_engine(settings: dict[str, Any], executor: Executor) -> dict[str, Any]:
    """A trial: two engines with a GPU each answer."""
    folder = Path(settings["folder"])
    return {
        "answers": len(
            list(executor.generate(requests(folder, settings["name"]), Model("tests.ray.placing:hold", "x")))
        )
    }


def main() -> None:
    """Two logical CPUs, two logical GPUs, two trials that want both of these each, and one more."""
    import ray

    from lai_ray.distributed.executor import RayExecutor
    from tests.local import job

    folder = Path(sys.argv[1])
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    cluster = {
        "target_replicas": 2,
        "cpus_per_replica": 0.5,
        "gpus_per_replica": 1,
        "gpus_per_worker": 0,
        "stall_seconds": 40,
    }
    target = {"model": "tests.ray.placing:hold", "engine": "scripted"}
    common = {"search__learning_rate": [1e-5], "search__max_concurrent": 4, "target": target}
    trials = [{"name": f"trial_{i}", "folder": str(folder)} for i in range(2)]
    fits = job(folder, **common, cluster=cluster)
    found = {"fits": RayExecutor(fits, str(folder / "logs")).search(one_engine, trials, str(folder / "fits"))}
    began = time.monotonic()
    large = job(folder, **common, cluster=cluster | {"target_replicas": 1, "gpus_per_replica": 3, "stall_seconds": 5})
    found["too large"] = RayExecutor(large, str(folder / "logs")).search(one_engine, trials[:1], str(folder / "large"))
    (folder / "found.json").write_text(json.dumps(found | {"seconds": time.monotonic() - began}))
    ray.shutdown()


if __name__ == "__main__":
    main()
