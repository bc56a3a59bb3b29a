"""Leases granted and settled through one rate limiter actor, requests/s: many at a time against one at a time, in turn.

`quota.1`, `quota.4`, `quota.16`: so many callers, each an actor with a CPU share of its own. The limits never bind, but
every lease is counted; after each run the limiter must hold exactly as many as were granted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from lai_ray.config.settings import LimitSettings
from lai_ray.distributed.calls.rate_limiter import Finished, RateLimiter
from lai_ray.distributed.calls.runtime import start
from lai_ray.distributed.calls.scheduler import LARGEST_BATCH
from tests.perf.bench import Figure

CALLERS = (1, 4, 16)
SECONDS = 2.0
UNBOUND = 10**9
LIMITS = LimitSettings(requests_per_minute=UNBOUND, tokens_per_minute=10**15, max_in_flight=2 * UNBOUND)


class _Caller:
    """Acquires and settles for some seconds."""

    def work(self, limiter: Any, at_once: int, seconds: float) -> tuple[int, float]:
        """Requests done, and the seconds they took."""
        import ray

        done, began = 0, time.monotonic()
        while (took := time.monotonic() - began) < seconds:
            permit = ray.get(limiter.acquire.remote("bench", LIMITS, [100] * at_once))
            limiter.settle.remote([Finished(lease, 60, seconds=0.001) for lease in permit.leases])
            done += len(permit.leases)
        return done, took


def bench(pairs: int) -> Iterator[Figure]:
    """One figure for each number of callers."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        for count in CALLERS:
            callers = [ray.remote(num_cpus=0.01)(_Caller).remote() for _ in range(count)]
            rates: dict[int, list[float]] = {LARGEST_BATCH: [], 1: []}
            for _ in range(pairs):
                for at_once, seen in rates.items():
                    limiter = start(RateLimiter, 60.0, 0.0, 600.0, 600.0, num_cpus=0)
                    ray.get(limiter.acquire.remote("bench", LIMITS, [1]))  # It has started.
                    work = ray.get([caller.work.remote(limiter, at_once, SECONDS) for caller in callers])
                    left = ray.get(limiter.acquire.remote("bench", LIMITS, [1])).room
                    granted = sum(done for done, _ in work)
                    assert UNBOUND - left == granted + 2, f"{granted} leases granted, {UNBOUND - left - 2} counted"
                    seen.append(sum(done / seconds for done, seconds in work))
                    ray.kill(limiter)
            for caller in callers:
                ray.kill(caller)
            yield Figure(
                name=f"quota.{count}",
                unit="requests/s",
                values=rates[LARGEST_BATCH],
                baselines=rates[1],
                reach="≥ 5,000 requests/s",
                notes={"at_once": LARGEST_BATCH, "rates": rates[LARGEST_BATCH], "one_at_a_time": rates[1]},
            )
    finally:
        ray.shutdown()
