"""Nodes, drivers and heads that are lost while the main job is at work, real parts: the samples stay the same.

Seconds from a loss until something moved again are printed; `pytest -s` shows them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.util import get_node_ip_address

from lai_ray.storage.store import Store
from tests import nodes, submitting
from tests.bucket import bucket  # noqa: F401
from tests.conftest import REPO, Tutor, lai, recorded, tutoring
from tests.soak.test_kills import arguments, same_samples

STAGES = {
    "evaluate": "MapWorker",
    "diagnose": "MapWorker",
    "instruct": "Caller",
    "curate": "",
    "train": "RayTrainWorker",
}
"""Where a node is lost, and what was at work on it; nothing is on one in curate."""


@pytest.fixture
def tutor(tmp_path: Path) -> Iterator[Tutor]:
    """One that other nodes reach: callers are not bound to the driver's. It takes its time, so that one can be lost."""
    with tutoring(tmp_path / "tutor.jsonl", host=get_node_ip_address(), latency=0.5) as found:
        yield found


@pytest.fixture
def whole(tmp_path: Path, tutor: Tutor) -> Path:
    """The run that nothing disturbed, on this machine alone."""
    done = lai("run", *mine(tmp_path, tutor, "whole"))
    assert done.returncode == 0, done.stderr[-2000:]
    return tmp_path / "whole"


def mine(storage: Path, tutor: Tutor, name: str) -> list[str]:
    return [*arguments(name, tutor), f"storage={storage}", "cluster.cpus_per_worker=0.5", "cluster.target_replicas=2"]


def stage_of(run: Path) -> str:
    """The stage that the first iteration is at: the first that is not done."""
    return next((stage for stage in STAGES if not (run / f"iteration_0/{stage}/done.json").exists()), "")


def moves(run: Path) -> int:
    """A number that grows with every answer and step that is written down."""
    files = [*run.rglob("answers/*.jsonl"), *run.rglob("metrics.jsonl")]
    return sum(file.stat().st_size for file in files if file.exists())


@pytest.mark.soak
def test_a_worker_node_lost_in_every_stage_changes_no_sample(tmp_path: Path, tutor: Tutor, whole: Path):
    run, took = tmp_path / "maimed", {}
    with nodes.cluster(workers=2, cpus=1) as found, (tmp_path / "driver.log").open("w+") as log:
        command = [*mine(tmp_path, tutor, "maimed"), f"cluster.address={found.address}"]
        driver = subprocess.Popen([sys.executable, "-m", "lai_ray", "run", *command], cwd=REPO, stdout=log, stderr=log)

        def at_work(stage: str, kind: str) -> Any:
            assert driver.poll() is None, f"over before {stage}: {log.read()[-2000:]}"
            return stage_of(run) == stage and found.holding(kind)

        def moved(stage: str, before: int) -> bool:
            return moves(run) > before or stage_of(run) != stage or driver.poll() is not None

        for stage, kind in STAGES.items():
            [node, *_] = nodes.until(lambda at=(stage, kind): at_work(*at), 180, f"no {kind} in {stage}")
            before, lost = moves(run), time.monotonic()
            found.lose(node)
            time.sleep(3)
            found.another()
            nodes.until(lambda at=(stage, before): moved(*at), 180, f"still in {stage}")
            took[stage] = round(time.monotonic() - lost, 1)
            print(took, flush=True)
        assert driver.wait(300) == 0, (tmp_path / "driver.log").read_text()[-3000:]
    assert same_samples(whole, run)
    replies = [request["reply_sha256"] for request in tutor.requests()]
    kept = recorded(run / "iteration_0/instruct/answers")
    assert all(replies.count(reply) <= 3 for reply in kept), "whole, this run, and one that was on its way"


@pytest.mark.soak
def test_the_head_lost_and_started_again_the_same_command_goes_on(tmp_path: Path, tutor: Tutor, whole: Path):
    """Twice: while the instructor is asked, and while the target is trained. What the head held is gone."""
    run, kept = tmp_path / "headless", set[str]()
    asked = len(tutor.requests())
    for stage in ("instruct", "train", None):
        with submitting.head(tmp_path) as (address, environment):
            command = [sys.executable, "-m", "lai_ray", "submit", *mine(tmp_path, tutor, "headless")]
            process = subprocess.Popen([*command, "--address", address], cwd=REPO, env=os.environ | environment)
            if stage is None:
                assert process.wait(600) == 0
                break
            nodes.until(lambda at=stage: stage_of(run) == at and moves(run), 300, f"never in {stage}")
            time.sleep(2)
        process.kill()
        process.wait()
        if stage == "instruct":
            kept, asked = recorded(run / "iteration_0/instruct/answers"), len(tutor.requests())
        time.sleep(60)  # A driver's mark is fresh for so long: a second one beside a living one is refused.
    again = [request for request in tutor.requests()[asked:] if request["reply_sha256"] in kept]
    assert not again, "a recorded reply was asked for again"
    assert same_samples(whole, run)


@pytest.mark.soak
def test_the_main_job_submitted_to_three_nodes_with_its_storage_on_s3_ends_with_the_samples_of_a_laptop(
    tmp_path: Path,
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PATH", f"{submitting.BIN}{os.pathsep}{os.environ['PATH']}")  # The job is `python -m lai_ray`.
    local = lai("run", "jobs/quickstart.toml", f"storage={tmp_path}", timeout=1200)
    assert local.returncode == 0, local.stderr[-2000:]
    port = submitting.free_ports(1, above=8300)[0]
    with nodes.cluster(workers=2, cpus=1, dashboard=port):
        there = ["jobs/quickstart.toml", f"storage={bucket}/runs", "--address", f"http://127.0.0.1:{port}"]
        done = lai("submit", *there, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    for iteration in (0, 1):
        name = f"iteration_{iteration}/curate/samples.jsonl"
        far = list(Store(f"{bucket}/runs/quickstart").lines(name))
        assert far == (tmp_path / "quickstart" / name).read_bytes().splitlines(), name
    logs = Store(f"{bucket}/runs/quickstart").inside("logs/start_0001").names()
    assert "driver.jsonl" in logs
    assert [name for name in logs if re.fullmatch(r"[0-9.]+/(engine|train)-.+\.log", name)], "those of other nodes"
