"""How much of a provider's limit is used: whole minutes against the enforcing provider of the tests.

    python -m tests.perf.quota_use [MINUTES] [CALLERS ...] [alone]

For each number of callers, at once or each alone: tokens bind and the provider counts what was reserved, or what was
used; requests bind; requests bind, the job names no limit, another client uses a fifth of the key and the headers tell.
The first minute is ramp-up and left out. A JSON line each: what the provider granted ÷ (what it would have × time), and
refusals.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from lai_ray.config.settings import ClusterSettings, InstructorSettings, LimitSettings
from lai_ray.distributed.calls.ask import ask
from lai_ray.records import Request
from tests import provider

RPM, TPM, MOST, USED = 600, 60_000, 100, 40
"""Requests and tokens a minute; the longest reply a request allows, and the reply it gets."""
MINUTE = 60.0
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tokens, reserved": (
        {"tokens_per_window": TPM, "counts": "reserved"},
        {"tokens_per_minute": TPM, "counted_tokens": "reserved"},
    ),
    "tokens, used": ({"tokens_per_window": TPM, "counts": "used"}, {"tokens_per_minute": TPM}),
    "requests": ({"requests_per_window": RPM}, {"requests_per_minute": RPM}),
    "requests, another client takes a fifth": ({"requests_per_window": RPM, "tells": True}, {}),
}


def measure(name: str, callers: int, minutes: int) -> dict[str, Any]:
    """One kind, from the first request to `minutes` later."""
    serving, limiting = KINDS[name]
    free = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9} if limiting else {"tokens_per_minute": 10**9}
    limits = LimitSettings.model_validate({**free, "max_in_flight": 64, **limiting})
    with provider.serve(latency=0.5, reply_tokens=USED, **serving) as p:
        over = threading.Event()
        if not limiting:
            threading.Thread(target=_others, args=(p, over), daemon=True).start()
            over.wait(MINUTE)  # Theirs is a full minute when ours begins.
        began = time.monotonic()
        settings = InstructorSettings(model="m", timeout=30.0)
        for _ in ask(_requests(began + MINUTE * minutes), settings, limits, _cluster(callers), p.base_url):
            pass
        over.set()
        return figures(p, began, minutes) | {"kind": name, "callers": callers}


def figures(p: provider.Provider, began: float, minutes: int) -> dict[str, Any]:
    """What the provider's log says of the minutes after the first."""
    first, last = began + MINUTE, began + MINUTE * minutes
    counted = [seen for seen in p.log if first <= seen.at < last and seen.status != 429]
    theirs = {id(seen) for seen in p.others}
    ours = [seen for seen in counted if id(seen) not in theirs]
    if p.tokens_per_window is not None:
        granted, offered = sum(seen.tokens for seen in ours), float(p.tokens_per_window * (minutes - 1))
    else:
        assert p.requests_per_window is not None
        granted, offered = len(ours), float(p.requests_per_window * (minutes - 1) - (len(counted) - len(ours)))
    refused = sum(seen.status == 429 and id(seen) not in theirs for seen in p.log)
    return {"granted": granted, "share": round(granted / offered, 4), "refused": refused, "asked": len(p.log)}


def _others(p: provider.Provider, over: threading.Event) -> None:
    while not over.wait(MINUTE / (RPM / 5)):
        p.loop.call_soon_threadsafe(p.other_client, 1)


def _requests(until: float) -> Any:
    number = 0
    while time.monotonic() < until:
        yield Request(f"p/{number}", f"key-{number}", [{"role": "user", "content": f"q{number}"}], MOST, 0.8, number)
        number += 1


def _cluster(callers: int) -> ClusterSettings:
    return ClusterSettings(instructor_workers=callers, stall_seconds=600.0)


def main(minutes: int, callers: list[int], alone: bool) -> None:
    """See the module."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="warning")
    for count in callers:
        threads = [
            threading.Thread(
                target=lambda name=name, count=count: print(  # type: ignore[misc]
                    json.dumps(measure(name, count, minutes) | {"load": os.getloadavg()[0]}), flush=True
                )
            )
            for name in KINDS
        ]
        for thread in threads:
            thread.start()
            if alone:
                thread.join()
        for thread in threads:
            thread.join()
    ray.shutdown()


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word != "alone"] or [3]
    main(numbers[0], numbers[1:] or [1, 4, 16], "alone" in sys.argv)
