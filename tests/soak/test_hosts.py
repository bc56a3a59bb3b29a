"""The main job on three hosts in network namespaces, one of them cut off while the target answers, and back."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import hosts, nodes
from tests.conftest import REPO, lai
from tests.soak.test_kills import same_samples
from tests.soak.test_nodes import moves, stage_of

JOB = [
    "jobs/quickstart.toml", "iterations=1", "schedule.strategy=lec", "evaluate.max_train_problems=300",
    "evaluate.max_test_problems=150", "curate.samples_per_dataset=120", "cluster.cpus_per_worker=0.5",
]  # fmt: skip
CUT_SECONDS = 25


@pytest.mark.soak
@pytest.mark.skipif(not hosts.possible(), reason="hosts in network namespaces need root and iproute2")
def test_a_host_that_is_cut_off_and_comes_back_changes_no_sample(tmp_path: Path):
    local = lai("run", *JOB, f"storage={tmp_path}", "name=whole")
    assert local.returncode == 0, local.stderr[-2000:]
    run = tmp_path / "cut"
    environment = os.environ | {f"RAY_{name}": str(value) for name, value in nodes.HEALTH.items()}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PATH"] = f"{hosts.BIN}{os.pathsep}{environment['PATH']}"
    # A socket's path may have 107 characters at most: not below pytest's folder.
    short = Path("/tmp") / f"lai-hosts-{os.getpid()}"
    short.mkdir()
    with hosts.hosts(short, 3) as found:
        head = f"{found.address(0)}:6379"
        ray = [str(hosts.BIN / "ray"), "start", "--block", "--disable-usage-stats"]
        first = ["--head", f"--node-ip-address={found.address(0)}", "--port=6379", "--num-cpus=0"]
        first += [f"--dashboard-host={found.address(0)}"]
        found.start(0, [*ray, *first], environment, tmp_path / "head.log")
        nodes.until(lambda: found.answers(0, 8265), 120, "no dashboard")
        for i in (1, 2):
            log = tmp_path / f"host-{i}.log"
            found.start(i, [*ray, f"--address={head}", "--num-cpus=1"], environment, log)
            nodes.until(lambda log=log: "Ray runtime started" in log.read_text(), 120, f"no host {i}")
        words = ["submit", *JOB, f"storage={tmp_path}", "name=cut", "--address", f"http://{found.address(0)}:8265"]
        command = ["ip", "netns", "exec", found.name(0), sys.executable, "-m", "lai_ray", *words]
        with (tmp_path / "submit.log").open("w+") as log:
            driver = subprocess.Popen(command, cwd=REPO, env=environment, stdout=log, stderr=log)

            def answering() -> bool:
                assert driver.poll() is None, (tmp_path / "submit.log").read_text()[-3000:]
                return stage_of(run) == "evaluate" and moves(run) > 0

            nodes.until(answering, 240, "no answers")
            found.cable(2, "down")
            time.sleep(CUT_SECONDS)
            found.cable(2, "up")
            # Ray gives a host up that was away for so long; on a real one something starts it again.
            found.start(2, [*ray, f"--address={head}", "--num-cpus=1"], environment, tmp_path / "host-2-again.log")
            assert driver.wait(900) == 0, (tmp_path / "submit.log").read_text()[-3000:]
    said = (tmp_path / "submit.log").read_text()
    assert f"node {found.address(2)}" in said and "is lost (" in said and "has joined" in said
    assert same_samples(tmp_path / "whole", run)
