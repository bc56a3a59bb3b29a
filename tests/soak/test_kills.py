"""Deaths at random moments, real parts: every run ends with the samples of an undisturbed one.

Progress is kept in build/soak, so that a soak that was stopped goes on where it was; delete the folder to begin anew.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import IN_FLIGHT, REPO, Tutor, lai, recorded, records, tutoring
from tests.faults.test_kills import NEAR_TIE, turned_answers

KEPT = REPO / "build" / "soak"
DRIVER_KILLS = 20
ACTOR_KILLS = 3
ACTORS = {
    "engine": "ray::EngineProcess.",
    "replica": "MapWorker(MapBatches(_Replica))",
    "caller": "ray::Caller",
    "rate limiter": "ray::RateLimiter",
    "shard": "ray::_Shard",
    "trainer": "RayTrainWorker",
}
"""What each kind of actor's process is called."""
MOST_RUNS = 12
PORT = 8753
"""A run is asked again with the address it began with."""


@pytest.fixture
def tutor() -> Iterator[Tutor]:
    KEPT.mkdir(parents=True, exist_ok=True)
    with tutoring(KEPT / "tutor.jsonl", PORT) as found:
        yield found


def arguments(name: str, tutor: Tutor) -> list[str]:
    """One iteration of LEC, cut small: it ends within a minute or two."""
    return [
        "jobs/quickstart.toml", f"storage={KEPT}", f"name={name}", f"instructor.base_url={tutor.base_url}",
        "iterations=1", "schedule.strategy=lec", "cluster.target_replicas=1", f"limits.max_in_flight={IN_FLIGHT}",
        "evaluate.max_train_problems=300", "evaluate.max_test_problems=150", "curate.samples_per_dataset=120",
    ]  # fmt: skip


def undisturbed(tutor: Tutor) -> Path:
    done = lai("run", *arguments("whole", tutor))
    assert done.returncode == 0, done.stderr[-2000:]
    return KEPT / "whole"


def same_samples(one: Path, other: Path) -> bool:
    """Equal, or different only because an answer was a greedy near-tie."""
    ties = turned_answers(one, other)
    assert all(gap < NEAR_TIE for gap in ties), ties
    file = "iteration_0/curate/samples.jsonl"
    return bool(ties) or records(one / file) == records(other / file)


def counted(name: str) -> tuple[dict[str, int], Callable[[dict[str, int]], None]]:
    """Counts of an earlier start, and how to keep them."""
    KEPT.mkdir(parents=True, exist_ok=True)
    file = KEPT / f"{name}.json"
    counts = json.loads(file.read_text()) if file.exists() else {}
    return counts, lambda now: (file.write_text(json.dumps(now)), None)[1]


@pytest.mark.soak
def test_a_driver_killed_at_twenty_random_moments_finishes_with_the_same_samples(tutor):
    counts, keep = counted("driver")
    whole = undisturbed(tutor)
    while counts.get("kills", 0) < DRIVER_KILLS:
        name = f"killed-{counts.get('runs', 0)}"
        kept = recorded(KEPT / name / "iteration_0/instruct/answers")
        before, moment = len(tutor.requests()), random.uniform(3, 60)
        process = subprocess.Popen(
            [sys.executable, "-m", "lai_ray", "run", *arguments(name, tutor)],
            cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            _, errors = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            counts["kills"] = counts.get("kills", 0) + 1
        else:
            assert process.returncode == 0, errors[-2000:]
            assert same_samples(whole, KEPT / name)
            usage = json.loads((KEPT / name / "iteration_0/instruct/usage.json").read_text())
            starts = len(list((KEPT / name / "driver").glob("*.json")))
            # In flight from the mark until the segment with the reply is closed: so many are out, so many open.
            assert usage["possibly_paid"] <= 2 * IN_FLIGHT * (starts - 1)
            counts |= {"runs": counts.get("runs", 0) + 1, "starts": counts.get("starts", 0) + starts,
                       "possibly_paid": counts.get("possibly_paid", 0) + usage["possibly_paid"]}  # fmt: skip
        again = [r for r in tutor.requests()[before:] if r["reply_sha256"] in kept]
        counts["asked_again"] = counts.get("asked_again", 0) + len(again)
        keep(counts)
        assert not again, "a recorded reply was asked for again"
        print(counts, flush=True)
    last = f"killed-{counts.get('runs', 0)}"
    done = lai("run", *arguments(last, tutor))
    assert done.returncode == 0, done.stderr[-2000:]
    assert same_samples(whole, KEPT / last)


@pytest.mark.soak
def test_every_kind_of_actor_killed_three_times_changes_no_sample(tutor):
    counts, keep = counted("actors")
    kills = Counter(counts)
    whole = undisturbed(tutor)
    for attempt in range(kills["runs"], MOST_RUNS):
        if all(kills[kind] >= ACTOR_KILLS for kind in ACTORS):
            break
        name = f"maimed-{attempt}"
        process = subprocess.Popen(
            [sys.executable, "-m", "lai_ray", "run", *arguments(name, tutor)],
            cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        kills.update(maim(process, {kind for kind in ACTORS if kills[kind] < ACTOR_KILLS}))
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
        assert same_samples(whole, KEPT / name)
        kills["runs"] = attempt + 1
        keep(dict(kills))
        print(dict(kills), flush=True)
    assert all(kills[kind] >= ACTOR_KILLS for kind in ACTORS), dict(kills)


def maim(driver: subprocess.Popen[bytes], wanted: set[str]) -> Counter[str]:
    """Kill one actor of each wanted kind at a random moment of its life, until the driver ends."""
    killed: Counter[str] = Counter()
    due: dict[str, float] = {}
    while driver.poll() is None and time.sleep(0.05) is None:
        for child in children(driver.pid):
            kind, pid = child
            if kind not in wanted or killed[kind]:
                continue
            longest = 0.3 if kind in ("shard", "rate limiter") else 6.0
            if time.monotonic() > due.setdefault(kind, time.monotonic() + random.uniform(0, longest)):
                os.kill(pid, signal.SIGKILL)
                killed[kind] += 1
    return killed


def children(pid: int) -> list[tuple[str, int]]:
    """(kind, pid) of the actors below a process."""
    found = []
    try:
        for process in psutil.Process(pid).children(recursive=True):
            title = " ".join(process.cmdline()[:1])
            found += [(kind, process.pid) for kind, mark in ACTORS.items() if mark in title]
    except psutil.Error:  # It ended while it was looked at.
        pass
    return found
