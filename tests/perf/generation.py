"""Our generation (RayExecutor, one replica, the built-in student) against one raw `vllm.LLM.generate`, tokens/s.

`generation.forced`: 2,048 prompts of exactly 64 tokens. `generation.real`: the same, ending where the student ends
them. What a side does and when its clock runs: `_generating`.

`generation.ray_data_share`: our side of the same runs, where they took LONG seconds or more: what Ray Data and our own
hands around the engine take, from the engine's being ready to its first call and from its last call's end to the last
row at the driver, as a share of the time from ready to that row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.perf._sides import in_turn
from tests.perf.bench import Figure

PROMPTS = {"forced": 2048, "real": 2048}
LONG = 10.0


def bench(pairs: int) -> Iterator[Figure]:
    """Both kinds of lengths, then the share."""
    ours: list[dict[str, Any]] = []
    for lengths, prompts in PROMPTS.items():
        runs = in_turn(pairs, "tests.perf._generating", ("ours", "raw"), lengths, prompts)
        ours += [run["ours"] for run in runs]
        yield Figure(
            name=f"generation.{lengths}",
            unit="tokens/s",
            values=[run["ours"]["tokens_per_s"] for run in runs],
            baselines=[run["raw"]["tokens_per_s"] for run in runs],
            reach="≥ 0.95",
            notes={
                "prompts": prompts,
                "tokens": [[run[side]["tokens"] for side in ("ours", "raw")] for run in runs],
                "load": [[round(run[side]["load"], 2) for side in ("ours", "raw")] for run in runs],
                "engine_cpu_s": [[round(run[side]["engine_cpu_s"], 2) for side in ("ours", "raw")] for run in runs],
                "ours": runs[0]["ours"]["settings"],
                "raw": runs[0]["raw"]["settings"],
            },
        )
    yield from share([run for run in ours if run["seconds"] >= LONG])


def share(runs: list[dict[str, Any]]) -> Iterator[Figure]:
    """What lies around the engine's calls; nothing when no run was long enough."""
    if runs:
        yield Figure(
            name="generation.ray_data_share",
            unit="s",
            values=[run["before_s"] + run["after_s"] for run in runs],
            baselines=[run["seconds"] for run in runs],
            reach="≤ 0.02",
            notes={
                "before_s": [round(run["before_s"], 3) for run in runs],
                "after_s": [round(run["after_s"], 3) for run in runs],
                "load": [round(run["load"], 2) for run in runs],
            },
        )
