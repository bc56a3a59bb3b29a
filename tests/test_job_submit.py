"""The main job by `ray start --head` and `ray job submit`, on two logical CPUs and with token authentication."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO, SMALL

BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Ports below those that Ray's workers take."""
    found = []
    for port in range(6400, 9900, 17):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == count:
            break
    return found


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The dashboard's address of a Ray head of its own, and the environment to reach it with."""
    port, dashboard, client, agent = free_ports(4)
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    folder = Path("/tmp") / f"lai-head-{os.getpid()}"  # a socket's path may have 107 characters at most
    command = [
        BIN / "ray", "start", "--head", "--block", "--num-cpus", "2", f"--port={port}", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}", f"--temp-dir={folder}", "--disable-usage-stats",
        f"--dashboard-agent-listen-port={agent}",  # jobs start through it, and another Ray here may hold the usual one
    ]  # fmt: skip
    log = (tmp_path_factory.mktemp("head") / "ray.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_for(dashboard, process)
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        subprocess.run(["pkill", "-9", "-f", str(folder)], check=False)
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "ray start ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("the head's dashboard did not come up")


def submit(address: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".",
        "--runtime-env", "jobs/runtime_env.yaml", "--",
        "python", "-m", "lai_ray", "run", "jobs/quickstart.toml", *arguments,
    ]  # fmt: skip
    for _ in range(30):
        done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=600)
        if "No available agent" not in done.stderr:  # the dashboard answers some seconds before it can start a job
            break
        time.sleep(2)
    return done


def test_the_main_job_runs_as_a_submitted_job_on_two_logical_cpus(head, tmp_path):
    address, environment = head
    settings = [f"storage={tmp_path}", "iterations=1", "schedule.strategy=lec", *SMALL]
    done = submit(address, environment, *settings)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "Test scores" in done.stdout
    run = json.loads((tmp_path / "quickstart/run.json").read_text())
    assert run["config"]["iterations"] == 1
    assert (tmp_path / "quickstart/iteration_0/train/checkpoint/model.safetensors").is_file()

    relative = submit(address, environment, "storage=runs")
    assert relative.returncode != 0
    assert "is a relative path: in a submitted job" in relative.stdout + relative.stderr
