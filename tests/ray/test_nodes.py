"""Nodes that are lost and nodes that are awaited, on a cluster of a head and two workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from lai_ray.distributed.cluster import watchdog
from lai_ray.distributed.cluster.watchdog import told, wanted
from tests.ray.conftest import ROOT


def test_a_lost_nodes_questions_are_answered_elsewhere_and_a_wait_for_a_place_is_said(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.nodes", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["answers"] == 2048 and found["right"] == "QUESTION 7"
    assert found["without a place"] == 10
    assert found["gate beside the driver"], "on the head, which lends no CPU: no other node's loss closes it"
    said = (tmp_path / "said").read_text()
    assert "is gone (" in said and "done again on the others" in said
    assert "these wait for a place: 2 × 1 CPU" in said or "these wait for a place: 1 × 1 CPU" in said, said
    assert "has come: 1 CPU" in said
    assert list(tmp_path.glob("kept/*/*.log")), "nodes that are still there put their logs away when Ray is left"


def cluster(**changes: object) -> SimpleNamespace:
    """A status as Ray's, of a cluster in which one GPU is asked for."""
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


def test_what_waits_and_what_the_autoscaler_starts_and_could_not_start_is_said():
    found = cluster(
        pending_launches=[SimpleNamespace(count=3)],
        failed_launches=[SimpleNamespace(details="no spot capacity in us-west-2a", instance_type_name="g6e")],
    )
    assert wanted(found) == {"1 CPU, 1 GPU": 2}
    assert told(found, wanted(found), 61) == (
        "nothing has moved for 61 s, and these wait for a place: 2 × 1 CPU, 1 GPU. "
        "The cluster has 8 CPU, of which free 7.5 CPU. 3 nodes are starting. "
        "The autoscaler could not start 1, the last time: no spot capacity in us-west-2a."
    )


def test_what_waits_for_a_moment_only_is_not_worth_a_word(monkeypatch):
    """A search's own figures stand still for as long as a trial trains, and between two steps something waits."""
    said: list[str] = []
    progress = SimpleNamespace(folder="search", figures={}, say=lambda text, **_: said.append(text))
    monkeypatch.setattr(watchdog, "FIRST_WORD", 0.0)
    monkeypatch.setattr(watchdog.ray, "nodes", list)
    idle = SimpleNamespace(ray_task_actor_demand=[], placement_group_demand=[])
    looks = [cluster(), cluster(resource_demands=idle), cluster(), cluster()]
    monkeypatch.setattr(watchdog, "status", lambda: looks.pop(0))
    monkeypatch.setattr(watchdog, "Regularly", lambda *_: None)
    dog = watchdog.Watchdog(progress)
    dog._look()
    heard = []
    while looks:
        dog._look()
        heard.append(len(said))
    assert heard == [0, 0, 1] and "wait for a place: 2 ×" in said[0]
