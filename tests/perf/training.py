"""Our training under Ray Train against the same loop started bare, tokens/s of the steps; start-up is in neither.

`training.one_worker`: against `python -m lai_ray.training.sft`. `training.two_workers`: against torch's own launcher
with two processes. What a side does and which steps are timed: `_training`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.perf._sides import in_turn
from tests.perf._training import base
from tests.perf.bench import Figure

REACH = {1: "≥ 0.95", 2: ""}
"""Two workers on two processors stand still whenever anything else runs: the ratio as it is."""


def bench(pairs: int) -> Iterator[Figure]:
    """One worker, then two."""
    with tempfile.TemporaryDirectory() as folder:
        model = base(Path(folder))
        for workers, name in ((1, "one_worker"), (2, "two_workers")):
            yield figure(pairs, model, workers, name)


def figure(pairs: int, model: str, workers: int, name: str) -> Figure:
    """The pairs of one number of workers."""
    sides = ("ours", "bare")
    runs = in_turn(pairs, "tests.perf._training", sides, model, workers)
    told = ("load", "whole_s", "ranks", "processors")
    return Figure(
        name=f"training.{name}",
        unit="tokens/s",
        values=[run["ours"]["tokens_per_s"] for run in runs],
        baselines=[run["bare"]["tokens_per_s"] for run in runs],
        reach=REACH[workers],
        notes={
            "steps": runs[0]["ours"]["steps"],
            "same_loss": all(run["ours"]["loss"] == run["bare"]["loss"] for run in runs),
            **{what: [[run[side][what] for side in sides] for run in runs] for what in told},
        },
    )
