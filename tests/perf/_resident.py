"""One training by `lai_ray.training.sft`, and the memory it took.  JOB.json, OUT.json -> bytes above the start

The start is after every import and before the model. With torchrun each worker writes OUT.json.RANK.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path

import torch

WATCHED = ("RssAnon", "RssShmem")
"""What a process holds for itself. Pages of files (the weights on disk) can be dropped, and are not counted."""
EVERY = 0.002


def resident() -> int:
    """Bytes now."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return sum(int(lines[name].split()[0]) * 1024 for name in WATCHED)


class Watch(threading.Thread):
    """The largest figure seen, by phase."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.phase = "rest"
        self.peaks: dict[str, int] = {}
        self.over = False

    def run(self) -> None:
        while not self.over:
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), resident())
            time.sleep(EVERY)


def main(job: str, out: str) -> None:
    from lai_ray.training import deepspeed_engine, loop, sft

    loop._join()
    deepspeed_engine._deepspeed()
    importlib.import_module("transformers.models.llama.modeling_llama")
    importlib.import_module("transformers.modeling_utils")
    warm = torch.nn.Linear(64, 64)
    warm(torch.ones(1, 64)).sum().backward()
    watch, before = Watch(), resident()

    def within(name: str, module: object, function: str) -> None:
        inner = getattr(module, function)

        def outer(*given: object, **more: object) -> object:
            earlier, watch.phase = watch.phase, name
            try:
                return inner(*given, **more)
            finally:
                watch.phase = earlier

        setattr(module, function, outer)

    within("pass", loop._Training, "_backward")
    within("step", loop._Training, "_check")
    within("steps", loop._Training, "_step")
    within("save", loop, "consolidated")
    within("save", loop.export, "write")
    watch.start()
    sft.main([job])
    watch.over = True
    watch.join()
    rank = os.environ.get("RANK", "0")
    Path(f"{out}.{rank}").write_text(
        json.dumps({"before": before} | {name: peak - before for name, peak in watch.peaks.items()})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
