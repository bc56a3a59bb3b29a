"""vLLM with a notebook, for the benches: a warm-up when it starts, forced lengths, and the time of each call.

Named in a job as "tests.perf._timed:ENGINE". LAI_BENCH_NOTES is the file it writes to, LAI_BENCH_FORCED "1" to go on
past the end of turn until `max_tokens`.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from lai_ray.config.settings import TargetSettings
from lai_ray.contracts import Model
from lai_ray.engines import vllm
from lai_ray.records import Answer, Request

WARM_UP = 8
"""Prompts that either side answers before the clock runs."""


class TimedEngine(vllm.VllmEngine):
    """Writes a JSON line when it is ready and one for each call: when it began and when it ended."""

    def __init__(self, model: Model, settings: TargetSettings, gpus: float) -> None:
        super().__init__(model, settings, gpus)
        hello = [{"role": "user", "content": "How many apples are 2 apples and 3 apples?"}]
        super().generate([Request("", "", hello, 16)] * WARM_UP)
        note(ready=time.time(), cpu=time.process_time(), settings=settings_of(self._engine))

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer a request, as the engine below gives it."""
        began = time.time()
        answers = super().generate(requests)
        note(began=began, ended=time.time(), cpu=time.process_time())
        return answers


def note(**facts: Any) -> None:
    """Append a line to the notes; short lines of several threads do not mix."""
    with open(os.environ["LAI_BENCH_NOTES"], "a") as notes:
        notes.write(json.dumps(facts) + "\n")


def settings_of(engine: Any) -> dict[str, Any]:
    """What decides the speed of an engine, from the engine and this process themselves."""
    import torch

    config = engine.vllm_config
    return {
        "dtype": str(config.model_config.dtype),
        "max_model_len": config.model_config.max_model_len,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "prefix_caching": config.cache_config.enable_prefix_caching,
        "cache_blocks": config.cache_config.num_gpu_blocks,
        "torch_threads": torch.get_num_threads(),
        "gc": [gc.isenabled(), gc.get_freeze_count() > 0],
        "nice": os.nice(0),
    }


def _forced(sampling: Any) -> Any:
    def forced(request: Request) -> Any:
        params = sampling(request)
        params.ignore_eos, params.min_tokens = True, request.max_tokens
        return params

    return forced


if os.environ.get("LAI_BENCH_FORCED") == "1":
    vllm._sampling = _forced(vllm._sampling)

ENGINE = TimedEngine
