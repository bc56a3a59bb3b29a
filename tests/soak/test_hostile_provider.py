"""A thousand calls to a provider at its worst: every row is accounted for, and no reply that came is lost."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lai_ray.config.settings import ClusterSettings, InstructorSettings, LimitSettings
from lai_ray.distributed.calls.ask import ask
from lai_ray.distributed.calls.retry import RetryTimes
from lai_ray.records import Request
from tests import provider

CALLS = 1000
FAULTS = {"429 after 0.2": 0.10, "500": 0.05, "hang": 0.02, "broken JSON": 0.02, "empty": 0.02, "refused": 0.01}
FINAL = {"empty": "the reply is empty", "refused": "refused: I cannot help with that."}
"""Faults that are an answer: asking again would be paid for again."""


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_calls_to_a_hostile_provider(seed):
    import ray

    rng = random.Random(seed)
    drawn: list[str | None] = []

    def fault(number: int, body: object) -> str | None:
        drawn.append(rng.choices([None, *FAULTS], [1 - sum(FAULTS.values()), *FAULTS.values()])[0])
        return drawn[-1]

    asked = [Request(f"p/{i}", f"key-{i}", [{"role": "user", "content": f"q{i}"}], 20, 0.8, i) for i in range(CALLS)]
    limits = LimitSettings(requests_per_minute=10**6, tokens_per_minute=10**9, max_in_flight=32)
    settings, cluster = InstructorSettings(model="m", timeout=2.0), ClusterSettings(instructor_workers=4)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        with provider.serve(latency=0.05, fault=fault) as p:
            answers = list(ask(asked, settings, limits, cluster, p.base_url, times=RetryTimes(backoff=0.05)))
    finally:
        ray.shutdown()
    assert Counter(answer.key for answer in answers) == Counter(request.key for request in asked)
    ends = Counter(answer.completion.error for answer in answers)
    assert ends == {None: drawn.count(None)} | {words: drawn.count(name) for name, words in FINAL.items()}
    assert all(a.completion.text == f"echo: q{a.key[4:]}" for a in answers if a.completion.error is None)
    assert max(p.asked.values()) > 1 and len(p.log) == len(drawn)
    print({"seed": seed, "calls": len(drawn), **Counter(map(str, drawn)), "ends": dict(ends)}, flush=True)
