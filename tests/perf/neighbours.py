"""Exact neighbours from a shard actor against a bare FAISS call, seconds; and how time and memory grow.

`neighbours.one_shard`: 3,000 queries × 7,473 rows × 768, k = 3, one thread on both sides, the rows already in the
shard; ours is the whole call from the driver: queries into the object store, search, float64 re-ranking, merging.

    python -m tests.perf.neighbours [PLOT]    10,000 to 1,000,000 rows in 1, 2 and 4 shards; a JSON line each
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lai_ray.distributed.neighbours import topk
from lai_ray.distributed.neighbours.nearest import _Shard
from tests.perf.bench import Figure

QUERIES, ROWS, WIDTH, K = 3_000, 7_473, 768, 3
SIZES, SHARDS, ASKED = (10_000, 100_000, 1_000_000), (1, 2, 4), 500
REPEATS = 3


def vectors(rows: int, seed: int) -> np.ndarray:
    """(rows, WIDTH) float32, normalised: as an encoder gives them."""
    made = np.random.default_rng(seed).standard_normal((rows, WIDTH), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


class Measured(_Shard):
    """A shard that makes its own rows, so that a million of them need not travel."""

    def __init__(self, rows: int, first: int, seed: int) -> None:
        super().__init__(vectors(rows, seed), first, None)
        Path("/proc/self/clear_refs").write_text("5")  # The peak counts from here, without what making rows took.

    def peak(self) -> float:
        """GiB this process held at most since its rows were there."""
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**20

    def bare(self, queries: np.ndarray, k: int) -> float:
        """Seconds of FAISS alone."""
        began = time.perf_counter()
        self._index.search(queries, k)
        return time.perf_counter() - began

    def timed(self, queries: np.ndarray, k: int) -> tuple[Any, float]:
        """What it finds, and the seconds in here."""
        began = time.perf_counter()
        found = self.nearest(queries, k)
        return found, time.perf_counter() - began


def _start(rows: int, shards: int) -> list[Any]:
    import ray

    cuts = np.linspace(0, rows, shards + 1).astype(int)
    actor = ray.remote(num_cpus=0.1)(Measured)
    pool = [actor.remote(int(b - a), int(a), int(a)) for a, b in itertools.pairwise(cuts)]
    ray.get([shard.peak.remote() for shard in pool])
    return pool


def _search(pool: list[Any], queries: np.ndarray) -> tuple[float, float]:
    """Seconds of the whole call, and in the slowest shard."""
    import ray

    began = time.perf_counter()
    asked = ray.put(queries)
    parts = ray.get([shard.timed.remote(asked, K) for shard in pool])
    topk.merge([found for found, _ in parts], K)
    return time.perf_counter() - began, max(seconds for _, seconds in parts)


def bench(pairs: int) -> Iterator[Figure]:
    """Ours and bare in turn, in the same process."""
    import ray

    _ray()
    queries, [shard] = vectors(QUERIES, 1), _start(ROWS, 1)
    _search([shard], queries)
    ours, bare = [], []
    for _ in range(max(pairs, 5)):
        bare.append(ray.get(shard.bare.remote(queries, K)))
        ours.append(_search([shard], queries)[0])
    ray.shutdown()
    yield Figure("neighbours.one_shard", "s", ours, bare, "≤ 1.2", {"load": os.getloadavg()[0]})


def _ray() -> None:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")


def growth() -> Iterator[dict[str, Any]]:
    """Every size with every number of shards."""
    import ray

    queries = vectors(ASKED, 1)
    for rows in SIZES:
        for shards in SHARDS:
            _ray()
            pool = _start(rows, shards)
            _search(pool, queries[:8])
            runs = [_search(pool, queries) for _ in range(REPEATS)]
            yield {
                "rows": rows,
                "shards": shards,
                "queries": ASKED,
                "seconds": round(statistics.median(whole for whole, _ in runs), 3),
                "slowest_shard_seconds": round(statistics.median(inside for _, inside in runs), 3),
                "gib_per_shard": round(max(ray.get([shard.peak.remote() for shard in pool])), 2),
                "load": round(os.getloadavg()[0], 2),
            }
            ray.shutdown()


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory over rows, a line for each number of shards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, what, axis in (
        ("seconds", f"seconds for {ASKED} queries", axes[0]),
        ("gib_per_shard", "GiB in each shard's process, at most", axes[1]),
    ):
        for shards in SHARDS:
            mine = [line for line in lines if line["shards"] == shards]
            label = f"{shards} shard" + "s" * (shards > 1)
            axis.loglog([x["rows"] for x in mine], [x[name] for x in mine], marker="o", label=label)
        axis.set(xlabel=f"rows of {WIDTH} numbers", ylabel=what)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main(path: str | None) -> None:
    """See the module."""
    lines = []
    for line in growth():
        lines.append(line)
        print(json.dumps(line), flush=True)
    if path:
        plot(lines, Path(path))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
