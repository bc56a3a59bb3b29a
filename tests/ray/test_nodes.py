"""Nodes that are lost and nodes that join, on a cluster of a head and two workers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lai_ray.distributed.cluster import watchdog
from lai_ray.distributed.cluster.watchdog import demands, describe_stall
from tests.ray.conftest import ROOT


def test_a_lost_nodes_requests_are_answered_elsewhere_and_a_stall_is_reported(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.nodes", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["answers"] == 2048 and found["right"] == "QUESTION 7"
    assert found["without resources"] == 10
    assert found["rate limiter beside the driver"], "on the head, which lends no CPU: no other node's loss closes it"
    screen = (tmp_path / "screen").read_text()
    assert "is lost (" in screen and "done again on the others" in screen
    assert re.search("waiting for resources: [12] × 1 CPU", screen), screen
    assert "has joined: 1 CPU" in screen
    assert list(tmp_path.glob("kept/*/*.log")), "the remaining nodes upload their logs at the end"


def cluster(**changes: object) -> SimpleNamespace:
    """A status like Ray's, of a cluster in which two GPUs are asked for."""
    demand = SimpleNamespace(bundles_by_count=[SimpleNamespace(bundle={"CPU": 1.0, "GPU": 1.0}, count=2)])
    base = {
        "resource_demands": SimpleNamespace(ray_task_actor_demand=[demand], placement_group_demand=[]),
        "total_resources": lambda: {"CPU": 8.0},
        "available_resources": lambda: {"CPU": 7.5},
        "pending_launches": [],
        "pending_nodes": [],
        "failed_launches": [],
    }
    return SimpleNamespace(**{**base, **changes})


def test_a_stall_names_what_waits_and_what_the_autoscaler_starts_and_could_not_start():
    found = cluster(
        pending_launches=[SimpleNamespace(count=3)],
        failed_launches=[SimpleNamespace(details="no spot capacity in us-west-2a", instance_type_name="g6e")],
    )
    assert demands(found) == {"1 CPU, 1 GPU": 2}
    message = describe_stall(found, demands(found), 61)
    for part in ("61 s", "2 × 1 CPU, 1 GPU", "has 8 CPU, free: 7.5 CPU", "3 nodes are starting", "could not start 1"):
        assert part in message
    assert message.endswith("no spot capacity in us-west-2a.")


@pytest.mark.parametrize(
    ("reason", "message", "reported"),
    [
        (2, "", "unexpected"),
        (2, "no heartbeat.\nat …", "no heartbeat"),
        (3, "", "preempted"),
        (99, "", "unknown"),
        (1, "", None),
        (4, "", None),
    ],
)
def test_a_lost_node_is_reported_with_its_reason_unless_it_was_expected(monkeypatch, reason, message, reported):
    lines: list[str] = []
    progress = SimpleNamespace(folder="", figures={}, report=lambda text, **_: lines.append(text))
    node = {"NodeID": "a", "Alive": True, "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 1.0}}
    monkeypatch.setattr(watchdog.ray, "nodes", lambda: [node])
    monkeypatch.setattr(watchdog, "PeriodicTask", lambda *_: None)
    dog = watchdog.Watchdog(progress)
    node |= {"Alive": False, "DeathReason": reason, "DeathReasonMessage": message}
    dog._look()
    dog._look()
    assert len(lines) == (reported is not None)
    assert not reported or (f"10.0.0.2 is lost ({reported}" in lines[0])


def test_what_waits_only_for_a_moment_is_not_reported(monkeypatch):
    """A search's own figures stand still for as long as a trial trains, and between two steps something waits."""
    lines: list[str] = []
    progress = SimpleNamespace(folder="search", figures={}, report=lambda text, **_: lines.append(text))
    monkeypatch.setattr(watchdog, "FIRST_REPORT", 0.0)
    monkeypatch.setattr(watchdog.ray, "nodes", list)
    idle = SimpleNamespace(ray_task_actor_demand=[], placement_group_demand=[])
    looks = [cluster(), cluster(resource_demands=idle), cluster(), cluster()]
    monkeypatch.setattr(watchdog, "status", lambda: looks.pop(0))
    monkeypatch.setattr(watchdog, "PeriodicTask", lambda *_: None)
    dog = watchdog.Watchdog(progress)
    dog._look()
    reported = []
    while looks:
        dog._look()
        reported.append(len(lines))
    assert reported == [0, 0, 1] and "resources: 2 ×" in lines[0]
